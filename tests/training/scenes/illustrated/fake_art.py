"""A tiny art set, made in a temporary folder: no test needs the network."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np

from training.scenes.illustrated.art.atlas import Atlas, set_paths, write_names
from training.scenes.illustrated.art.names import Name
from training.scenes.illustrated.synonyms import tags_for, words_for
from training.scenes.illustrated.world import HELD, VEHICLES, WORN, World, find_alpha_boxes

SIZE = 16
LABELS = (
    "cat face",
    "dog face",
    "lion",
    "bear",
    "pizza",
    "red apple",
    "sun",
    *WORN,
    *VEHICLES,
    *HELD,
)


def make_name(label: str, group: str = "animals-nature", subgroup: str = "animal-mammal") -> Name:
    """Return a name with translations into two languages."""
    code = "-".join(f"{ord(letter):x}" for letter in label)
    return Name(label, code, group, subgroup, ("pet",), {"de": f"das {label}", "ja": "猫"})


def make_world(sets: tuple[str, ...] = ("noto", "flat")) -> World:
    """Return a world of coloured discs."""
    names = [make_name(label) for label in dict.fromkeys(LABELS)]
    count = len(names) * len(sets)
    sprites = np.zeros((count, SIZE, SIZE, 4), np.uint8)
    axis = np.arange(SIZE) - SIZE / 2 + 0.5
    disc = axis[:, None] ** 2 + axis[None] ** 2 < (SIZE / 2 - 2) ** 2
    for row in range(count):
        sprites[row, disc] = (40 + 5 * row % 200, 90, 200 - 5 * row % 200, 255)
    table = np.arange(count, dtype=np.int32).reshape(len(names), len(sets))
    atlas = Atlas(names, sets, table, sprites)
    tier = tuple(range(len(names)))
    return World(
        atlas,
        words_for(names),
        tags_for(names),
        tier,
        (1.0,) * len(names),
        find_alpha_boxes(sprites),
    )


def write_art(folder: Path, sets: tuple[str, ...], size: int = 96) -> None:
    """Write an atlas of coloured discs as `fetch` caches it."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [make_name(label) for label in dict.fromkeys(LABELS)]
    write_names(folder, names)
    axis = np.arange(size) - size / 2 + 0.5
    disc = axis[:, None] ** 2 + axis[None] ** 2 < (size / 2 - 8) ** 2
    for place, key in enumerate(sets):
        sprites = np.zeros((len(names), size, size, 4), np.uint8)
        for row in range(len(names)):
            sprites[row, disc] = (6 * row % 250, 60 * place, 200, 255)
        sprites_path, codes_path = set_paths(folder, key, size)
        np.save(sprites_path, sprites)
        codes_path.write_text(json.dumps([name.code for name in names]))


def make_tarball(path: Path, members: dict[str, object]) -> Path:
    """Write JSON members into a gzipped tar archive."""
    with tarfile.open(path, "w:gz") as tar:
        for name, contents in members.items():
            data = json.dumps(contents).encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path
