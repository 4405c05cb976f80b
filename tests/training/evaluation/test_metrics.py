"""Metrics against closed forms: Gaussians of known distance, counts of known intervals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from training.evaluation import metrics


def draw_normal(count: int, mean: list[float], deviation: list[float], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(count, len(mean), generator=generator, dtype=torch.float64)
    return numbers * torch.tensor(deviation, dtype=torch.float64) + torch.tensor(
        mean, dtype=torch.float64
    )


def test_the_frechet_distance_of_two_gaussians_is_the_closed_form() -> None:
    """Commuting covariances give |m_a - m_b|² + sum of (s_a - s_b)², in any rotation."""
    a = [1.0, 2.0, 0.5]
    b = [0.5, 2.5, 1.5]
    rotation = torch.linalg.qr(draw_normal(3, [0.0] * 3, [1.0] * 3)).Q
    means = (torch.tensor([0.0, 1.0, 2.0]).double(), torch.tensor([1.0, 1.0, 0.0]).double())
    first, second = (
        (rotation @ m, rotation @ torch.diag(torch.tensor(s).double().square()) @ rotation.T)
        for m, s in zip(means, (a, b), strict=True)
    )
    assert metrics.frechet(first, second) == pytest.approx(1 + 4 + 0.25 + 0.25 + 1, abs=1e-9)
    assert metrics.frechet(first, first) == pytest.approx(0, abs=1e-9)


def test_the_frechet_distance_of_covariances_that_do_not_commute() -> None:
    """In two dimensions the trace of a root is known: tr(M^½) = (tr M + 2 det(M)^½)^½."""
    a = torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double()
    b = torch.tensor([[1.0, -0.7], [-0.7, 3.0]]).double()
    zero = torch.zeros(2).double()
    product = a @ b
    root = math.sqrt(float(product.trace()) + 2 * math.sqrt(float(torch.det(product))))
    assert metrics.frechet((zero, a), (zero, b)) == pytest.approx(3 + 4 - 2 * root, abs=1e-9)


def test_distances_of_samples_are_corrected_for_bias() -> None:
    """100 samples of the reference's Gaussian have distance 0 within the interval.

    Shifted ones have that of their shift."""
    reference = draw_normal(20_000, [0.0] * 8, [1.0] * 8, seed=1)
    same = draw_normal(100, [0.0] * 8, [1.0] * 8)
    moved = draw_normal(100, [1.0] + [0.0] * 7, [1.0] * 8)
    raw = metrics.frechet(metrics.fit_gaussian(same), metrics.fit_gaussian(reference))
    estimate = metrics.frechet_distance(same, reference)
    assert raw > 0.2
    assert estimate.value < raw / 3
    assert estimate.low <= estimate.value <= estimate.high
    shifted = metrics.frechet_distance(moved, reference)
    assert shifted.low < 1 < shifted.high
    discrepancy = metrics.mmd(same, reference[:3000])
    assert discrepancy.low < 0 < discrepancy.high


def test_mmd_is_the_closed_form() -> None:
    """Gaussians with a Gaussian kernel have a known expectation.

    E k(x, y) = (w² / (w² + s² + t²))^(D/2) exp(-|m|² / 2 (w² + s² + t²))."""
    dimensions = 2
    width = 1.5
    s = 1.0
    t = 0.5
    shift = 1.0

    def expected(variance: float, squared: float) -> float:
        total = width**2 + variance
        return float((width**2 / total) ** (dimensions / 2) * math.exp(-squared / (2 * total)))

    exact = expected(2 * s * s, 0) + expected(2 * t * t, 0) - 2 * expected(s * s + t * t, shift**2)
    estimate = metrics.mmd(
        draw_normal(1500, [shift, 0.0], [s, s]),
        draw_normal(3000, [0.0, 0.0], [t, t], seed=1),
        width,
    )
    assert estimate.low < exact < estimate.high
    assert estimate.value == pytest.approx(exact, rel=0.15)
    assert metrics.median_distance(torch.tensor([[0.0], [1.0], [3.0]])) == 2


def test_the_bootstrap_of_a_mean_has_the_standard_interval() -> None:
    """It is mean ± 1.96 s / √n."""
    values = draw_normal(400, [3.0], [2.0])[:, 0]
    estimate = metrics.estimate_mean(values)
    half = 1.96 * float(values.std()) / 20
    assert estimate.value == pytest.approx(float(values.mean()), abs=0.03)
    assert estimate.high - estimate.low == pytest.approx(2 * half, rel=0.15)


def test_intervals_without_overlap_are_apart() -> None:
    """An overlap decides, not the values."""
    assert metrics.Estimate(1, 0.5, 1.5).is_apart_from(metrics.Estimate(2, 1.6, 2.4))
    assert not metrics.Estimate(1, 0.5, 1.7).is_apart_from(metrics.Estimate(2, 1.6, 2.4))


def test_wilsons_interval_is_as_published() -> None:
    """81 of 263 is 25.5 % to 36.6 % (Newcombe 1998, table I), and 0 of 20 is up to 16 %."""
    estimate = metrics.estimate_share(81, 263)
    assert (estimate.low, estimate.high) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert metrics.estimate_share(0, 20).low == 0
    assert metrics.estimate_share(0, 20).high == pytest.approx(0.1611, abs=1e-3)


def test_diversity_of_known_sets() -> None:
    """Equal images have spread 0, orthogonal ones 1; two equally frequent values count as two."""
    same = torch.ones(1, 3, 4)
    apart = torch.eye(4)[None, :3]
    assert metrics.spread(same).value == pytest.approx(0, abs=1e-9)
    assert metrics.spread(apart).value == pytest.approx(1, abs=1e-9)
    assert metrics.spread(torch.cat((same, apart))).value == pytest.approx(0.5, abs=0.1)
    assert metrics.effective_number([1, 1, 2, 2]) == pytest.approx(2)
    assert metrics.effective_number(["a"] * 5) == pytest.approx(1)
    assert metrics.clip_score(torch.eye(4), torch.ones(4, 4)).value == pytest.approx(0.5)


def test_ranks_share_ties() -> None:
    """A monotone relation has Spearman 1 for any curve; ties have their mean rank."""
    x = torch.arange(1.0, 11)
    assert metrics.spearman(x, x.exp()) == pytest.approx(1)
    assert metrics.spearman(x, -(x**3)) == pytest.approx(-1)
    assert metrics.pearson(x, 2 * x + 1) == pytest.approx(1)
    # 1, 2.5, 2.5, 4 against 1, 2, 3, 4
    assert metrics.spearman(torch.tensor([1.0, 5, 5, 9]), torch.arange(4.0)) == pytest.approx(
        4.5 / math.sqrt(4.5 * 5), abs=1e-6
    )


def test_psnr_of_a_constant_difference() -> None:
    """A difference of 0.2 on a scale of 2 is 20 dB."""
    assert metrics.psnr(torch.zeros(3, 4, 4), torch.full((3, 4, 4), 0.2)) == pytest.approx(
        20, abs=1e-4
    )
