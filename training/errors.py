"""Errors that a person can mend: their message says what, and what would do."""

from __future__ import annotations


class TrainingError(RuntimeError):
    """A training that cannot be as it was asked for."""


class DataError(TrainingError):
    """Images or captions that nothing can be learned from."""
