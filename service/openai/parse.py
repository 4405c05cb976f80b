"""Parse the body of an OpenAI call into a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import Request
from PIL import Image
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from contracts.images import has_alpha, normalize_image
from contracts.operations import OPERATIONS
from service.jobs.submit import JobRequest
from service.openai.errors import OpenAIError, from_validation_error, image_error
from service.openai.schemas import EditsCall, GenerationsCall, ImagesCall, VariationsCall
from service.requests.body import media_type, open_form, read_json
from service.requests.images import ImageError, check_total_pixels, open_image
from service.requests.serial import run_serially
from service.settings import Settings

MAX_FILES = 20
MAX_FIELDS = 100
Uploads = dict[str, list[bytes]]


@dataclass(frozen=True)
class CallType:
    """One of OpenAI's calls.

    schema: its fields. operation: what the job does. files: names of its image files; a call
    without files is JSON.
    """

    schema: type[ImagesCall]
    operation: str
    files: tuple[str, ...] = ()


CALLS = {
    "generations": CallType(GenerationsCall, "generate"),
    "edits": CallType(EditsCall, "edit", ("image", "mask")),
    "variations": CallType(VariationsCall, "variations", ("image",)),
}


async def parse_call(
    request: Request, name: str, settings: Settings
) -> tuple[ImagesCall, JobRequest]:
    """Parse a call, and make the job that it requests.

    Raises OpenAIError 400 if a field or an image cannot be used, BadRequest for invalid JSON.
    """
    call_type = CALLS[name]
    if call_type.files:
        fields, files = await _read_form(request, call_type.files)
    else:
        fields, files = await _read_json(request)
    try:
        # The fields of a form are text, so numbers are parsed; in JSON a number must be a number.
        call = call_type.schema.model_validate(fields, strict=not call_type.files)
        parameters: dict[str, Any] = {"n": call.count, "size": call.generated_px, "seed": call.seed}
        parameters |= call.model_dump(include={"prompt"})
        parameters |= {file: file for file in call_type.files}
        job_fields = OPERATIONS[call_type.operation].model_validate(parameters)
    except ValidationError as error:
        raise from_validation_error(error) from error
    images = await run_serially(_normalize_images, files, name, settings)
    return call, JobRequest(call_type.operation, job_fields, images)


async def _read_json(request: Request) -> tuple[Any, Uploads]:
    if media_type(request) != "application/json":
        raise _unsupported_media_type(request, "application/json")
    return await read_json(request), {}


async def _read_form(
    request: Request, file_names: tuple[str, ...]
) -> tuple[dict[str, Any], Uploads]:
    """Read fields and files. Several files of one name may be called `image[]`."""
    if media_type(request) != "multipart/form-data":
        raise _unsupported_media_type(request, "multipart/form-data")
    fields: dict[str, Any] = {}
    files: Uploads = {}
    try:
        async with open_form(request, MAX_FILES, MAX_FIELDS) as form:
            for key, value in form.multi_items():
                # Browsers and clients send inputs that are not set as empty ones.
                if isinstance(value, UploadFile):
                    if not (value.filename or value.size):
                        continue
                    files.setdefault(key.removesuffix("[]"), []).append(await value.read())
                elif value:
                    fields[key] = value
    except Exception as error:
        reason = str(getattr(error, "detail", error))[:200]
        raise OpenAIError(
            400, f"The form could not be read ({reason}). Send it as multipart/form-data."
        ) from error
    for name in file_names:
        if name in fields:
            raise image_error(name, "it is text; send it as a file")
    for name in files.keys() - file_names:
        raise OpenAIError(
            400,
            f"{name}: there is no such file; send {', '.join(file_names)}.",
            name,
            "unknown_parameter",
        )
    return fields, files


def _unsupported_media_type(request: Request, expected: str) -> OpenAIError:
    received = media_type(request) or "of no stated type"
    return OpenAIError(
        400, f"The body is {received}: send {expected}.", code="unsupported_content_type"
    )


def _normalize_images(files: Uploads, name: str, settings: Settings) -> dict[str, bytes]:
    """Return the images of a call as PNG by name, as the worker reads them."""
    file_names = CALLS[name].files
    if not file_names:
        return {}
    contents = [content for file_name in file_names for content in files.get(file_name, ())]
    try:
        check_total_pixels(
            contents,
            settings.max_image_bytes,
            settings.max_image_pixels,
            settings.max_request_pixels,
        )
    except ImageError as error:
        raise image_error("image", str(error)) from error
    image = _open_image("image", files.get("image", []), settings)
    if name != "edits":
        return {"image": normalize_image(image, "image")}
    size = image.size
    if "mask" not in files:
        _check_own_mask(image)
        mask_png = normalize_image(image, "mask")
        return {"image": normalize_image(image, "image"), "mask": mask_png}
    image_png = normalize_image(image, "image")
    # Memory holds one decoded image at a time.
    del image
    mask = _open_image("mask", files["mask"], settings)
    _check_mask(mask, size)
    return {"image": image_png, "mask": normalize_image(mask, "mask")}


def _open_image(name: str, contents: list[bytes], settings: Settings) -> Image.Image:
    if not contents:
        raise OpenAIError(
            400,
            f"{name}: It is required. Send the image as a file.",
            name,
            "missing_required_parameter",
        )
    if len(contents) > 1:
        raise image_error(name, f"there are {len(contents)} files; send one")
    try:
        image = open_image(contents[0], settings.max_image_bytes, settings.max_image_pixels)
    except ImageError as error:
        raise image_error(name, str(error)) from error
    if name == "image" and image.width != image.height:
        raise image_error("image", f"it is {image.width}×{image.height}; send a square image")
    return image


def _check_own_mask(image: Image.Image) -> None:
    """Check that an image without a mask says by its transparency what is repainted."""
    if not _has_transparent_part(image):
        raise image_error(
            "mask",
            "there is none, and no part of the image is transparent; "
            "send a mask that is transparent in the part to repaint",
        )


def _check_mask(mask: Image.Image, size: tuple[int, int]) -> None:
    """Check the mask of an image with this width and height."""
    if mask.size != size:
        raise image_error(
            "mask",
            f"it is {mask.width}×{mask.height} and the image {size[0]}×{size[1]}; "
            "send a mask of the same size",
        )
    if not _has_transparent_part(mask):
        raise image_error(
            "mask", "no part of it is transparent; make the part to repaint transparent"
        )


def _has_transparent_part(image: Image.Image) -> bool:
    """Return whether some pixel is more transparent than opaque."""
    if not has_alpha(image):
        return False
    alpha = (image if image.mode == "RGBA" else image.convert("RGBA")).getchannel("A")
    return alpha.point(lambda value: 255 * (value < 128)).getbbox() is not None
