"""The unCLIP pipeline in PyTorch: CLIP, prior, decoder and upsamplers.

Ramesh et al. 2022, arXiv 2204.06125.
"""

from models.checkpoints.tensor_files import CheckpointError
from models.parameters import Parameters
from models.pipeline import UnCLIP
from models.row import Row

__all__ = ["CheckpointError", "Parameters", "Row", "UnCLIP"]
