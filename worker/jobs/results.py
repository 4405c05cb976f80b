"""Results of a job: PNGs with provenance, an animation, and what the job's record holds of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contracts.fields import Animation
from contracts.jobs import ImageInfo, Progress
from models import Parameters, UnCLIP
from models.operations import Outcome
from worker.jobs.images import encode_animation, encode_png
from worker.jobs.provenance import describe_image


@dataclass(frozen=True)
class JobResult:
    """What a successful job leaves in Redis or in the object store."""

    pngs: Sequence[bytes]
    images: Sequence[ImageInfo]
    warnings: Sequence[str]
    progress: Progress
    # Values other than images, such as an embedding.
    result: dict[str, Any] | None
    # Format and content.
    animation: tuple[Animation, bytes] | None


def encode_result(
    pipeline: UnCLIP,
    operation: str,
    request: Mapping[str, Any],
    parameters: Parameters,
    input_digests: Mapping[str, str],
    outcome: Outcome,
    truncated_texts: Sequence[str],
    unknown_words: Sequence[str] = (),
) -> JobResult:
    """Encode the outcome of an operation.

    `request`: the request's fields. `input_digests`: SHA-256 of the input images by name.
    `truncated_texts`: the parts of prompts that did not fit CLIP. `unknown_words`: what each word
    that training never saw was drawn as.
    """
    finished = [(row, row.image) for row in outcome.rows if row.image is not None]
    pngs = []
    for index, (row, image) in enumerate(finished):
        provenance = describe_image(
            pipeline, operation, request, row, index, parameters, input_digests
        )
        pngs.append(encode_png(image, provenance.model_dump()))
    images = [
        ImageInfo(seed=row.seed, width=image.shape[-1], height=image.shape[-2])
        for row, image in finished
    ]
    truncations = [f"A prompt exceeds CLIP's context; truncated: {t}" for t in truncated_texts]
    animation = None
    if kind := request.get("animation"):
        animation = kind, encode_animation([image for _, image in finished], kind)
    return JobResult(
        pngs,
        images,
        [*truncations, *unknown_words, *outcome.warnings],
        _final_progress(outcome, has_inputs=bool(input_digests)),
        outcome.result,
        animation,
    )


def _final_progress(outcome: Outcome, *, has_inputs: bool) -> Progress:
    """Return the progress of a finished job: at the last step of its last stage."""
    stage = "image" if has_inputs else "text"
    steps = 1
    if outcome.rows:
        last = outcome.rows[-1]
        stage = list(last.stage_costs)[-1]
        steps = last.steps
    return Progress(stage=stage, step=steps, steps=steps, fraction=1.0)
