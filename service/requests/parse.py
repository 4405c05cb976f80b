"""Parse a request: from its body to validated fields and normalized images."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from pydantic import ValidationError

from contracts.fields import ImageInput, ImageRef, QueueFields
from contracts.images import has_alpha, normalize_image
from contracts.operations import OPERATIONS
from service.errors import BadRequest, FieldProblem, InvalidRequest, UnsupportedMediaType
from service.jobs.submit import JobRequest
from service.requests.body import media_type, read_form
from service.requests.images import ImageError, decode_base64, open_image
from service.settings import Settings
from service.webhooks.policy import webhook_from_request

# Returns the PNG of a job's image, None if there is none.
FindImage = Callable[[str, int], Awaitable[bytes | None]]


async def parse_request(
    request: Request, operation: str, settings: Settings, base_url: str, find_image: FindImage
) -> JobRequest:
    """Parse the body of a request.

    base_url: base of the links in the job that a webhook receives.
    find_image: reads an image of an earlier job, by job id and index.

    Raises BadRequest, UnsupportedMediaType, or InvalidRequest.
    """
    fields = await _parse_fields(request, operation)
    webhook = webhook_from_request(fields, base_url, settings)
    inputs = fields.image_inputs()
    images: dict[str, bytes] = {}
    if inputs:
        files = {name: await _read_image(name, inputs[name], find_image) for name in inputs}
        images = await run_in_threadpool(_normalize, operation, files, settings)
    return JobRequest(operation, fields.with_named_inputs(), images, webhook)


async def _parse_fields(request: Request, operation: str) -> QueueFields:
    """Validate the body against the operation's request model."""
    model = OPERATIONS[operation]
    media = media_type(request)
    try:
        if media == "application/json":
            return model.model_validate_json(await request.body())
        if media == "multipart/form-data" and operation != "generate":
            return model.model_validate(await read_form(request))
    except ValidationError as error:
        raise _invalid(error) from error
    expected = "JSON, with Content-Type: application/json"
    if operation != "generate":
        expected += ", or multipart/form-data with the images as files"
    raise UnsupportedMediaType(f"The body is {media or 'of no stated type'}: send {expected}.")


def _invalid(error: ValidationError) -> BadRequest | InvalidRequest:
    faults = error.errors(include_url=False)
    if faults[0]["type"] == "json_invalid":
        return BadRequest(
            f"The body is not JSON: {faults[0]['ctx']['error']}. Send one JSON object, in UTF-8."
        )
    return InvalidRequest.from_problems([FieldProblem.from_fault(fault) for fault in faults])


async def _read_image(name: str, image: ImageInput, find_image: FindImage) -> bytes:
    if isinstance(image, ImageRef):
        content = await find_image(image.job, image.index)
        if content is None:
            raise _image_error(name, f"there is no image {image.index} of a job {image.job!r}")
        return content
    try:
        return decode_base64(image)
    except ImageError as error:
        raise _image_error(name, str(error)) from error


def _normalize(operation: str, files: Mapping[str, bytes], settings: Settings) -> dict[str, bytes]:
    images = {}
    for name, content in files.items():
        try:
            images[name] = open_image(content, settings.max_image_bytes, settings.max_image_pixels)
        except ImageError as error:
            raise _image_error(name, str(error)) from error
    if operation == "edit":
        base = images["image"]
        if "mask" not in images and not has_alpha(base):
            raise _image_error(
                "mask",
                "there is none, and no part of the image is transparent; "
                "send a mask, white where to repaint",
            )
        mask = images.setdefault("mask", base)
        if mask.size != base.size:
            raise _image_error(
                "mask",
                f"it is {mask.width}×{mask.height} and the image {base.width}×{base.height}; "
                "send one of the same size",
            )
    return {
        name: normalize_image(image, "mask" if name == "mask" else "image")
        for name, image in images.items()
    }


def _image_error(name: str, reason: str) -> InvalidRequest:
    field = f"mix.{name.removeprefix('mix_')}.image" if name.startswith("mix_") else name
    return InvalidRequest.from_field(field, reason)
