"""Measures against closed forms: Gaussians of known distance, counts of known intervals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from training.evaluation import metrics


def normal(count: int, mean: list[float], deviation: list[float], seed: int = 0) -> Tensor:
    drawn = torch.randn(
        count, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return drawn * torch.tensor(deviation, dtype=torch.float64) + torch.tensor(
        mean, dtype=torch.float64
    )


def test_the_frechet_distance_of_two_gaussians_is_the_closed_form() -> None:
    """Where covariances commute: |m_a - m_b|² + sum of (s_a - s_b)²; turned together it stays the same."""
    a = [1.0, 2.0, 0.5]
    b = [0.5, 2.5, 1.5]
    turn = torch.linalg.qr(normal(3, [0.0] * 3, [1.0] * 3)).Q
    means = (torch.tensor([0.0, 1.0, 2.0]).double(), torch.tensor([1.0, 1.0, 0.0]).double())
    first, second = (
        (turn @ m, turn @ torch.diag(torch.tensor(s).double().square()) @ turn.T)
        for m, s in zip(means, (a, b), strict=True)
    )
    assert metrics.frechet(first, second) == pytest.approx(1 + 4 + 0.25 + 0.25 + 1, abs=1e-9)
    assert metrics.frechet(first, first) == pytest.approx(0, abs=1e-9)


def test_the_frechet_distance_of_covariances_that_do_not_commute() -> None:
    """Two dimensions, where the trace of a root is known: tr(M^½) = (tr M + 2 det(M)^½)^½."""
    a = torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double()
    b = torch.tensor([[1.0, -0.7], [-0.7, 3.0]]).double()
    zero = torch.zeros(2).double()
    product = a @ b
    root = math.sqrt(float(product.trace()) + 2 * math.sqrt(float(torch.det(product))))
    assert metrics.frechet((zero, a), (zero, b)) == pytest.approx(3 + 4 - 2 * root, abs=1e-9)


def test_distances_of_samples_have_their_bias_taken_off() -> None:
    """100 of 8 dimensions from the reference's own Gaussian are at no distance from it, within the interval; shifted ones at theirs."""
    reference = normal(20_000, [0.0] * 8, [1.0] * 8, seed=1)
    same = normal(100, [0.0] * 8, [1.0] * 8)
    moved = normal(100, [1.0] + [0.0] * 7, [1.0] * 8)
    raw = metrics.frechet(metrics.gaussian(same), metrics.gaussian(reference))
    found = metrics.frechet_distance(same, reference)
    assert raw > 0.2
    assert found.value < raw / 3
    assert found.low <= found.value <= found.high
    assert (
        metrics.frechet_distance(moved, reference).low
        < 1
        < metrics.frechet_distance(moved, reference).high
    )
    assert metrics.mmd(same, reference[:3000]).low < 0 < metrics.mmd(same, reference[:3000]).high


def test_mmd_is_the_closed_form() -> None:
    """Of Gaussians with a Gaussian kernel: E k(x, y) = (w² / (w² + s² + t²))^(D/2) exp(-|m|² / 2 (w² + s² + t²))."""
    dimensions = 2
    width = 1.5
    s = 1.0
    t = 0.5
    shift = 1.0

    def expected(variance: float, squared: float) -> float:
        wide = width**2 + variance
        return float((width**2 / wide) ** (dimensions / 2) * math.exp(-squared / (2 * wide)))

    exact = expected(2 * s * s, 0) + expected(2 * t * t, 0) - 2 * expected(s * s + t * t, shift**2)
    found = metrics.mmd(
        normal(1500, [shift, 0.0], [s, s]), normal(3000, [0.0, 0.0], [t, t], seed=1), width
    )
    assert found.low < exact < found.high
    assert found.value == pytest.approx(exact, rel=0.15)
    assert metrics.bandwidth(torch.tensor([[0.0], [1.0], [3.0]])) == 2


def test_the_bootstrap_of_a_mean_has_the_standard_errors_interval() -> None:
    """Mean ± 1.96 s / √n."""
    values = normal(400, [3.0], [2.0])[:, 0]
    found = metrics.mean(values)
    half = 1.96 * float(values.std()) / 20
    assert found.value == pytest.approx(float(values.mean()), abs=0.03)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.15)
    assert metrics.Estimate(1, 0.5, 1.5).apart(metrics.Estimate(2, 1.6, 2.4))
    assert not metrics.Estimate(1, 0.5, 1.7).apart(metrics.Estimate(2, 1.6, 2.4))


def test_wilsons_interval_is_as_published() -> None:
    """81 of 263: 25.5 % to 36.6 % (Newcombe 1998, table I); and none of 20 is not certainly none."""
    found = metrics.share(81, 263)
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert metrics.share(0, 20).low == 0
    assert metrics.share(0, 20).high == pytest.approx(0.1611, abs=1e-3)


def test_spread_and_kinds_of_what_is_known() -> None:
    """Equal images 0, orthogonal ones 1; two values in equal parts are two kinds."""
    same = torch.ones(1, 3, 4)
    apart = torch.eye(4)[None, :3]
    assert metrics.spread(same).value == pytest.approx(0, abs=1e-9)
    assert metrics.spread(apart).value == pytest.approx(1, abs=1e-9)
    assert metrics.spread(torch.cat((same, apart))).value == pytest.approx(0.5, abs=0.1)
    assert metrics.kinds([1, 1, 2, 2]) == pytest.approx(2)
    assert metrics.kinds(["a"] * 5) == pytest.approx(1)
    assert metrics.clip_score(torch.eye(4), torch.ones(4, 4)).value == pytest.approx(0.5)


def test_ranks_share_ties() -> None:
    """As Spearman's coefficient is defined: monotone is 1, whatever the curve; ties take their mean rank."""
    x = torch.arange(1.0, 11)
    assert metrics.spearman(x, x.exp()) == pytest.approx(1)
    assert metrics.spearman(x, -(x**3)) == pytest.approx(-1)
    assert metrics.pearson(x, 2 * x + 1) == pytest.approx(1)
    # 1, 2.5, 2.5, 4 against 1, 2, 3, 4
    assert metrics.spearman(torch.tensor([1.0, 5, 5, 9]), torch.arange(4.0)) == pytest.approx(
        4.5 / math.sqrt(4.5 * 5), abs=1e-6
    )


def test_psnr_is_as_defined() -> None:
    """Of images that are 0.2 apart on a scale of 2: 20 dB."""
    assert metrics.psnr(torch.zeros(3, 4, 4), torch.full((3, 4, 4), 0.2)) == pytest.approx(
        20, abs=1e-4
    )
