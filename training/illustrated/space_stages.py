"""Stages of the joint space: its scenes, the towers, the image head, and the frozen files."""

from __future__ import annotations

from models.networks.image_tower import ImageTower, ImageTowerConfig
from training.data.illustrated.joint_space import JointSpace, save_joint_space
from training.data.illustrated.pretrained import fill_trunk, read_lite0
from training.data.illustrated.pseudo_photographs import (
    class_names,
)
from training.data.illustrated.scene_pool import build_pool
from training.illustrated.presets import EMBED_DIM
from training.illustrated.run import IllustratedRun
from training.losses.image_head import gather_head_data, image_head_loss
from training.losses.two_towers import TwoTowerData, find_twins, two_tower_loss
from training.trainer.trainer import load_finished


def build_clip_pool(run: IllustratedRun) -> None:
    """Render the scenes that the joint space learns."""
    tower = ImageTower(ImageTowerConfig(EMBED_DIM))
    fill_trunk(tower.trunk, read_lite0(run.art))
    build_pool(run.folder / "pool-clip", run.full_world, tower, "full", run.preset.clip_shards)


def train_clip(run: IllustratedRun, limit_s: float) -> None:
    """Train the joint space."""
    clip, photographs = run.new_clip()
    pool = run.pool("clip")
    groups = [run.words.groups[name] if name >= 0 else -1 for name in run.class_things]
    data = TwoTowerData(pool, run.words, photographs, class_names(), groups, find_twins(pool))
    run.train("clip", clip, two_tower_loss(clip, data), limit_s)


def train_image_head(run: IllustratedRun, limit_s: float) -> None:
    """Train the image tower's head alone, on every scene, against the trained text tower."""
    clip, photographs = run.new_clip()
    load_finished("clip", clip, run.preset.plans["clip"], run.folder)
    clip.requires_grad_(False)
    clip.image.head.requires_grad_(True)
    groups = [run.words.groups[name] if name >= 0 else -1 for name in run.class_things]
    data = gather_head_data(
        clip, [run.pool("clip"), run.pool("scenes")], run.words.groups, class_names(), groups
    )
    run.train("image_head", clip.image.head, image_head_loss(clip, data, photographs), limit_s)


def freeze(run: IllustratedRun) -> None:
    """Write the trained joint space to the folder "joint-space"."""
    clip, photographs = run.new_clip()
    load_finished("clip", clip, run.preset.plans["clip"], run.folder)
    load_finished("image_head", clip.image.head, run.preset.plans["image_head"], run.folder)
    labels = [run.full_world.words[name][0] if name >= 0 else "" for name in run.class_things]
    space = JointSpace(clip, photographs, labels)
    save_joint_space(run.folder / "joint-space", space, run.preset.networks["clip"])
