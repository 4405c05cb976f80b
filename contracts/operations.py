"""What may be asked: for each operation the fields that the worker reads. Images travel beside them, by name (see `images`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from contracts.fields import (
    Animation,
    BatchFields,
    Embedding,
    Frames,
    PriorFields,
    Prompt,
    QueueFields,
    RequestFields,
    Sampler,
    SamplingFields,
)

Weight = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]


def exactly_one(fields: RequestFields, *names: str) -> None:
    """ValueError unless one of these fields was given, and only one."""
    given = [name for name in names if getattr(fields, name) is not None]
    if len(given) != 1:
        raise ValueError(
            f"give exactly one of {', '.join(names)}: {', '.join(given) if given else 'none'} was given"
        )


class MixedFields(RequestFields):
    """One part of a mixture: a caption, a z_i, or the name of an input image."""

    prompt: Prompt | None = Field(None, description="A caption; its z_i is drawn by the prior.")
    z_i: Embedding | None = Field(
        None, description="An image embedding, as POST /embeddings gives it."
    )
    image: str | None = Field(None, description="An image.")
    weight: Weight = Field(1.0, description="How much of it; may be negative.")

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        exactly_one(self, "prompt", "z_i", "image")
        return self

    @field_validator("weight")
    @classmethod
    def _some_weight(cls, weight: float) -> float:
        if weight == 0:
            raise ValueError("it is 0: leave the part out instead")
        return weight


class GenerateFields(BatchFields, SamplingFields, PriorFields):
    """A caption, an image embedding, or a mixture, to be drawn."""

    prompt: Prompt | None = Field(
        None,
        description="What the image shows. Beyond 77 CLIP tokens the end is not seen; the job then says what was cut.",
    )
    z_i: Embedding | None = Field(
        None, description="In place of a prompt: an image embedding, as POST /embeddings gives it."
    )
    mix: Annotated[list[MixedFields], Field(min_length=1, max_length=8)] | None = Field(
        None,
        description="In place of a prompt: captions, images and embeddings, whose weighted sum is drawn.",
    )

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        exactly_one(self, "prompt", "z_i", "mix")
        return self


class VariationsFields(BatchFields, SamplingFields):
    """An image to be drawn again: the same in what it means, the more different the larger eta."""


class InterpolateFields(SamplingFields, PriorFields):
    """Frames from one image or caption to another."""

    prompt_a: Prompt | None = Field(None, description="The first end, as a caption; or image_a.")
    prompt_b: Prompt | None = Field(None, description="The last end, as a caption; or image_b.")
    frames: Frames = Field(8, description="How many images, both ends among them.")
    noise: Literal["slerp", "fixed"] = Field(
        "slerp",
        description="slerp: the noise goes along, so that the ends are the images given. fixed: one noise, from the seed.",
    )
    animation: Animation | None = Field(
        None, description="Also make one animated image of the frames."
    )


class TextDiffFields(SamplingFields):
    """Frames of an image that moves as one caption differs from another."""

    prompt_from: Prompt | None = Field(
        None, description="What the image shows. Left out, it moves towards prompt_to itself."
    )
    prompt_to: Prompt = Field(description="What it should show.")
    frames: Frames = Field(8, description="How many images, the given one first.")
    theta_max: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = Field(
        0.5, description="How far along the last frame is; 0.25 to 0.5 in the paper."
    )
    animation: Animation | None = Field(
        None, description="Also make one animated image of the frames."
    )

    @model_validator(mode="after")
    def _some_difference(self) -> Self:
        if self.prompt_from == self.prompt_to:
            raise ValueError(
                "prompt_from and prompt_to are the same: the image moves as they differ"
            )
        return self


class EditFields(BatchFields, SamplingFields, PriorFields):
    """An image to be redrawn where a mask says so."""

    prompt: Prompt = Field(description="What the whole image shows when done.")

    @field_validator("sampler")
    @classmethod
    def _forward_and_back(cls, sampler: Sampler | None) -> Sampler | None:
        if sampler not in (None, "ddpm", "ddim"):
            raise ValueError(
                "it looks back at earlier steps, and an edit makes each step several times: take 'ddpm' or 'ddim'"
            )
        return sampler


class ProbeFields(SamplingFields):
    """An image whose image embedding is looked into."""

    labels: Annotated[list[Prompt], Field(max_length=64)] = Field(
        [], description="Captions to choose from: CLIP's probability of each."
    )
    components: Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(max_length=32)] = Field(
        [], description="For each k, an image drawn from the first k principal components of z_i."
    )

    @model_validator(mode="after")
    def _some_question(self) -> Self:
        if not self.labels and not self.components:
            raise ValueError("nothing is asked: give labels, components, or both")
        return self


class EmbeddingsFields(QueueFields):
    """A caption to become z_t, or an image to become z_i."""

    prompt: Prompt | None = Field(None, description="The caption; or an image as image.")


OPERATIONS: dict[str, type[RequestFields]] = {
    "generate": GenerateFields,
    "variations": VariationsFields,
    "interpolate": InterpolateFields,
    "text-diff": TextDiffFields,
    "edit": EditFields,
    "probe": ProbeFields,
    "embeddings": EmbeddingsFields,
}


def num_images(fields: Any) -> int:
    """How many images a request asks for."""
    if isinstance(fields, ProbeFields):
        return len(fields.components)
    return int(getattr(fields, "frames", getattr(fields, "n", 0)))
