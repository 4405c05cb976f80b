"""Principal components of data of known rank."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models.networks.priors.pca import fit


def test_components_are_those_that_explain_the_variance() -> None:
    """Data of known rank have known components and error."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([4.0, 2.0, 1.0, 0.01])
    data: Any = (
        torch.randn(4000, 4, generator=generator)
        * scales
        @ torch.linalg.qr(torch.randn(12, 4, generator=generator))[0].T
        + 3
    )
    pca = fit(data)
    assert pca.config.components == 3
    assert pca.variances.sqrt().tolist() == pytest.approx([4, 2, 1], rel=0.05)
    assert torch.allclose(pca.basis @ pca.basis.T, torch.eye(3), atol=1e-5)
    left = (pca.reconstruct(pca.project(data)) - data).square().sum() / (
        data - data.mean(0)
    ).square().sum()
    assert left < 0.01
