"""Accuracy of the illustrated world's images, counted by the judge on captions of fresh scenes."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.networks.decoder import Decoder
from models.networks.image_tower import ImageTower
from models.networks.priors.diffusion import DiffusionPrior
from models.networks.two_tower_clip import TwoTowerCLIP
from training.data.illustrated.scene_pool import image_features
from training.evaluation.judge import Judge, read
from training.evaluation.sampling import encode_prompts, sample_decoder, sample_prior
from training.scenes.illustrated.captions import draw_caption, plain_caption
from training.scenes.illustrated.compose import render
from training.scenes.illustrated.scene import Scene, draw_scene
from training.scenes.illustrated.world import World

# Indices of scenes that no pool holds.
FRESH = 1 << 30
BATCH = 50
# Row of the report -> kind of scene, and the rule of the compositional split that it falls under.
ROWS: dict[str, tuple[str, str | None]] = {
    "one thing": ("one", None),
    "one thing, coloured": ("coloured", None),
    "two in relation": ("relation", None),
    "two or three kinds": ("several", None),
    "counts": ("count", None),
    "worn": ("worn", None),
    "kept-back style": ("one", "style"),
    "kept-back colour": ("coloured", "colour"),
    "kept-back worn": ("worn", "worn"),
    "kept-back relation": ("relation", "relation"),
}


@dataclass(frozen=True)
class Networks:
    """What draws, and what judges."""

    clip: TwoTowerCLIP
    prior: DiffusionPrior
    decoder: Decoder
    judge: Judge
    tower: ImageTower  # with Lite0's own trunk


@dataclass
class Counts:
    """How many answers of each question are right, of how many."""

    right: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    total: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, answers: dict[str, Tensor]) -> None:
        """Count answers of `read`, and as "all" the images with every answer right ("first" and
        "five" aside)."""
        every = torch.ones(len(answers["names"]), dtype=torch.bool)
        for question, values in answers.items():
            applies = values >= 0
            self.right[question] += int((values == 1).sum())
            self.total[question] += int(applies.sum())
            if question not in ("first", "five"):
                every &= ~applies | (values == 1)
        self.right["all"] += int(every.sum())
        self.total["all"] += len(every)

    def shares(self) -> dict[str, float]:
        """Return the share of right answers of each question."""
        return {
            question: self.right[question] / total
            for question, total in self.total.items()
            if total
        }


@torch.inference_mode()
def draw(networks: Networks, captions: list[str], seed: int, steps: int = 12) -> Tensor:
    """Return images `[B, 3, 64, 64]` in [-1, 1] of captions, through prior and decoder."""
    with torch.autocast("cpu", torch.bfloat16):
        text = encode_prompts(networks.clip, captions)
        z_i = sample_prior(networks.prior, text, seed=seed)
        return sample_decoder(networks.decoder, z_i, text, steps=steps, seed=seed).float()


def evaluate_row(
    networks: Networks, world: World, row: str, count: int, *, mix: str = "simple"
) -> dict[str, dict[str, float]]:
    """Return shares of right answers in "images" drawn from captions, and in the scenes' own
    "renders"."""
    kind, rule = ROWS[row]
    images, renders = Counts(), Counts()
    for start in range(0, count, BATCH):
        scenes = [
            draw_scene(world, FRESH + index, mix, kind, held_out=rule)
            for index in range(start, min(start + BATCH, count))
        ]
        captions = [caption_for(world, scene) for scene in scenes]
        for counts, pixels in (
            (images, draw(networks, captions, start)),
            (renders, render(world, scenes, 64)),
        ):
            counts.add(read(networks.judge, world, image_features(networks.tower, pixels), scenes))
    return {"images": images.shares(), "renders": renders.shares()}


def evaluate_style(networks: Networks, world: World, art_set: str, count: int) -> dict[str, float]:
    """Return shares of right answers in images of one thing in the style of a set."""
    counts = Counts()
    column = world.atlas.sets.index(art_set)
    wanted: list[Scene] = []
    index = FRESH
    while len(wanted) < count:
        scene = draw_scene(world, index, "simple", "one")
        if scene.art_set == column and scene.ground is None:
            wanted.append(scene)
        index += 1
    for start in range(0, count, BATCH):
        scenes = wanted[start : start + BATCH]
        pixels = draw(networks, [plain_caption(world, scene) for scene in scenes], start)
        features = image_features(networks.tower, pixels)
        counts.add(read(networks.judge, world, features, scenes))
    return counts.shares()


def caption_for(world: World, scene: Scene) -> str:
    """Return a caption with every claim that the judge checks: the plain one, or as people write,
    by the scene's index."""
    rng = random.Random(f"evaluate {scene.index}")
    return (
        plain_caption(world, scene)
        if scene.index % 2
        else draw_caption(world, scene, rng, style_share=1.0)
    )


@torch.inference_mode()
def names_drawn(
    networks: Networks, world: World, per_name: int = 4, names: list[int] | None = None
) -> dict[int, float]:
    """Return for each name of the tier how often "a NAME" gives it first, of `per_name` seeds."""
    chosen = list(world.tier) if names is None else names
    words = [words[0] for words in world.words]
    right: dict[int, int] = defaultdict(int)
    jobs = [(name, seed) for name in chosen for seed in range(per_name)]
    for start in range(0, len(jobs), BATCH):
        part = jobs[start : start + BATCH]
        pixels = draw(networks, [f"a {words[name]}" for name, _ in part], seed=start)
        top = networks.judge(image_features(networks.tower, pixels))["names"].argmax(1).tolist()
        for (name, _), prediction in zip(part, top, strict=True):
            right[name] += int(words[prediction] == words[name])
    return {name: right[name] / per_name for name in chosen}
