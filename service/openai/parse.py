"""From the body of one of OpenAI's calls to work that can be queued."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from PIL import Image
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from contracts.images import has_alpha, normalize_image
from contracts.operations import OPERATIONS
from service.openai.errors import OpenAIError, image_error, of_fields
from service.openai.schemas import EditsCall, GenerationsCall, ImagesCall, VariationsCall
from service.requests.images import ImageError, opened
from service.requests.parse import Work, json_body, media_type
from service.settings import Settings

# Each call: what it may say, and the operation that does it.
CALLS: dict[str, tuple[type[ImagesCall], str]] = {
    "generations": (GenerationsCall, "generate"),
    "edits": (EditsCall, "edit"),
    "variations": (VariationsCall, "variations"),
}
FILES = {"generations": (), "edits": ("image", "mask"), "variations": ("image",)}
Uploads = dict[str, list[bytes]]


async def read(request: Request, call: str, settings: Settings) -> tuple[ImagesCall, Work]:
    """What a call asks, and the work that it makes. OpenAIError 400 for what will not do, ProblemError 400 for what is no JSON."""
    asked, operation = CALLS[call]
    fields, files = await (_form(request, FILES[call]) if FILES[call] else _json(request))
    try:
        # A form has nothing but text, so its numbers are read from it; in JSON a number is a number.
        parsed = asked.model_validate(fields, strict=not FILES[call])
        given = {"n": parsed.count, "size": parsed.drawn, "seed": parsed.seed} | parsed.model_dump(
            include={"prompt"}
        )
        work = OPERATIONS[operation].model_validate(given)
    except ValidationError as error:
        raise of_fields(error) from error
    return parsed, Work(operation, work, await run_in_threadpool(_images, files, call, settings))


async def _json(request: Request) -> tuple[Any, Uploads]:
    if media_type(request) != "application/json":
        raise _unsupported(request, "application/json")
    return await json_body(request), {}


async def _form(request: Request, names: tuple[str, ...]) -> tuple[dict[str, Any], Uploads]:
    """The fields and the files of a form. Several files of one name may be called `image[]`."""
    if media_type(request) != "multipart/form-data":
        raise _unsupported(request, "multipart/form-data")
    fields: dict[str, Any] = {}
    files: Uploads = {}
    try:
        async with request.form(max_files=20, max_fields=100) as form:
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
    for name in names:
        if name in fields:
            raise image_error(name, "it came as text: send it as a file")
    for name in files.keys() - names:
        raise OpenAIError(
            400,
            f"{name}: no such file is taken; there are {', '.join(names)}.",
            name,
            "unknown_parameter",
        )
    return fields, files


def _unsupported(request: Request, takes: str) -> OpenAIError:
    sent = media_type(request) or "of no stated type"
    return OpenAIError(400, f"The body is {sent}: send {takes}.", code="unsupported_content_type")


def _images(files: Uploads, call: str, settings: Settings) -> dict[str, bytes]:
    """The images of a call, as PNG by name, as the worker reads them."""
    found = {
        name: _opened(name, contents, settings)
        for name in FILES[call]
        if (contents := files.get(name))
    }
    if "image" in FILES[call]:
        image = found.get("image")
        if image is None:
            raise OpenAIError(
                400,
                "image: there is none. Send the image as a file.",
                "image",
                "missing_required_parameter",
            )
        if image.width != image.height:
            raise image_error("image", f"it is {image.width}×{image.height}: send a square one")
    if call == "edits":
        found["mask"] = _mask(found["image"], found.get("mask"))
    return {
        name: normalize_image(decoded, "mask" if name == "mask" else "image")
        for name, decoded in found.items()
    }


def _opened(name: str, contents: list[bytes], settings: Settings) -> Image.Image:
    if len(contents) > 1:
        raise image_error(
            name, f"there are {len(contents)}, and one is worked on at a time: send one"
        )
    try:
        return opened(contents[0], settings.max_image_bytes, settings.max_image_pixels)
    except ImageError as error:
        raise image_error(name, str(error)) from error


def _mask(image: Image.Image, mask: Image.Image | None) -> Image.Image:
    """The image whose transparent part is redrawn: the mask, or else the image itself."""
    if mask is None:
        if not _has_hole(image):
            raise image_error(
                "mask",
                "there is none, and nothing of the image is transparent: send a mask, transparent where to redraw",
            )
        return image
    if mask.size != image.size:
        raise image_error(
            "mask",
            f"it is {mask.width}×{mask.height} and the image {image.width}×{image.height}: send one of its size",
        )
    if not _has_hole(mask):
        raise image_error(
            "mask",
            "nothing of it is transparent, and what is transparent is redrawn: make that part transparent",
        )
    return mask


def _has_hole(image: Image.Image) -> bool:
    """True where some pixel is more transparent than not."""
    return has_alpha(image) and bool(
        image.convert("RGBA").getchannel("A").point(lambda alpha: 255 * (alpha < 128)).getbbox()
    )
