"""What the autoregressive prior learns from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from models import UnCLIP
from models.networks.priors.autoregressive import AutoregressivePrior
from models.networks.clip import TextEncoding
from training.data.sources import World
from training.losses import autoregressive
from training.losses.autoregressive import ar_prior_loss, fit_buckets
from training.trainer.trainer import Step


@pytest.fixture(scope="module")
def pipeline(tiny_checkpoint: Path) -> UnCLIP:
    return UnCLIP.load(tiny_checkpoint)


class Listening(AutoregressivePrior):
    """Keeps what it was given."""

    def forward(self, text: TextEncoding, buckets: Tensor) -> Tensor:
        self.given = (text.z_t, buckets)
        return super().forward(text, buckets)


def test_a_dropped_caption_leaves_what_is_to_be_predicted(
    pipeline: UnCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its dot product too: guidance gives its unguided half the bucket that was drawn for the caption, so that half must have seen
    more buckets than that of the empty caption."""
    assert pipeline.ar_prior is not None
    assert pipeline.pca is not None
    world = World("objects")
    given = []
    for share in (0.0, 1.0):
        monkeypatch.setattr(autoregressive, "DROP_TEXT_PRIOR", share)
        prior = Listening(pipeline.ar_prior.config)
        fit_buckets(prior, pipeline.pca, pipeline.clip, world, 64)
        assert ar_prior_loss(prior, pipeline.pca, pipeline.clip, world)(
            Step(0, 32, torch.device("cpu"), torch.Generator().manual_seed(0))
        ).isfinite()
        given.append(prior.given)
    (z_t, buckets), (z_t_dropped, buckets_dropped) = given
    assert torch.equal(buckets, buckets_dropped)
    assert len(buckets[:, 0].unique()) > 4
    assert not torch.allclose(z_t, z_t_dropped, atol=1e-3)
    assert len(z_t_dropped.unique(dim=0)) == 1


def test_scales_and_bounds_hold_what_training_shows(pipeline: UnCLIP) -> None:
    """Hardly any dot product and no component lies outside the buckets."""
    assert pipeline.ar_prior is not None
    assert pipeline.pca is not None
    prior = AutoregressivePrior(pipeline.ar_prior.config)
    fit_buckets(prior, pipeline.pca, pipeline.clip, World("objects"), 64)
    low, high = prior.dot_bounds.tolist()
    assert -1 <= low < high <= 1
    assert torch.equal(prior.scales, pipeline.pca.variances.sqrt())
