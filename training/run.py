"""A training run: its folder, its networks, and what each of them needs of the others."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.ar_prior import AutoregressivePrior
from models.checkpoint import UPSAMPLERS, build
from models.clip import CLIP
from models.decoder import Decoder
from models.pca import PCA, PCAConfig, fit
from models.prior import DiffusionPrior
from models.upsampler import Upsampler
from training import show
from training.autoregressive import ar_prior_loss, fit_buckets
from training.contrastive import clip_loss
from training.data import World
from training.diffusion import decoder_loss, embedded, fit_statistics, prior_loss, upsampler_loss
from training.loop import Loss, finished, train
from training.pool import pool
from training.presets import Preset
from training.reader import Reader, reader_loss
from training.upsampling import crop_pool

NETWORKS = ("reader", "clip", "prior", "decoder", *UPSAMPLERS.values(), "ar_prior")


class Run:
    """A preset at work in a folder. Networks that another one needs are read from the folder, where they must be finished."""

    def __init__(self, preset: Preset, folder: Path, device: str = "cpu", seed: int = 0) -> None:
        self.preset, self.folder, self.device, self.seed = preset, folder, device, seed

    @cached_property
    def world(self) -> World:
        """The scenes to learn from, drawn at the first use."""
        return World(self.preset.mix, pool(self.folder / "pool", self.preset.pool, self.preset.mix))

    def network(self, name: str) -> nn.Module:
        """A network with fresh weights, the same for the same seed."""
        config = {} if name == "reader" else self.config(name)  # first: it may have to build another network
        torch.manual_seed(self.seed * 100 + NETWORKS.index(name))
        fresh = Reader() if name == "reader" else build(name, config)
        return fresh.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def finished(self, name: str) -> nn.Module:
        """A network with the averaged weights its training ended with, in eval mode."""
        return finished(name, self.network(name), self.preset.plans[name], self.folder, self.device)

    def train(self, name: str) -> nn.Module:
        """Train one network to its plan's end, from where the folder has it."""
        network = self.network(name)
        loss, shown = self._lesson(name, network)
        return train(name, network, loss, self.preset.plans[name], self.folder, seed=self.seed, device=self.device, show=shown)

    def config(self, name: str) -> dict[str, Any]:
        """A network's part of the checkpoint's config. How many principal components there are, CLIP's training decides."""
        config: dict[str, Any] = self.preset.config[name]
        return config | {"components": self.pca.config.components} if name == "ar_prior" else config

    @cached_property
    def pca(self) -> PCA:
        """The basis of the training pictures' z_i. Fitted once and kept in the folder: the autoregressive prior's tokens mean
        nothing in another one, not even in one with a component's sign changed."""
        path = self.folder / "pca.pt"
        if not path.exists():
            clip = self.finished("clip")
            assert isinstance(clip, CLIP)
            torch.save(fit(embedded(clip, self.world)).state_dict(), path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)
        kept = torch.load(path, weights_only=True)
        components, dimensions = kept["basis"].shape
        pca = PCA(PCAConfig(dimensions, components))
        pca.load_state_dict(kept)
        return pca.to(self.device)

    def _lesson(self, name: str, network: nn.Module) -> tuple[Loss, show.Show | None]:
        """What a network learns from, and how its progress is shown."""
        if isinstance(network, Reader):
            return reader_loss(network, self.world), None
        if isinstance(network, CLIP):
            return clip_loss(network, self.world), None
        if isinstance(network, Upsampler):
            size = next(size for size, part in UPSAMPLERS.items() if part == name)
            crops = crop_pool(self.folder / "pool", self.preset.crops, self.preset.mix, size)
            return upsampler_loss(network, crops), show.upsampled(crops, self.preset.config["defaults"], self.device)
        clip = self.finished("clip").requires_grad_(False)
        assert isinstance(clip, CLIP)
        if isinstance(network, DiffusionPrior):
            if not (self.folder / "prior.pt").exists():
                fit_statistics(network, clip, self.world)
            return prior_loss(network, clip, self.world), None
        if isinstance(network, AutoregressivePrior):
            if not (self.folder / "ar_prior.pt").exists():
                fit_buckets(network, self.pca, clip, self.world)
            return ar_prior_loss(network, self.pca, clip, self.world), None
        assert isinstance(network, Decoder)
        return decoder_loss(network, clip, self.world), show.decoded(clip, self.preset, self.device)
