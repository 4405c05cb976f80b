"""From a job's record to the operation it asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from contracts.fields import Fields
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

Pictures = Mapping[str, Tensor]


def _generate(stack: UnCLIP, fields: GenerateFields, pictures: Pictures, parameters: Parameters) -> Operation:
    if fields.prompt is not None:
        return operations.generate(stack, fields.prompt, _seeds(fields.seed, fields.n), parameters)
    if fields.z_i is not None:
        mixture = [Ingredient(Tensor(fields.z_i))]
    else:
        mixture = []
        for part in fields.mix or []:
            content = part.prompt if part.prompt is not None else Tensor(part.z_i) if part.z_i is not None else pictures[str(part.image)]
            mixture.append(Ingredient(content, part.weight))
    return operations.compose(stack, mixture, _seeds(fields.seed, fields.n), parameters)


def _variations(stack: UnCLIP, fields: VariationsFields, pictures: Pictures, parameters: Parameters) -> Operation:
    return operations.variations(stack, pictures["image"], _seeds(fields.seed, fields.n), parameters)


def _interpolate(stack: UnCLIP, fields: InterpolateFields, pictures: Pictures, parameters: Parameters) -> Operation:
    a = pictures["image_a"] if fields.prompt_a is None else fields.prompt_a
    b = pictures["image_b"] if fields.prompt_b is None else fields.prompt_b
    return operations.interpolate(stack, (a, b), fields.frames, fields.seed or 0, parameters, noise=fields.noise)


def _text_diff(stack: UnCLIP, fields: TextDiffFields, pictures: Pictures, parameters: Parameters) -> Operation:
    return operations.text_diff(
        stack, pictures["image"], fields.prompt_to, fields.prompt_from, fields.frames, fields.theta_max, fields.seed or 0, parameters
    )


def _edit(stack: UnCLIP, fields: EditFields, pictures: Pictures, parameters: Parameters) -> Operation:
    return operations.edit(stack, pictures["image"], pictures["mask"], fields.prompt, _seeds(fields.seed, fields.n), parameters)


def _probe(stack: UnCLIP, fields: ProbeFields, pictures: Pictures, parameters: Parameters) -> Operation:
    return operations.probe(stack, pictures["image"], fields.labels, fields.components, fields.seed or 0, parameters)


def _embeddings(stack: UnCLIP, fields: EmbeddingsFields, pictures: Pictures, parameters: Parameters) -> Operation:
    return operations.embeddings(stack, pictures["image"] if fields.prompt is None else fields.prompt, parameters)


_BEGINNINGS: dict[str, Callable[..., Operation]] = {
    "generate": _generate,
    "variations": _variations,
    "interpolate": _interpolate,
    "text-diff": _text_diff,
    "edit": _edit,
    "probe": _probe,
    "embeddings": _embeddings,
}


def begin(stack: UnCLIP, name: str, fields: Fields, pictures: Pictures, parameters: Parameters) -> Operation:
    """The operation `name` with these fields and input pictures, not yet moved. Its errors are ValueErrors, raised when it moves."""
    return _BEGINNINGS[name](stack, fields, pictures, parameters)


def _seeds(seed: int | None, n: int) -> list[int]:
    """Picture i is drawn from seed + i. The service has drawn a seed where the client gave none."""
    return [(seed or 0) + index for index in range(n)]
