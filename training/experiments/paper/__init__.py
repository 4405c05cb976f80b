"""Experiments of the unCLIP paper."""
