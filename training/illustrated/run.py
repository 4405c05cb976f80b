"""A training run of the illustrated world: its folder, and what its stages share."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from models.networks.two_tower_clip import TwoTowerCLIP
from training.data.illustrated.joint_space import JointSpace, load_joint_space
from training.data.illustrated.mixed_pool import MixedPool, load_solid_pool
from training.data.illustrated.pretrained import fill_trunk, read_lite0, read_minilm
from training.data.illustrated.pseudo_photographs import (
    PseudoPhotographs,
    class_names,
    class_things,
    make_pseudo_photographs,
)
from training.data.illustrated.scene_pool import ScenePool, load_pool
from training.data.illustrated.text_vocabulary import build_vocabulary, fill_text_tower
from training.data.illustrated.word_pairs import WordPairs, build_word_pairs, is_held_out_noun
from training.data.illustrated.wordnet import WordNet, nouns_below, owners_of, read_wordnet
from training.illustrated.presets import SETS, IllustratedPreset
from training.scenes.illustrated.art.atlas import ART_FOLDER
from training.scenes.illustrated.synonyms import main_things
from training.scenes.illustrated.world import World, load_world
from training.trainer.step import Loss
from training.trainer.trainer import train

CHUNK_STEPS = 500  # between checks of the time limit


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
        groups = [name.group for name in world.names]
        return nouns_below(self.wordnet, world.words, groups, main_things(world.names))

    @cached_property
    def words(self) -> WordPairs:
        """Return the words of every name."""
        return build_word_pairs(self.full_world, self.nouns)

    @cached_property
    def class_things(self) -> list[int]:
        """Return the name at or above each of ImageNet's classes, -1 where there is none."""
        world = self.full_world
        groups = [name.group for name in world.names]
        owners = owners_of(self.wordnet, world.words, groups, main_things(world.names))
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

    def train(
        self,
        name: str,
        network: nn.Module,
        loss: Loss,
        limit_s: float,
        show: Callable[[nn.Module, Path], None] | None = None,
    ) -> None:
        """Train a network by its plan, from its last save, until the plan or the time ends."""
        plan = self.preset.plans[name]
        end = time.monotonic() + limit_s
        reached = steps_done(self.folder / f"{name}.pt")
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
            reached = steps_done(self.folder / f"{name}.pt")
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


def steps_done(path: Path) -> int:
    """Return how many steps a saved training has done."""
    if not path.exists():
        return 0
    step: int = torch.load(path, map_location="cpu", weights_only=True)["step"]
    return step
