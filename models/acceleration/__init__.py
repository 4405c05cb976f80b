"""Faster and smaller execution: CUDA graphs, oneDNN layouts, weight offloading, transfers."""
