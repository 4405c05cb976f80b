"""What the service accepts: each operation's fields, and the images that come with them."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from contracts.fields import RequestFields
from contracts.operations import (
    EditFields,
    EmbeddingsFields,
    GenerateFields,
    InterpolateFields,
    MixedFields,
    ProbeFields,
    TextDiffFields,
    VariationsFields,
    exactly_one,
)
from contracts.webhooks import WebhookFields


class ImageRef(BaseModel):
    """An image that an earlier job drew."""

    model_config = ConfigDict(extra="forbid", strict=True)

    job: Annotated[str, Field(min_length=1, max_length=100)] = Field(description="The job's id.")
    index: Annotated[int, Field(ge=0, lt=32)] = Field(0, description="Which of its images.")


ImageInput = str | ImageRef
_SOURCE = "base64 (plain or as data URL), or {job, index}, or a file of multipart/form-data."


class MixedRequest(MixedFields):
    """One part of a mixture."""

    image: ImageInput | None = Field(None, description=f"An image: {_SOURCE}")  # type: ignore[assignment]


class GenerateRequest(WebhookFields, GenerateFields):
    """A caption, an image embedding, or a mixture, to be drawn: exactly one of prompt, z_i and mix."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "a red cube on top of a blue cube", "seed": 1}]}
    )

    mix: Annotated[list[MixedRequest], Field(min_length=1, max_length=8)] | None = Field(  # type: ignore[assignment]
        None,
        description="In place of a prompt: captions, images and embeddings, whose weighted sum is drawn.",
    )


class VariationsRequest(WebhookFields, VariationsFields):
    """An image to be drawn again: the same in what it means, the more different the larger eta."""

    image: ImageInput = Field(description=f"The image: {_SOURCE}")


class InterpolateRequest(WebhookFields, InterpolateFields):
    """Frames from one image or caption to another: each end is exactly one of the two."""

    image_a: ImageInput | None = Field(None, description=f"The first end: {_SOURCE}")
    image_b: ImageInput | None = Field(None, description=f"The last end: {_SOURCE}")

    @model_validator(mode="after")
    def _two_ends(self) -> Self:
        exactly_one(self, "image_a", "prompt_a")
        exactly_one(self, "image_b", "prompt_b")
        return self


class TextDiffRequest(WebhookFields, TextDiffFields):
    """Frames of an image that moves as one caption differs from another."""

    image: ImageInput = Field(description=f"The image: {_SOURCE}")


class EditRequest(WebhookFields, EditFields):
    """An image to be redrawn where a mask says so."""

    image: ImageInput = Field(description=f"The image: {_SOURCE}")
    mask: ImageInput | None = Field(
        None,
        description=f"White or transparent is redrawn; left out, where the image itself is transparent. {_SOURCE}",
    )


class ProbeRequest(WebhookFields, ProbeFields):
    """An image whose image embedding is looked into: labels, components, or both."""

    image: ImageInput = Field(description=f"The image: {_SOURCE}")


class EmbeddingsRequest(WebhookFields, EmbeddingsFields):
    """A caption to become z_t, or an image to become z_i: exactly one of prompt and image."""

    image: ImageInput | None = Field(None, description=f"The image: {_SOURCE}")

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        exactly_one(self, "prompt", "image")
        return self


REQUESTS: dict[str, type[WebhookFields]] = {
    "generate": GenerateRequest,
    "variations": VariationsRequest,
    "interpolate": InterpolateRequest,
    "text-diff": TextDiffRequest,
    "edit": EditRequest,
    "probe": ProbeRequest,
    "embeddings": EmbeddingsRequest,
}
IMAGE_FIELDS = ("image", "image_a", "image_b", "mask")


def split_images(request: RequestFields) -> tuple[dict[str, Any], dict[str, str | ImageRef]]:
    """A request as what its worker reads of it, and its images by name. A mixture's are called mix_0, mix_1, …"""
    fields = request.model_dump(exclude={*IMAGE_FIELDS, *WebhookFields.model_fields})
    images = {
        name: source
        for name in IMAGE_FIELDS
        if (source := getattr(request, name, None)) is not None
    }
    for index, part in enumerate(getattr(request, "mix", None) or []):
        if part.image is not None:
            name = f"mix_{index}"
            images[name] = part.image
            fields["mix"][index]["image"] = name
    return fields, images
