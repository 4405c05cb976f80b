"""Benchmarks of the whole service under load."""
