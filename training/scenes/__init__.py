"""Synthetic scenes with captions, and the classifier that judges them."""
