"""The pipelines under comparison: ours, with and without CUDA graphs or compilation, and diffusers.

A peer is a function that generates a batch of images of 256².
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from models import UnCLIP
from models.acceleration.cuda_graphs import CudaGraphs

PROMPT = "a red cube on top of a blue cube, on snow"
GUIDANCE_SCALES = {"prior_guidance_scale": 4.0, "decoder_guidance_scale": 8.0}
STEP_NAMES = (
    "prior_num_inference_steps",
    "decoder_num_inference_steps",
    "upsampler_num_inference_steps",
)
DIFFUSERS_STEP_NAMES = (
    "prior_num_inference_steps",
    "decoder_num_inference_steps",
    "super_res_num_inference_steps",
)

Peer = Callable[[int], object]  # takes the batch size


def our_peer(pipeline: UnCLIP, steps: Sequence[int]) -> Callable[[int], Tensor]:
    """Return a peer that runs our pipeline as it is set up."""
    fields: dict[str, Any] = dict(zip(STEP_NAMES, steps, strict=True)) | GUIDANCE_SCALES
    return lambda batch: pipeline.generate([PROMPT] * batch, size=256, sampler="ddpm", **fields)


def diffusers_peer(pipeline: Any, steps: Sequence[int]) -> Peer:
    """Return a peer that runs diffusers' pipeline."""
    fields: dict[str, Any] = dict(zip(DIFFUSERS_STEP_NAMES, steps, strict=True)) | GUIDANCE_SCALES
    return lambda batch: pipeline([PROMPT] * batch, output_type="np", **fields)


def our_peers(
    pipeline: UnCLIP, steps: Sequence[int], *, is_compiled: bool = False
) -> dict[str, Peer]:
    """Return our peers by name.

    On a CPU this is "ours". On a GPU "ours" replays CUDA graphs, as a worker does, and "ours,
    eager" launches each kernel. With `is_compiled` it is "ours, compiled" alone. Each peer keeps
    its graphs while others run.
    """
    pipeline.set_graphs(None)
    if is_compiled and pipeline.device.type == "cpu":
        pipeline.set_graphs(CudaGraphs(capture_on_cpu, compiled=True))
    else:
        pipeline.enable_cuda_graphs(is_compiled)
    graphs = pipeline.graphs
    peer = our_peer(pipeline, steps)

    def run_with_graphs(batch: int) -> Tensor:
        pipeline.set_graphs(graphs)
        return peer(batch)

    def run_eagerly(batch: int) -> Tensor:
        pipeline.set_graphs(None)
        return peer(batch)

    if is_compiled:
        return {"ours, compiled": run_with_graphs}
    if graphs is None:
        return {"ours": run_eagerly}
    return {"ours": run_with_graphs, "ours, eager": run_eagerly}


def capture_on_cpu(network: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Stand in for a graph capture on a CPU, which has none: replaying runs the network again."""
    output = network()
    return lambda: output.copy_(network()), output  # type: ignore[return-value]


def free_memory(device: torch.device) -> None:
    """Release unreferenced memory, on a GPU that of torch's allocator too."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
