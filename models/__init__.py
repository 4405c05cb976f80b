"""The unCLIP pipeline: CLIP, prior, decoder and upsamplers in PyTorch (Ramesh et al. 2022, arXiv 2204.06125)."""

from models.checkpoints.checkpoint import CheckpointError
from models.parameters import Parameters
from models.pipeline import UnCLIP
from models.row import Row

__all__ = ["CheckpointError", "Parameters", "Row", "UnCLIP"]
