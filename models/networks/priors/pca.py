"""Principal components of a checkpoint's image embeddings (paper §2.2 and §4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class PCAConfig:
    """Sizes of a basis."""

    embed_dim: int  # of z_i
    components: int  # those with the largest variance


class PCA(nn.Module):
    """A mean `[D]` and an orthonormal basis `[K, D]`, by decreasing variances `[K]`."""

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
        """Return the coordinates `[…, K]` of z_i `[…, D]`."""
        return (z_i - self.mean) @ self.basis.T

    def reconstruct(self, coordinates: Tensor) -> Tensor:
        """Return z_i `[…, D]` from its first k coordinates `[…, k]`, the others at their mean."""
        return self.mean + coordinates @ self.basis[: coordinates.shape[-1]]


def fit(z_i: Tensor, unexplained: float = 0.01) -> PCA:
    """Return the basis of embeddings `[N, D]` that leaves less than `unexplained` of the variance.

    The paper leaves 1 % (§2.2). It is computed on the CPU, so that the components' signs do not
    depend on the device."""
    z_i = z_i.double().cpu()
    mean = z_i.mean(0)
    _, singular, basis = torch.linalg.svd(z_i - mean, full_matrices=False)
    variances = singular.square() / len(z_i)
    remaining = 1 - variances.cumsum(0) / variances.sum()
    components = min(int((remaining >= unexplained).sum()) + 1, len(variances))
    pca = PCA(PCAConfig(z_i.shape[1], components))
    state = {
        "mean": mean.float(),
        "basis": basis[:components].float(),
        "variances": variances[:components].float(),
    }
    pca.load_state_dict(state)
    return pca
