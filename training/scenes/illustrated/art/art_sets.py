"""The art sets: which package a style comes from, and which image of it shows a name."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.errors import TrainingError
from training.scenes.illustrated.art import packages
from training.scenes.illustrated.art.names import Name
from training.scenes.illustrated.art.packages import Package

Sprite = NDArray[np.uint8]  # [size, size, 4], straight alpha
Render = Callable[[int], Sprite]  # size in pixels -> sprite


@dataclass(frozen=True)
class ArtSet:
    """One look. `words` are what captions call it, the first one most often."""

    key: str
    package: Package
    words: tuple[str, ...]
    is_vector: bool = True


ART_SETS = (
    ArtSet("noto", packages.NOTO, ("shaded", "rounded", "soft")),
    ArtSet("twemoji", packages.TWEMOJI, ("simple", "minimal", "plain")),
    ArtSet("flat", packages.FLUENT_FLAT, ("flat", "bold", "2D")),
    ArtSet("3d", packages.FLUENT_3D, ("3D", "3d render", "clay"), is_vector=False),
    ArtSet("glossy", packages.FLUENT, ("glossy", "shiny", "gradient")),
    ArtSet("outlined", packages.EMOJIONE, ("cartoon", "drawn", "emojione")),
    ArtSet("classic", packages.NOTO_V1, ("classic", "blob", "old")),
    ArtSet("retro", packages.FXEMOJI, ("retro", "firefox", "paper")),
)


def find_sprites(art_set: ArtSet, archive: Path, names: list[Name]) -> dict[str, Render]:
    """Map the code of each name that the set shows to a function that renders it.

    Raises TrainingError when the package's layout is not the expected one, or it shows fewer
    than 100 of the names."""
    try:
        with tarfile.open(archive) as tar:
            sprites = (
                _iconify_sprites(tar, names) if art_set.is_vector else _webp_sprites(tar, names)
            )
    except (tarfile.TarError, KeyError, json.JSONDecodeError) as error:
        raise TrainingError(f"{archive.name} has an unexpected layout: {error!r}") from error
    if names and len(sprites) < min(100, len(names)):
        raise TrainingError(
            f"{archive.name} has only {len(sprites)} of {len(names)} names: its layout has changed"
        )
    return sprites


def slug(text: str) -> str:
    """Return a label as icon sets write it: "hot dog" -> "hot-dog"."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower().replace("’", "").replace("'", "")).strip("-")


def _codes(code: str) -> tuple[str, ...]:
    without = "-".join(part for part in code.split("-") if part != "fe0f")
    return code, without, f"{without}-fe0f"


def _iconify_sprites(tar: tarfile.TarFile, names: list[Name]) -> dict[str, Render]:
    icons = _member(tar, "package/icons.json")
    bodies: dict[str, dict[str, Any]] = icons["icons"]
    aliases = {alias: entry["parent"] for alias, entry in icons.get("aliases", {}).items()}
    try:
        characters: dict[str, str] = _member(tar, "package/chars.json")
    except KeyError:
        characters = {}
    width, height = icons.get("width", 16), icons.get("height", icons.get("width", 16))
    sprites: dict[str, Render] = {}
    for name in names:
        candidates = [characters[code] for code in _codes(name.code) if code in characters]
        candidates += [slug(name.label), slug(name.label.removesuffix(" face"))]
        keys = [aliases.get(key, key) for key in candidates]
        key = next((key for key in keys if key in bodies), None)
        if key is not None:
            icon = bodies[key]
            sprites[name.code] = _vector_renderer(
                icon["body"], icon.get("width", width), icon.get("height", height)
            )
    return sprites


def _vector_renderer(body: str, width: int, height: int) -> Render:
    def render(size: int) -> Sprite:
        import resvg_py

        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="0 0 {width} {height}" width="{size}" height="{size}">{body}</svg>'
        )
        png = bytes(
            resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
        )
        return _square(Image.open(io.BytesIO(png)), size)

    return render


def _webp_sprites(tar: tarfile.TarFile, names: list[Name]) -> dict[str, Render]:
    prefix = "package/assets/"
    files: dict[str, bytes] = {}
    for member in tar.getmembers():
        file = tar.extractfile(member) if member.name.startswith(prefix) else None
        if file is not None:
            files[Path(member.name).stem.lower()] = file.read()
    if not files:
        raise KeyError(prefix)
    sprites: dict[str, Render] = {}
    for name in names:
        key = next((code for code in _codes(name.code) if code in files), None)
        if key is not None:
            sprites[name.code] = _bitmap_renderer(files[key])
    return sprites


def _bitmap_renderer(data: bytes) -> Render:
    return lambda size: _square(Image.open(io.BytesIO(data)), size)


def _square(image: Image.Image, size: int) -> Sprite:
    image = image.convert("RGBA")
    if image.size != (size, size):
        # Premultiplied, so that transparent pixels lend no colour to edges.
        image = image.convert("RGBa").resize((size, size), Image.Resampling.LANCZOS).convert("RGBA")
    return np.asarray(image).copy()


def _member(tar: tarfile.TarFile, name: str) -> Any:
    file = tar.extractfile(name)
    if file is None:
        raise KeyError(name)
    return json.load(file)
