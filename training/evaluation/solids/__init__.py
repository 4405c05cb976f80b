"""Evaluation on synthetic scenes of solids, scored by the scene classifier."""
