"""Guidance and thresholding against their formulas."""

from __future__ import annotations

import torch

from models.diffusion.guidance import guide, is_in_interval, threshold


def test_dynamic_thresholding_scales_instead_of_clamping() -> None:
    """Saharia et al. 2022, section 2.3: the quantile becomes 1 if it is above 1."""
    inside = torch.linspace(-0.9, 0.9, 100)
    outside = torch.linspace(-4, 4, 101)
    assert torch.equal(threshold(inside, 0.9), inside)
    assert torch.equal(threshold(inside, 0.0), inside)
    assert torch.equal(threshold(outside, 0.0), outside.clamp(-1, 1))
    assert torch.allclose(threshold(outside, 1.0), outside / 4)
    assert torch.allclose(threshold(outside, 0.5), (outside / outside.abs().median()).clamp(-1, 1))


def test_a_guidance_scale_of_1_is_conditional_and_0_unconditional() -> None:
    """Other scales are linear between and beyond them."""
    conditional = torch.tensor([3.0, 1.0])
    unconditional = torch.tensor([1.0, 1.0])
    assert torch.equal(guide(conditional, unconditional, 1.0), conditional)
    assert torch.equal(guide(conditional, unconditional, 0.0), unconditional)
    assert torch.equal(guide(conditional, unconditional, 2.0), torch.tensor([5.0, 1.0]))


def test_an_interval_excludes_its_stop() -> None:
    """An empty interval guides no step, and 0 to 1 guides all."""
    assert is_in_interval(0.2, 0.2, 0.5)
    assert not is_in_interval(0.5, 0.2, 0.5)
    assert not is_in_interval(0.5, 0.5, 0.5)
    assert is_in_interval(0.0, 0.0, 1.0)
