"""LoRA (Hu et al. 2021, arXiv 2106.09685) by peft: low-rank changes to frozen weights.

For the priors and the decoder. The changes are merged into the weights before a checkpoint is
written, so the pipeline needs no LoRA code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from training.errors import TrainingError

_TRANSFORMER = ("to_q", "to_k", "to_v", "to_out", "up", "down")
# Network -> the linear layers and convolutions that get a low-rank change.
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
    """Add trainable low-rank changes to a network in place, and freeze everything else.

    At first the changes are zero. Returns peft's object around the network. Raises TrainingError
    for a network without targets, or if peft is not installed."""
    if name not in TARGETS:
        raise TrainingError(
            f"--lora does not support {name}, only {', '.join(TARGETS)}: train it without --lora"
        )
    try:
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel
    except ImportError as error:
        raise TrainingError("--lora needs peft: pip install '.[lora]'") from error
    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS[name]))
    return LoraModel(network, config, "default")


def merge_lora(
    name: str, network: nn.Module, rank: int, weights: dict[str, torch.Tensor]
) -> nn.Module:
    """Return the network with LoRA weights merged into its own.

    Raises TrainingError for weights of another rank or network."""
    wrapper = add_lora(name, network, rank)
    expected = {key: value.shape for key, value in network.state_dict().items() if ".lora_" in key}
    if {key: value.shape for key, value in weights.items() if key in expected} != expected:
        raise TrainingError(f"the weights are not a LoRA of rank {rank} for {name}")
    network.load_state_dict(weights, strict=False)
    merged: nn.Module = wrapper.merge_and_unload()
    return merged.requires_grad_(False)
