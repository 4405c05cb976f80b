"""From a job's record to the operation it asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from contracts.fields import RequestFields
from contracts.operations import (
    EditFields,
    EmbeddingsFields,
    GenerateFields,
    InterpolateFields,
    ProbeFields,
    TextDiffFields,
    VariationsFields,
)
from models import UnCLIP, operations
from models.operations import Ingredient, Operation
from models.parameters import Parameters

Images = Mapping[str, Tensor]


def _generate(
    pipeline: UnCLIP, fields: GenerateFields, images: Images, parameters: Parameters
) -> Operation:
    if fields.prompt is not None:
        return operations.generate(
            pipeline, fields.prompt, _seeds(fields.seed, fields.n), parameters
        )
    if fields.z_i is not None:
        mixture = [Ingredient(Tensor(fields.z_i))]
    else:
        mixture = []
        for part in fields.mix or []:
            content = (
                part.prompt
                if part.prompt is not None
                else Tensor(part.z_i)
                if part.z_i is not None
                else images[str(part.image)]
            )
            mixture.append(Ingredient(content, part.weight))
    return operations.compose(pipeline, mixture, _seeds(fields.seed, fields.n), parameters)


def _variations(
    pipeline: UnCLIP, fields: VariationsFields, images: Images, parameters: Parameters
) -> Operation:
    return operations.variations(
        pipeline, images["image"], _seeds(fields.seed, fields.n), parameters
    )


def _interpolate(
    pipeline: UnCLIP, fields: InterpolateFields, images: Images, parameters: Parameters
) -> Operation:
    a = images["image_a"] if fields.prompt_a is None else fields.prompt_a
    b = images["image_b"] if fields.prompt_b is None else fields.prompt_b
    return operations.interpolate(
        pipeline, (a, b), fields.frames, fields.seed or 0, parameters, noise=fields.noise
    )


def _text_diff(
    pipeline: UnCLIP, fields: TextDiffFields, images: Images, parameters: Parameters
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
    pipeline: UnCLIP, fields: EditFields, images: Images, parameters: Parameters
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
    pipeline: UnCLIP, fields: ProbeFields, images: Images, parameters: Parameters
) -> Operation:
    return operations.probe(
        pipeline, images["image"], fields.labels, fields.components, fields.seed or 0, parameters
    )


def _embeddings(
    pipeline: UnCLIP, fields: EmbeddingsFields, images: Images, parameters: Parameters
) -> Operation:
    return operations.embeddings(
        pipeline, images["image"] if fields.prompt is None else fields.prompt, parameters
    )


_BEGINNINGS: dict[str, Callable[..., Operation]] = {
    "generate": _generate,
    "variations": _variations,
    "interpolate": _interpolate,
    "text-diff": _text_diff,
    "edit": _edit,
    "probe": _probe,
    "embeddings": _embeddings,
}


def begin(
    pipeline: UnCLIP, name: str, fields: RequestFields, images: Images, parameters: Parameters
) -> Operation:
    """The operation `name` with these fields and input images, not yet moved. Its errors are ValueErrors, raised when it moves."""
    return _BEGINNINGS[name](pipeline, fields, images, parameters)


def _seeds(seed: int | None, n: int) -> list[int]:
    """Image i is drawn from seed + i. The service has drawn a seed where the client gave none."""
    return [(seed or 0) + index for index in range(n)]
