"""What docs/development/where-to-add.md calls one entry is one entry."""

from __future__ import annotations

from typing import get_args

from contracts.fields import Sampler
from models.diffusion.samplers import SAMPLERS


def test_contracts_and_models_know_the_same_samplers() -> None:
    """A sampler's name is in the contracts, since the service validates it without torch."""
    assert list(get_args(Sampler)) == list(SAMPLERS)
