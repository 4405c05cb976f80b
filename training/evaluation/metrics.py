"""Measures of images and of sets of images, on embeddings and counts: what every report and experiment here is made of.

The Fréchet distance is that of Heusel et al. 2017 (FID), but between CLIP's image embeddings, of which a small world needs no
other network's; so is the maximum mean discrepancy (Gretton et al. 2012; in CLIP space Jayasumana et al. 2024), which assumes no Gaussians
and is the surer of the two where there are few images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LEVEL = 0.95  # of every interval
RESAMPLES = 300


@dataclass(frozen=True)
class Estimate:
    """A value and its interval at LEVEL."""

    value: float
    low: float
    high: float

    def apart(self, other: Estimate) -> bool:
        """Whether the two intervals do not meet."""
        return self.low > other.high or other.low > self.high


def bootstrap(
    statistic: Callable[[Tensor], float], count: int, *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """A statistic of `count` images, by resampling them (Efron 1979); it is given their indices, with repeats.

    What a statistic gains from being taken of few images, a resample gains once more: the value has that bias taken off, and the
    interval is the basic one (Davison & Hinkley 1997, §5.2), which lies about the value so corrected. That matters for distances,
    which are never negative of samples, and little for means."""
    generator = torch.Generator().manual_seed(seed)
    plain = statistic(torch.arange(count))
    drawn = torch.tensor(
        [statistic(torch.randint(count, (count,), generator=generator)) for _ in range(resamples)],
        dtype=torch.float64,
    )  # (R,)
    low, high = torch.quantile(
        drawn, torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    ).tolist()
    return Estimate(2 * plain - float(drawn.mean()), 2 * plain - high, 2 * plain - low)


def mean(values: Tensor) -> Estimate:
    """The mean of one number an image `[N]`."""
    values = values.double().cpu()
    return bootstrap(lambda index: float(values[index].mean()), len(values))


def share(right: int, of: int) -> Estimate:
    """A share of counts, with Wilson's interval (1927)."""
    z = 1.959964
    p = right / of
    wide = 1 + z**2 / of
    centre = (p + z**2 / (2 * of)) / wide
    half = z / wide * math.sqrt(p * (1 - p) / of + z**2 / (4 * of**2))
    return Estimate(p, max(0.0, centre - half), min(1.0, centre + half))


def gaussian(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean `[D]` and covariance `[D, D]` of embeddings `[N, D]`, in float64."""
    z = z.double().cpu()
    return z.mean(0), torch.cov(z.T, correction=1).reshape(z.shape[1], -1)


def frechet(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> float:
    """Squared Fréchet distance |m_a - m_b|² + tr(C_a + C_b - 2 (C_a C_b)^½) of two Gaussians (Dowson & Landau 1982)."""
    (mean_a, cov_a) = a
    (mean_b, cov_b) = b
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # C_a C_b has the eigenvalues of the symmetric root C_b root.
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)


def frechet_distance(z: Tensor, reference: Tensor) -> Estimate:
    """Of embeddings `[N, D]` to a reference's `[M, D]`, which is taken as it is: it should be much the larger."""
    z = z.double().cpu()
    given = gaussian(reference)
    return bootstrap(lambda index: frechet(gaussian(z[index]), given), len(z))


def bandwidth(reference: Tensor) -> float:
    """The median distance within a reference `[M, D]`: the kernel's width by the usual rule (Gretton et al. 2012, §8)."""
    return float(torch.pdist(reference[:1024].double().cpu()).median())


def mmd(z: Tensor, reference: Tensor, width: float | None = None) -> Estimate:
    """Squared maximum mean discrepancy of embeddings `[N, D]` to a reference's `[M, D]` with the kernel exp(-|x - y|² / 2 width²)."""
    x = z.double().cpu()
    y = reference.double().cpu()
    width = bandwidth(reference) if width is None else width

    def kernel(p: Tensor, q: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(p, q).square() / (2 * width**2))

    within = kernel(x, x)
    across = kernel(x, y).mean(1)
    count = len(y)
    # Without each point's kernel with itself, so that a reference of few says nothing of itself; x's own the bootstrap takes off.
    of_reference = float((kernel(y, y).sum() - count) / (count * (count - 1)))

    def statistic(index: Tensor) -> float:
        weights = torch.bincount(index, minlength=len(x)).double() / len(x)
        return float(weights @ within @ weights - 2 * across @ weights) + of_reference

    return bootstrap(statistic, len(x))


def clip_score(z_i: Tensor, z_t: Tensor) -> Estimate:
    """Mean cosine of images' `[N, D]` and their captions' embeddings (Hessel et al. 2021, without their factor of 2.5)."""
    return mean(F.cosine_similarity(z_i, z_t))


def spreads(z: Tensor) -> Tensor:
    """How much the images of a caption differ: 1 - cosine of two of them in the mean over pairs, `[captions, K, D]` -> `[captions]`."""
    unit = F.normalize(z.double().cpu(), dim=2)
    count = z.shape[1]
    pairs: Tensor = (unit @ unit.transpose(1, 2)).sum((1, 2)) - count
    return 1 - pairs / (count * (count - 1))


def spread(z: Tensor) -> Estimate:
    """Diversity at a fixed caption: the mean of `spreads`. Captions are resampled."""
    return mean(spreads(z))


def kinds(values: list[object]) -> float:
    """How many different values there are in effect: the exponential of their entropy, 1 where all are the same."""
    counts = torch.tensor([values.count(value) for value in set(values)], dtype=torch.float64)
    return float(torch.special.entr(counts / counts.sum()).sum().exp())


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio of images in [-1, 1], in dB."""
    return 10 * math.log10(4 / float((a - b).square().mean().clamp(min=1e-12)))


def pearson(a: Tensor, b: Tensor) -> float:
    """Correlation of two lists of numbers `[N]`; nan where one of them does not vary."""
    return float(torch.corrcoef(torch.stack((a.double().cpu(), b.double().cpu())))[0, 1])


def spearman(a: Tensor, b: Tensor) -> float:
    """Correlation of the ranks of two lists of numbers `[N]`; equal numbers share their mean rank."""
    return pearson(_ranks(a), _ranks(b))


def _ranks(values: Tensor) -> Tensor:
    _, which, counts = values.double().unique(return_inverse=True, return_counts=True)
    ranks: Tensor = (counts.cumsum(0) - (counts - 1) / 2)[which]
    return ranks
