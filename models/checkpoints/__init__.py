"""Read, write, download and convert checkpoints."""
