"""A training run: its folder, its networks, and what each of them needs from the others."""

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
from models.networks.clip import CLIP
from models.networks.decoder import Decoder
from models.networks.priors.autoregressive import AutoregressivePrior
from models.networks.priors.diffusion import DiffusionPrior
from models.networks.priors.pca import PCA, PCAConfig, fit
from models.networks.upsampler import Upsampler
from training.data.crops import ImageCrops
from training.data.image_text import Folder, Shards, open_images
from training.data.solids.device_dataset import DeviceDataset, load_device_dataset
from training.data.solids.rendered_crops import load_crops
from training.data.solids.scene_cache import cached_scenes
from training.data.solids.scene_source import SceneSource
from training.data.sources import MixedSource, Source
from training.errors import TrainingError
from training.evaluation.solids import sample_grids
from training.losses.autoregressive import ar_prior_loss, fit_buckets
from training.losses.captions import embed_source
from training.losses.classifier import classifier_loss
from training.losses.contrastive import clip_loss
from training.losses.diffusion import decoder_loss, fit_statistics, prior_loss, upsampler_loss
from training.presets import Preset
from training.scenes.solids.classifier import SceneClassifier
from training.trainer.distributed import SINGLE_PROCESS, ProcessGroup
from training.trainer.lora import add_lora
from training.trainer.step import Loss
from training.trainer.trainer import SaveSamples, load_finished, train

CLASSIFIER = "classifier"  # the scene classifier, which is no part of a checkpoint
NETWORKS = (CLASSIFIER, "clip", "prior", "decoder", *UPSAMPLERS.values(), "ar_prior")
START_FILE = "run.json"
_Lesson = tuple[Loss, SaveSamples | None]


