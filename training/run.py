"""A training run: its folder, its networks, and what each of them needs of the others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from models.checkpoints import karlo
from models.checkpoints.checkpoint import UPSAMPLERS, build, fill, load_network, read_config
from models.networks.ar_prior import AutoregressivePrior
from models.networks.clip import CLIP
from models.networks.decoder import Decoder
from models.networks.pca import PCA, PCAConfig, fit
from models.networks.prior import DiffusionPrior
from models.networks.upsampler import Upsampler
from training.data.crops import ImageCrops, crop_pool
from training.data.device_dataset import Table, table
from training.data.image_text import Folder, Shards, open_images
from training.data.scene_cache import pool
from training.data.sources import Blend, Source, World
from training.errors import TrainingError
from training.evaluation import sample_grids
from training.losses.autoregressive import ar_prior_loss, fit_buckets
from training.losses.contrastive import clip_loss
from training.losses.diffusion import (
    decoder_loss,
    embedded,
    fit_statistics,
    prior_loss,
    upsampler_loss,
)
from training.presets import Preset
from training.scenes.classifier import Drawings, Reader, reader_loss
from training.trainer.distributed import ALONE, Team
from training.trainer.lora import add_lora
from training.trainer.trainer import Loss, finished, train

NETWORKS = ("reader", "clip", "prior", "decoder", *UPSAMPLERS.values(), "ar_prior")


class Run:
    """A preset at work in a folder. Networks that another one needs are read from the folder, where they must be finished.

    `data`: images to learn from instead of the drawn world (see images.open_images). `start`: a checkpoint to go on with, ours or
    Karlo's; what is not trained is taken from there, too. `lora`: the rank of what alone is learned then, 0 for all weights."""

    def __init__(
        self,
        preset: Preset,
        folder: Path,
        device: str = "cpu",
        seed: int = 0,
        *,
        data: str | None = None,
        start: Path | None = None,
        lora: int = 0,
        team: Team = ALONE,
    ) -> None:
        self.preset = preset
        self.folder = folder
        self.device = device
        self.seed = seed
        self.data = data
        self.start = start
        self.lora = lora
        self.team = team
        self.on_gpu = torch.device(device).type == "cuda"
        if start is None and not preset.config:
            raise TrainingError(
                "this preset goes on with a checkpoint: name its folder by --checkpoint"
            )
        if lora and start is None:
            raise TrainingError("--lora changes a checkpoint: name its folder by --checkpoint")
        if data is None and preset.mix is None:
            raise TrainingError(
                "this preset draws nothing: name images by --data, a folder or shards"
            )
        self.whole: dict[str, Any] = preset.config if start is None else start_config(start)
        self._images: dict[int, Folder | Shards] = {}

    @cached_property
    def world(self) -> World | Table:
        """The scenes to learn from, drawn at the first use."""
        assert self.preset.mix is not None
        return self._scenes(self.preset.mix, self.preset.pool)

    def _scenes(self, mix: str, count: int) -> World | Table:
        """So many scenes of a mix; all at once on a GPU, which could not be fed otherwise."""
        with self.team.first_alone():
            if self.on_gpu:
                return table(self.folder / "pool", count, mix, self.device)
            return World(mix, pool(self.folder / "pool", count, mix))

    def source(self, size: int) -> Source:
        """What is learned from: the data given, as squares of `size` pixels, or the drawn world."""
        if self.data is None:
            return self.world
        if size not in self._images:
            self._images[size] = open_images(self.data, size, self.seed)
        return self._images[size]

    def network(self, name: str) -> nn.Module:
        """A network with fresh weights, the same for the same seed; or the checkpoint's, with LoRA where that is learned."""
        config = (
            {} if name == "reader" else self.config(name)
        )  # first: it may have to build another network
        seed = self.seed * 100 + NETWORKS.index(name)
        torch.manual_seed(seed)
        if self.start is not None and name != "reader":
            begun = start_network(self.start, name, config, self.device).requires_grad_(True)
            if self.lora:
                add_lora(name, begun, self.lora, seed)
            return begun.to(self.device)
        fresh = Reader() if name == "reader" else build(name, config)
        return fresh.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def clip(self) -> CLIP:
        """The encoders that the others learn with, frozen: this run's, or where it trains none the checkpoint's."""
        own = self.start is None or (self.folder / "clip.pt").exists()
        clip = self.finished("clip") if own else self.network_as_it_was("clip")
        assert isinstance(clip, CLIP)
        return clip.eval().requires_grad_(False)

    def network_as_it_was(self, name: str) -> nn.Module:
        """A network of the checkpoint to go on with."""
        assert self.start is not None
        return start_network(self.start, name, self.whole[name], self.device)

    def finished(self, name: str) -> nn.Module:
        """A network with the averaged weights its training ended with, in eval mode."""
        return finished(name, self.network(name), self.preset.plans[name], self.folder, self.device)

    def train(self, name: str) -> nn.Module:
        """Train one network to its plan's end, from where the folder has it."""
        self._remember()
        network = self.network(name)
        loss, shown = self._lesson(name, network)
        plan = self.preset.plans[name]
        if self.on_gpu and self.team.ranks == 1:
            torch.set_float32_matmul_precision("high")
            for part in compiled(network):
                part.compile(dynamic=False)
        return train(
            name,
            network,
            loss,
            plan,
            self.folder,
            seed=self.seed,
            device=self.device,
            show=shown,
            team=self.team,
        )

    def _remember(self) -> None:
        """Keep in the folder what it goes on with, for `merge`. TrainingError where that was something else before."""
        if self.start is None:
            return
        path = self.folder / "run.json"
        said = {"checkpoint": str(self.start.resolve()), "lora": self.lora}
        with self.team.first_alone():
            if path.exists() and (before := json.loads(path.read_text())) != said:
                raise TrainingError(
                    f"{self.folder} was begun with {before}, and this is {said}: take another --out"
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(said) + "\n")

    def config(self, name: str) -> dict[str, Any]:
        """A network's part of the checkpoint's config. How many principal components there are, CLIP's training decides."""
        if name not in self.whole:
            raise TrainingError(
                f"{self.start or 'the preset'} has no {name}: there are {', '.join(n for n in NETWORKS if n in self.whole)}"
            )
        config: dict[str, Any] = self.whole[name]
        return config | {"components": self.pca.config.components} if name == "ar_prior" else config

    @cached_property
    def pca(self) -> PCA:
        """The basis of the training images' z_i. Fitted once and kept in the folder: the autoregressive prior's tokens mean
        nothing in another one, not even in one with a component's sign changed."""
        if self.start is not None and "pca" in self.whole:
            begun = self.network_as_it_was("pca")
            assert isinstance(begun, PCA)
            return begun
        path = self.folder / "pca.pt"
        with self.team.first_alone():
            if not path.exists():
                clip = self.clip()
                torch.save(
                    fit(embedded(clip, self.source(clip.image_size))).state_dict(),
                    path.with_suffix(".part"),
                )
                path.with_suffix(".part").replace(path)
        return kept_pca(path).to(self.device)

    def _lesson(self, name: str, network: nn.Module) -> tuple[Loss, sample_grids.Show | None]:
        """What a network learns from, and how its progress is shown."""
        if isinstance(network, Reader):
            return reader_loss(
                network, self.world if isinstance(self.world, Table) else Drawings(self.world)
            ), None
        if isinstance(network, CLIP):
            return clip_loss(network, self.source(network.image_size)), None
        if isinstance(network, Upsampler):
            return self._upsampling(name, network)
        clip = self.clip()
        fresh = self.start is None and not (self.folder / f"{name}.pt").exists()
        if isinstance(network, Decoder):
            source = self.source(max(clip.image_size, network.config.image_size))
            if self.data is None and self.preset.rest:
                source = Blend((source, self._scenes("rest", self.preset.rest)))
            return decoder_loss(network, clip, source, self.preset.drop_text), self._shown(
                clip, source
            )
        source = self.source(clip.image_size)
        if isinstance(network, DiffusionPrior):
            if fresh:
                fit_statistics(network, clip, source)
            return prior_loss(network, clip, source), None
        assert isinstance(network, AutoregressivePrior)
        if fresh:
            fit_buckets(network, self.pca, clip, source)
        return ar_prior_loss(network, self.pca, clip, source), None

    def _upsampling(self, name: str, network: Upsampler) -> tuple[Loss, sample_grids.Show | None]:
        if network.config.own_last_step:
            raise TrainingError(
                f"{self.start}'s {name} was distilled to a few steps, which this training would undo: tune prior or decoder"
            )
        size = next(size for size, part in UPSAMPLERS.items() if part == name)
        if self.data is not None:
            return upsampler_loss(network, ImageCrops(self.source(size), size)), None
        assert self.preset.mix is not None
        with self.team.first_alone():
            crops = crop_pool(
                self.folder / "pool", self.preset.crops, self.preset.mix, size, self.device
            )
        return upsampler_loss(network, crops), sample_grids.upsampled(
            crops, self.whole["defaults"], self.device
        )

    def _shown(self, clip: CLIP, source: Source) -> sample_grids.Show:
        """Fresh drawings through the decoder; of one's own data the first images."""
        if self.data is None:
            assert self.preset.mix is not None
            images, captions = sample_grids.fresh_drawings(self.preset.mix, self.device)
        else:
            images, said = next(iter(source.first(sample_grids.COUNT, torch.device(self.device))))
            captions = cast(list[str], said)  # of one's own data, always
        return sample_grids.decoded(clip, self.whole, images, captions, self.device)


