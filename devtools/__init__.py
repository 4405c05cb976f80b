"""Start the whole service on one machine: for `make run`, tests and benchmarks."""
