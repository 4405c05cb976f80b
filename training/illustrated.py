"""`python -m training.illustrated STAGE`: train the networks of the illustrated world, one stage at
a time.

Every stage resumes from its last save. Stages in order: clip_pool, clip, image_head, freeze,
pool, then decoder, prior,
judge, upsampler_256, upsampler_1024 and matting in any order."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from models.networks.decoder import Decoder, DecoderConfig
from models.networks.image_tower import ImageTower, ImageTowerConfig
from models.networks.matting import MattingConfig, MattingNetwork
from models.networks.priors.diffusion import DiffusionPrior, DiffusionPriorConfig
from models.networks.two_tower_clip import TwoTowerCLIP
from models.networks.upsampler import Upsampler, UpsamplerConfig
from training.data.joint_space import JointSpace, load_joint_space, save_joint_space
from training.data.mixed_pool import MixedPool, build_solid_pool, load_solid_pool
from training.data.pretrained import fill_trunk, read_lite0, read_minilm
from training.data.pseudo_photographs import (
    PseudoPhotographs,
    class_names,
    class_things,
    make_pseudo_photographs,
)
from training.data.scene_crops import build_crops, build_mattes, load_crops
from training.data.scene_pool import ScenePool, build_pool, build_small_features, load_pool
from training.data.text_vocabulary import build_vocabulary, fill_text_tower
from training.data.travel import pack_art, unpack_art
from training.data.word_pairs import WordPairs, build_word_pairs, is_held_out_noun
from training.data.wordnet import WordNet, nouns_below, owners_of, read_wordnet
from training.errors import TrainingError
from training.evaluation.illustrated_grids import draw_decoder_grid
from training.evaluation.judge import Judge
from training.illustrated_presets import EMBED_DIM, PRESETS, SETS, IllustratedPreset
from training.losses.diffusion import upsampler_loss
from training.losses.illustrated import (
    embed_features,
    illustrated_decoder_loss,
    illustrated_prior_loss,
)
from training.losses.image_head import gather_head_data, image_head_loss
from training.losses.judge import pool_judge_loss
from training.losses.matting import matting_loss
from training.losses.two_towers import TwoTowerData, find_twins, two_tower_loss
from training.scenes.illustrated.atlas import ART_FOLDER
from training.scenes.illustrated.world import World, load_world
from training.trainer.step import Loss
from training.trainer.trainer import load_finished, train

CHUNK_STEPS = 500  # between checks of the time limit
MATTE_PX = 256
GRID_EVERY_S = 900.0
TRAVEL_FOLDER = Path("runs/travel")


class IllustratedRun:
    """One training run in a folder. Parts are built when first used."""

    def __init__(
        self,
        preset: IllustratedPreset,
        folder: Path,
        art: Path = ART_FOLDER,
        device: str = "cpu",
        workers: int = 1,
    ) -> None:
        self.preset = preset
        self.folder = folder
        self.art = art
        self.device = device
        self.workers = workers

    @property
    def has_space(self) -> bool:
        """Return whether the joint space is frozen."""
        return (self.folder / "joint-space" / "config.json").exists()

    @cached_property
    def full_world(self) -> World:
        """Return the world of all names, which the joint space learns."""
        return load_world(self.art, "all", SETS)

    @cached_property
    def world(self) -> World:
        """Return the world of the preset's tier, which the decoder learns."""
        return load_world(self.art, self.preset.tier, SETS)

    @cached_property
    def wordnet(self) -> WordNet:
        """Return WordNet."""
        return read_wordnet(self.art)

    @cached_property
    def nouns(self) -> dict[str, int]:
        """Return nouns below the names of the full world."""
        world = self.full_world
        return nouns_below(self.wordnet, world.words, [name.group for name in world.names])

    @cached_property
    def words(self) -> WordPairs:
        """Return the words of every name."""
        return build_word_pairs(self.full_world, self.nouns)

    @cached_property
    def class_things(self) -> list[int]:
        """Return the name at or above each of ImageNet's classes, -1 where there is none."""
        world = self.full_world
        owners = owners_of(self.wordnet, world.words, [name.group for name in world.names])
        return class_things(class_names(), self.wordnet, owners)

    def new_clip(self) -> tuple[TwoTowerCLIP, PseudoPhotographs]:
        """Build CLIP from the pretrained towers, and the pseudo-photographs that go with its
        trunk."""
        torch.manual_seed(0)
        minilm = read_minilm(self.art)
        learned = {noun: name for noun, name in self.nouns.items() if not is_held_out_noun(noun)}
        vocabulary = build_vocabulary(minilm, self.full_world, learned)
        clip = TwoTowerCLIP(self.preset.networks["clip"] | {"vocabulary": vocabulary.pieces})
        fill_text_tower(clip.text, minilm, vocabulary.embeddings)
        weights, _ = fill_trunk(clip.image.trunk, read_lite0(self.art))
        clip.image.trunk.requires_grad_(False)
        clip.logit_scale.data.fill_(3.0)
        return clip, make_pseudo_photographs(clip.image.trunk, weights)

    def freeze(self) -> None:
        """Write the trained joint space to the folder "joint-space"."""
        clip, photographs = self.new_clip()
        load_finished("clip", clip, self.preset.plans["clip"], self.folder)
        load_finished("image_head", clip.image.head, self.preset.plans["image_head"], self.folder)
        labels = [self.full_world.words[name][0] if name >= 0 else "" for name in self.class_things]
        space = JointSpace(clip, photographs, labels)
        save_joint_space(self.folder / "joint-space", space, self.preset.networks["clip"])

    @cached_property
    def space(self) -> JointSpace:
        """Return the frozen joint space."""
        return load_joint_space(self.folder / "joint-space", self.device)

    @property
    def clip(self) -> TwoTowerCLIP:
        """Return the trained CLIP, frozen."""
        return self.space.clip

    def pool(self, kind: str) -> ScenePool:
        """Load the pool "clip" or "scenes"."""
        if kind == "clip":
            return load_pool(self.folder / "pool-clip", self.full_world, "full")
        return load_pool(self.folder / "pool-scenes", self.world, self.preset.mix, self.device)

    def mix(self, pool: ScenePool) -> MixedPool:
        """Return the pool with its share of solids, if the preset has one and they were built."""
        share = self.preset.solid_share
        folder = self.folder / "pool-solids"
        if not share or not folder.exists():
            return MixedPool([pool], [1.0])
        return MixedPool([pool, load_solid_pool(folder, self.device)], [1 - share, share])

    def build_solids(self) -> None:
        """Render the solids that decoder and prior learn beside the art."""
        tower = ImageTower(ImageTowerConfig(EMBED_DIM))
        fill_trunk(tower.trunk, read_lite0(self.art))
        build_solid_pool(self.folder / "pool-solids", tower, self.preset.solid_shards)

    def build_clip_pool(self) -> None:
        """Render the scenes that the joint space learns."""
        tower = ImageTower(ImageTowerConfig(EMBED_DIM))
        fill_trunk(tower.trunk, read_lite0(self.art))
        build_pool(
            self.folder / "pool-clip", self.full_world, tower, "full", self.preset.clip_shards
        )

    def build_pool(self) -> None:
        """Render the scenes that decoder and prior learn, in as many processes as `workers`."""
        jobs = [(self, shard) for shard in range(self.preset.shards)]
        if self.workers < 2:
            for job in jobs:
                _build_shard(job)
            return
        with multiprocessing.get_context("spawn").Pool(self.workers) as processes:
            for _ in tqdm(
                processes.imap_unordered(_build_shard, jobs), total=len(jobs), desc="shards"
            ):
                pass

    def train_clip(self, limit_s: float) -> None:
        """Train the joint space."""
        clip, photographs = self.new_clip()
        pool = self.pool("clip")
        groups = [self.words.groups[name] if name >= 0 else -1 for name in self.class_things]
        data = TwoTowerData(pool, self.words, photographs, class_names(), groups, find_twins(pool))
        self._train("clip", clip, two_tower_loss(clip, data), limit_s)

    def train_image_head(self, limit_s: float) -> None:
        """Train the image tower's head alone, on every scene, against the trained text tower."""
        clip, photographs = self.new_clip()
        load_finished("clip", clip, self.preset.plans["clip"], self.folder)
        clip.requires_grad_(False)
        clip.image.head.requires_grad_(True)
        groups = [self.words.groups[name] if name >= 0 else -1 for name in self.class_things]
        data = gather_head_data(
            clip, [self.pool("clip"), self.pool("scenes")], self.words.groups, class_names(), groups
        )
        self._train(
            "image_head", clip.image.head, image_head_loss(clip, data, photographs), limit_s
        )

    def unpack(self) -> None:
        """Write the atlas from the sheets that `pack` wrote."""
        unpack_art(TRAVEL_FOLDER / "art", self.art, SETS)

    def pack(self) -> None:
        """Write what a machine without registries needs beside the joint space."""
        size = pack_art(self.art, TRAVEL_FOLDER / "art", SETS)
        print(f"{size / 2**20:.1f} MiB in {TRAVEL_FOLDER}")

    def train_generator(self, limit_s: float) -> None:
        """Build the pool, then train prior and decoder, a fifth and the rest of the time."""
        end = time.monotonic() + limit_s
        self.build_pool()
        self.train_prior(0.2 * (end - time.monotonic()))
        self.train_decoder(end - time.monotonic())

    def train_rest(self, limit_s: float) -> None:
        """Train all that is small, one after the other."""
        end = time.monotonic() + limit_s
        for stage in (self.train_prior, self.train_judge, self.train_matting):
            stage(end - time.monotonic())
        for size in (256, 1024):
            self.train_upsampler(size, end - time.monotonic())

    def train_decoder(self, limit_s: float) -> None:
        """Train the decoder."""
        torch.manual_seed(1)
        decoder = Decoder(DecoderConfig(**self.preset.networks["decoder"])).to(
            self.device, memory_format=torch.channels_last
        )  # type: ignore[call-overload]
        pool = self.pool("scenes")

        last_grid = time.monotonic()

        def show(network: nn.Module, path: Path) -> None:
            nonlocal last_grid
            if time.monotonic() - last_grid < GRID_EVERY_S:
                return
            last_grid = time.monotonic()
            assert isinstance(network, Decoder)
            draw_decoder_grid(network, self.clip, pool, path)

        self._train(
            "decoder",
            decoder,
            illustrated_decoder_loss(decoder, self.clip, self.mix(pool)),
            limit_s,
            show,
        )

    def train_prior(self, limit_s: float) -> None:
        """Train the diffusion prior."""
        torch.manual_seed(2)
        prior = DiffusionPrior(DiffusionPriorConfig(**self.preset.networks["prior"]))
        pool = self.pool("scenes")
        features = pool.arrays.feature_batch(torch.arange(min(len(pool), 4000))).to(self.device)
        sample = embed_features(self.clip, features).cpu()
        prior.clip_mean.copy_(sample.mean(0))
        prior.clip_std.copy_(sample.std(0).clamp(min=1e-4))
        prior = prior.to(self.device)
        loss = illustrated_prior_loss(
            prior, self.clip, self.mix(pool), self.space.photographs, self.class_scenes(pool)
        )
        self._train("prior", prior, loss, limit_s)

    def train_upsampler(self, size: int, limit_s: float) -> None:
        """Train the upsampler to 256 or 1024 pixels."""
        name = f"upsampler_{size}"
        torch.manual_seed(size)
        upsampler = Upsampler(UpsamplerConfig(**self.preset.networks[name])).to(
            self.device, memory_format=torch.channels_last
        )  # type: ignore[call-overload]
        path = self.folder / f"crops-{size}.npy"
        build_crops(
            path, self.world, self.art, size, self.preset.crops, per_scene=2 if size == 256 else 8
        )
        self._train(name, upsampler, upsampler_loss(upsampler, load_crops(path, size)), limit_s)

    def train_matting(self, limit_s: float) -> None:
        """Train the matting network."""
        torch.manual_seed(3)
        network = MattingNetwork(MattingConfig()).to(self.device)
        path = self.folder / f"mattes-{MATTE_PX}.npy"
        build_mattes(path, self.world, self.art, MATTE_PX, self.preset.mattes)
        self._train(
            "matting", network, matting_loss(network, np.load(path, mmap_mode="r")), limit_s
        )

    def train_judge(self, limit_s: float) -> None:
        """Train the judge on both pools."""
        tower = ImageTower(ImageTowerConfig(EMBED_DIM))
        fill_trunk(tower.trunk, read_lite0(self.art))
        for name, folder in (("clip", "pool-clip"), ("scenes", "pool-scenes")):
            build_small_features(self.folder / folder, self.pool(name).arrays, tower)
        torch.manual_seed(4)
        judge = Judge(len(self.full_world.names), len(SETS))
        self._train(
            "judge",
            judge,
            pool_judge_loss(judge, [self.pool("clip"), self.pool("scenes")]),
            limit_s,
        )

    def class_scenes(self, pool: ScenePool) -> dict[int, list[int]]:
        """Map ImageNet's classes to scenes that show the thing at or above them alone, in its own
        colours."""
        scenes: dict[str, list[int]] = {}
        for index in range(len(pool)):
            scene = pool.scene(index)
            if scene.kind == "one" and scene.ground is None:
                scenes.setdefault(pool.world.words[scene.parts[0].name][0], []).append(index)
        labels = self.space.class_labels
        return {index: scenes[label] for index, label in enumerate(labels) if label in scenes}

    def _train(
        self,
        name: str,
        network: nn.Module,
        loss: Loss,
        limit_s: float,
        show: Callable[[nn.Module, Path], None] | None = None,
    ) -> None:
        plan = self.preset.plans[name]
        end = time.monotonic() + limit_s
        reached = _steps_done(self.folder / f"{name}.pt")
        while reached < plan.steps and time.monotonic() < end:
            started = time.monotonic()
            train(
                name,
                network,
                loss,
                plan,
                self.folder,
                device=self.device,
                save_samples=show,
                stop_after=CHUNK_STEPS,
            )
            reached = _steps_done(self.folder / f"{name}.pt")
            print(
                json.dumps(
                    {
                        "stage": name,
                        "step": reached,
                        "of": plan.steps,
                        "seconds": round(time.monotonic() - started),
                    }
                ),
                flush=True,
            )


