"""OpenAI's images API as far as it is spoken here: requests, answers and errors, by its own names and limits (DALL·E 2's).

What the GPT image models brought besides is taken where it can be kept to, or where it is mere advice (`quality`, `style`, …), which
changes nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from contracts.fields import MAX_IMAGES, Prompt, Seed

# What to draw for each size: 512 is drawn at 1024 and reduced; auto is the checkpoint's to decide.
DRAWN: dict[str, Literal[256, 1024] | None] = {
    "256x256": 256,
    "512x512": 1024,
    "1024x1024": 1024,
    "auto": None,
}
MAX_PARTIAL_IMAGES = 3
_ADVICE = "Taken, and changes nothing."
OutputFormat = Literal["png", "webp", "jpeg"]


class ImagesCall(BaseModel):
    """What every call may say. What is null is as if it were left out."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = Field(
        None, description="dall-e-2, or the checkpoint by its own name; see GET /v1/models."
    )
    n: Annotated[int, Field(ge=1, le=MAX_IMAGES)] | None = Field(
        None, description="How many images; 1."
    )
    size: Literal["256x256", "512x512", "1024x1024", "auto"] | None = Field(
        None,
        description="1024x1024, unless told; auto is the checkpoint's own. 512x512 is drawn at 1024x1024 and reduced.",
    )
    response_format: Literal["url", "b64_json"] | None = Field(
        None,
        description="url, unless told; with an output_format b64_json, as the GPT image models know nothing else.",
    )
    user: str | None = Field(None, description="Your own name of your user. It is not kept.")
    seed: Seed | None = Field(
        None,
        description="Not of OpenAI's: where all random numbers come from (`extra_body` of its client).",
    )

    @property
    def count(self) -> int:
        """How many images."""
        return self.n or 1

    @property
    def side(self) -> int | None:
        """Width of the images in pixels; None for the checkpoint's own."""
        return None if self.size == "auto" else int((self.size or "1024x1024").partition("x")[0])

    @property
    def drawn(self) -> int | None:
        """Width that they are drawn at."""
        return DRAWN[self.size or "1024x1024"]


class VariationsCall(ImagesCall):
    """An image, to be drawn again."""


class PromptedCall(ImagesCall):
    """What a call with a caption may say besides."""

    prompt: Prompt = Field(description="What the image shows.")
    output_format: OutputFormat | None = Field(
        None, description="Format of images in the answer itself; png. At a URL they are PNG."
    )
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = Field(
        None, description="Quality of webp and jpeg; 100."
    )
    stream: bool | None = Field(
        None,
        description="Answer with server-sent events: the image as it becomes, and at last as it is.",
    )
    partial_images: Annotated[int, Field(ge=0, le=MAX_PARTIAL_IMAGES)] | None = Field(
        None,
        description="With stream: how many images on the way, at most; 0. An image that is done quickly has fewer.",
    )
    background: Literal["auto", "opaque"] | None = Field(None, description="Images are opaque.")
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] | None = (
        Field(None, description=_ADVICE)
    )
    safety_identifier: str | None = Field(None, description="As user. It is not kept.")

    @field_validator("output_format")
    @classmethod
    def _urls_lead_to_png(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value not in (None, "png") and info.data.get("response_format") == "url":
            raise ValueError(
                "images at a URL are PNG: take response_format b64_json for another format"
            )
        return value

    @field_validator("output_compression")
    @classmethod
    def _png_loses_nothing(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value not in (None, 100) and info.data.get("output_format") not in ("webp", "jpeg"):
            raise ValueError(
                "a PNG is not compressed with losses: take output_format webp or jpeg, or 100"
            )
        return value

    @field_validator("stream")
    @classmethod
    def _one_image_in_the_stream(cls, value: bool | None, info: ValidationInfo) -> bool | None:
        if value and (info.data.get("n") or 1) > 1:
            raise ValueError("a stream is of one image: take n 1, or several calls")
        if value and info.data.get("response_format") == "url":
            raise ValueError("a stream brings images in its events: leave response_format out")
        return value

    @field_validator("partial_images")
    @classmethod
    def _partial_in_a_stream(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and not info.data.get("stream"):
            raise ValueError("partial images come in a stream: take stream true")
        return value


class GenerationsCall(PromptedCall):
    """A caption, to be drawn."""

    moderation: Literal["auto", "low"] | None = Field(
        None, description="Taken, and changes nothing: there is none."
    )
    style: Literal["vivid", "natural"] | None = Field(None, description=_ADVICE)


class EditsCall(PromptedCall):
    """An image, to be redrawn by a caption where it, or the mask, is transparent."""

    input_fidelity: Literal["high", "low"] | None = Field(
        None, description="What is not transparent stays byte for byte, with either."
    )


class OpenAIImage(BaseModel):
    """One image: where it is, or the image itself."""

    url: str | None = None
    b64_json: str | None = None


class OpenAIImages(BaseModel):
    """The answer of every call for images."""

    created: int = Field(description="When they were done, in seconds since 1970.")
    data: list[OpenAIImage]
    background: Literal["opaque"] = "opaque"
    output_format: OutputFormat
    size: str


class OpenAIModel(BaseModel):
    """A name that `model` may have."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(
        description="Since when this service answers to it, in seconds since 1970."
    )
    owned_by: str


class OpenAIModels(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[OpenAIModel]


class OpenAIErrorDetail(BaseModel):
    """What was wrong: in words, as a kind, with which parameter, and as a word for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIErrorBody(BaseModel):
    """Every error under /v1."""

    error: OpenAIErrorDetail

    @classmethod
    def of(cls, message: str, kind: str, param: str | None, code: str | None) -> dict[str, Any]:
        """As JSON has it."""
        return cls(
            error=OpenAIErrorDetail(message=message, type=kind, param=param, code=code)
        ).model_dump()
