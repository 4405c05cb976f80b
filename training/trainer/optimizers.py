"""The optimizers of a plan: AdamW, with Muon for inner weight matrices if the plan says so."""

from __future__ import annotations

import torch
from torch import nn

from training.trainer.muon import Muon
from training.trainer.plan import Plan

# The first and last layers: one of their sides is pixels or time, so Muon does not fit them.
_EDGE_LAYERS = ("conv_in", "conv_out", "time_in")


def build_optimizers(model: nn.Module, plan: Plan) -> list[torch.optim.Optimizer]:
    """Return AdamW for all parameters, or AdamW and Muon with `plan.muon`.

    Muon takes the inner weight matrices. AdamW keeps the first and last layers, norms and biases.
    Only matrices decay. Frozen parameters get no optimizer."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    inner = [
        parameter
        for name, parameter in named
        if plan.muon and parameter.dim() >= 2 and not any(edge in name for edge in _EDGE_LAYERS)
    ]
    inner_ids = {id(parameter) for parameter in inner}
    rest = [parameter for _, parameter in named if id(parameter) not in inner_ids]
    groups = [
        {"params": [p for p in rest if p.dim() >= 2], "weight_decay": plan.weight_decay},
        {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=plan.lr, betas=plan.betas, eps=plan.eps, fused=True)
    if not inner:
        return [adam]
    return [adam, Muon(inner, lr=plan.lr, weight_decay=plan.weight_decay)]
