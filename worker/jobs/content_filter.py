"""The content check: images that show what the operator does not want are neither worked on nor delivered.

CLIP, zero-shot (Radford et al. 2021, §3.1), the checkpoint's own: an image's embedding beside those of captions, by a softmax of their
cosines. The captions are the operator's: `concepts` that no image may show, and `neutral` ones to hold them against. An image is
flagged where the concepts' probabilities add up to `threshold`.
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
from models.operations import Operation, Outcome, Phase
from models.row import Row
from worker import metrics

log = structlog.stdlib.get_logger("worker.jobs.content_filter")
# shares of a job's work that looking at its images ends and begins at
GIVEN_DONE = 0.02
DRAWN_DONE = 0.98
Captions = Annotated[
    list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=1000)
]


class Concepts(BaseModel):
    """The file of UNCLIP_CONTENT_CHECK."""

    model_config = ConfigDict(extra="forbid")

    concepts: Captions = Field(description="What no image may show.")
    neutral: Captions = Field(description="What images show otherwise.")
    threshold: float = Field(
        gt=0,
        le=1,
        description="Sum of the concepts' probabilities from which on an image is flagged.",
    )


class ContentError(RuntimeError):
    """A job's images show what they may not."""


def read(path: Path) -> Concepts:
    """The file. ValueError for one that will not do."""
    try:
        return Concepts.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"it cannot be read: {error}") from error
    except ValidationError as error:
        raise ValueError(
            "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors()
            )
        ) from error


class ContentCheck:
    """The check of one pipeline. Made before the engine owns it; from then on images are looked at as rows among others."""

    def __init__(self, pipeline: UnCLIP, concepts: Concepts) -> None:
        """ValueError where the checkpoint cannot look at images."""
        if not pipeline.clip.has_image_encoder:
            raise ValueError(f"checkpoint {pipeline.name!r} has no image encoder")
        self.pipeline = pipeline
        self.concepts = concepts
        rows = [
            pipeline.caption_row(text, 0, pipeline.resolve(), prior=False)
            for text in (*concepts.concepts, *concepts.neutral)
        ]
        pipeline.draw(rows)
        self._z_t = F.normalize(
            torch.cat([row.conditioning.text.z_t for row in rows if row.conditioning]), dim=1
        )  # (K, D)

    def guard(
        self,
        operation: Operation,
        images: Mapping[str, Tensor],
        parameters: Parameters,
        *,
        singly: bool,
    ) -> Operation:
        """The operation between two looks: at the images that it is given and at those that it draws.

        `singly`: of several drawn images those that are flagged are left out, with a warning; else, and where none is left, the job
        fails. ContentError where it does."""
        given = [image for name, image in images.items() if name != "mask"]
        if any((yield from self._look("given", given, parameters, GIVEN_DONE))):
            raise ContentError(
                "An image that came with the request shows what this service does not work with."
            )
        outcome = yield from _between(operation)
        drawn = [cast(Tensor, row.image) for row in outcome.rows]
        flagged = yield from self._look("drawn", drawn, parameters, 1.0)
        kept = [
            row for row, is_flagged in zip(outcome.rows, flagged, strict=True) if not is_flagged
        ]
        if len(kept) < len(flagged) and not (singly and kept):
            raise ContentError(
                "What was drawn shows what this service does not deliver. Ask for something else."
            )
        left_out = [
            row.seed for row, is_flagged in zip(outcome.rows, flagged, strict=True) if is_flagged
        ]
        warnings = [
            f"The image of seed {seed} is left out: it shows what this service does not deliver."
            for seed in left_out
        ]
        return replace(outcome, rows=kept, warnings=[*outcome.warnings, *warnings])

    @torch.inference_mode()
    def probability(self, z_i: Tensor) -> float:
        """How probable it is that an image with this embedding `[D]` shows one of the concepts, rather than something neutral."""
        scale = self.pipeline.clip.network.logit_scale.exp().clamp(max=100)
        probabilities = (scale * (self._z_t @ F.normalize(z_i, dim=0))).softmax(0)
        return float(probabilities[: len(self.concepts.concepts)].sum())

    def _look(
        self, where: str, images: Sequence[Tensor], parameters: Parameters, done: float
    ) -> Generator[Phase, None, list[bool]]:
        """For each image `[3, S, S]` whether it is flagged."""
        rows = [self.pipeline.image_row(image, parameters, invert=False) for image in images]
        if rows:
            yield Phase(rows, done)
        found = [self.probability(_z_i(row)) for row in rows]
        flagged = [probability >= self.concepts.threshold for probability in found]
        if any(flagged):
            log.warning(
                "images flagged",
                images=where,
                probabilities=[round(probability, 3) for probability in found],
            )
            metrics.flagged(where, sum(flagged))
        return flagged


def _between(operation: Operation) -> Operation:
    """An operation whose work lies between the two looks."""
    while True:
        try:
            phase = next(operation)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
        yield replace(phase, progress=GIVEN_DONE + (DRAWN_DONE - GIVEN_DONE) * phase.progress)


def _z_i(row: Row) -> Tensor:
    assert row.conditioning is not None and row.conditioning.z_i is not None
    return row.conditioning.z_i
