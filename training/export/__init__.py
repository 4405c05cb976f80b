"""Turn a training run into a checkpoint."""
