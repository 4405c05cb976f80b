"""The embedded default checkpoint: data, no code."""
