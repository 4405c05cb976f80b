"""A tiny art set, made in a temporary folder: no test needs the network."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np

from training.scenes.illustrated.art.atlas import Atlas
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


def make_tarball(path: Path, members: dict[str, object]) -> Path:
    """Write JSON members into a gzipped tar archive."""
    with tarfile.open(path, "w:gz") as tar:
        for name, contents in members.items():
            data = json.dumps(contents).encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path
