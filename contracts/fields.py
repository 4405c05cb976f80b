"""The fields that requests are made of, each said once: what they mean, and their bounds."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

MAX_PROMPT_CHARACTERS = 1000
MAX_IMAGES = 10
MAX_FRAMES = 32
MAX_EMBEDDING = 4096  # numbers in a z_i
MAX_SEED = 2**32 - 1
MAX_STEPS = 1000
MAX_GUIDANCE = 30.0

Size = Literal[64, 256, 1024]
Prior = Literal["diffusion", "autoregressive"]
Sampler = Literal["ddpm", "ddim", "dpm++", "unipc", "heun"]
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS)]
Guidance = Annotated[float, Field(ge=0, le=MAX_GUIDANCE, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


def _speakable(text: str) -> str:
    """Text that Redis, JSON and a tokenizer can all carry."""
    if not text.strip():
        raise ValueError("it is blank: say what the image shows")
    return _encodable(text)


def _not_nothing(numbers: list[float]) -> list[float]:
    # In single precision the norm of much less is 0.
    if max(map(abs, numbers)) < 1e-6:
        raise ValueError("it is all zeros, or as good as: an image embedding has a direction")
    return numbers


def _encodable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("it contains a NUL character: leave it out")
    return text


Prompt = Annotated[
    str, Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS), AfterValidator(_speakable)
]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Frames = Annotated[int, Field(ge=2, le=MAX_FRAMES)]
Animation = Literal["webp", "apng"]
Embedding = Annotated[
    list[Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]],
    Field(min_length=1, max_length=MAX_EMBEDDING),
    AfterValidator(_not_nothing),
]
# What a pipeline resolves; everything else in a request says what to do with it.
PARAMETERS = {
    "size",
    "prior",
    "negative_prompt",
    "sampler",
    "eta",
    "prior_num_inference_steps",
    "decoder_num_inference_steps",
    "upsampler_num_inference_steps",
    "prior_guidance_scale",
    "prior_num_candidates",
    "prior_temperature",
    "prior_top_p",
    "decoder_guidance_scale",
    "decoder_guidance_start",
    "decoder_guidance_stop",
    "dynamic_threshold",
}


class RequestFields(BaseModel):
    """What a worker reads of a request. What is left out or null is the checkpoint's to decide; the job tells what was used."""

    model_config = ConfigDict(extra="forbid", strict=True)

    def given_parameters(self) -> dict[str, object]:
        """What the pipeline resolves, as far as it was given."""
        return self.model_dump(include=PARAMETERS, exclude_none=True)


class QueueFields(RequestFields):
    """What every operation may be told of its place in the queue."""

    priority: int = Field(
        0, ge=-10, le=10, description="Of the jobs that wait, those with the highest run first."
    )


class SamplingFields(QueueFields):
    """What every operation that draws may be told."""

    size: Size | None = Field(None, description="Width and height in pixels.")
    seed: Seed | None = Field(
        None,
        description="Where all random numbers come from. Left out, one is drawn, and told in the job.",
    )
    sampler: Sampler | None = Field(
        None,
        description="The decoder's sampler; dpm++ is DPM-Solver++ 2M, heun takes two evaluations a step.",
    )
    eta: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = Field(
        None,
        description="Noise of the ddim sampler: 0 is deterministic, 1 as much as ddpm. The other samplers have none.",
    )
    decoder_num_inference_steps: Steps | None = Field(
        None, description="Denoising steps of the decoder."
    )
    upsampler_num_inference_steps: Steps | None = Field(
        None, description="Denoising steps of each upsampler."
    )
    decoder_guidance_scale: Guidance | None = Field(
        None, description="Classifier-free guidance of the decoder; 1 is none."
    )
    decoder_guidance_start: Share | None = Field(
        None, description="The decoder is guided from this share of its steps on; 0 is the first."
    )
    decoder_guidance_stop: Share | None = Field(
        None, description="The decoder is guided up to this share of its steps; 1 is the last."
    )
    dynamic_threshold: Share | None = Field(
        None,
        description="Dynamic thresholding: the share of pixels that strong guidance is scaled down to fit, such as 0.995; 0 clamps.",
    )

    @model_validator(mode="after")
    def _guided_from_start_to_stop(self) -> Self:
        start = self.decoder_guidance_start
        stop = self.decoder_guidance_stop
        if start is not None and stop is not None and start > stop:
            raise ValueError(
                f"decoder_guidance_start is {start:g} and decoder_guidance_stop {stop:g}: the start comes first"
            )
        return self


class PriorFields(RequestFields):
    """What an operation that goes from a caption through the prior may be told besides."""

    prior: Prior | None = Field(
        None, description="The model that turns the caption into a CLIP image embedding."
    )
    negative_prompt: (
        Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS), AfterValidator(_encodable)] | None
    ) = Field(None, description="What guidance leads away from, in place of the empty caption.")
    prior_num_inference_steps: Steps | None = Field(
        None, description="Denoising steps of the prior."
    )
    prior_guidance_scale: Guidance | None = Field(
        None, description="Classifier-free guidance of the prior; 1 is none."
    )
    prior_num_candidates: Annotated[int, Field(ge=1, le=16)] | None = Field(
        None,
        description="How many image embeddings the diffusion prior draws; the one that says most of what the caption says is kept.",
    )
    prior_temperature: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] | None = Field(
        None,
        description="The autoregressive prior's temperature: 0 takes the likeliest, 1 draws as it learned.",
    )
    prior_top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = Field(
        None,
        description="The autoregressive prior draws from the likeliest buckets that hold this much of the probability.",
    )


class BatchFields(RequestFields):
    """What an operation that draws several images of one thing may be told. Needs a `seed`."""

    n: int = Field(
        1,
        ge=1,
        le=MAX_IMAGES,
        description="How many images to draw; image i is drawn from seed + i.",
    )

    @field_validator("n")
    @classmethod
    def _every_image_has_a_seed(cls, n: int, info: ValidationInfo) -> int:
        seed = info.data.get("seed")
        if seed is not None and seed + n - 1 > MAX_SEED:
            raise ValueError(
                f"image i is drawn from seed + i, at most {MAX_SEED}: with seed {seed}, take {MAX_SEED + 1 - seed} or less"
            )
        return n
