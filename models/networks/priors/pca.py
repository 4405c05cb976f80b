"""Principal components of image embeddings (paper §2.2 and §4), found over a checkpoint's training images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class PCAConfig:
    """Numbers of a basis."""

    embed_dim: int  # of z_i
    components: int  # kept, those with the largest variance


class PCA(nn.Module):
    """`mean` `[D]`, orthonormal `basis` `[K, D]` in order of decreasing `variances` `[K]`."""

    mean: Tensor
    basis: Tensor
    variances: Tensor

    def __init__(self, config: PCAConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(config.embed_dim))
        self.register_buffer("basis", torch.eye(config.components, config.embed_dim))
        self.register_buffer("variances", torch.ones(config.components))

    def project(self, z_i: Tensor) -> Tensor:
        """z_i `[…, D]` -> coordinates `[…, K]`."""
        return (z_i - self.mean) @ self.basis.T

    def reconstruct(self, coordinates: Tensor) -> Tensor:
        """The first k coordinates `[…, k]` -> z_i `[…, D]`, the others taken as their mean."""
        return self.mean + coordinates @ self.basis[: coordinates.shape[-1]]


def fit(z_i: Tensor, unexplained: float = 0.01) -> PCA:
    """The basis of embeddings `[N, D]`, with as many components as leave less than `unexplained` of the variance (paper §2.2: 1 %).
    Computed on the CPU, so that the components' signs do not depend on the device."""
    z_i = z_i.double().cpu()
    mean = z_i.mean(0)
    _, singular, basis = torch.linalg.svd(z_i - mean, full_matrices=False)
    variances = singular.square() / len(z_i)
    left = 1 - variances.cumsum(0) / variances.sum()
    kept = min(int((left >= unexplained).sum()) + 1, len(variances))
    pca = PCA(PCAConfig(z_i.shape[1], kept))
    pca.load_state_dict(
        {"mean": mean.float(), "basis": basis[:kept].float(), "variances": variances[:kept].float()}
    )
    return pca
