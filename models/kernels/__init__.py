"""Fused kernels of the U-Net."""
