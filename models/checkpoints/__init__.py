"""Checkpoint folders: our layout, Karlo's, and upsamplers from elsewhere."""
