"""The operations on a tiny pipeline; exact properties are tested exactly."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models import UnCLIP, operations
from models.diffusion.samplers import (
    INVERSION_SIGMA_MIN,
    ddim_inversion_coefficients,
)
from models.diffusion.schedule import alphas_cumprod
from models.operations import Ingredient, slerp
from models.row import SourceImage


@pytest.fixture(scope="module")
def pipeline(tiny_checkpoint: Path) -> UnCLIP:
    return UnCLIP.load(tiny_checkpoint)


@pytest.fixture
def image() -> Tensor:
    """A smooth image of 256²."""
    x = torch.linspace(-1, 1, 256)
    return (
        torch.stack(
            (x[None].expand(256, -1), x[:, None].expand(-1, 256), (x[None] * x[:, None]) ** 2)
        )
        * 0.8
    )


def images_of(outcome: operations.Outcome) -> Tensor:
    return torch.stack([row.image for row in outcome.rows if row.image is not None])


def test_slerp_follows_the_sphere_at_equal_angles() -> None:
    """Results have unit norm, and angles in proportion (Shoemake 1985)."""
    a, b = (
        F.normalize(torch.randn(16, generator=torch.Generator().manual_seed(seed)), dim=0)
        for seed in (0, 1)
    )
    omega = math.acos(float(a @ b))
    assert torch.allclose(slerp(a, b, 0), a, atol=1e-6)
    assert torch.allclose(slerp(a, b, 1), b, atol=1e-6)
    for theta in (0.25, 0.5, 0.9):
        between = slerp(a, b, theta)
        assert float(between.norm()) == pytest.approx(1, abs=1e-5)
        assert math.acos(float(between @ a)) == pytest.approx(theta * omega, abs=1e-4)
    assert torch.allclose(slerp(a, a, 0.3), a, atol=1e-6)


def test_variations_differ_only_by_noise(pipeline: UnCLIP, image: Tensor) -> None:
    """At eta 0 the seed does not matter."""
    spreads = []
    for eta in (0.0, 0.5, 1.0):
        parameters = pipeline.resolve(
            "variations", size=64, eta=eta, decoder_num_inference_steps=10
        )
        varied = images_of(
            operations.run(pipeline, operations.variations(pipeline, image, [1, 2, 3], parameters))
        )
        assert varied.shape == (3, 3, 64, 64)
        spreads.append(float(varied.std(0).mean()))
    assert spreads[0] < 1e-5
    assert min(spreads[1:]) > 0.01


def test_inversion_and_ddim_close_for_a_gaussian() -> None:
    """The denoiser has a closed form, and DDIM is of first order in the steps."""
    a = alphas_cumprod("cosine")
    mean = 0.3
    variance = 0.25
    x_0 = torch.tensor([0.9, -0.4, 0.1], dtype=torch.float64)

    def denoise(x_t: Tensor, t: int) -> Tensor:
        alpha = math.sqrt(float(a[t]))
        sigma2 = 1 - float(a[t])
        return mean + alpha * variance / (alpha**2 * variance + sigma2) * (x_t - alpha * mean)

    errors = []
    for steps in (20, 40, 80):
        there = ddim_inversion_coefficients(a, steps)
        start = there.timesteps[0]
        assert math.sqrt(1 - float(a[start])) >= INVERSION_SIGMA_MIN
        x = begun = math.sqrt(float(a[start])) * x_0
        for t, (of_x, of_x_0, *_) in zip(there.timesteps, there.values.tolist(), strict=True):
            x = of_x * x + of_x_0 * denoise(x, t)
        # Back by the sampler's own steps, as far as the start.
        for t, after in zip(
            [999, *reversed(there.timesteps)], reversed(there.timesteps), strict=False
        ):
            now = float(a[t])
            later = float(a[after])
            of_x = math.sqrt((1 - later) / (1 - now))
            x = of_x * x + (math.sqrt(later) - of_x * math.sqrt(now)) * denoise(x, t)
        errors.append(float((x - begun).abs().max()))
    # DDIM is of first order.
    assert errors[2] < 0.025
    assert all(1.6 < more / fewer < 2.4 for more, fewer in zip(errors, errors[1:], strict=False))


@pytest.mark.parametrize("noise", ["slerp", "fixed"])
def test_interpolation_starts_and_ends_with_its_images(
    pipeline: UnCLIP, image: Tensor, noise: str
) -> None:
    """A frame between equals neither."""
    parameters = pipeline.resolve("interpolate", size=64, decoder_num_inference_steps=6)
    ends = (image, image.flip(2))
    frames = images_of(
        operations.run(
            pipeline, operations.interpolate(pipeline, ends, 3, 5, parameters, noise=noise)
        )
    )
    assert frames.shape == (3, 3, 64, 64)
    assert not frames[1].equal(frames[0])
    sources = [pipeline.image_row(end, parameters, invert=noise == "slerp") for end in ends]
    pipeline.run(sources)
    for frame, source in zip((frames[0], frames[2]), sources, strict=True):
        row = pipeline.latent_row(source.conditioning, 5, parameters)
        pipeline.run([row])
        assert row.image is not None
        assert torch.allclose(frame, row.image, atol=1e-4)


def test_prompts_are_interpolated_by_their_embeddings(pipeline: UnCLIP) -> None:
    """All frames have the x_T of the seed."""
    parameters = pipeline.resolve("interpolate", size=64)
    frames = images_of(
        operations.run(pipeline, operations.interpolate(pipeline, ("a", "b"), 2, 5, parameters))
    )
    again = images_of(
        operations.run(pipeline, operations.interpolate(pipeline, ("a", "b"), 2, 5, parameters))
    )
    assert frames.equal(again)
    assert not frames[0].equal(frames[1])


def test_a_text_diff_starts_with_the_image_and_moves(pipeline: UnCLIP, image: Tensor) -> None:
    """Frame 0 is the variation at eta 0. Equal prompts are an error."""
    parameters = pipeline.resolve("text-diff", size=64, decoder_num_inference_steps=6)
    moved = images_of(
        operations.run(
            pipeline,
            operations.text_diff(pipeline, image, "a cube", "a cone", 3, 0.5, 0, parameters),
        )
    )
    still = images_of(
        operations.run(pipeline, operations.variations(pipeline, image, [0], parameters))
    )
    assert torch.allclose(moved[0], still[0], atol=1e-4)
    assert (moved[2] - moved[0]).abs().mean() > (moved[1] - moved[0]).abs().mean() > 0
    towards = images_of(
        operations.run(
            pipeline, operations.text_diff(pipeline, image, "a cube", None, 3, 0.5, 0, parameters)
        )
    )
    assert not torch.allclose(towards[2], moved[2], atol=1e-4)
    with pytest.raises(ValueError, match="mean the same to CLIP"):
        operations.run(
            pipeline,
            operations.text_diff(pipeline, image, "a cube", "a cube", 3, 0.5, 0, parameters),
        )


@pytest.mark.parametrize("size", [64, 256])
def test_an_edit_keeps_the_unmasked_part_to_the_bit(
    pipeline: UnCLIP, image: Tensor, size: int
) -> None:
    """The masked part depends on the seed."""
    mask = torch.zeros(1, 256, 256)
    mask[:, 64:192, 64:192] = 1
    parameters = pipeline.resolve("edit", size=size)
    edits = images_of(
        operations.run(
            pipeline, operations.edit(pipeline, image, mask, "a cube", [1, 2], parameters)
        )
    )
    source = SourceImage(image, mask).resize(size)
    unmasked = (source.mask == 0).expand(3, -1, -1)  # type: ignore[union-attr]
    for edited in edits:
        assert edited[unmasked].equal(source.image.clamp(-1, 1)[unmasked])
    assert not edits[0].equal(edits[1])


def test_a_probe_reports_probabilities_and_components(pipeline: UnCLIP, image: Tensor) -> None:
    """Probabilities add up to 1, and more components are closer to z_i."""
    parameters = pipeline.resolve("probe", size=64)
    outcome = operations.run(
        pipeline, operations.probe(pipeline, image, ["a cube", "a cone"], [1, 6], 0, parameters)
    )
    assert outcome.result is not None
    assert len(outcome.rows) == 2
    assert sum(one["probability"] for one in outcome.result["labels"]) == pytest.approx(1)
    near, nearer = (one["cosine"] for one in outcome.result["components"])
    assert near < nearer <= 1 + 1e-6
    with pytest.raises(ValueError, match="keeps 6"):
        operations.run(pipeline, operations.probe(pipeline, image, [], [7], 0, parameters))


def test_embeddings_are_those_of_clip(pipeline: UnCLIP, image: Tensor) -> None:
    """A prompt has z_t, and an image z_i."""
    parameters = pipeline.resolve("embeddings")
    caption = operations.run(pipeline, operations.embeddings(pipeline, "a cube", parameters)).result
    embedded = operations.run(pipeline, operations.embeddings(pipeline, image, parameters)).result
    assert caption is not None
    assert embedded is not None
    assert (caption["kind"], embedded["kind"]) == ("z_t", "z_i")
    with torch.inference_mode():
        z_t = pipeline.clip.encode_text(pipeline.clip.tokenize(["a cube"])[0]).z_t[0]
        z_i = pipeline.clip.encode_image(image[None])[0]
    assert torch.tensor(caption["embedding"]).allclose(z_t, atol=1e-5)
    assert torch.tensor(embedded["embedding"]).allclose(z_i, atol=1e-5)
    assert caption["dimensions"] == 16
    assert caption["norm"] == pytest.approx(1, abs=1e-5)


def test_a_mixture_of_one_is_its_only_part(pipeline: UnCLIP, image: Tensor) -> None:
    """Its weight does not matter. A sum of zero and a wrong length are errors."""
    parameters = pipeline.resolve(size=64)

    def run_compose(*mixture: Ingredient) -> Tensor:
        return images_of(
            operations.run(pipeline, operations.compose(pipeline, mixture, [3], parameters))
        )

    with torch.inference_mode():
        z_i = pipeline.clip.encode_image(image[None])[0]
    alone = run_compose(Ingredient(z_i))
    assert torch.allclose(run_compose(Ingredient(image, 2.0)), alone, atol=1e-4)
    assert not torch.allclose(
        run_compose(Ingredient(image), Ingredient("a cube")), alone, atol=1e-4
    )
    for mixture, message in (
        ([Ingredient(z_i), Ingredient(z_i, -1.0)], "sum of the mix is zero"),
        ([Ingredient(z_i[:5])], "has 5 numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            run_compose(*mixture)


def test_rows_of_all_kinds_share_a_batch(pipeline: UnCLIP, image: Tensor) -> None:
    """A row from a latent gets the same image next to a row from a prompt."""
    parameters = pipeline.resolve(size=64)
    source = pipeline.image_row(image, parameters, invert=False)
    pipeline.run([source])
    alone = pipeline.latent_row(source.conditioning, 1, parameters)
    pipeline.run([alone])
    other = pipeline.row("a cube", 2, parameters)
    while other.stage != "decoder":
        pipeline.step([other])
    together = pipeline.latent_row(replace(source.conditioning), 1, parameters)
    pipeline.run([other, together])
    assert alone.image is not None
    assert together.image is not None
    assert torch.allclose(alone.image, together.image, atol=1e-4)
