"""Images of version 0.1.0: the same request must give the same pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from models import UnCLIP
from models import operations as ops
from models.operations import Operation

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = (
    2  # of 255: CPUs differ in the last bits of a float, which rounding may amplify to one level
)
PROMPT = "a red cube on top of a blue cube"


def _image(size: int) -> Tensor:
    """Return a `[3, size, size]` test image in [-1, 1]: two colour gradients and a disc."""
    axis = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    disc = (x.square() + y.square() < 0.3).float()
    return torch.stack([x * (1 - disc) + disc, y * (1 - disc) - disc, (x * y) * (1 - disc)])


def _generate(**parameters: object) -> Callable[[UnCLIP], Operation]:
    def start(pipeline: UnCLIP) -> Operation:
        return ops.generate(
            pipeline, PROMPT, [1, 2], pipeline.resolve("generate", size=64, **parameters)
        )

    return start


def _variations(pipeline: UnCLIP) -> Operation:
    parameters = pipeline.resolve("variations", size=64, decoder_num_inference_steps=10)
    return ops.variations(pipeline, _image(64), [3, 4], parameters)


def _interpolate(pipeline: UnCLIP) -> Operation:
    parameters = pipeline.resolve("interpolate", size=64, decoder_num_inference_steps=8)
    return ops.interpolate(pipeline, ("a green cone", _image(64)), 3, 5, parameters)


def _text_diff(pipeline: UnCLIP) -> Operation:
    parameters = pipeline.resolve("text-diff", size=64, decoder_num_inference_steps=8)
    return ops.text_diff(pipeline, _image(64), "a blue cube", "a red cube", 3, 0.5, 6, parameters)


def _edit(pipeline: UnCLIP) -> Operation:
    parameters = pipeline.resolve("edit", size=64, decoder_num_inference_steps=6)
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:48, 16:48] = 1
    return ops.edit(pipeline, _image(64), mask, "a yellow sphere", [7], parameters)


def _probe(pipeline: UnCLIP) -> Operation:
    parameters = pipeline.resolve("probe", size=64, decoder_num_inference_steps=6)
    return ops.probe(pipeline, _image(64), ["a cube", "a sphere"], [1, 10], 8, parameters)


def _upsampled(pipeline: UnCLIP) -> Operation:
    parameters = pipeline.resolve("generate", size=256, decoder_num_inference_steps=6)
    return ops.generate(pipeline, "a white cylinder on grass", [9], parameters)


CASES: dict[str, Callable[[UnCLIP], Operation]] = {
    "generate": _generate(),
    "ddpm": _generate(sampler="ddpm", decoder_num_inference_steps=8),
    "ddim": _generate(sampler="ddim", eta=0.5, decoder_num_inference_steps=8),
    "unipc": _generate(sampler="unipc", decoder_num_inference_steps=8),
    "heun": _generate(sampler="heun", decoder_num_inference_steps=5),
    "guided": _generate(
        decoder_guidance_scale=3.0, decoder_guidance_start=0.2, dynamic_threshold=0.99
    ),
    "prior-guided": _generate(
        prior_guidance_scale=2.0, prior_num_candidates=3, negative_prompt="a sphere"
    ),
    "autoregressive": _generate(prior="autoregressive", prior_temperature=0.7, prior_top_p=0.9),
    "variations": _variations,
    "interpolate": _interpolate,
    "text-diff": _text_diff,
    "edit": _edit,
    "probe": _probe,
    "upsampled": _upsampled,
}


def _pixels(images: list[Tensor]) -> np.ndarray:
    """Return images `[3, S, S]` in [-1, 1] as one strip `[S, S * n, 3]` of 8-bit pixels."""
    strip = torch.cat(images, dim=2).clamp(-1, 1)
    return ((strip + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()


@pytest.fixture(scope="module")
def pipeline() -> UnCLIP:
    return UnCLIP.load()


@pytest.mark.parametrize("case", CASES)
def test_the_same_request_gives_the_same_pixels(pipeline: UnCLIP, case: str) -> None:
    """The golden images were written before the code was restructured."""
    outcome = ops.run(pipeline, CASES[case](pipeline))
    pixels = _pixels([row.image for row in outcome.rows if row.image is not None])
    expected = np.asarray(Image.open(GOLDEN / f"{case}.png"))
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected.astype(int)).max() <= TOLERANCE
