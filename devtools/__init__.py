"""Start a local deployment, for development, tests and benchmarks."""
