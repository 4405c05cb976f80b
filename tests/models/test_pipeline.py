"""The pipeline on a tiny checkpoint: rows, batches, seeds, failures."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models import CheckpointError, UnCLIP
from models.diffusion.samplers import Coefficients
from models.row import Row
from models.stages.diffusion import x_t_of


@pytest.fixture(scope="module")
def pipeline(tiny_checkpoint: Path) -> UnCLIP:
    return UnCLIP.load(tiny_checkpoint)


def finish(pipeline: UnCLIP, rows: list[Row]) -> None:
    while moving := [row for row in rows if row.stage is not None]:
        pipeline.step([row for row in moving if row.stage == moving[0].stage])


@pytest.mark.parametrize("size", [64, 256, 1024])
def test_every_size_is_generated(pipeline: UnCLIP, size: int) -> None:
    """Images have the requested size and are in [-1, 1]."""
    images = pipeline.generate(["a red cube"], size=size, upsampler_num_inference_steps=1)
    assert images.shape == (1, 3, size, size)
    assert images.isfinite().all()
    assert images.abs().max() <= 1


def test_an_image_does_not_depend_on_its_batch(pipeline: UnCLIP) -> None:
    """Rows of other samplers, steps and guidance change an image by rounding only."""
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
    """0 is a seed like any other."""
    first, again, other = (
        pipeline.generate(["a red cube"], seeds=[seed], size=64) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=0.05)


def test_a_larger_size_keeps_the_base_image(pipeline: UnCLIP) -> None:
    """Each stage has separate random numbers: the 64² base of a 256² image is the 64² image."""
    small = pipeline.generate(["a red cube"], seeds=[5], size=64)[0]
    row = pipeline.row("a red cube", 5, pipeline.resolve(size=256))
    while row.stage != "upsampler_256":
        pipeline.step([row])
    assert row.conditioning.low_res is not None
    assert torch.allclose(row.conditioning.low_res, small, atol=1e-5)


def test_prompt_negative_prompt_and_guidance_matter(pipeline: UnCLIP) -> None:
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


def test_guidance_may_be_limited_to_an_interval(
    pipeline: UnCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps outside it compute no unconditional half."""
    halves: list[int] = []
    denoise = pipeline.decoder.denoise

    def count_halves(x_t: Tensor, *rest: Any) -> Tensor:
        halves.append(len(x_t))
        return denoise(x_t, *rest)

    monkeypatch.setattr(pipeline.decoder, "denoise", count_halves)
    base: dict[str, Any] = {
        "size": 64,
        "decoder_num_inference_steps": 10,
        "decoder_guidance_scale": 3.0,
    }

    def generate(**changes: Any) -> Tensor:
        return pipeline.generate(["a red cube"], seeds=[1], **base | changes)

    limited = generate(decoder_guidance_start=0.2, decoder_guidance_stop=0.5)
    assert halves == [1, 1, 2, 2, 2, 1, 1, 1, 1, 1]
    whole = generate()
    none = generate(decoder_guidance_scale=1.0)
    assert torch.equal(generate(decoder_guidance_start=0.0, decoder_guidance_stop=1.0), whole)
    assert torch.equal(generate(decoder_guidance_start=0.5, decoder_guidance_stop=0.5), none)
    assert not torch.equal(limited, whole)
    assert not torch.equal(limited, none)


def test_dynamic_thresholding_lowers_saturation(pipeline: UnCLIP) -> None:
    """With strong guidance the mean of the absolute values falls."""
    loud = {"size": 64, "decoder_guidance_scale": 20.0}
    images = [
        pipeline.generate(["a red cube"], seeds=[1], **loud, dynamic_threshold=share)
        for share in (0.0, 0.9)
    ]
    assert images[1].abs().mean() < images[0].abs().mean()


def test_a_row_with_nan_fails_alone(pipeline: UnCLIP) -> None:
    """The other rows get their usual images."""
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


def test_progress_grows_to_one_with_previews(pipeline: UnCLIP) -> None:
    """Fractions never fall, and there is a preview from the decoder on."""
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


