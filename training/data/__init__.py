"""Training data: scenes, image-text folders and shards, crops."""
