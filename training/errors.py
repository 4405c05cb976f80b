"""Errors of training that the user can fix. Their messages name the fault and the remedy."""

from __future__ import annotations


class TrainingError(RuntimeError):
    """A training cannot run as requested."""


class DataError(TrainingError):
    """Images or captions are missing or unusable."""
