"""The training loop, optimizers, distribution and LoRA."""
