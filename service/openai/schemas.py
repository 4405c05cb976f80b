"""Requests, responses and errors of OpenAI's images API, with the names and limits of DALL·E 2.

Fields that the GPT image models added are accepted if the service can follow them, or if they are
hints (`quality`, `style`, …), which have no effect.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from contracts.fields import MAX_IMAGES, Prompt, Seed

# Width to generate for each size: 512 is generated at 1024 and reduced; the checkpoint decides on
# auto.
GENERATED_PX: dict[str, Literal[256, 1024] | None] = {
    "256x256": 256,
    "512x512": 1024,
    "1024x1024": 1024,
    "auto": None,
}
MAX_PARTIAL_IMAGES = 3
_NO_EFFECT = "Accepted without effect."
OutputFormat = Literal["png", "webp", "jpeg"]


class ImagesCall(BaseModel):
    """Fields of every call. A field that is null counts as omitted."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = Field(
        None, description="dall-e-2, or the name of the checkpoint; see GET /v1/models."
    )
    n: Annotated[int, Field(ge=1, le=MAX_IMAGES)] | None = Field(
        None, description="Number of images. Default: 1."
    )
    size: Literal["256x256", "512x512", "1024x1024", "auto"] | None = Field(
        None,
        description=(
            "Default: 1024x1024. auto is the checkpoint's own size. 512x512 is generated at "
            "1024x1024 and reduced."
        ),
    )
    response_format: Literal["url", "b64_json"] | None = Field(
        None,
        description=(
            "Default: url; with an output_format b64_json, the only form of the GPT image models."
        ),
    )
    user: str | None = Field(None, description="Your id of the end user. It is not stored.")
    seed: Seed | None = Field(
        None,
        description="Extension: random seed (`extra_body` in OpenAI's client).",
    )

    @property
    def count(self) -> int:
        """Number of images."""
        return self.n or 1

    @property
    def width_px(self) -> int | None:
        """Width of the returned images in pixels; None for the checkpoint's own."""
        return None if self.size == "auto" else int((self.size or "1024x1024").partition("x")[0])

    @property
    def generated_px(self) -> int | None:
        """Width of the generated images in pixels; None for the checkpoint's own."""
        return GENERATED_PX[self.size or "1024x1024"]


class VariationsCall(ImagesCall):
    """A call for variations of an image."""


class PromptedCall(ImagesCall):
    """Fields of calls with a prompt."""

    prompt: Prompt = Field(description="Description of the image.")
    output_format: OutputFormat | None = Field(
        None, description="Format of images in the response. Default: png. Images at URLs are PNG."
    )
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = Field(
        None, description="Quality of webp and jpeg. Default: 100."
    )
    stream: bool | None = Field(
        None,
        description="Respond with server-sent events: partial images, then the final one.",
    )
    partial_images: Annotated[int, Field(ge=0, le=MAX_PARTIAL_IMAGES)] | None = Field(
        None,
        description=(
            "With stream: maximum number of partial images. Default: 0. A fast job has fewer."
        ),
    )
    background: Literal["auto", "opaque"] | None = Field(None, description="Images are opaque.")
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] | None = (
        Field(None, description=_NO_EFFECT)
    )
    safety_identifier: str | None = Field(None, description="Like user. It is not stored.")

    @field_validator("output_format")
    @classmethod
    def _require_png_for_urls(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value not in (None, "png") and info.data.get("response_format") == "url":
            raise ValueError(
                "images at URLs are PNG; use response_format b64_json for another format"
            )
        return value

    @field_validator("output_compression")
    @classmethod
    def _require_lossy_format(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value not in (None, 100) and info.data.get("output_format") not in ("webp", "jpeg"):
            raise ValueError("a PNG is lossless; use output_format webp or jpeg, or 100")
        return value

    @field_validator("stream")
    @classmethod
    def _require_one_image(cls, value: bool | None, info: ValidationInfo) -> bool | None:
        if value and (info.data.get("n") or 1) > 1:
            raise ValueError("a stream has one image; use n 1, or several calls")
        if value and info.data.get("response_format") == "url":
            raise ValueError("a stream sends images in its events; omit response_format")
        return value

    @field_validator("partial_images")
    @classmethod
    def _require_stream(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and not info.data.get("stream"):
            raise ValueError("partial images need a stream; use stream true")
        return value


class GenerationsCall(PromptedCall):
    """A call for images of a prompt."""

    moderation: Literal["auto", "low"] | None = Field(None, description=_NO_EFFECT)
    style: Literal["vivid", "natural"] | None = Field(None, description=_NO_EFFECT)


class EditsCall(PromptedCall):
    """A call to repaint the transparent part of an image, or of its mask, by a prompt."""

    input_fidelity: Literal["high", "low"] | None = Field(
        None,
        description="Accepted without effect: opaque parts keep their pixels with either value.",
    )


class OpenAIImage(BaseModel):
    """One image: its URL or its file in base64."""

    url: str | None = None
    b64_json: str | None = None


class OpenAIImages(BaseModel):
    """The response of every call for images."""

    created: int = Field(description="When the images were finished, in seconds since 1970.")
    data: list[OpenAIImage]
    background: Literal["opaque"] = "opaque"
    output_format: OutputFormat
    size: str


class OpenAIModel(BaseModel):
    """A value of the field `model`."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="When this service started, in seconds since 1970.")
    owned_by: str


class OpenAIModels(BaseModel):
    """The response of GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[OpenAIModel]


class OpenAIErrorDetail(BaseModel):
    """An error: text, kind, parameter at fault, and a word for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIErrorBody(BaseModel):
    """The body of every error under /v1."""

    error: OpenAIErrorDetail

    @classmethod
    def build(cls, message: str, kind: str, param: str | None, code: str | None) -> dict[str, Any]:
        """Return the body as JSON objects."""
        detail = OpenAIErrorDetail(message=message, type=kind, param=param, code=code)
        return cls(error=detail).model_dump()
