"""The atlas as lossless WebP sheets, small enough to travel to a GPU machine that has no
registry."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from training.data.illustrated.scene_crops import save_array
from training.scenes.illustrated.art.atlas import ATLAS_SIZE_PX, set_paths

COLUMNS = 32


def pack_art(folder: Path, out: Path, sets: tuple[str, ...], size: int = ATLAS_SIZE_PX) -> int:
    """Write the sets' sprites as one sheet each, and return the bytes written."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "names.json", out)
    for key in tqdm(sets, desc="sheets", unit="set"):
        sprites_path, codes_path = set_paths(folder, key, size)
        shutil.copy(codes_path, out)
        sprites = np.load(sprites_path)
        rows = -(-len(sprites) // COLUMNS)
        padded = np.zeros((rows * COLUMNS, size, size, 4), np.uint8)
        padded[: len(sprites)] = sprites
        sheet = (
            padded.reshape(rows, COLUMNS, size, size, 4)
            .transpose(0, 2, 1, 3, 4)
            .reshape(rows * size, COLUMNS * size, 4)
        )
        Image.fromarray(sheet).save(
            out / f"{key}.webp", lossless=True, quality=80, method=3, exact=False
        )
    return sum(path.stat().st_size for path in out.iterdir())


def unpack_art(
    packed: Path, folder: Path, sets: tuple[str, ...], size: int = ATLAS_SIZE_PX
) -> None:
    """Write the sprites of sheets from `pack_art` as the cache that `load_atlas` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(packed / "names.json", folder)
    for key in sets:
        sprites_path, codes_path = set_paths(folder, key, size)
        shutil.copy(packed / codes_path.name, codes_path)
        count = len(json.loads(codes_path.read_text()))
        sheet = np.asarray(Image.open(packed / f"{key}.webp").convert("RGBA"))
        rows = sheet.shape[0] // size
        sprites = (
            sheet.reshape(rows, size, COLUMNS, size, 4)
            .transpose(0, 2, 1, 3, 4)
            .reshape(-1, size, size, 4)
        )
        save_array(sprites_path, sprites[:count])