def compiled(network: nn.Module) -> list[nn.Module]:
    """What torch.compile is told of a network: the parts whose shapes are the same at every step."""
    return (
        [network.network.visual, network.network.transformer]
        if isinstance(network, CLIP)
        else [network]
    )


def kept_pca(path: Path) -> PCA:
    """The basis that a run has kept."""
    kept = torch.load(path, weights_only=True)
    components, dimensions = kept["basis"].shape
    pca = PCA(PCAConfig(dimensions, components))
    pca.load_state_dict(kept)
    return pca


def start_config(folder: Path) -> dict[str, Any]:
    """A checkpoint's config, ours or Karlo's, without its format. CheckpointError for a folder that is none."""
    config = karlo.read_config(folder) if karlo.is_karlo(folder) else read_config(folder)
    return {key: value for key, value in config.items() if key != "format"}


def start_network(folder: Path, name: str, config: Mapping[str, Any], device: str) -> nn.Module:
    """One network of a checkpoint, ours or Karlo's."""
    if not karlo.is_karlo(folder):
        return load_network(folder, name, dict(config), device)
    found = {
        part: (network, value_of)
        for part, network, value_of in karlo.translated(folder, karlo.read_config(folder))
    }
    network, value_of = found[name]
    return fill(network, value_of, device)
