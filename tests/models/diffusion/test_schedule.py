"""Schedules against their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from models.diffusion.schedule import alphas_cumprod, betas, spaced_timesteps


def test_cosine_follows_its_formula() -> None:
    """Nichol & Dhariwal 2021, eq. 17; the cap on beta affects only the last timesteps."""
    a = alphas_cumprod("cosine")
    wanted = torch.tensor(
        [
            math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2
            / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
            for t in range(1, 1001)
        ],
        dtype=torch.float64,
    )
    assert torch.allclose(a[:998], wanted[:998], rtol=1e-9)
    assert float(a[999]) == pytest.approx(2.4287669e-09, rel=1e-6)
    assert float(betas("cosine")[0]) == pytest.approx(4.12842e-05, rel=1e-5)


def test_linear_runs_from_1e_4_to_0_02() -> None:
    """Ho et al. 2020, section 4."""
    b = betas("linear")
    assert (float(b[0]), float(b[-1])) == pytest.approx((1e-4, 0.02))
    assert float(b[500] - b[499]) == pytest.approx((0.02 - 1e-4) / 999)


def test_timesteps_are_spaced_as_in_guided_diffusion() -> None:
    """They are i·999/(n-1), rounded half to even, in descending order with both ends."""
    assert spaced_timesteps(7) == [999, 832, 666, 500, 333, 166, 0]
    assert spaced_timesteps(25)[:6] == [999, 957, 916, 874, 832, 791]
    assert spaced_timesteps(25)[-4:] == [125, 83, 42, 0]
    assert spaced_timesteps(1) == [999]
    assert spaced_timesteps(1000) == list(range(999, -1, -1))


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_step_counts_are_errors(steps: int) -> None:
    """The message has the value and the range."""
    with pytest.raises(ValueError, match=f"is {steps}: use 1 to 1000"):
        spaced_timesteps(steps)


def test_an_unknown_schedule_is_an_error() -> None:
    """The message has the name."""
    with pytest.raises(ValueError, match="'sigmoid'"):
        alphas_cumprod("sigmoid")
