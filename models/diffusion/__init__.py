"""Noise schedules, samplers and guidance."""