class Run:
    """The training of a preset in a folder.

    A network that needs another one reads it from the folder, where it must be finished."""

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
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        """Check that preset and options go together. Raises TrainingError otherwise.

        `data`: images in place of synthetic scenes, see image_text.open_images. `start`: a
        checkpoint folder to continue, ours or Karlo's, which also supplies what is not trained.
        `lora`: train changes of this rank only; 0 trains all weights."""
        self.preset = preset
        self.folder = folder
        self.device = device
        self.seed = seed
        self.data = data
        self.start = start
        self.lora = lora
        self.group = group
        self.is_gpu = torch.device(device).type == "cuda"
        if start is None and not preset.config:
            raise TrainingError(
                "this preset continues a checkpoint: name its folder by --checkpoint"
            )
        if lora and start is None:
            raise TrainingError("--lora changes a checkpoint: name its folder by --checkpoint")
        if data is None and preset.mix is None:
            raise TrainingError(
                "this preset has no synthetic scenes: name images by --data, a folder or shards"
            )
        self.checkpoint_config: dict[str, Any] = (
            preset.config if start is None else start_config(start)
        )
        self._images: dict[int, Folder | Shards] = {}

    @cached_property
    def scenes(self) -> SceneSource | DeviceDataset:
        """The synthetic scenes of the preset, rendered at first use."""
        assert self.preset.mix is not None
        return self._load_scenes(self.preset.mix, self.preset.scenes)

    def _load_scenes(self, mix: str, count: int) -> SceneSource | DeviceDataset:
        """Load scenes of a mix: all onto a GPU, which reading batches would keep waiting."""
        with self.group.rank0_first():
            if self.is_gpu:
                return load_device_dataset(self.folder / "scenes", count, mix, self.device)
            return SceneSource(mix, cached_scenes(self.folder / "scenes", count, mix))

    def source(self, size: int) -> Source:
        """Return the user's images as squares of `size` pixels, or the synthetic scenes."""
        if self.data is None:
            return self.scenes
        if size not in self._images:
            self._images[size] = open_images(self.data, size, self.seed)
        return self._images[size]

    def network(self, name: str) -> nn.Module:
        """Build a network: seeded weights, or the checkpoint's, with LoRA if that is trained."""
        # The config first: it may build another network.
        config = {} if name == CLASSIFIER else self.config(name)
        seed = self.seed * 100 + NETWORKS.index(name)
        torch.manual_seed(seed)
        if self.start is not None and name != CLASSIFIER:
            network = load_start_network(self.start, name, config, self.device)
            network.requires_grad_(True)
            if self.lora:
                add_lora(name, network, self.lora, seed)
            return network.to(self.device)
        fresh: Any = SceneClassifier() if name == CLASSIFIER else build(name, config)
        network = fresh.to(self.device, memory_format=torch.channels_last)
        assert isinstance(network, nn.Module)
        return network

    def clip(self) -> CLIP:
        """Return the frozen encoders: this run's, or the checkpoint's if it trains none."""
        is_trained = self.start is None or (self.folder / "clip.pt").exists()
        clip = self.finished("clip") if is_trained else self.start_network("clip")
        assert isinstance(clip, CLIP)
        return clip.eval().requires_grad_(False)

    def start_network(self, name: str) -> nn.Module:
        """Return a network of the checkpoint that this run continues."""
        assert self.start is not None
        return load_start_network(self.start, name, self.checkpoint_config[name], self.device)

    def finished(self, name: str) -> nn.Module:
        """Return a network with the averaged weights of its finished training, in eval mode."""
        plan = self.preset.plans[name]
        return load_finished(name, self.network(name), plan, self.folder, self.device)

    def train(self, name: str) -> nn.Module:
        """Train one network to its plan's end, from its state in the folder."""
        self._record_start()
        network = self.network(name)
        loss, save_samples = self._lesson(name, network)
        if self.is_gpu and self.group.world_size == 1:
            torch.set_float32_matmul_precision("high")
            for part in compilable_parts(network):
                part.compile(dynamic=False)
        return train(
            name,
            network,
            loss,
            self.preset.plans[name],
            self.folder,
            seed=self.seed,
            device=self.device,
            save_samples=save_samples,
            group=self.group,
        )

    def _record_start(self) -> None:
        """Write down which checkpoint the run continues, for `training.export.merge`.

        Raises TrainingError if the folder has continued another one."""
        if self.start is None:
            return
        path = self.folder / START_FILE
        start = {"checkpoint": str(self.start.resolve()), "lora": self.lora}
        with self.group.rank0_first():
            if path.exists() and (before := json.loads(path.read_text())) != start:
                raise TrainingError(
                    f"{self.folder} was begun with {before}, which differs from {start}: "
                    "use another --out"
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(start) + "\n")

    def config(self, name: str) -> dict[str, Any]:
        """Return a network's part of the checkpoint's config.

        The number of principal components follows from CLIP's training. Raises TrainingError for a
        network that the checkpoint does not have."""
        if name not in self.checkpoint_config:
            available = ", ".join(part for part in NETWORKS if part in self.checkpoint_config)
            raise TrainingError(
                f"{self.start or 'the preset'} has no network {name}: choose from {available}"
            )
        config: dict[str, Any] = self.checkpoint_config[name]
        if name == "ar_prior":
            return config | {"components": self.pca.config.components}
        return config

    @cached_property
    def pca(self) -> PCA:
        """The principal components of the training images' z_i.

        They are fitted once and stored in the folder. The autoregressive prior's tokens have no
        meaning in another basis, even if only one component's sign differs."""
        if self.start is not None and "pca" in self.checkpoint_config:
            pca = self.start_network("pca")
            assert isinstance(pca, PCA)
            return pca
        path = self.folder / "pca.pt"
        with self.group.rank0_first():
            if not path.exists():
                clip = self.clip()
                fitted = fit(embed_source(clip, self.source(clip.image_size)))
                torch.save(fitted.state_dict(), path.with_suffix(".part"))
                path.with_suffix(".part").replace(path)
        return load_pca(path).to(self.device)

    def _lesson(self, name: str, network: nn.Module) -> _Lesson:
        """Return a network's loss, and what writes its sample grids."""
        if isinstance(network, SceneClassifier):
            return classifier_loss(network, self.scenes), None
        if isinstance(network, CLIP):
            return clip_loss(network, self.source(network.image_size)), None
        if isinstance(network, Upsampler):
            return self._upsampler_lesson(name, network)
        if isinstance(network, Decoder):
            return self._decoder_lesson(network)
        clip = self.clip()
        source = self.source(clip.image_size)
        # A checkpoint's prior and a resumed one have their statistics already.
        is_fresh = self.start is None and not (self.folder / f"{name}.pt").exists()
        if isinstance(network, DiffusionPrior):
            if is_fresh:
                fit_statistics(network, clip, source)
            return prior_loss(network, clip, source), None
        assert isinstance(network, AutoregressivePrior)
        if is_fresh:
            fit_buckets(network, self.pca, clip, source)
        return ar_prior_loss(network, self.pca, clip, source), None

    def _decoder_lesson(self, network: Decoder) -> _Lesson:
        clip = self.clip()
        source = self.source(max(clip.image_size, network.config.image_size))
        if self.data is None and self.preset.rest:
            source = MixedSource((source, self._load_scenes("rest", self.preset.rest)))
        loss = decoder_loss(network, clip, source, self.preset.drop_text)
        if self.data is None:
            assert self.preset.mix is not None
            images, captions = sample_grids.render_test_scenes(self.preset.mix, self.device)
        else:
            device = torch.device(self.device)
            images, first = next(iter(source.first_batches(sample_grids.COUNT, device)))
            captions = cast(list[str], first)
        return loss, sample_grids.save_decoded(
            clip, self.checkpoint_config, images, captions, self.device
        )

    def _upsampler_lesson(self, name: str, network: Upsampler) -> _Lesson:
        if network.config.own_last_step:
            raise TrainingError(
                f"the {name} of {self.start} was distilled to a few steps, which this training "
                "would undo: train prior or decoder instead"
            )
        size = next(size for size, part in UPSAMPLERS.items() if part == name)
        if self.data is not None:
            return upsampler_loss(network, ImageCrops(self.source(size), size)), None
        assert self.preset.mix is not None
        with self.group.rank0_first():
            crops = load_crops(
                self.folder / "scenes", self.preset.crops, self.preset.mix, size, self.device
            )
        save_samples = sample_grids.save_upsampled(
            crops, self.checkpoint_config["defaults"], self.device
        )
        return upsampler_loss(network, crops), save_samples


