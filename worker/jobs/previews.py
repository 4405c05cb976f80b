"""What an image looks like so far, for those who watch it being drawn."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import torch.nn.functional as F

from contracts.jobs import Preview
from models.row import Row
from worker.jobs.images import pillow

MAX_SIDE = 256
QUALITY = 60  # of WebP: a preview is looked at for half a second


def previews(rows: Sequence[Row]) -> list[Preview]:
    """Of each row that has come as far as an image its present estimate, at most MAX_SIDE wide, as WebP. Rows that end with something
    other than an image have none."""
    if not all("decoder" in row.plan for row in rows):
        return []
    shown = []
    for index, row in enumerate(rows):
        image = row.preview()
        if image is None:
            continue
        if image.shape[-1] > MAX_SIDE:
            image = F.interpolate(image[None], (MAX_SIDE, MAX_SIDE), mode="area")[0]
        buffer = io.BytesIO()
        pillow(image).save(buffer, "WEBP", quality=QUALITY)
        shown.append(
            Preview(
                index=index,
                image="data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode(),
            )
        )
    return shown
