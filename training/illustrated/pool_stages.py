"""Stages of the pools that decoder and prior learn, and what travels to a GPU machine."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import torch
from tqdm import tqdm

from models.networks.image_tower import ImageTower, ImageTowerConfig
from training.data.illustrated.joint_space import load_joint_space
from training.data.illustrated.mixed_pool import build_solid_pool
from training.data.illustrated.pretrained import fill_trunk, read_lite0
from training.data.illustrated.scene_pool import build_pool
from training.data.illustrated.travel import pack_art, unpack_art
from training.illustrated.presets import EMBED_DIM, SETS
from training.illustrated.run import IllustratedRun

TRAVEL_FOLDER = Path("runs/travel")


def build_scene_pool(run: IllustratedRun) -> None:
    """Render the scenes that decoder and prior learn, in as many processes as `workers`."""
    jobs = [(run, shard) for shard in range(run.preset.shards)]
    if run.workers < 2:
        for job in jobs:
            _build_shard(job)
        return
    with multiprocessing.get_context("spawn").Pool(run.workers) as processes:
        for _ in tqdm(processes.imap_unordered(_build_shard, jobs), total=len(jobs), desc="shards"):
            pass


def build_solids(run: IllustratedRun) -> None:
    """Render the solids that decoder and prior learn beside the art."""
    tower = ImageTower(ImageTowerConfig(EMBED_DIM))
    fill_trunk(tower.trunk, read_lite0(run.art))
    build_solid_pool(run.folder / "pool-solids", tower, run.preset.solid_shards)


def pack(run: IllustratedRun) -> None:
    """Write what a machine without registries needs beside the joint space."""
    size = pack_art(run.art, TRAVEL_FOLDER / "art", SETS)
    print(f"{size / 2**20:.1f} MiB in {TRAVEL_FOLDER}")


def unpack(run: IllustratedRun) -> None:
    """Write the atlas from the sheets that `pack` wrote."""
    unpack_art(TRAVEL_FOLDER / "art", run.art, SETS)


def _build_shard(job: tuple[IllustratedRun, int]) -> None:
    run, shard = job
    torch.set_num_threads(1)
    if run.has_space:
        # On the CPU: a GPU's memory would hold one copy a process.
        tower = load_joint_space(run.folder / "joint-space").clip.image
    else:
        tower = ImageTower(ImageTowerConfig(EMBED_DIM))
        fill_trunk(tower.trunk, read_lite0(run.art))
    build_pool(run.folder / "pool-scenes", run.world, tower, run.preset.mix, shard + 1, first=shard)
