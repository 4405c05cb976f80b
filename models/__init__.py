"""The unCLIP stack: CLIP, prior, decoder and upsamplers in PyTorch (Ramesh et al. 2022, arXiv 2204.06125)."""

from models.checkpoint import CheckpointError
from models.parameters import Parameters
from models.row import Row
from models.unclip import UnCLIP

__all__ = ["CheckpointError", "Parameters", "Row", "UnCLIP"]
