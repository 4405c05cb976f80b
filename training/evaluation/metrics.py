"""Metrics of images and of sets of images, on embeddings and counts.

The Fréchet distance is that of Heusel et al. 2017 (FID), but between CLIP's image embeddings, which
suffice for synthetic scenes. So is the maximum mean discrepancy (Gretton et al. 2012; in CLIP space
Jayasumana et al. 2024). It assumes no Gaussians and is the more reliable of the two for few images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LEVEL = 0.95  # confidence of every interval
RESAMPLES = 300


@dataclass(frozen=True)
class Estimate:
    """A value and its interval at LEVEL."""

    value: float
    low: float
    high: float

    def is_apart_from(self, other: Estimate) -> bool:
        """Return whether the two intervals do not overlap."""
        return self.low > other.high or other.low > self.high


def bootstrap(
    statistic: Callable[[Tensor], float], count: int, *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Estimate a statistic of `count` images by resampling them (Efron 1979).

    `statistic` takes indices with repeats. The bias that comes from few images appears once more in
    a resample, so it is subtracted from the value. The interval is the basic one around the
    corrected value (Davison & Hinkley 1997, §5.2). That matters for distances, which are never
    negative for samples, and little for means."""
    generator = torch.Generator().manual_seed(seed)
    uncorrected = statistic(torch.arange(count))
    resampled = torch.tensor(
        [statistic(torch.randint(count, (count,), generator=generator)) for _ in range(resamples)],
        dtype=torch.float64,
    )  # (R,)
    bounds = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = torch.quantile(resampled, bounds).tolist()
    doubled = 2 * uncorrected
    return Estimate(doubled - float(resampled.mean()), doubled - high, doubled - low)


def estimate_mean(values: Tensor) -> Estimate:
    """Estimate the mean of one number for each image `[N]`."""
    values = values.double().cpu()
    return bootstrap(lambda index: float(values[index].mean()), len(values))


def estimate_share(right: int, total: int) -> Estimate:
    """Estimate a share of counts, with Wilson's interval (1927)."""
    z = 1.959964
    p = right / total
    scale = 1 + z**2 / total
    centre = (p + z**2 / (2 * total)) / scale
    half = z / scale * math.sqrt(p * (1 - p) / total + z**2 / (4 * total**2))
    return Estimate(p, max(0.0, centre - half), min(1.0, centre + half))


def fit_gaussian(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean `[D]` and covariance `[D, D]` of embeddings `[N, D]`, in float64."""
    z = z.double().cpu()
    return z.mean(0), torch.cov(z.T, correction=1).reshape(z.shape[1], -1)


def frechet(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> float:
    """Return the squared Fréchet distance of two Gaussians (Dowson & Landau 1982).

    It is |m_a - m_b|² + tr(C_a + C_b - 2 (C_a C_b)^½)."""
    mean_a, cov_a = a
    mean_b, cov_b = b
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # C_a C_b has the eigenvalues of the symmetric root C_b root.
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)


def frechet_distance(z: Tensor, reference: Tensor) -> Estimate:
    """Estimate the Fréchet distance of embeddings `[N, D]` to a reference `[M, D]`.

    Only the embeddings are resampled, so M should be much larger than N."""
    z = z.double().cpu()
    reference_gaussian = fit_gaussian(reference)
    return bootstrap(lambda index: frechet(fit_gaussian(z[index]), reference_gaussian), len(z))


def median_distance(reference: Tensor) -> float:
    """Return the median distance within a reference `[M, D]`.

    It is the usual width of the kernel (Gretton et al. 2012, §8)."""
    return float(torch.pdist(reference[:1024].double().cpu()).median())


def mmd(z: Tensor, reference: Tensor, width: float | None = None) -> Estimate:
    """Estimate the squared maximum mean discrepancy of embeddings `[N, D]` to a reference `[M, D]`.

    The kernel is exp(-|x - y|² / 2 width²), its width `median_distance` by default."""
    x = z.double().cpu()
    y = reference.double().cpu()
    width = median_distance(reference) if width is None else width

    def kernel(p: Tensor, q: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(p, q).square() / (2 * width**2))

    within = kernel(x, x)
    across = kernel(x, y).mean(1)
    count = len(y)
    # Without each point's kernel with itself: the estimate is unbiased for the reference. The
    # bootstrap removes the bias of x.
    of_reference = float((kernel(y, y).sum() - count) / (count * (count - 1)))

    def statistic(index: Tensor) -> float:
        weights = torch.bincount(index, minlength=len(x)).double() / len(x)
        return float(weights @ within @ weights - 2 * across @ weights) + of_reference

    return bootstrap(statistic, len(x))


def clip_score(z_i: Tensor, z_t: Tensor) -> Estimate:
    """Estimate the mean cosine of images' and their captions' embeddings `[N, D]`.

    As Hessel et al. 2021, without their factor of 2.5."""
    return estimate_mean(F.cosine_similarity(z_i, z_t))


def spreads(z: Tensor) -> Tensor:
    """Return the diversity of each caption's K images, `[captions]` from `[captions, K, D]`.

    It is 1 - cosine of two embeddings, averaged over pairs."""
    unit = F.normalize(z.double().cpu(), dim=2)
    count = z.shape[1]
    pairs: Tensor = (unit @ unit.transpose(1, 2)).sum((1, 2)) - count
    return 1 - pairs / (count * (count - 1))


def spread(z: Tensor) -> Estimate:
    """Estimate the mean of `spreads`; captions are resampled."""
    return estimate_mean(spreads(z))


def effective_number(values: list[object]) -> float:
    """Return the effective number of different values: the exponential of their entropy."""
    counts = torch.tensor([values.count(value) for value in set(values)], dtype=torch.float64)
    return float(torch.special.entr(counts / counts.sum()).sum().exp())


def psnr(a: Tensor, b: Tensor) -> float:
    """Return the peak signal-to-noise ratio of images in [-1, 1], in dB."""
    return 10 * math.log10(4 / float((a - b).square().mean().clamp(min=1e-12)))


def pearson(a: Tensor, b: Tensor) -> float:
    """Return the correlation of two series `[N]`, nan if one of them is constant."""
    return float(torch.corrcoef(torch.stack((a.double().cpu(), b.double().cpu())))[0, 1])


def spearman(a: Tensor, b: Tensor) -> float:
    """Return the correlation of the ranks of two series `[N]`; ties share their mean rank."""
    return pearson(_ranks(a), _ranks(b))


def _ranks(values: Tensor) -> Tensor:
    _, which, counts = values.double().unique(return_inverse=True, return_counts=True)
    ranks: Tensor = (counts.cumsum(0) - (counts - 1) / 2)[which]
    return ranks