def test_a_truncated_prompt_is_reported(pipeline: UnCLIP) -> None:
    """The text beyond CLIP's 77 tokens is reported."""
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
    """A step is one forward pass of one network."""
    ahead = pipeline.row("a", 0, pipeline.resolve(size=64))
    behind = pipeline.row("b", 0, pipeline.resolve(size=64))
    pipeline.step([ahead])
    with pytest.raises(ValueError, match="one and the same stage"):
        pipeline.step([ahead, behind])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"size": 100}, "size is 100: checkpoint 'tiny' generates 64, 256, 1024"),
        ({"prior": "gan"}, "has 'diffusion' and 'autoregressive'"),
        ({"sampler": "euler"}, "unknown sampler 'euler'"),
        ({"decoder_num_inference_steps": 2000}, "use 1 to 1000"),
        ({"steps": 3}, "unknown parameter steps"),
    ],
)
def test_unsupported_parameters_are_errors(
    pipeline: UnCLIP, parameters: dict[str, object], message: str
) -> None:
    """The message names the parameter."""
    with pytest.raises(ValueError, match=message):
        pipeline.resolve(**parameters)


def test_a_folder_without_a_checkpoint_is_an_error(tmp_path: Path) -> None:
    """The message names the folder."""
    with pytest.raises(CheckpointError, match="has no config.json"):
        UnCLIP.load(tmp_path)


@torch.inference_mode()
def test_the_priors_prefix_cache_equals_the_whole_sequence(pipeline: UnCLIP) -> None:
    """Covers prompts of different lengths in one batch."""
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
    """Of several z_i the one closest to z_t is selected."""
    rows = [
        pipeline.prompt_row("a cube", 5, pipeline.resolve(prior_num_candidates=count), prior=True)
        for count in (1, 3, 3)
    ]
    rows[2].parameters = pipeline.resolve(prior_num_candidates=3, prior_guidance_scale=1.0)
    pipeline.run(rows)
    alone = pipeline.prompt_row("a cube", 5, pipeline.resolve(prior_num_candidates=3), prior=True)
    pipeline.run([alone])
    z_i = [row.conditioning.image_embedding for row in [*rows, alone]]
    assert torch.allclose(z_i[1], z_i[3], atol=1e-5)
    z_t = rows[0].conditioning.text.z_t[0]
    assert z_i[1] @ z_t >= z_i[0] @ z_t - 1e-5


def to_meta(value: Any) -> Any:
    """Move tensors to a device without numbers, on which reading one is an error."""
    if isinstance(value, Tensor):
        return value.to("meta")
    # A sampler's coefficients stay on the host.
    if isinstance(value, Coefficients):
        return value
    if isinstance(value, list | tuple):
        return type(value)(to_meta(one) for one in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value,
            **{field.name: to_meta(getattr(value, field.name)) for field in fields(value)},
        )
    return value


@pytest.mark.parametrize("stage", ["prior", "decoder", "upsampler_256"])
def test_a_step_waits_for_the_device_once(
    pipeline: UnCLIP, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """On a device without numbers a step runs until it reads whether results are finite."""
    rows = [
        pipeline.row(prompt, 1, pipeline.resolve(size=256))
        for prompt in ("a red cube", "a blue cone left of a green sphere")
    ]
    while rows[0].stage != stage or rows[0].step == 0:
        pipeline.step(rows)
    away = UnCLIP.load(tiny_checkpoint, "meta")
    for row in rows:
        row.state = to_meta(row.state)
        row.conditioning = to_meta(row.conditioning)
    before = rows[0].step
    real_stack = torch.stack
    steps_at_read: list[list[int]] = []

    def stack_or_finite(tensors: Any, dim: int = 0) -> Tensor:
        """Replace the result of the only stack that the host reads."""
        if tensors[0].dtype != torch.bool or tensors[0].dim():
            return real_stack(tensors, dim)
        steps_at_read.append([row.step for row in rows])
        return torch.ones(len(tensors), dtype=torch.bool)

    monkeypatch.setattr(torch, "stack", stack_or_finite)
    away.step(rows)
    # Both rows have advanced by then.
    assert steps_at_read == [[before + 1] * 2]
