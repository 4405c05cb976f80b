"""What may be asked of `POST /generate`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

MAX_PROMPT_CHARACTERS = 1000
MAX_PICTURES = 10
MAX_SEED = 2**32 - 1
MAX_STEPS = 1000
MAX_GUIDANCE = 30.0

Size = Literal[64, 256, 1024]
Prior = Literal["diffusion"]
Sampler = Literal["ddpm", "ddim", "dpm++"]
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS)]
Guidance = Annotated[float, Field(ge=0, le=MAX_GUIDANCE, allow_inf_nan=False)]


def _speakable(text: str) -> str:
    """Text that Redis, JSON and a tokenizer can all carry."""
    if not text.strip():
        raise ValueError("it is blank: say what the picture shows")
    return _encodable(text)


def _encodable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("it contains a NUL character: leave it out")
    return text


class GenerateRequest(BaseModel):
    """A caption to be drawn. What is left out or null is the checkpoint's to decide; the job tells what was used."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"prompt": "a red cube on top of a blue cube", "seed": 1}]}
    )

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS), AfterValidator(_speakable)] = Field(
        description="What the picture shows. Beyond 77 CLIP tokens the end is not seen; the job then says what was cut."
    )
    n: int = Field(1, ge=1, le=MAX_PICTURES, description="How many pictures to draw.")
    size: Size | None = Field(None, description="Width and height in pixels.")
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = Field(
        None, description="Picture i of the request is drawn from seed + i. Left out, one is drawn, and told in the job."
    )
    prior: Prior | None = Field(None, description="The model that turns the caption into a CLIP image embedding.")
    negative_prompt: Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS), AfterValidator(_encodable)] | None = Field(
        None, description="What guidance leads away from, in place of the empty caption."
    )
    sampler: Sampler | None = Field(None, description="The decoder's sampler; dpm++ is DPM-Solver++ 2M.")
    eta: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = Field(
        None, description="Noise of the ddim sampler: 0 is deterministic, 1 as much as ddpm. The other samplers have none."
    )
    prior_num_inference_steps: Steps | None = Field(None, description="Denoising steps of the prior.")
    decoder_num_inference_steps: Steps | None = Field(None, description="Denoising steps of the decoder.")
    upsampler_num_inference_steps: Steps | None = Field(None, description="Denoising steps of each upsampler.")
    prior_guidance_scale: Guidance | None = Field(None, description="Classifier-free guidance of the prior; 1 is none.")
    decoder_guidance_scale: Guidance | None = Field(None, description="Classifier-free guidance of the decoder; 1 is none.")

    @field_validator("seed")
    @classmethod
    def _every_picture_has_a_seed(cls, seed: int | None, info: ValidationInfo) -> int | None:
        last = MAX_SEED + 1 - info.data.get("n", 1)
        if seed is not None and seed > last:
            raise ValueError(f"picture i is drawn from seed + i, at most {MAX_SEED}: with n = {info.data['n']}, take {last} or less")
        return seed

    def given_parameters(self) -> dict[str, object]:
        """What the stack resolves: all but prompt, n and seed."""
        return self.model_dump(exclude={"prompt", "n", "seed"})
