"""LoRA (Hu et al. 2021, arXiv 2106.09685) for the priors and the decoder, by peft: low-rank changes beside weights that stay.

They are merged into the weights before a checkpoint is written, so that what draws knows nothing of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from training.errors import TrainingError

# The linear layers and convolutions that are changed, by the network's name.
_TRANSFORMER = ("to_q", "to_k", "to_v", "to_out", "up", "down")
TARGETS = {
    "prior": _TRANSFORMER,
    "ar_prior": _TRANSFORMER,
    "decoder": (
        "to_q",
        "to_k",
        "to_v",
        "to_out",
        "context_k",
        "context_v",
        "conv1",
        "conv2",
        "time_proj",
    ),
}


def add_lora(name: str, network: nn.Module, rank: int, seed: int = 0) -> Any:
    """Give a network, in place, changes of this rank, which alone are learned; at first they change nothing. Gives peft's own object
    around the network. TrainingError for a network that has none, or where peft is missing."""
    if name not in TARGETS:
        raise TrainingError(f"--lora is for {', '.join(TARGETS)}, not for {name}: train it whole")
    try:
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel
    except ImportError as error:
        raise TrainingError(
            "--lora needs peft, which is not installed: pip install '.[lora]'"
        ) from error
    torch.manual_seed(seed)
    return LoraModel(
        network, LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS[name])), "default"
    )


def merged(name: str, network: nn.Module, rank: int, learned: dict[str, torch.Tensor]) -> nn.Module:
    """A network with what its LoRA has learned added to its weights. TrainingError for tensors of another rank or network."""
    around = add_lora(name, network, rank)
    wanted = {key: value.shape for key, value in network.state_dict().items() if ".lora_" in key}
    if {key: value.shape for key, value in learned.items() if key in wanted} != wanted:
        raise TrainingError(f"what was learned is no LoRA of rank {rank} of this {name}")
    network.load_state_dict(learned, strict=False)
    whole: nn.Module = around.merge_and_unload()
    return whole.requires_grad_(False)
