"""Content filter: reject input and output images that show what the operator excludes.

CLIP classifies images zero-shot (Radford et al. 2021, §3.1): by the softmax over scaled cosines
between an image's embedding and those of prompts. The operator lists prompts for the excluded
`concepts` and `neutral` ones to compare with. An image is flagged if the probabilities of the
concepts add up to at least `threshold`. The checkpoint's own CLIP does it, so an image is one more
row for the engine.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, cast

import structlog
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from models import Parameters, UnCLIP
from models.operations import Operation, Phase, rescale
from models.row import Row
from worker import metrics
from worker.jobs.errors import FlaggedContentError

log = structlog.stdlib.get_logger("worker.jobs.content_filter")
# Progress of a job when its input images are checked, and when the check of its output begins.
INPUT_PROGRESS = 0.02
OUTPUT_PROGRESS = 0.98
Prompts = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=1000)]


class Concepts(BaseModel):
    """The file of UNCLIP_CONTENT_FILTER."""

    model_config = ConfigDict(extra="forbid")

    concepts: Prompts = Field(description="What no image may show.")
    neutral: Prompts = Field(description="What images usually show.")
    threshold: float = Field(
        gt=0,
        le=1,
        description="Sum of the concepts' probabilities at which an image is flagged.",
    )


def read_concepts(path: Path) -> Concepts:
    """Read and validate a content filter file. Raises ValueError with the reason."""
    try:
        return Concepts.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"it cannot be read: {error}") from error
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'the file'}: {fault['msg']}"
            for fault in error.errors()
        ]
        raise ValueError("; ".join(faults)) from error


class ContentFilter:
    """Check the input and output images of operations, as rows of the engine."""

    def __init__(self, pipeline: UnCLIP, concepts: Concepts) -> None:
        """Encode the concepts; call it before the engine owns the pipeline.

        Raises ValueError if the checkpoint has no image encoder.
        """
        if not pipeline.clip.has_image_encoder:
            raise ValueError(f"checkpoint {pipeline.name!r} has no image encoder")
        self.pipeline = pipeline
        self.concepts = concepts
        rows = [
            pipeline.prompt_row(text, 0, pipeline.resolve(), prior=False)
            for text in (*concepts.concepts, *concepts.neutral)
        ]
        pipeline.run(rows)
        # [number of prompts, D]
        self._z_t = F.normalize(
            torch.cat([row.conditioning.text.z_t for row in rows if row.conditioning]), dim=1
        )

    def guard(
        self,
        operation: Operation,
        images: Mapping[str, Tensor],
        parameters: Parameters,
        *,
        drop_flagged: bool,
    ) -> Operation:
        """Wrap an operation in checks of its input images and of its output.

        `images`: input images by name; a mask shows nothing and is not checked. `drop_flagged`:
        leave flagged output images out, with a warning, unless all of them are flagged. Raises
        FlaggedContentError in all other cases of a flagged image.
        """
        inputs = [image for name, image in images.items() if name != "mask"]
        if any((yield from self._check_images("input", inputs, parameters, INPUT_PROGRESS))):
            raise FlaggedContentError("An input image was flagged by the content filter.")
        outcome = yield from rescale(operation, INPUT_PROGRESS, OUTPUT_PROGRESS)
        outputs = [cast(Tensor, row.image) for row in outcome.rows]
        flags = yield from self._check_images("output", outputs, parameters, 1.0)
        checked = list(zip(outcome.rows, flags, strict=True))
        passed = [row for row, is_flagged in checked if not is_flagged]
        flagged = [row for row, is_flagged in checked if is_flagged]
        if flagged and not (drop_flagged and passed):
            raise FlaggedContentError(
                "The generated images were flagged by the content filter. Change the request."
            )
        warnings = [
            f"The image of seed {row.seed} was flagged by the content filter and is left out."
            for row in flagged
        ]
        return replace(outcome, rows=passed, warnings=[*outcome.warnings, *warnings])

    @torch.inference_mode()
    def probability(self, z_i: Tensor) -> float:
        """Return the probability that an image with embedding `[D]` shows one of the concepts."""
        scale = self.pipeline.clip.similarity_scale
        probabilities = (scale * (self._z_t @ F.normalize(z_i, dim=0))).softmax(0)
        return float(probabilities[: len(self.concepts.concepts)].sum())

    def _check_images(
        self, source: str, images: Sequence[Tensor], parameters: Parameters, progress: float
    ) -> Generator[Phase, None, list[bool]]:
        """Return for each image `[3, S, S]` whether it is flagged."""
        rows = [self.pipeline.image_row(image, parameters, invert=False) for image in images]
        if rows:
            yield Phase(rows, progress)
        probabilities = [self.probability(_z_i(row)) for row in rows]
        flags = [probability >= self.concepts.threshold for probability in probabilities]
        if any(flags):
            log.warning(
                "images flagged",
                source=source,
                probabilities=[round(probability, 3) for probability in probabilities],
            )
            metrics.count_flagged(source, sum(flags))
        return flags


def _z_i(row: Row) -> Tensor:
    assert row.conditioning is not None
    assert row.conditioning.z_i is not None
    return row.conditioning.z_i
