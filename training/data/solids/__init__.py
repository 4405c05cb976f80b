"""Training data of synthetic scenes: batches, caches on disk and on a device, crops."""
