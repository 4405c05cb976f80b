"""Export of training runs to checkpoint folders."""
