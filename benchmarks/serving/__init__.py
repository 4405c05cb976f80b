"""Benchmarks of the whole service."""
