"""The pipeline as a whole, on a tiny checkpoint: rows, batches, seeds, failures."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models import CheckpointError, UnCLIP
from models.diffusion.guidance import threshold
from models.row import Row
from models.stages.diffusion import x_t_of


@pytest.fixture(scope="module")
def pipeline(tiny_checkpoint: Path) -> UnCLIP:
    return UnCLIP.load(tiny_checkpoint)


def finish(pipeline: UnCLIP, rows: list[Row]) -> None:
    while moving := [row for row in rows if row.stage is not None]:
        pipeline.step([row for row in moving if row.stage == moving[0].stage])


@pytest.mark.parametrize("size", [64, 256, 1024])
def test_every_size_is_drawn(pipeline: UnCLIP, size: int) -> None:
    """A caption becomes an image of the size asked for, in [-1, 1]."""
    images = pipeline.generate(["a red cube"], size=size, upsampler_num_inference_steps=1)
    assert images.shape == (1, 3, size, size)
    assert images.isfinite().all()
    assert images.abs().max() <= 1


def test_an_image_does_not_depend_on_its_batch(pipeline: UnCLIP) -> None:
    """Rows with other samplers, steps, guidance and ages beside it change an image by rounding only."""
    wanted = pipeline.resolve(size=64, sampler="ddpm", decoder_num_inference_steps=9)
    alone = pipeline.row("a red cube", 7, wanted)
    finish(pipeline, [alone])
    among = pipeline.row("a red cube", 7, wanted)
    others = [
        pipeline.row(
            "a blue cone on snow, and then some more words",
            1,
            pipeline.resolve(size=64, decoder_guidance_scale=1.0),
        ),
        pipeline.row(
            "two",
            2,
            pipeline.resolve(
                size=64,
                sampler="ddim",
                eta=1.0,
                decoder_num_inference_steps=4,
                prior_guidance_scale=1.0,
            ),
        ),
        pipeline.row(
            "", 3, pipeline.resolve(size=256, prior_num_inference_steps=2, negative_prompt="grey")
        ),
    ]
    pipeline.step(others[:1])  # one of them is ahead
    finish(pipeline, [*others, among])
    assert alone.image is not None
    assert among.image is not None
    assert torch.allclose(alone.image, among.image, atol=1e-4)


def test_the_seed_decides_the_image(pipeline: UnCLIP) -> None:
    """The same seed gives the same image, another one another, and 0 is a seed."""
    first, again, other = (
        pipeline.generate(["a red cube"], seeds=[seed], size=64) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=0.05)


def test_size_leaves_the_base_image_alone(pipeline: UnCLIP) -> None:
    """Each stage has random numbers of its own: the 64² base of a 256² image is the 64² image."""
    small = pipeline.generate(["a red cube"], seeds=[5], size=64)[0]
    row = pipeline.row("a red cube", 5, pipeline.resolve(size=256))
    while row.stage != "upsampler_256":
        pipeline.step([row])
    assert row.conditioning is not None
    assert row.conditioning.low_res is not None
    assert torch.allclose(row.conditioning.low_res, small, atol=1e-5)


def test_prompt_negative_prompt_and_guidance_all_matter(pipeline: UnCLIP) -> None:
    """Each of them changes the image."""
    base = pipeline.generate(["a red cube"], seeds=[3], size=64)
    for prompt, change in (
        ("a blue cone", {}),
        ("a red cube", {"negative_prompt": "a blue cone"}),
        ("a red cube", {"decoder_guidance_scale": 6.0}),
        ("a red cube", {"prior_guidance_scale": 6.0}),
        ("a red cube", {"sampler": "ddpm"}),
    ):
        assert not torch.allclose(
            base, pipeline.generate([prompt], seeds=[3], size=64, **change), atol=1e-3
        ), (prompt, change)


def test_guidance_may_be_limited_to_an_interval_of_the_steps(
    pipeline: UnCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside it no unconditional half is computed; an empty interval is no guidance, the whole one is the default."""
    halves: list[int] = []
    denoise = pipeline.decoder.denoise

    def counted(x_t: Tensor, *rest: Any) -> Tensor:
        halves.append(len(x_t))
        return denoise(x_t, *rest)

    monkeypatch.setattr(pipeline.decoder, "denoise", counted)
    asked: dict[str, Any] = {
        "size": 64,
        "decoder_num_inference_steps": 10,
        "decoder_guidance_scale": 3.0,
    }

    def drawn(**given: Any) -> Tensor:
        return pipeline.generate(["a red cube"], seeds=[1], **asked | given)

    limited = drawn(decoder_guidance_start=0.2, decoder_guidance_stop=0.5)
    assert halves == [1, 1, 2, 2, 2, 1, 1, 1, 1, 1]
    whole = drawn()
    none = drawn(decoder_guidance_scale=1.0)
    assert torch.equal(drawn(decoder_guidance_start=0.0, decoder_guidance_stop=1.0), whole)
    assert torch.equal(drawn(decoder_guidance_start=0.5, decoder_guidance_stop=0.5), none)
    assert not torch.equal(limited, whole)
    assert not torch.equal(limited, none)


