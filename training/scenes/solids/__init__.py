"""Scenes of four solids, ray traced."""
