"""Continuous batching: the thread that owns the device."""
