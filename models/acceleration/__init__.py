"""CUDA graphs, oneDNN prepacking and weight offloading."""
