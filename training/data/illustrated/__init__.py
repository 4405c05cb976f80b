"""Training data of the illustrated world: pools of scenes, words and pretrained towers."""
