"""Sample grids of the illustrated world."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from models.networks.decoder import Decoder
from models.networks.two_tower_clip import TwoTowerCLIP
from training.data.illustrated.scene_pool import ScenePool
from training.evaluation.sampling import encode_prompts, sample_decoder
from training.losses.illustrated import embed_features
from training.scenes.illustrated.captions import plain_caption

GRID_LABELS = (
    "dog", "cat", "lion", "octopus", "penguin", "pizza", "red apple", "automobile", "hamburger",
    "butterfly", "fox", "rocket", "house", "ghost", "bicycle", "strawberry",
)  # fmt: skip


def save_grid(rows: list[Tensor], path: Path, scale: int = 1) -> None:
    """Write rows of images `[N, 3, h, w]` in [-1, 1] as one PNG, each pixel `scale` times."""
    image = torch.cat([torch.cat(list(row.float().cpu()), dim=2) for row in rows], dim=1)
    if scale > 1:
        image = F.interpolate(image[None], scale_factor=scale, mode="nearest")[0]
    pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0)
    Image.fromarray(pixels.numpy()).save(path)


def grid_scenes(pool: ScenePool, labels: tuple[str, ...] = GRID_LABELS) -> list[int]:
    """Return the pool's first scene that shows each label alone on white, in turn from another
    set."""
    sets = len(pool.world.atlas.sets)
    chosen = []
    for place, label in enumerate(labels):
        name = pool.world.index(label)
        scenes = [
            index
            for index in range(min(len(pool), 20000))
            if (scene := pool.scene(index)).kind == "one"
            and scene.ground is None
            and scene.parts[0].name == name
        ]
        exact = [index for index in scenes if pool.scene(index).art_set == place % sets]
        chosen += (exact or scenes)[:1]
    return chosen


_chosen: dict[int, list[int]] = {}


def draw_decoder_grid(decoder: Decoder, clip: TwoTowerCLIP, pool: ScenePool, path: Path) -> None:
    """Write scenes, what the decoder makes of their z_i and captions, and what it makes of their
    z_i alone."""
    indices = torch.tensor(_chosen.setdefault(id(pool), grid_scenes(pool)))
    device = clip.mean.device
    z_i = embed_features(clip, pool.arrays.feature_batch(indices).to(device))
    captions = [plain_caption(pool.world, pool.scene(index)) for index in indices.tolist()]
    with torch.autocast(device.type, torch.bfloat16):
        with_caption = sample_decoder(decoder, z_i, encode_prompts(clip, captions), steps=8)
        alone = sample_decoder(decoder, z_i, encode_prompts(clip, [""] * len(captions)), steps=8)
    save_grid([pool.arrays.image_batch(indices), with_caption, alone], path, scale=2)