def _build_shard(job: tuple[IllustratedRun, int]) -> None:
    run, shard = job
    torch.set_num_threads(1)
    tower = run.clip.image if run.has_space else ImageTower(ImageTowerConfig(EMBED_DIM))
    if not run.has_space:
        fill_trunk(tower.trunk, read_lite0(run.art))
    build_pool(
        run.folder / "pool-scenes", run.world, tower.cpu(), run.preset.mix, shard + 1, first=shard
    )


def _steps_done(path: Path) -> int:
    if not path.exists():
        return 0
    step: int = torch.load(path, map_location="cpu", weights_only=True)["step"]
    return step


def main() -> None:
    """Train one stage of the illustrated world, or show how far all are."""
    stages: dict[str, Callable[[IllustratedRun, float], None]] = {
        "clip_pool": lambda run, _: run.build_clip_pool(),
        "clip": IllustratedRun.train_clip,
        "image_head": IllustratedRun.train_image_head,
        "freeze": lambda run, _: run.freeze(),
        "pool": lambda run, _: run.build_pool(),
        "solids": lambda run, _: run.build_solids(),
        "pack": lambda run, _: run.pack(),
        "unpack": lambda run, _: run.unpack(),
        "generator": IllustratedRun.train_generator,
        "rest": IllustratedRun.train_rest,
        "decoder": IllustratedRun.train_decoder,
        "prior": IllustratedRun.train_prior,
        "upsampler_256": lambda run, limit_s: run.train_upsampler(256, limit_s),
        "upsampler_1024": lambda run, limit_s: run.train_upsampler(1024, limit_s),
        "matting": IllustratedRun.train_matting,
        "judge": IllustratedRun.train_judge,
    }
    parser = argparse.ArgumentParser(
        prog="python -m training.illustrated", description=main.__doc__
    )
    parser.add_argument("stage", choices=[*stages, "status"])
    parser.add_argument("--preset", choices=list(PRESETS), default="cpu")
    parser.add_argument("--folder", type=Path, default=Path("runs/world"))
    parser.add_argument("--art", type=Path, default=ART_FOLDER)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU threads (default: torch's choice)"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that render the pool")
    parser.add_argument(
        "--minutes",
        type=float,
        default=1e6,
        help="stop after this long; resume by the same command",
    )
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    # Muon's products in bf16 inside, on a CPU that has it: half of their time, and the same to its
    # precision.
    torch.set_float32_matmul_precision("medium")
    preset = PRESETS[arguments.preset]
    if arguments.stage == "status":
        for name, plan in preset.plans.items():
            print(f"{name}: step {_steps_done(arguments.folder / f'{name}.pt')} of {plan.steps}")
        return
    try:
        stages[arguments.stage](
            IllustratedRun(
                preset, arguments.folder, arguments.art, arguments.device, arguments.workers
            ),
            arguments.minutes * 60,
        )
    except (TrainingError, OSError) as error:
        sys.exit(f"Cannot train {arguments.stage}: {error}")


if __name__ == "__main__":
    main()
