"""What an image is told to say of itself."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch

from contracts.provenance import Provenance
from models import Parameters, UnCLIP
from models.row import Row


def provenance(
    pipeline: UnCLIP,
    operation: str,
    request: dict[str, Any],
    row: Row,
    index: int,
    parameters: Parameters,
    inputs: dict[str, str],
) -> dict[str, Any]:
    """Everything needed to draw the image of `row`, its job's number `index`, again. `inputs`: digests of the images that came with
    the request, by name. No time and no job: the same work gives the same bytes."""
    if (
        request.get("n", 1) > 1
    ):  # the content check may have left some out: its seed tells which of those drawn it is
        index = row.seed - request["seed"]
    asked = {
        name: value
        for name, value in request.items()
        if value is not None and name not in ("n", "seed", *parameters.as_dict())
    }
    told = Provenance(
        operation=operation,
        seed=row.seed,
        index=index,
        parameters=parameters.as_dict(),
        inputs=inputs,
        prior_candidate=None if row.candidate is None else int(row.candidate),
        checkpoint=pipeline.name,
        checkpoint_digest=pipeline.digest,
        version=version("unclip-service"),
        torch=str(torch.__version__),
        device=torch.cuda.get_device_name(pipeline.device)
        if pipeline.device.type == "cuda"
        else pipeline.device.type,
        dtype=str(next(pipeline.decoder.parameters()).dtype).removeprefix("torch."),
    )
    return asked | told.model_dump()
