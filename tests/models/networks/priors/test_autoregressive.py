"""The autoregressive prior: its buckets, its cache, and what it draws from them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models import UnCLIP
from models.networks.priors.autoregressive import RANGE, AutoregressivePrior, nucleus, upper_half
from models.networks.clip import TextEncoding


@pytest.fixture(scope="module")
def pipeline(tiny_checkpoint: Path) -> UnCLIP:
    return UnCLIP.load(tiny_checkpoint)


@pytest.fixture
def prior(pipeline: UnCLIP) -> AutoregressivePrior:
    assert pipeline.ar_prior is not None
    return pipeline.ar_prior


def encode(pipeline: UnCLIP, *captions: str) -> TextEncoding:
    with torch.inference_mode():
        return pipeline.clip.encode_text(pipeline.clip.tokenize(list(captions))[0])


def test_a_bucket_is_never_farther_than_half_its_width(prior: AutoregressivePrior) -> None:
    """Within the range; beyond it the last bucket is as near as it gets."""
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
def test_the_cache_gives_what_the_whole_sequence_gives(
    pipeline: UnCLIP, prior: AutoregressivePrior
) -> None:
    """Captions of different lengths together, token after token, against one pass."""
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
    """Each gets what it gets alone."""
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


def test_an_embedding_is_drawn_from_the_seed_and_depends_on_nothing_beside_it(
    pipeline: UnCLIP,
) -> None:
    """Unit norm; guided and unguided; alone and in company."""
    for scale in (1.0, 2.0):
        together = embed(pipeline, ["a red cube", "b"], prior_guidance_scale=scale)
        assert torch.allclose(together.norm(dim=1), torch.ones(2), atol=1e-5)
        assert torch.allclose(
            embed(pipeline, ["a red cube"], prior_guidance_scale=scale), together[:1], atol=1e-5
        )


def test_at_temperature_0_the_seed_does_not_matter(pipeline: UnCLIP) -> None:
    """The likeliest bucket each time."""
    cold = embed(pipeline, ["a", "a"], prior_temperature=0.0)
    warm = embed(pipeline, ["a", "a"])
    assert torch.allclose(cold[0], cold[1], atol=1e-5)
    assert not torch.allclose(warm[0], warm[1], atol=1e-3)


def test_an_image_comes_of_it(pipeline: UnCLIP) -> None:
    """Through the whole pipeline, beside a row of the other prior."""
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


def test_the_dot_product_is_drawn_from_its_upper_half() -> None:
    """Buckets beneath the median never; those above in proportion."""
    logits = torch.tensor([0.2, 0.2, 0.2, 0.3, 0.1]).log()
    assert upper_half(logits).softmax(0).tolist() == pytest.approx(
        [0, 0, 0.2 / 0.6, 0.3 / 0.6, 0.1 / 0.6]
    )
    assert upper_half(torch.tensor([0.1, 0.9]).log()).softmax(0).tolist() == pytest.approx([0, 1])


def test_the_nucleus_holds_what_was_asked_and_no_more() -> None:
    """Top-p and temperature, at their limits and between."""
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert nucleus(logits, 1.0, 1.0).tolist() == pytest.approx([0.5, 0.3, 0.15, 0.05])
    assert nucleus(logits, 1.0, 0.8).tolist() == pytest.approx([0.625, 0.375, 0, 0])
    assert nucleus(logits, 1.0, 0.01).tolist() == nucleus(logits, 0.0, 1.0).tolist() == [1, 0, 0, 0]
    assert nucleus(logits, 1e-40, 1.0).tolist() == [1, 0, 0, 0]
    squared = [p**2 for p in (0.5, 0.3, 0.15, 0.05)]
    assert nucleus(logits, 0.5, 1.0).tolist() == pytest.approx(
        [p / math.fsum(squared) for p in squared]
    )


def test_guidance_of_1_is_none_and_0_is_the_unguided_half(pipeline: UnCLIP) -> None:
    """Next to 1 is next to none; at 0 the caption does not matter beyond its dot product, at 3 it matters more."""
    none, hardly = (
        embed(pipeline, ["a red cube"] * 4, prior_guidance_scale=scale)
        for scale in (1.0, 1.0 + 1e-7)
    )
    assert torch.allclose(none, hardly, atol=1e-5)
    first, second = (
        embed(pipeline, [prompt] * 4, prior_guidance_scale=0.0) for prompt in ("a red cube", "b")
    )
    assert torch.allclose(first, second, atol=1e-5)
    assert not torch.allclose(
        none, embed(pipeline, ["a red cube"] * 4, prior_guidance_scale=3.0), atol=1e-3
    )


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_pass_that_failed_halfway_can_be_made_again(
    pipeline: UnCLIP, monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    """As the engine does, row by row: the rows draw what they would have drawn."""
    parameters = pipeline.resolve(size=64, prior="autoregressive", prior_guidance_scale=scale)
    whole, broken = (
        [pipeline.prompt_row("a red cube", seed, parameters, prior=True) for seed in range(2)]
        for _ in range(2)
    )
    pipeline.run(whole)
    for _ in range(3):
        pipeline.step(broken)
    with monkeypatch.context() as patched:
        patched.setattr("models.stages.ar_prior.nucleus", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pipeline.step(broken)
    pipeline.run(broken)
    for one, other in zip(broken, whole, strict=True):
        assert one.conditioning.image_embedding.equal(other.conditioning.image_embedding)
