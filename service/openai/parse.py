"""Parse the body of an OpenAI call into a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from PIL import Image
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from contracts.images import has_alpha, normalize_image
from contracts.operations import OPERATIONS
from service.jobs.submit import JobRequest
from service.openai.errors import OpenAIError, from_validation_error, image_error
from service.openai.schemas import EditsCall, GenerationsCall, ImagesCall, VariationsCall
from service.requests.body import media_type, read_json
from service.requests.images import ImageError, open_image
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
    images = await run_in_threadpool(_normalize_images, files, name, settings)
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
        async with request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS) as form:
            for key, value in form.multi_items():
                if isinstance(value, UploadFile):
                    files.setdefault(key.removesuffix("[]"), []).append(await value.read())
                else:
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
    images = {
        file_name: _open_image(file_name, files[file_name], settings)
        for file_name in file_names
        if files.get(file_name)
    }
    if "image" in file_names:
        _check_square(images.get("image"))
    if name == "edits":
        images["mask"] = _mask(images["image"], images.get("mask"))
    return {
        file_name: normalize_image(image, "mask" if file_name == "mask" else "image")
        for file_name, image in images.items()
    }


def _check_square(image: Image.Image | None) -> None:
    if image is None:
        raise OpenAIError(
            400,
            "image: It is required. Send the image as a file.",
            "image",
            "missing_required_parameter",
        )
    if image.width != image.height:
        raise image_error("image", f"it is {image.width}×{image.height}; send a square image")


def _open_image(name: str, contents: list[bytes], settings: Settings) -> Image.Image:
    if len(contents) > 1:
        raise image_error(name, f"there are {len(contents)} files; send one")
    try:
        return open_image(contents[0], settings.max_image_bytes, settings.max_image_pixels)
    except ImageError as error:
        raise image_error(name, str(error)) from error


def _mask(image: Image.Image, mask: Image.Image | None) -> Image.Image:
    """Return the image whose transparent part is repainted: the mask, or the image itself."""
    if mask is None:
        if not _has_transparent_part(image):
            raise image_error(
                "mask",
                "there is none, and no part of the image is transparent; "
                "send a mask that is transparent in the part to repaint",
            )
        return image
    if mask.size != image.size:
        raise image_error(
            "mask",
            f"it is {mask.width}×{mask.height} and the image {image.width}×{image.height}; "
            "send a mask of the same size",
        )
    if not _has_transparent_part(mask):
        raise image_error(
            "mask", "no part of it is transparent; make the part to repaint transparent"
        )
    return mask


def _has_transparent_part(image: Image.Image) -> bool:
    """Return whether some pixel is more transparent than opaque."""
    if not has_alpha(image):
        return False
    alpha = image.convert("RGBA").getchannel("A")
    return alpha.point(lambda value: 255 * (value < 128)).getbbox() is not None
