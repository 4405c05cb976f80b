"""What the service accepts: each operation's fields, and the pictures that come with them."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from contracts.fields import Fields
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
from contracts.webhooks import Notified


class JobPicture(BaseModel):
    """A picture that an earlier job drew."""

    model_config = ConfigDict(extra="forbid", strict=True)

    job: Annotated[str, Field(min_length=1, max_length=100)] = Field(description="The job's id.")
    index: Annotated[int, Field(ge=0, lt=32)] = Field(0, description="Which of its pictures.")


PictureSource = str | JobPicture
_SOURCE = "base64 (plain or as data URL), or {job, index}, or a file of multipart/form-data."


class MixedRequest(MixedFields):
    """One part of a mixture."""

    image: PictureSource | None = Field(None, description=f"A picture: {_SOURCE}")  # type: ignore[assignment]


class GenerateRequest(Notified, GenerateFields):
    """A caption, an image embedding, or a mixture, to be drawn: exactly one of prompt, z_i and mix."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "a red cube on top of a blue cube", "seed": 1}]})

    mix: Annotated[list[MixedRequest], Field(min_length=1, max_length=8)] | None = Field(  # type: ignore[assignment]
        None, description="In place of a prompt: captions, pictures and embeddings, whose weighted sum is drawn."
    )


class VariationsRequest(Notified, VariationsFields):
    """A picture to be drawn again: the same in what it means, the more different the larger eta."""

    image: PictureSource = Field(description=f"The picture: {_SOURCE}")


class InterpolateRequest(Notified, InterpolateFields):
    """Frames from one picture or caption to another: each end is exactly one of the two."""

    image_a: PictureSource | None = Field(None, description=f"The first end: {_SOURCE}")
    image_b: PictureSource | None = Field(None, description=f"The last end: {_SOURCE}")

    @model_validator(mode="after")
    def _two_ends(self) -> Self:
        exactly_one(self, "image_a", "prompt_a")
        exactly_one(self, "image_b", "prompt_b")
        return self


class TextDiffRequest(Notified, TextDiffFields):
    """Frames of a picture that moves as one caption differs from another."""

    image: PictureSource = Field(description=f"The picture: {_SOURCE}")


class EditRequest(Notified, EditFields):
    """A picture to be redrawn where a mask says so."""

    image: PictureSource = Field(description=f"The picture: {_SOURCE}")
    mask: PictureSource | None = Field(
        None, description=f"White or transparent is redrawn; left out, where the picture itself is transparent. {_SOURCE}"
    )


class ProbeRequest(Notified, ProbeFields):
    """A picture whose image embedding is looked into: labels, components, or both."""

    image: PictureSource = Field(description=f"The picture: {_SOURCE}")


class EmbeddingsRequest(Notified, EmbeddingsFields):
    """A caption to become z_t, or a picture to become z_i: exactly one of prompt and image."""

    image: PictureSource | None = Field(None, description=f"The picture: {_SOURCE}")

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        exactly_one(self, "prompt", "image")
        return self


REQUESTS: dict[str, type[Notified]] = {
    "generate": GenerateRequest,
    "variations": VariationsRequest,
    "interpolate": InterpolateRequest,
    "text-diff": TextDiffRequest,
    "edit": EditRequest,
    "probe": ProbeRequest,
    "embeddings": EmbeddingsRequest,
}
PICTURES = ("image", "image_a", "image_b", "mask")


def separated(request: Fields) -> tuple[dict[str, Any], dict[str, str | JobPicture]]:
    """A request as what its worker reads of it, and its pictures by name. A mixture's are called mix_0, mix_1, …"""
    fields = request.model_dump(exclude={*PICTURES, *Notified.model_fields})
    pictures = {name: source for name in PICTURES if (source := getattr(request, name, None)) is not None}
    for index, part in enumerate(getattr(request, "mix", None) or []):
        if part.image is not None:
            name = f"mix_{index}"
            pictures[name], fields["mix"][index]["image"] = part.image, name
    return fields, pictures
