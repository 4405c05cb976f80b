"""Optional fields of each operation; the service knows their bounds and defaults.

The client does without pydantic, so the types are written here again. A test compares them with
the service's request models.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict

Animation = Literal["webp", "apng"]


class QueueOptions(TypedDict, total=False):
    """Options of every operation."""

    priority: Annotated[int, "-10 to 10; of the waiting jobs, the highest priority runs first"]
    webhook: Annotated[str, "URL that receives the job when it ends"]
    webhook_events: Annotated[
        list[Literal["started", "succeeded", "failed", "cancelled"]], "when to call the webhook"
    ]
    idempotency_key: Annotated[
        str, "a repeated key returns the first job (default: a new key for each call)"
    ]


class SamplingOptions(QueueOptions, total=False):
    """Options of every operation that generates images."""

    size: Annotated[Literal[64, 256, 1024], "width and height in pixels"]
    seed: Annotated[int, "random seed (default: chosen by the service and returned with the job)"]
    sampler: Annotated[str, "sampler of the decoder, such as ddim or dpm++"]
    eta: Annotated[float, "0 to 1: noise of the ddim sampler"]
    decoder_num_inference_steps: Annotated[int, "denoising steps of the decoder"]
    upsampler_num_inference_steps: Annotated[int, "denoising steps of each upsampler"]
    decoder_guidance_scale: Annotated[
        float, "classifier-free guidance scale of the decoder; 1 turns guidance off"
    ]
    decoder_guidance_start: Annotated[float, "share of the decoder's steps where guidance begins"]
    decoder_guidance_stop: Annotated[float, "share of the decoder's steps where guidance ends"]
    dynamic_threshold: Annotated[
        float, "share of pixels that strong guidance is scaled down to fit; 0 clamps"
    ]


class PriorOptions(TypedDict, total=False):
    """Options of operations that turn a prompt into an image embedding."""

    prior: Annotated[
        Literal["diffusion", "autoregressive"],
        "model that turns the prompt into an image embedding",
    ]
    negative_prompt: Annotated[str, "what guidance leads away from"]
    prior_num_inference_steps: Annotated[int, "denoising steps of the prior"]
    prior_guidance_scale: Annotated[
        float, "classifier-free guidance scale of the prior; 1 turns guidance off"
    ]
    prior_num_candidates: Annotated[
        int, "image embeddings that the diffusion prior samples; the best is used"
    ]
    prior_temperature: Annotated[
        float, "temperature of the autoregressive prior; 0 takes the likeliest token"
    ]
    prior_top_p: Annotated[
        float, "probability mass from which the autoregressive prior samples (nucleus)"
    ]


class BatchOptions(TypedDict, total=False):
    """Options of operations that generate several images of one subject."""

    n: Annotated[int, "1 to 10 images; image i uses seed + i"]


class FrameOptions(TypedDict, total=False):
    """Options of operations that generate a sequence of frames."""

    frames: Annotated[int, "2 to 32 images"]
    animation: Annotated[Animation, "also return the frames as one animated image"]


class GenerateOptions(SamplingOptions, PriorOptions, BatchOptions, total=False):
    """Options of `Client.generate`."""


class VariationsOptions(SamplingOptions, BatchOptions, total=False):
    """Options of `Client.variations`."""


class InterpolateOptions(SamplingOptions, PriorOptions, FrameOptions, total=False):
    """Options of `Client.interpolate`."""

    noise: Annotated[
        Literal["slerp", "fixed"],
        "slerp: the first and last frame reproduce the images; fixed: one noise, from the seed",
    ]


class TextDiffOptions(SamplingOptions, FrameOptions, total=False):
    """Options of `Client.text_diff`."""

    prompt_from: Annotated[str, "what the image shows (default: move towards prompt_to itself)"]
    theta_max: Annotated[float, "above 0 to 1: how far the last frame moves"]


class EditOptions(SamplingOptions, PriorOptions, BatchOptions, total=False):
    """Options of `Client.edit`."""


class ProbeOptions(SamplingOptions, total=False):
    """Options of `Client.probe`."""

    labels: Annotated[list[str], "prompts to choose from"]
    components: Annotated[
        list[int], "for each number, an image from that many principal components"
    ]
