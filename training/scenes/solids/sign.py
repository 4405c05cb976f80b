"""The sign board: where it is, and the colour of its letters."""

from __future__ import annotations

import torch
from torch import Tensor

from training.scenes.glyphs import GLYPH_HEIGHT, GLYPH_WIDTH, glyphs
from training.scenes.solids.scene import MAX_WORD

BOARD_Y = 0.6
BOARD_BOTTOM = 1.35
BOARD_TOP = 2.75
POST_HALF_WIDTH = 0.09
_CELL = 0.125  # width and height of a letter's pixel


def board_half_width(letter_count: Tensor) -> Tensor:
    """Return half the board's width for words of `letter_count` letters, 0 for no sign."""
    return torch.where(
        letter_count > 0, (letter_count * (GLYPH_WIDTH + 1) + 1) * _CELL / 2, torch.zeros(())
    )


def shade_board(letters: Tensor, letter_count: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
    """Return the board's colour `[B, R, 3]` at points `[B, R, 3]`, and a key: ink 1, post 2.

    `letters` `[B, MAX_WORD]` are 0 to 25, `letter_count` `[B]`."""
    half = board_half_width(letter_count)[:, None]
    column = ((point[..., 0] + half) / _CELL - 1).floor().long()
    top = (BOARD_TOP + BOARD_BOTTOM) / 2 + GLYPH_HEIGHT * _CELL / 2
    row = ((top - point[..., 2]) / _CELL).floor().long()
    letter_at = column.div(GLYPH_WIDTH + 1, rounding_mode="floor")
    within = column % (GLYPH_WIDTH + 1)
    letter = letters.gather(1, letter_at.clamp(0, MAX_WORD - 1))
    valid = (
        (column >= 0)
        & (letter_at < letter_count[:, None])
        & (within < GLYPH_WIDTH)
        & (row >= 0)
        & (row < GLYPH_HEIGHT)
    )
    ink = glyphs().to(point.device)[
        letter.clamp(min=0), row.clamp(0, GLYPH_HEIGHT - 1), within.clamp(max=GLYPH_WIDTH - 1)
    ]
    ink = ink & valid
    post = point[..., 2] < BOARD_BOTTOM
    tone = torch.where(ink, 0.05, torch.where(post, 0.30, 0.92))
    return tone[..., None].expand(-1, -1, 3), ink.long() + 2 * post.long()
