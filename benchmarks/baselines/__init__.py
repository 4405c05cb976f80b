"""Other ways to serve the same pipeline, for comparison."""