def test_dynamic_thresholding_scales_where_clamping_cuts(pipeline: UnCLIP) -> None:
    """Saharia et al. 2022, section 2.3: within the bounds nothing changes; beyond, the share's quantile becomes 1."""
    inside = torch.linspace(-0.9, 0.9, 100)
    outside = torch.linspace(-4, 4, 101)
    assert torch.equal(threshold(inside, 0.9), inside)
    assert torch.equal(threshold(inside, 0.0), inside)
    assert torch.equal(threshold(outside, 0.0), outside.clamp(-1, 1))
    assert torch.allclose(threshold(outside, 1.0), outside / 4)
    assert torch.allclose(threshold(outside, 0.5), (outside / outside.abs().median()).clamp(-1, 1))
    loud = {"size": 64, "decoder_guidance_scale": 20.0}
    images = [
        pipeline.generate(["a red cube"], seeds=[1], **loud, dynamic_threshold=share)
        for share in (0.0, 0.9)
    ]
    assert images[1].abs().mean() < images[0].abs().mean()


def test_a_row_that_yields_nan_fails_alone(pipeline: UnCLIP) -> None:
    """Its neighbours end with the image they would have had."""
    parameters = pipeline.resolve(size=64)
    good = pipeline.row("a red cube", 1, parameters)
    bad = pipeline.row("a red cube", 2, parameters)
    for _ in range(9):
        pipeline.step([good, bad])
    with torch.inference_mode():
        x_t_of(bad)[0, 3, 4] = float("nan")
    while good.stage is not None:
        pipeline.step([row for row in (good, bad) if row.stage])
    assert bad.image is None
    assert bad.error is not None
    assert "not finite" in bad.error
    assert good.image is not None
    assert torch.allclose(
        good.image, pipeline.generate(["a red cube"], seeds=[1], size=64)[0], atol=1e-4
    )


def test_progress_grows_to_one_and_shows_the_image_so_far(pipeline: UnCLIP) -> None:
    """Fractions never fall, and a preview is there once the decoder runs."""
    row = pipeline.row("a red cube", 0, pipeline.resolve(size=256))
    fractions = [row.fraction]
    stages = []
    while row.stage is not None:
        stages.append(row.stage)
        pipeline.step([row])
        fractions.append(row.fraction)
        if row.stage == "upsampler_256":
            preview = row.preview()
            assert preview is not None
            assert preview.dim() == 3
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert fractions[-1] == 1
    assert list(dict.fromkeys(stages)) == ["text", "prior", "decoder", "upsampler_256"]


def test_a_long_prompt_is_cut_and_says_what_was_cut(pipeline: UnCLIP) -> None:
    """The words beyond CLIP's 77 tokens are named."""
    row = pipeline.row("red " * 75 + "tail end", 0, pipeline.resolve(size=64))
    pipeline.step([row])
    assert row.truncated_prompt == "tail end"
    assert row.truncated_negative_prompt is None
    row = pipeline.row(
        "red", 0, pipeline.resolve(size=64, negative_prompt="blue " * 75 + "other end")
    )
    pipeline.step([row])
    assert row.truncated_prompt is None
    assert row.truncated_negative_prompt == "other end"


