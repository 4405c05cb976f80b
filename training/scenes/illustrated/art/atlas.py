"""The atlas: every sprite of every set at one size, cached on disk."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from training.errors import TrainingError
from training.scenes.illustrated.art.art_sets import ART_SETS, ArtSet, find_sprites
from training.scenes.illustrated.art.names import Name, read_names
from training.scenes.illustrated.art.packages import EMOJIBASE, archive_name

ATLAS_SIZE_PX = 96
# Where fetched archives and rendered sprites go, relative to the working directory; git ignores
# runs/.
ART_FOLDER = Path("runs/art")


@dataclass(frozen=True)
class Atlas:
    """Names, and the sprites that show them in each set."""

    names: list[Name]
    sets: tuple[str, ...]
    table: NDArray[
        np.int32
    ]  # [names, sets] row of `sprites`, -1 where the set does not show the name
    sprites: NDArray[np.uint8]  # [N, S, S, 4], straight alpha

    def premultiplied(self, rows: NDArray[np.int64] | Tensor) -> Tensor:
        """Return sprites `[B, 4, S, S]` in [0, 1], their colours premultiplied by alpha."""
        index = rows.numpy() if isinstance(rows, Tensor) else rows
        sprites = torch.from_numpy(self.sprites[index]).permute(0, 3, 1, 2).float() / 255
        return torch.cat((sprites[:, :3] * sprites[:, 3:], sprites[:, 3:]), dim=1)


def render_set(art_set: ArtSet, folder: Path, names: list[Name], size: int = ATLAS_SIZE_PX) -> None:
    """Render the set's sprites to `folder`, unless they are there already.

    Files appear under their final names only when complete. Raises TrainingError for a full
    disk or a changed package."""
    sprites_path, codes_path = set_paths(folder, art_set.key, size)
    if sprites_path.exists() and codes_path.exists():
        return
    renders = find_sprites(art_set, folder / archive_name(art_set.package), names)
    sprites = np.zeros((len(renders), size, size, 4), dtype=np.uint8)
    for row, render in enumerate(
        tqdm(renders.values(), desc=f"{art_set.key} at {size} px", unit="sprite")
    ):
        try:
            sprites[row] = render(size)
        except (ValueError, OSError) as error:
            raise TrainingError(
                f"cannot render {list(renders)[row]} of {art_set.package.spec}: {error}"
            ) from error
    try:
        _write_array(sprites_path, sprites)
        _write_text(codes_path, json.dumps(list(renders)))
    except OSError as error:
        raise TrainingError(f"cannot write {sprites_path}: {error.strerror or error}") from error


def set_paths(folder: Path, key: str, size: int) -> tuple[Path, Path]:
    """Return where a set's sprites and their codes are cached."""
    return folder / f"{key}-{size}.npy", folder / f"{key}-{size}.json"


def write_names(folder: Path, names: list[Name]) -> None:
    """Cache the names beside the sprites."""
    _write_text(
        folder / "names.json", json.dumps([asdict(name) for name in names], ensure_ascii=False)
    )


def load_names(folder: Path = ART_FOLDER) -> list[Name]:
    """Return the cached names. Raises TrainingError when nothing was fetched."""
    path = folder / "names.json"
    if not path.exists():
        raise TrainingError(
            f"{folder} holds no art: run `python -m training.scenes.illustrated.fetch` first"
        )
    return [
        Name(**{**record, "tags": tuple(record["tags"])}) for record in json.loads(path.read_text())
    ]


def load_atlas(
    folder: Path = ART_FOLDER, sets: tuple[str, ...] | None = None, size: int = ATLAS_SIZE_PX
) -> Atlas:
    """Load the atlas of these sets (None: all that were rendered), only the names that at least one
    of them shows.

    Raises TrainingError when a set was not fetched."""
    names = load_names(folder)
    keys = sets or tuple(
        art_set.key for art_set in ART_SETS if set_paths(folder, art_set.key, size)[0].exists()
    )
    table = np.full((len(names), len(keys)), -1, dtype=np.int32)
    rows = {name.code: row for row, name in enumerate(names)}
    parts: list[NDArray[np.uint8]] = []
    start = 0
    for column, key in enumerate(keys):
        sprites_path, codes_path = set_paths(folder, key, size)
        if not sprites_path.exists():
            raise TrainingError(
                f"{sprites_path} is missing: run `python -m training.scenes.illustrated.fetch`"
            )
        sprites = np.load(sprites_path, mmap_mode="r")
        for offset, code in enumerate(json.loads(codes_path.read_text())):
            if code in rows:
                table[rows[code], column] = start + offset
        parts.append(sprites)
        start += len(sprites)
    has_sprite: NDArray[np.bool_] = np.any(table >= 0, axis=1)
    return Atlas(
        [name for name, is_shown in zip(names, has_sprite, strict=True) if is_shown],
        keys,
        table[has_sprite],
        np.concatenate(parts),
    )


def read_archive_names(folder: Path) -> list[Name]:
    """Read the names from the fetched archive."""
    return read_names(folder / archive_name(EMOJIBASE))


def _write_array(path: Path, array: NDArray[np.uint8]) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, array)
    os.replace(part, path)


def _write_text(path: Path, text: str) -> None:
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text)
    os.replace(part, path)
