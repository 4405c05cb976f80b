"""Parse a request: from its body to validated fields and normalized images."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager

from fastapi import Request
from PIL import Image
from pydantic import ValidationError

from contracts.fields import ImageInput, ImageRef, QueueFields
from contracts.images import has_alpha, normalize_image
from contracts.operations import OPERATIONS
from service.errors import BadRequest, FieldProblem, InvalidRequest, UnsupportedMediaType
from service.jobs.submit import JobRequest
from service.requests.body import media_type, read_body, read_form, validate_json
from service.requests.images import (
    ImageError,
    check_total_pixels,
    decode_base64,
    open_image,
)
from service.requests.serial import run_serially
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
        references = await _read_references(inputs, find_image)
        images = await run_serially(_normalize, operation, inputs, references, settings)
    return JobRequest(operation, fields.with_named_inputs(), images, webhook)


async def _parse_fields(request: Request, operation: str) -> QueueFields:
    """Validate the body against the operation's request model."""
    model = OPERATIONS[operation]
    media = media_type(request)
    try:
        if media == "application/json":
            return await validate_json(model, await read_body(request))
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


async def _read_references(
    inputs: Mapping[str, ImageInput], find_image: FindImage
) -> dict[str, bytes]:
    """Return the files of images that are references to earlier jobs, by name."""
    files = {}
    for name, image in inputs.items():
        if isinstance(image, ImageRef):
            content = await find_image(image.job, image.index)
            if content is None:
                raise _image_error(name, f"there is no image {image.index} of a job {image.job!r}")
            files[name] = content
    return files


def _normalize(
    operation: str,
    inputs: Mapping[str, ImageInput],
    references: Mapping[str, bytes],
    settings: Settings,
) -> dict[str, bytes]:
    """Normalize the images one after the other, so that memory holds one that is decoded."""
    files = dict(references)
    for name, image in inputs.items():
        if isinstance(image, str):
            with _errors_of(name):
                files[name] = decode_base64(image, settings.max_image_bytes)
    with _errors_of("body"):
        check_total_pixels(
            files.values(),
            settings.max_image_bytes,
            settings.max_image_pixels,
            settings.max_request_pixels,
        )
    if operation == "edit":
        return _normalize_edit(files, settings)
    return {
        name: normalize_image(_open(name, content, settings), "image")
        for name, content in files.items()
    }


def _normalize_edit(files: Mapping[str, bytes], settings: Settings) -> dict[str, bytes]:
    """Normalize the image and the mask of an edit; the image's transparency is a mask, too."""
    image = _open("image", files["image"], settings)
    width, height = image.size
    if "mask" not in files:
        if not has_alpha(image):
            raise _image_error(
                "mask",
                "there is none, and no part of the image is transparent; "
                "send a mask, white where to repaint",
            )
        mask = normalize_image(image, "mask")
        return {"image": normalize_image(image, "image"), "mask": mask}
    content = normalize_image(image, "image")
    del image
    mask_image = _open("mask", files["mask"], settings)
    if mask_image.size != (width, height):
        raise _image_error(
            "mask",
            f"it is {mask_image.width}×{mask_image.height} and the image {width}×{height}; "
            "send one of the same size",
        )
    return {"image": content, "mask": normalize_image(mask_image, "mask")}


def _open(name: str, content: bytes, settings: Settings) -> Image.Image:
    with _errors_of(name):
        return open_image(content, settings.max_image_bytes, settings.max_image_pixels)


@contextmanager
def _errors_of(name: str) -> Iterator[None]:
    """Turn an ImageError of the block into InvalidRequest about this image."""
    try:
        yield
    except ImageError as error:
        raise _image_error(name, str(error)) from error


def _image_error(name: str, reason: str) -> InvalidRequest:
    field = f"mix.{name.removeprefix('mix_')}.image" if name.startswith("mix_") else name
    return InvalidRequest.from_field(field, reason)