def test_rows_of_different_stages_do_not_share_a_step(pipeline: UnCLIP) -> None:
    """One forward pass, one network."""
    ahead = pipeline.row("a", 0, pipeline.resolve(size=64))
    behind = pipeline.row("b", 0, pipeline.resolve(size=64))
    pipeline.step([ahead])
    with pytest.raises(ValueError, match="one and the same stage"):
        pipeline.step([ahead, behind])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": 100}, "size is 100: checkpoint 'tiny' generates 64, 256, 1024"),
        ({"prior": "gan"}, "has 'diffusion' and 'autoregressive'"),
        ({"sampler": "euler"}, "unknown sampler 'euler'"),
        ({"decoder_num_inference_steps": 2000}, "use 1 to 1000"),
        ({"steps": 3}, "unknown parameter steps"),
    ],
)
def test_what_the_checkpoint_cannot_do_is_refused(
    pipeline: UnCLIP, given: dict[str, object], message: str
) -> None:
    """Before anything is drawn, and by name."""
    with pytest.raises(ValueError, match=message):
        pipeline.resolve(**given)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    """With the folder's name."""
    with pytest.raises(CheckpointError, match="has no config.json"):
        UnCLIP.load(tmp_path)


@torch.inference_mode()
def test_the_priors_prefix_cache_gives_what_the_whole_sequence_gives(pipeline: UnCLIP) -> None:
    """Captions of different lengths together; every step sees the same caption."""
    tokens, _ = pipeline.clip.tokenize(["a", "a red cube on top of a blue cube at night"])
    text = pipeline.clip.encode_text(tokens)
    caches = pipeline.prior.encode_prefix(text)
    assert [cache[0][0].shape[2] for cache in caches] == [
        int(count) + 1 for count in text.mask.sum(1)
    ]
    generator = torch.Generator().manual_seed(0)
    for t in ([999, 999], [500, 3]):
        x_t = torch.randn(2, pipeline.clip.embed_dim, generator=generator)
        steps = torch.tensor(t)
        assert torch.allclose(
            pipeline.prior.denoise(x_t, steps, caches), pipeline.prior(x_t, steps, text), atol=1e-5
        )


def test_rows_with_different_numbers_of_candidates_share_a_pass(pipeline: UnCLIP) -> None:
    """And of several z_i the nearest to z_t is kept: among more it is never farther."""
    rows = [
        pipeline.prompt_row("a cube", 5, pipeline.resolve(prior_num_candidates=count), prior=True)
        for count in (1, 3, 3)
    ]
    rows[2].parameters = pipeline.resolve(prior_num_candidates=3, prior_guidance_scale=1.0)
    pipeline.run(rows)
    alone = pipeline.prompt_row("a cube", 5, pipeline.resolve(prior_num_candidates=3), prior=True)
    pipeline.run([alone])
    found = [
        row.conditioning.z_i
        for row in [*rows, alone]
        if row.conditioning is not None and row.conditioning.z_i is not None
    ]
    assert torch.allclose(found[1], found[3], atol=1e-5)
    assert rows[0].conditioning is not None
    z_t = rows[0].conditioning.text.z_t[0]
    assert found[1] @ z_t >= found[0] @ z_t - 1e-5


def moved_to_meta(value: Any) -> Any:
    """Tensors on the device that has no numbers, so that whatever asks for one is an error."""
    if isinstance(value, Tensor):
        return value.to("meta")
    if isinstance(value, list | tuple):
        return type(value)(moved_to_meta(one) for one in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value,
            **{field.name: moved_to_meta(getattr(value, field.name)) for field in fields(value)},
        )
    return value


@pytest.mark.parametrize("stage", ["prior", "decoder", "upsampler_256"])
def test_a_step_waits_for_the_device_once(
    pipeline: UnCLIP, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """When all of its work has been handed over: on a device without numbers it comes as far as asking whether they are finite."""
    rows = [
        pipeline.row(prompt, 1, pipeline.resolve(size=256))
        for prompt in ("a red cube", "a blue cone left of a green sphere")
    ]
    while rows[0].stage != stage or rows[0].step == 0:
        pipeline.step(rows)
    away = UnCLIP.load(tiny_checkpoint, "meta")
    for row in rows:
        row.state = moved_to_meta(row.state)
        row.conditioning = moved_to_meta(row.conditioning)
    before = rows[0].step
    real_stack = torch.stack
    asked = []

    def finite(tensors: Any, dim: int = 0) -> Tensor:
        """Stands for the answer, which is awaited."""
        if tensors[0].dtype != torch.bool or tensors[0].dim():
            return real_stack(tensors, dim)
        asked.append([row.step for row in rows])
        return torch.ones(len(tensors), dtype=torch.bool)

    monkeypatch.setattr(torch, "stack", finite)
    away.step(rows)
    assert asked == [[before + 1] * 2], "both rows had been moved by then"
