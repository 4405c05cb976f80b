"""The training loop: plan, optimizers, distribution over processes, LoRA."""
