"""The autoregressive prior's training data: buckets, scales and bounds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from models import UnCLIP
from models.networks.clip import TextEncoding
from models.networks.priors.autoregressive import AutoregressivePrior
from training.data.solids.scene_source import SceneSource
from training.losses import autoregressive
from training.losses.autoregressive import ar_prior_loss, fit_buckets
from training.trainer.step import Step


@pytest.fixture(scope="module")
def pipeline(tiny_checkpoint: Path) -> UnCLIP:
    return UnCLIP.load(tiny_checkpoint)


class RecordingPrior(AutoregressivePrior):
    """Stores the arguments of its last call."""

    def forward(self, text: TextEncoding, buckets: Tensor) -> Tensor:
        self.arguments = (text.z_t, buckets)
        return super().forward(text, buckets)


def test_a_dropped_caption_keeps_its_buckets(
    pipeline: UnCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guidance gives the unguided half the caption's bucket of the dot product.

    That half must therefore be trained on more than the bucket of the empty caption."""
    assert pipeline.ar_prior is not None
    assert pipeline.pca is not None
    source = SceneSource("objects")
    arguments = []
    for share in (0.0, 1.0):
        monkeypatch.setattr(autoregressive, "DROP_TEXT_PRIOR", share)
        prior = RecordingPrior(pipeline.ar_prior.config)
        fit_buckets(prior, pipeline.pca, pipeline.clip, source, 64)
        loss = ar_prior_loss(prior, pipeline.pca, pipeline.clip, source)
        step = Step(0, 32, torch.device("cpu"), torch.Generator().manual_seed(0))
        assert loss(step).isfinite()
        arguments.append(prior.arguments)
    (z_t, buckets), (dropped_z_t, dropped_buckets) = arguments
    assert torch.equal(buckets, dropped_buckets)
    assert len(buckets[:, 0].unique()) > 4
    assert not torch.allclose(z_t, dropped_z_t, atol=1e-3)
    assert len(dropped_z_t.unique(dim=0)) == 1


def test_scales_and_bounds_come_from_training_images(pipeline: UnCLIP) -> None:
    """Bounds are of cosines, scales the deviations of the components."""
    assert pipeline.ar_prior is not None
    assert pipeline.pca is not None
    prior = AutoregressivePrior(pipeline.ar_prior.config)
    fit_buckets(prior, pipeline.pca, pipeline.clip, SceneSource("objects"), 64)
    low, high = prior.dot_bounds.tolist()
    assert -1 <= low < high <= 1
    assert torch.equal(prior.scales, pipeline.pca.variances.sqrt())
