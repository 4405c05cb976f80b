"""Training on the drawn world: what the default checkpoint is made by."""
