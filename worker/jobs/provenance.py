"""Provenance of an image: everything needed to generate it again."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from typing import Any

import torch

from contracts.provenance import Provenance
from models import Parameters, UnCLIP
from models.row import Row


def describe_image(
    pipeline: UnCLIP,
    operation: str,
    request: Mapping[str, Any],
    row: Row,
    index: int,
    parameters: Parameters,
    input_digests: Mapping[str, str],
) -> Provenance:
    """Return the provenance of a row's image.

    `request`: the request's fields, seed included. `index`: position among the images that the job
    delivers. `input_digests`: SHA-256 of the input images by name. It holds no time and no job id,
    so that the same work gives the same bytes.
    """
    # The content filter may have dropped images before this one; the seed is still the row's.
    if request.get("n", 1) > 1:
        index = row.seed - request["seed"]
    resolved = parameters.as_dict()
    requested = {
        name: value
        for name, value in request.items()
        if value is not None and name not in ("n", "seed", *resolved)
    }
    return Provenance(
        operation=operation,
        seed=row.seed,
        index=index,
        parameters=resolved,
        inputs=dict(input_digests),
        prior_candidate=None if row.candidate is None else int(row.candidate),
        checkpoint=pipeline.name,
        checkpoint_digest=pipeline.digest,
        version=_version(),
        torch=str(torch.__version__),
        device=_device_name(pipeline.device),
        dtype=str(next(pipeline.decoder.parameters()).dtype).removeprefix("torch."),
        **requested,
    )


@cache
def _version() -> str:
    """Reading a distribution's metadata takes half a millisecond, so do it once."""
    return version("unclip-service")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