def compilable_parts(network: nn.Module) -> list[nn.Module]:
    """Return the parts for torch.compile: those whose shapes are the same at every step."""
    if isinstance(network, CLIP):
        return [network.network.visual, network.network.transformer]
    return [network]


def load_pca(path: Path) -> PCA:
    """Load a run's principal components."""
    state = torch.load(path, weights_only=True)
    components, dimensions = state["basis"].shape
    pca = PCA(PCAConfig(dimensions, components))
    pca.load_state_dict(state)
    return pca


def start_config(folder: Path) -> dict[str, Any]:
    """Return the config of a checkpoint, ours or Karlo's, without its format.

    Raises CheckpointError if the folder is no checkpoint."""
    config = karlo.read_config(folder) if karlo.is_karlo(folder) else read_config(folder)
    return {key: value for key, value in config.items() if key != "format"}


def load_start_network(
    folder: Path, name: str, config: Mapping[str, Any], device: str
) -> nn.Module:
    """Load one network of a checkpoint, ours or Karlo's."""
    if not karlo.is_karlo(folder):
        return load_network(folder, name, dict(config), device)
    networks = {
        part: (network, value_of)
        for part, network, value_of in karlo.translate(folder, karlo.read_config(folder))
    }
    network, value_of = networks[name]
    return fill(network, value_of, device)
