"""The illustrated world's training: presets, the run, and its stages."""
