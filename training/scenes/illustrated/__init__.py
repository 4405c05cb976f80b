"""Illustrated scenes: openly licensed emoji art, composed into captioned scenes."""
