"""`python -m training.evaluation.contact_sheet FOLDER`: 64 prompts, one seed each, none picked."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm

from models import UnCLIP
from training.evaluation.illustrated_grids import save_grid

COLUMNS = 8
PROMPTS = (
    "a dog",
    "a cat",
    "a lion",
    "a penguin",
    "an octopus",
    "a butterfly",
    "a shark",
    "a unicorn",
    "a pizza",
    "an apple",
    "a hamburger",
    "an ice cream",
    "a birthday cake",
    "a cup of coffee",
    "a strawberry",
    "sushi",
    "a car",
    "a bicycle",
    "a rocket",
    "a sailboat",
    "a train",
    "a helicopter",
    "a fire truck",
    "a tractor",
    "a house",
    "a castle",
    "a tree",
    "a sunflower",
    "a rainbow",
    "a snowman",
    "a guitar",
    "a robot",
    "ein Hund",
    "un chat",
    "una pizza",
    "собака",
    "猫",
    "りんご",
    "자동차",
    "um foguete",
    "a corgi",
    "a sedan",
    "an espresso",
    "a kitten",
    "a salmon",
    "a spaceship",
    "a puppy",
    "a pony",
    "a red car on the beach",
    "a blue octopus in 3D",
    "a cat wearing sunglasses, flat",
    "a green dog",
    "a pink elephant",
    "a purple house",
    "a fox on grass at sunset",
    "a penguin in the snow",
    "three apples",
    "two cats",
    "five stars",
    "a dog left of a cat",
    "a pizza above a lion",
    "a dog, a cat and a frog",
    "a bear holding a balloon",
    "a monkey riding a bicycle",
)


def draw_sheet(pipeline: UnCLIP, path: Path, size: int, cell: int) -> None:
    """Write one image of each prompt at `size`, shown at `cell` pixels, in rows of `COLUMNS`."""
    images = []
    for seed, prompt in enumerate(tqdm(PROMPTS, unit="image")):
        image = pipeline.generate([prompt], seeds=[seed], size=size)
        images.append(F.interpolate(image, (cell, cell), mode="area" if cell < size else "nearest"))
    rows = torch.cat(images).split(COLUMNS)
    save_grid(list(rows), path)


def main() -> None:
    """Draw the contact sheet of a checkpoint."""
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluation.contact_sheet", description=main.__doc__
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, default=Path("contact-sheet.png"))
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--cell", type=int, default=128, help="pixels of each image on the sheet")
    arguments = parser.parse_args()
    draw_sheet(UnCLIP.load(arguments.checkpoint), arguments.out, arguments.size, arguments.cell)


if __name__ == "__main__":
    main()
