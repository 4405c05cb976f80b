"""Training of every network, evaluation, and export to checkpoint folders."""
