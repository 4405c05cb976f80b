"""The autoregressive prior: its buckets, its cache, and what it samples."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models import UnCLIP
from models.networks.clip import TextEncoding
from models.networks.priors.autoregressive import RANGE, AutoregressivePrior, nucleus, upper_half


@pytest.fixture(scope="module")
def pipeline(tiny_checkpoint: Path) -> UnCLIP:
    return UnCLIP.load(tiny_checkpoint)


@pytest.fixture
def prior(pipeline: UnCLIP) -> AutoregressivePrior:
    assert pipeline.ar_prior is not None
    return pipeline.ar_prior


def encode(pipeline: UnCLIP, *prompts: str) -> TextEncoding:
    with torch.inference_mode():
        return pipeline.clip.encode_text(pipeline.clip.tokenize(list(prompts))[0])


def test_quantization_errs_by_half_a_bucket(prior: AutoregressivePrior) -> None:
    """Values beyond the range get the last bucket."""
    coordinates = (
        (torch.rand(100, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1)
        * RANGE
        * prior.scales
    )
    buckets = prior.quantize(coordinates, torch.zeros(100))
    error = (prior.dequantize(buckets[:, 1:]) - coordinates).abs() / prior.scales
    assert error.max() <= RANGE / prior.config.buckets + 1e-5
    ends = prior.quantize(torch.tensor([[99.0] * 6, [-99.0] * 6]), torch.tensor([99.0, -99.0]))
    assert ends.tolist() == [[prior.config.buckets - 1] * 7, [0] * 7]


@torch.inference_mode()
def test_the_cache_equals_the_whole_sequence(pipeline: UnCLIP, prior: AutoregressivePrior) -> None:
    """Covers prompts of different lengths, token by token."""
    text = encode(pipeline, "a", "a red cube on top of a blue cube at night")
    buckets = torch.randint(
        prior.config.buckets, (2, 6), generator=torch.Generator().manual_seed(0)
    )
    whole = prior(text, buckets)
    logits, caches = prior.encode_prefix(text)
    assert torch.allclose(logits, whole[:, 0], atol=1e-5)
    for place in range(6):
        logits, caches = prior.predict_next(caches, buckets[:, place].tolist(), [place, place])
        assert torch.allclose(logits, whole[:, place + 1], atol=1e-5)


@torch.inference_mode()
def test_rows_at_different_places_share_a_pass(
    pipeline: UnCLIP, prior: AutoregressivePrior
) -> None:
    """Each row gets the same result as alone."""
    _, (ahead, behind) = prior.encode_prefix(encode(pipeline, "a red cube", "b"))
    _, (ahead,) = prior.predict_next([ahead], [3], [0])
    together, _ = prior.predict_next([ahead, behind], [5, 7], [1, 0])
    for row, (cache, last, place) in enumerate(((ahead, 5, 1), (behind, 7, 0))):
        assert torch.allclose(
            together[row], prior.predict_next([cache], [last], [place])[0][0], atol=1e-5
        )


def embed(pipeline: UnCLIP, prompts: list[str], **values: float | str) -> Tensor:
    """Return the z_i `[B, D]` that the prior computes."""
    parameters = pipeline.resolve(size=64, prior="autoregressive", **values)
    rows = [
        pipeline.prompt_row(prompt, seed, parameters, prior=True)
        for seed, prompt in enumerate(prompts)
    ]
    pipeline.run(rows)
    return torch.stack([row.conditioning.image_embedding for row in rows])


def test_an_embedding_depends_on_its_seed_and_not_on_its_batch(
    pipeline: UnCLIP,
) -> None:
    """It has unit norm, with and without guidance."""
    for scale in (1.0, 2.0):
        together = embed(pipeline, ["a red cube", "b"], prior_guidance_scale=scale)
        assert torch.allclose(together.norm(dim=1), torch.ones(2), atol=1e-5)
        assert torch.allclose(
            embed(pipeline, ["a red cube"], prior_guidance_scale=scale), together[:1], atol=1e-5
        )


def test_at_temperature_0_the_seed_does_not_matter(pipeline: UnCLIP) -> None:
    """The likeliest bucket is selected each time."""
    cold = embed(pipeline, ["a", "a"], prior_temperature=0.0)
    warm = embed(pipeline, ["a", "a"])
    assert torch.allclose(cold[0], cold[1], atol=1e-5)
    assert not torch.allclose(warm[0], warm[1], atol=1e-3)


def test_it_generates_an_image(pipeline: UnCLIP) -> None:
    """A row with the other prior shares the run."""
    rows = [
        pipeline.row("a red cube", 1, pipeline.resolve(size=64, prior=prior))
        for prior in ("autoregressive", "diffusion")
    ]
    pipeline.run(rows)
    first, second = (row.image for row in rows)
    assert first is not None
    assert second is not None
    assert not first.equal(second)
    assert rows[0].fraction == 1
    assert "ar_prior" in rows[0].stage_costs


def test_the_dot_product_is_sampled_from_its_upper_half() -> None:
    """Buckets below the median have probability 0."""
    logits = torch.tensor([0.2, 0.2, 0.2, 0.3, 0.1]).log()
    assert upper_half(logits).softmax(0).tolist() == pytest.approx(
        [0, 0, 0.2 / 0.6, 0.3 / 0.6, 0.1 / 0.6]
    )
    assert upper_half(torch.tensor([0.1, 0.9]).log()).softmax(0).tolist() == pytest.approx([0, 1])


def test_the_nucleus_is_the_fewest_buckets_of_top_p() -> None:
    """Covers top-p and temperature at their limits and between."""
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert nucleus(logits, 1.0, 1.0).tolist() == pytest.approx([0.5, 0.3, 0.15, 0.05])
    assert nucleus(logits, 1.0, 0.8).tolist() == pytest.approx([0.625, 0.375, 0, 0])
    assert nucleus(logits, 1.0, 0.01).tolist() == nucleus(logits, 0.0, 1.0).tolist() == [1, 0, 0, 0]
    assert nucleus(logits, 1e-40, 1.0).tolist() == [1, 0, 0, 0]
    squared = [p**2 for p in (0.5, 0.3, 0.15, 0.05)]
    assert nucleus(logits, 0.5, 1.0).tolist() == pytest.approx(
        [p / math.fsum(squared) for p in squared]
    )


def test_guidance_1_is_conditional_and_0_unconditional(pipeline: UnCLIP) -> None:
    """At 0 the prompt matters only by its dot product."""
    without, hardly = (
        embed(pipeline, ["a red cube"] * 4, prior_guidance_scale=scale)
        for scale in (1.0, 1.0 + 1e-7)
    )
    assert torch.allclose(without, hardly, atol=1e-5)
    first, second = (
        embed(pipeline, [prompt] * 4, prior_guidance_scale=0.0) for prompt in ("a red cube", "b")
    )
    assert torch.allclose(first, second, atol=1e-5)
    assert not torch.allclose(
        without, embed(pipeline, ["a red cube"] * 4, prior_guidance_scale=3.0), atol=1e-3
    )


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_failed_pass_can_be_repeated(
    pipeline: UnCLIP, monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    """The engine does so row by row; results do not change."""
    parameters = pipeline.resolve(size=64, prior="autoregressive", prior_guidance_scale=scale)
    expected, interrupted = (
        [pipeline.prompt_row("a red cube", seed, parameters, prior=True) for seed in range(2)]
        for _ in range(2)
    )
    pipeline.run(expected)
    for _ in range(3):
        pipeline.step(interrupted)
    with monkeypatch.context() as patched:
        patched.setattr("models.stages.ar_prior.nucleus", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pipeline.step(interrupted)
    pipeline.run(interrupted)
    for one, other in zip(interrupted, expected, strict=True):
        assert one.conditioning.image_embedding.equal(other.conditioning.image_embedding)
