"""The HTTP service. It accepts jobs and returns their state and images; it needs no torch."""
