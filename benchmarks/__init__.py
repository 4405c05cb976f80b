"""Benchmarks of the pipeline and of the whole service, with baselines to compare with."""
