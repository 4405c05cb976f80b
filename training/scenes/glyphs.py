"""A 5x7 pixel font for the signs: one byte a column, the lowest bit at the top."""

from __future__ import annotations

import torch
from torch import Tensor

GLYPH_WIDTH = 5
GLYPH_HEIGHT = 7
_COLUMNS = [
    "A7E1111117E",
    "B7F49494936",
    "C3E41414122",
    "D7F4141221C",
    "E7F49494941",
    "F7F09090901",
    "G3E4149497A",
    "H7F0808087F",
    "I00417F4100",
    "J2040413F01",
    "K7F08142241",
    "L7F40404040",
    "M7F020C027F",
    "N7F0408107F",
    "O3E4141413E",
    "P7F09090906",
    "Q3E4151215E",
    "R7F09192946",
    "S4649494931",
    "T01017F0101",
    "U3F4040403F",
    "V1F2040201F",
    "W3F4038403F",
    "X6314081463",
    "Y0708700807",
    "Z6151494543",
]


def glyphs() -> Tensor:
    """Return `[26, 7, 5]` booleans of A to Z: True for ink."""
    columns = torch.tensor([list(bytes.fromhex(letter[1:])) for letter in _COLUMNS])  # (26, 5)
    return (columns[:, None, :] >> torch.arange(GLYPH_HEIGHT)[None, :, None]) & 1 == 1
