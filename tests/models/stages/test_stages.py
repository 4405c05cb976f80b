"""The table of stages, and which of them a row passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from models import UnCLIP
from models.row import Row
from models.stages import STAGE_NAMES, STAGES, select
from models.stages.base import RNG_STREAM, STREAMS_PER_SEED, Role
from models.stages.diffusion import DiffusionState


@pytest.fixture(scope="module")
def pipeline(tiny_checkpoint: Path) -> UnCLIP:
    return UnCLIP.load(tiny_checkpoint)


def test_names_are_unique() -> None:
    """A row's stage and its cost are found by name."""
    assert len(set(STAGE_NAMES)) == len(STAGES)


def test_random_streams_are_separate_and_unchanged() -> None:
    """Their numbers decide every image of version 0.1.0."""
    assert RNG_STREAM == {
        "prior": 1,
        "decoder": 2,
        "upsampler_256": 3,
        "upsampler_1024": 4,
        "ar_prior": 7,
    }
    assert max(RNG_STREAM.values()) < STREAMS_PER_SEED
    assert RNG_STREAM.keys() <= set(STAGE_NAMES)


@pytest.mark.parametrize(
    ("parameters", "stages"),
    [
        ({"size": 64}, ["text", "prior", "decoder"]),
        ({"size": 256}, ["text", "prior", "decoder", "upsampler_256"]),
        ({"size": 64, "prior": "autoregressive"}, ["text", "ar_prior", "decoder"]),
    ],
)
def test_parameters_select_the_stages_of_an_image(
    pipeline: UnCLIP, parameters: dict[str, object], stages: list[str]
) -> None:
    """Size and prior decide."""
    roles = (Role.TEXT, Role.PRIOR, Role.RENDER)
    assert select(pipeline.stages, roles, pipeline.resolve(**parameters)) == stages


def test_a_missing_network_leaves_its_stage_out(tiny_checkpoint: Path) -> None:
    """A checkpoint without the autoregressive prior has no such stage."""
    checkpoint = UnCLIP.load(tiny_checkpoint).checkpoint
    del checkpoint.networks["ar_prior"]
    assert "ar_prior" not in UnCLIP(checkpoint).stages


def test_a_row_reports_what_its_stage_lacks(pipeline: UnCLIP) -> None:
    """State and conditioning of another stage are errors, not None."""
    row = Row("a red cube", 0, pipeline.resolve(size=64), {"text": 0.2, "decoder": 1.0})
    with pytest.raises(RuntimeError, match="'text' has no DiffusionState"):
        row.state_as(DiffusionState)
    with pytest.raises(RuntimeError, match="no conditioning yet"):
        _ = row.conditioning
