"""Benchmarks of the pipeline alone."""
