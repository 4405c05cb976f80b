"""Evaluation of checkpoints: scores, metrics of image sets, reports."""
