"""Start the operation that a job's request names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from contracts.fields import RequestFields
from contracts.operations import (
    EditRequest,
    EmbeddingsRequest,
    GenerateRequest,
    InterpolateRequest,
    MixPart,
    ProbeRequest,
    TextDiffRequest,
    VariationsRequest,
)
from models import UnCLIP, operations
from models.operations import Ingredient, Operation
from models.parameters import Parameters

Images = Mapping[str, Tensor]


def _generate(
    pipeline: UnCLIP, fields: GenerateRequest, images: Images, parameters: Parameters
) -> Operation:
    if fields.prompt is not None:
        return operations.generate(
            pipeline, fields.prompt, _seeds(fields.seed, fields.n), parameters
        )
    if fields.z_i is not None:
        mixture = [Ingredient(Tensor(fields.z_i))]
    else:
        mixture = [Ingredient(_content(part, images), part.weight) for part in fields.mix or []]
    return operations.compose(pipeline, mixture, _seeds(fields.seed, fields.n), parameters)


def _content(part: MixPart, images: Images) -> str | Tensor:
    if part.prompt is not None:
        return part.prompt
    if part.z_i is not None:
        return Tensor(part.z_i)
    return images[str(part.image)]


def _variations(
    pipeline: UnCLIP, fields: VariationsRequest, images: Images, parameters: Parameters
) -> Operation:
    return operations.variations(
        pipeline, images["image"], _seeds(fields.seed, fields.n), parameters
    )


def _interpolate(
    pipeline: UnCLIP, fields: InterpolateRequest, images: Images, parameters: Parameters
) -> Operation:
    a = images["image_a"] if fields.prompt_a is None else fields.prompt_a
    b = images["image_b"] if fields.prompt_b is None else fields.prompt_b
    return operations.interpolate(
        pipeline, (a, b), fields.frames, fields.seed or 0, parameters, noise=fields.noise
    )


def _text_diff(
    pipeline: UnCLIP, fields: TextDiffRequest, images: Images, parameters: Parameters
) -> Operation:
    return operations.text_diff(
        pipeline,
        images["image"],
        fields.prompt_to,
        fields.prompt_from,
        fields.frames,
        fields.theta_max,
        fields.seed or 0,
        parameters,
    )


def _edit(
    pipeline: UnCLIP, fields: EditRequest, images: Images, parameters: Parameters
) -> Operation:
    return operations.edit(
        pipeline,
        images["image"],
        images["mask"],
        fields.prompt,
        _seeds(fields.seed, fields.n),
        parameters,
    )


def _probe(
    pipeline: UnCLIP, fields: ProbeRequest, images: Images, parameters: Parameters
) -> Operation:
    return operations.probe(
        pipeline, images["image"], fields.labels, fields.components, fields.seed or 0, parameters
    )


def _embeddings(
    pipeline: UnCLIP, fields: EmbeddingsRequest, images: Images, parameters: Parameters
) -> Operation:
    return operations.embeddings(
        pipeline, images["image"] if fields.prompt is None else fields.prompt, parameters
    )


# By the operation's name in the request.
_OPERATIONS: dict[str, Callable[..., Operation]] = {
    "generate": _generate,
    "variations": _variations,
    "interpolate": _interpolate,
    "text-diff": _text_diff,
    "edit": _edit,
    "probe": _probe,
    "embeddings": _embeddings,
}


def start_operation(
    pipeline: UnCLIP, name: str, fields: RequestFields, images: Images, parameters: Parameters
) -> Operation:
    """Return an operation that has not run yet.

    `images`: the request's input images `[C, S, S]` in [-1, 1], by name. The operation raises
    ValueError while it runs if the checkpoint cannot serve the request.
    """
    return _OPERATIONS[name](pipeline, fields, images, parameters)


def _seeds(seed: int | None, n: int) -> list[int]:
    """Return the seed of each image: seed + i. The service has set a seed if the client did not."""
    return [(seed or 0) + index for index in range(n)]
