"""Previews of images while they are generated."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import torch.nn.functional as F

from contracts.jobs import Preview
from models.row import Row
from worker.jobs.images import to_pillow

MAX_SIDE_PX = 256
# WebP quality: a preview is visible for half a second.
QUALITY = 60


def make_previews(rows: Sequence[Row]) -> list[Preview]:
    """Return the present estimate of each row's image, as WebP, at most MAX_SIDE_PX wide.

    Rows before the decoder have none. Rows that end without an image make no previews at all.
    """
    if not all("decoder" in row.stage_costs for row in rows):
        return []
    previews = []
    for index, row in enumerate(rows):
        image = row.preview()
        if image is None:
            continue
        if image.shape[-1] > MAX_SIDE_PX:
            image = F.interpolate(image[None], (MAX_SIDE_PX, MAX_SIDE_PX), mode="area")[0]
        buffer = io.BytesIO()
        to_pillow(image).save(buffer, "WEBP", quality=QUALITY)
        encoded = base64.b64encode(buffer.getvalue()).decode()
        previews.append(Preview(index=index, image=f"data:image/webp;base64,{encoded}"))
    return previews
