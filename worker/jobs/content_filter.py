"""The content check: pictures that show what the operator does not want are neither worked on nor delivered.

CLIP, zero-shot (Radford et al. 2021, §3.1), the checkpoint's own: a picture's embedding beside those of captions, by a softmax of their
cosines. The captions are the operator's: `concepts` that no picture may show, and `neutral` ones to hold them against. A picture is
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
GIVEN_DONE, DRAWN_DONE = 0.02, 0.98  # shares of a job's work that looking at its pictures ends and begins at
Captions = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=1000)]


class Concepts(BaseModel):
    """The file of UNCLIP_CONTENT_CHECK."""

    model_config = ConfigDict(extra="forbid")

    concepts: Captions = Field(description="What no picture may show.")
    neutral: Captions = Field(description="What pictures show otherwise.")
    threshold: float = Field(gt=0, le=1, description="Sum of the concepts' probabilities from which on a picture is flagged.")


class ContentError(RuntimeError):
    """A job's pictures show what they may not."""


def read(path: Path) -> Concepts:
    """The file. ValueError for one that will not do."""
    try:
        return Concepts.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"it cannot be read: {error}") from error
    except ValidationError as error:
        raise ValueError("; ".join(f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors())) from error


class ContentCheck:
    """The check of one stack. Made before the engine owns it; from then on pictures are looked at as rows among others."""

    def __init__(self, stack: UnCLIP, concepts: Concepts) -> None:
        """ValueError where the checkpoint cannot look at pictures."""
        if not stack.clip.has_image_encoder:
            raise ValueError(f"checkpoint {stack.name!r} has no image encoder")
        self.stack, self.concepts = stack, concepts
        rows = [stack.caption_row(text, 0, stack.resolve(), prior=False) for text in (*concepts.concepts, *concepts.neutral)]
        stack.draw(rows)
        self._z_t = F.normalize(torch.cat([row.conditioning.text.z_t for row in rows if row.conditioning]), dim=1)  # (K, D)

    def guard(self, operation: Operation, pictures: Mapping[str, Tensor], parameters: Parameters, *, singly: bool) -> Operation:
        """The operation between two looks: at the pictures that it is given and at those that it draws.

        `singly`: of several drawn pictures those that are flagged are left out, with a warning; else, and where none is left, the job
        fails. ContentError where it does."""
        given = [picture for name, picture in pictures.items() if name != "mask"]
        if any((yield from self._look("given", given, parameters, GIVEN_DONE))):
            raise ContentError("A picture that came with the request shows what this service does not work with.")
        outcome = yield from _between(operation)
        drawn = [cast(Tensor, row.image) for row in outcome.rows]
        flagged = yield from self._look("drawn", drawn, parameters, 1.0)
        kept = [row for row, is_flagged in zip(outcome.rows, flagged, strict=True) if not is_flagged]
        if len(kept) < len(flagged) and not (singly and kept):
            raise ContentError("What was drawn shows what this service does not deliver. Ask for something else.")
        left_out = [row.seed for row, is_flagged in zip(outcome.rows, flagged, strict=True) if is_flagged]
        warnings = [f"The picture of seed {seed} is left out: it shows what this service does not deliver." for seed in left_out]
        return replace(outcome, rows=kept, warnings=[*outcome.warnings, *warnings])

    @torch.inference_mode()
    def probability(self, z_i: Tensor) -> float:
        """How probable it is that a picture with this embedding `[D]` shows one of the concepts, rather than something neutral."""
        scale = self.stack.clip.network.logit_scale.exp().clamp(max=100)
        probabilities = (scale * (self._z_t @ F.normalize(z_i, dim=0))).softmax(0)
        return float(probabilities[: len(self.concepts.concepts)].sum())

    def _look(self, where: str, pictures: Sequence[Tensor], parameters: Parameters, done: float) -> Generator[Phase, None, list[bool]]:
        """For each picture `[3, S, S]` whether it is flagged."""
        rows = [self.stack.picture_row(picture, parameters, invert=False) for picture in pictures]
        if rows:
            yield Phase(rows, done)
        found = [self.probability(_z_i(row)) for row in rows]
        flagged = [probability >= self.concepts.threshold for probability in found]
        if any(flagged):
            log.warning("pictures flagged", pictures=where, probabilities=[round(probability, 3) for probability in found])
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
        yield replace(phase, done=GIVEN_DONE + (DRAWN_DONE - GIVEN_DONE) * phase.done)


def _z_i(row: Row) -> Tensor:
    assert row.conditioning is not None and row.conditioning.z_i is not None
    return row.conditioning.z_i
