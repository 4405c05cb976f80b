"""Fields that requests consist of: each with its meaning and its bounds, once."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    TypeAdapter,
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
MAX_URL_CHARACTERS = 2000

Size = Literal[64, 256, 1024]
Prior = Literal["diffusion", "autoregressive"]
Sampler = Literal["ddpm", "ddim", "dpm++", "unipc", "heun"]
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS)]
Guidance = Annotated[float, Field(ge=0, le=MAX_GUIDANCE, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
WebhookEvent = Literal["started", "succeeded", "failed", "cancelled"]
_URL: TypeAdapter[HttpUrl] = TypeAdapter(HttpUrl)


def _require_text(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return _reject_nul(text)


def _reject_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not contain a NUL character")
    return text


def _require_nonzero(numbers: list[float]) -> list[float]:
    # In single precision the norm of smaller numbers is 0, and an embedding is its direction.
    if max(map(abs, numbers)) < 1e-6:
        raise ValueError("must not be (almost) all zeros")
    return numbers


def _normalize_url(text: str) -> str:
    """Normalize a webhook's URL: 0177.1 becomes 127.0.0.1, other scripts become xn--."""
    url = _URL.validate_python(text)
    if url.username or url.password:
        raise ValueError("must not contain a user or a password; deliveries are signed instead")
    return str(url)


Prompt = Annotated[
    str, Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS), AfterValidator(_require_text)
]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Frames = Annotated[int, Field(ge=2, le=MAX_FRAMES)]
Animation = Literal["webp", "apng"]
Embedding = Annotated[
    list[Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]],
    # One wrong number is reported, not thousands.
    Field(min_length=1, max_length=MAX_EMBEDDING, fail_fast=True),
    AfterValidator(_require_nonzero),
]
WebhookUrl = Annotated[str, Field(max_length=MAX_URL_CHARACTERS), AfterValidator(_normalize_url)]


class ImageRef(BaseModel):
    """An image that an earlier job generated."""

    model_config = ConfigDict(extra="forbid", strict=True)

    job: Annotated[str, Field(min_length=1, max_length=100)] = Field(description="The job's id.")
    index: Annotated[int, Field(ge=0, lt=MAX_FRAMES)] = Field(
        0, description="Index of the image in that job."
    )


ImageInput = str | ImageRef
IMAGE_SOURCES = "base64 (plain or as data URL), or {job, index}, or a file of multipart/form-data."
IMAGE_FIELDS = ("image", "image_a", "image_b", "mask")
# Fields about the job rather than about its images.
JOB_FIELDS = ("priority", "webhook", "webhook_events")


class RequestFields(BaseModel):
    """Fields of a request. The checkpoint decides what is omitted or null.

    Clients send images as base64 or as a reference to an earlier job's. In a job's record an image
    field holds the name of the input image instead, see `image_inputs`.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    def image_inputs(self) -> dict[str, ImageInput]:
        """Return the images of the request by name: that of their field."""
        inputs = {name: getattr(self, name, None) for name in IMAGE_FIELDS}
        return {name: image for name, image in inputs.items() if image is not None}

    def with_named_inputs(self) -> Self:
        """Return a copy for the job's record: with names for images and without the webhook."""
        names = {name: name for name in IMAGE_FIELDS if getattr(self, name, None) is not None}
        return self.model_copy(update={"webhook": None, "webhook_events": None, **names})

    def to_dict(self) -> dict[str, object]:
        """Return the fields that a job shows: all but images, priority and webhook."""
        return self.model_dump(exclude={*IMAGE_FIELDS, *JOB_FIELDS})

    def requested_parameters(self) -> dict[str, object]:
        """Return the pipeline parameters that the request sets."""
        return self.model_dump(include=set(PARAMETERS), exclude_none=True)


class WebhookFields(RequestFields):
    """Fields that say which webhook to call with the job."""

    webhook: WebhookUrl | None = Field(
        None,
        description=(
            "URL that receives the job, signed, by POST, when it ends. "
            "The operator decides which hosts are allowed."
        ),
    )
    webhook_events: Annotated[list[WebhookEvent], Field(min_length=1, max_length=4)] | None = Field(
        None,
        description=(
            "Events that call it: started, succeeded, failed, cancelled. "
            "Default: the three that end a job."
        ),
    )

    @model_validator(mode="after")
    def _check_events(self) -> Self:
        if self.webhook_events and self.webhook is None:
            raise ValueError("webhook_events needs a webhook: send its URL too")
        return self


