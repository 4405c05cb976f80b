"""The requests of all operations. The service validates them once; the worker reads the result."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from contracts.fields import (
    IMAGE_SOURCES,
    Animation,
    BatchFields,
    Embedding,
    Frames,
    ImageInput,
    PriorFields,
    Prompt,
    QueueFields,
    RequestFields,
    Sampler,
    SamplingFields,
)

Weight = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]


def require_one(request: RequestFields, *names: str) -> None:
    """Check that exactly one of these fields is set. Raises ValueError otherwise."""
    present = [name for name in names if getattr(request, name) is not None]
    if len(present) != 1:
        raise ValueError(
            f"send exactly one of {', '.join(names)}: got {', '.join(present) or 'none'}"
        )


class MixPart(RequestFields):
    """One part of a mixture: a prompt, an image embedding or an image."""

    prompt: Prompt | None = Field(
        None, description="A prompt; the prior samples its image embedding."
    )
    z_i: Embedding | None = Field(
        None, description="An image embedding, as POST /embeddings returns it."
    )
    image: ImageInput | None = Field(None, description=f"An image: {IMAGE_SOURCES}")
    weight: Weight = Field(1.0, description="Weight of the part; may be negative.")

    @model_validator(mode="after")
    def _check_content(self) -> Self:
        require_one(self, "prompt", "z_i", "image")
        return self

    @field_validator("weight")
    @classmethod
    def _check_weight(cls, weight: float) -> float:
        if weight == 0:
            raise ValueError("must not be 0: leave the part out instead")
        return weight


class GenerateRequest(BatchFields, SamplingFields, PriorFields):
    """Images from a prompt, an image embedding or a mixture: one of prompt, z_i and mix."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "a red cube on top of a blue cube", "seed": 1}]}
    )

    prompt: Prompt | None = Field(
        None,
        description=(
            "What the image shows. CLIP reads 77 tokens; the job warns about text beyond them."
        ),
    )
    z_i: Embedding | None = Field(
        None,
        description="Instead of a prompt: an image embedding, as POST /embeddings returns it.",
    )
    mix: Annotated[list[MixPart], Field(min_length=1, max_length=8)] | None = Field(
        None,
        description=(
            "Instead of a prompt: prompts, images and embeddings, whose weighted sum is decoded."
        ),
    )

    @model_validator(mode="after")
    def _check_content(self) -> Self:
        require_one(self, "prompt", "z_i", "mix")
        return self

    def image_inputs(self) -> dict[str, ImageInput]:
        """Return the images of a mixture as mix_0, mix_1, …, by the index of their part."""
        parts = enumerate(self.mix or [])
        return {f"mix_{index}": part.image for index, part in parts if part.image is not None}

    def with_named_inputs(self) -> Self:
        """Return a copy for the job's record: with names for images and without the webhook."""
        copy = super().with_named_inputs()
        if self.mix is not None:
            copy.mix = [
                part if part.image is None else part.model_copy(update={"image": f"mix_{index}"})
                for index, part in enumerate(self.mix)
            ]
        return copy


class VariationsRequest(BatchFields, SamplingFields):
    """Images with the meaning of an image; the larger eta, the more they differ."""

    image: ImageInput = Field(description=f"The image: {IMAGE_SOURCES}")


class InterpolateRequest(SamplingFields, PriorFields):
    """Frames from one image or prompt to another: each end is exactly one of the two."""

    prompt_a: Prompt | None = Field(
        None, description="The first end as a prompt; alternatively image_a."
    )
    prompt_b: Prompt | None = Field(
        None, description="The last end as a prompt; alternatively image_b."
    )
    frames: Frames = Field(8, description="Number of frames, both ends included.")
    noise: Literal["slerp", "fixed"] = Field(
        "slerp",
        description=(
            "slerp: the noise is interpolated too, so that the ends equal the input images. "
            "fixed: one noise, from the seed."
        ),
    )
    animation: Animation | None = Field(
        None, description="Also make one animated image of the frames."
    )
    image_a: ImageInput | None = Field(None, description=f"The first end: {IMAGE_SOURCES}")
    image_b: ImageInput | None = Field(None, description=f"The last end: {IMAGE_SOURCES}")

    @model_validator(mode="after")
    def _check_ends(self) -> Self:
        require_one(self, "image_a", "prompt_a")
        require_one(self, "image_b", "prompt_b")
        return self


class TextDiffRequest(SamplingFields):
    """Frames of an image that changes as one prompt differs from another."""

    prompt_from: Prompt | None = Field(
        None, description="What the image shows. If omitted, it moves towards prompt_to itself."
    )
    prompt_to: Prompt = Field(description="What the image should show.")
    frames: Frames = Field(8, description="Number of frames, the image itself first.")
    theta_max: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = Field(
        0.5, description="How far the last frame goes; 0.25 to 0.5 in the paper."
    )
    animation: Animation | None = Field(
        None, description="Also make one animated image of the frames."
    )
    image: ImageInput = Field(description=f"The image: {IMAGE_SOURCES}")

    @model_validator(mode="after")
    def _check_difference(self) -> Self:
        if self.prompt_from == self.prompt_to:
            raise ValueError(
                "prompt_from and prompt_to are the same: the image changes by their difference"
            )
        return self


class EditRequest(BatchFields, SamplingFields, PriorFields):
    """Images that are repainted where a mask says so."""

    prompt: Prompt = Field(description="What the whole image shows when the edit is done.")
    image: ImageInput = Field(description=f"The image: {IMAGE_SOURCES}")
    mask: ImageInput | None = Field(
        None,
        description=(
            "White or transparent in the part to repaint. Default: where the image itself is "
            f"transparent. {IMAGE_SOURCES}"
        ),
    )

    @field_validator("sampler")
    @classmethod
    def _check_sampler(cls, sampler: Sampler | None) -> Sampler | None:
        if sampler not in (None, "ddpm", "ddim"):
            raise ValueError("multistep samplers cannot be used for edits; use 'ddpm' or 'ddim'")
        return sampler


class ProbeRequest(SamplingFields):
    """What an image embedding holds: probabilities of labels, principal components, or both."""

    labels: Annotated[list[Prompt], Field(max_length=64)] = Field(
        [], description="Prompts to compare with: CLIP's probability of each."
    )
    components: Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(max_length=32)] = Field(
        [],
        description="For each k, an image decoded from the first k principal components of z_i.",
    )
    image: ImageInput = Field(description=f"The image: {IMAGE_SOURCES}")

    @model_validator(mode="after")
    def _check_content(self) -> Self:
        if not self.labels and not self.components:
            raise ValueError("give labels, components, or both")
        return self


class EmbeddingsRequest(QueueFields):
    """The embedding of a prompt (z_t) or of an image (z_i): exactly one of the two."""

    prompt: Prompt | None = Field(None, description="The prompt; alternatively an image.")
    image: ImageInput | None = Field(None, description=f"The image: {IMAGE_SOURCES}")

    @model_validator(mode="after")
    def _check_content(self) -> Self:
        require_one(self, "prompt", "image")
        return self


OPERATIONS: dict[str, type[QueueFields]] = {
    "generate": GenerateRequest,
    "variations": VariationsRequest,
    "interpolate": InterpolateRequest,
    "text-diff": TextDiffRequest,
    "edit": EditRequest,
    "probe": ProbeRequest,
    "embeddings": EmbeddingsRequest,
}


def num_images(request: RequestFields) -> int:
    """Return how many images a request generates."""
    if isinstance(request, ProbeRequest):
        return len(request.components)
    return int(getattr(request, "frames", getattr(request, "n", 0)))