class QueueFields(WebhookFields):
    """Fields of every operation."""

    priority: int = Field(
        0, ge=-10, le=10, description="Waiting jobs with the highest priority run first."
    )


class SamplingFields(QueueFields):
    """Fields of every operation that generates images."""

    size: Size | None = Field(None, description="Width and height in pixels.")
    seed: Seed | None = Field(
        None,
        description="Random seed. If omitted, one is chosen and returned with the job.",
    )
    sampler: Sampler | None = Field(
        None,
        description=(
            "Sampler of the decoder; dpm++ is DPM-Solver++ 2M, heun evaluates twice a step."
        ),
    )
    eta: Fraction | None = Field(
        None,
        description=(
            "Noise of the ddim sampler: 0 is deterministic, 1 as much as ddpm. "
            "Other samplers ignore it."
        ),
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
    decoder_guidance_start: Fraction | None = Field(
        None, description="Fraction of the decoder's steps before guidance starts; 0 is the first."
    )
    decoder_guidance_stop: Fraction | None = Field(
        None, description="Fraction of the decoder's steps after which guidance stops; 1 is never."
    )
    dynamic_threshold: Fraction | None = Field(
        None,
        description=(
            "Dynamic thresholding: the fraction of pixels that strong guidance is scaled down "
            "to fit, such as 0.995; 0 clamps."
        ),
    )

    @model_validator(mode="after")
    def _check_guidance_interval(self) -> Self:
        start = self.decoder_guidance_start
        stop = self.decoder_guidance_stop
        if start is not None and stop is not None and start > stop:
            raise ValueError(
                f"decoder_guidance_start is {start:g} and decoder_guidance_stop {stop:g}: "
                "the start must not exceed the stop"
            )
        return self


class PriorFields(RequestFields):
    """Fields of an operation that turns a prompt into an image embedding."""

    prior: Prior | None = Field(
        None, description="Model that turns the prompt into a CLIP image embedding."
    )
    negative_prompt: (
        Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS), AfterValidator(_reject_nul)] | None
    ) = Field(None, description="Prompt that guidance leads away from. Default: the empty prompt.")
    prior_num_inference_steps: Steps | None = Field(
        None, description="Denoising steps of the prior."
    )
    prior_guidance_scale: Guidance | None = Field(
        None, description="Classifier-free guidance of the prior; 1 is none."
    )
    prior_num_candidates: Annotated[int, Field(ge=1, le=16)] | None = Field(
        None,
        description=(
            "Number of image embeddings that the diffusion prior samples; the one most similar "
            "to the prompt is used."
        ),
    )
    prior_temperature: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] | None = Field(
        None,
        description=(
            "Temperature of the autoregressive prior: 0 takes the most likely value, 1 samples "
            "from the learned distribution."
        ),
    )
    prior_top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = Field(
        None,
        description=(
            "The autoregressive prior samples from the most likely values that hold this much "
            "of the probability."
        ),
    )


class BatchFields(RequestFields):
    """Fields of an operation that generates several images of one content. Needs a `seed`."""

    n: int = Field(
        1,
        ge=1,
        le=MAX_IMAGES,
        description="Number of images; image i uses seed + i.",
    )

    @field_validator("n")
    @classmethod
    def _check_last_seed(cls, n: int, info: ValidationInfo) -> int:
        seed = info.data.get("seed")
        if seed is not None and seed + n - 1 > MAX_SEED:
            raise ValueError(
                f"image i uses seed + i, at most {MAX_SEED}: "
                f"with seed {seed}, n can be at most {MAX_SEED + 1 - seed}"
            )
        return n


# Fields that the pipeline resolves; all others say what to generate.
PARAMETERS = (SamplingFields.model_fields.keys() - {"seed", *JOB_FIELDS}) | (
    PriorFields.model_fields.keys()
)
