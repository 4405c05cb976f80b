"""What each operation may be told beside what it works on. Bounds and defaults are the service's to know."""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict

Animation = Literal["webp", "apng"]


class Queued(TypedDict, total=False):
    """Every operation."""

    priority: Annotated[int, "-10 to 10; of the jobs that wait, those with the highest run first"]
    webhook: Annotated[str, "URL that is called with the job when it ends"]
    webhook_events: Annotated[
        list[Literal["started", "succeeded", "failed", "cancelled"]], "when to call it"
    ]
    idempotency_key: Annotated[
        str, "a repeat with the same key gives the first job; left out, every call is a new one"
    ]


class Drawing(Queued, total=False):
    """Every operation that draws."""

    size: Annotated[Literal[64, 256, 1024], "width and height in pixels"]
    seed: Annotated[int, "where all random numbers come from; left out, one is drawn, and told"]
    sampler: Annotated[Literal["ddpm", "ddim", "dpm++", "unipc", "heun"], "the decoder's sampler"]
    eta: Annotated[float, "0 to 1: noise of the ddim sampler"]
    decoder_num_inference_steps: Annotated[int, "denoising steps of the decoder"]
    upsampler_num_inference_steps: Annotated[int, "denoising steps of each upsampler"]
    decoder_guidance_scale: Annotated[float, "classifier-free guidance of the decoder; 1 is none"]
    decoder_guidance_start: Annotated[float, "share of the decoder's steps from which it is guided"]
    decoder_guidance_stop: Annotated[float, "share of the decoder's steps up to which it is guided"]
    dynamic_threshold: Annotated[
        float, "share of pixels that strong guidance is scaled down to fit; 0 clamps"
    ]


class Priming(TypedDict, total=False):
    """Operations that go from a caption through the prior."""

    prior: Annotated[
        Literal["diffusion", "autoregressive"],
        "the model that turns the caption into an image embedding",
    ]
    negative_prompt: Annotated[str, "what guidance leads away from"]
    prior_num_inference_steps: Annotated[int, "denoising steps of the prior"]
    prior_guidance_scale: Annotated[float, "classifier-free guidance of the prior; 1 is none"]
    prior_num_candidates: Annotated[
        int, "image embeddings that the diffusion prior draws to keep the best"
    ]
    prior_temperature: Annotated[float, "of the autoregressive prior; 0 takes the likeliest"]
    prior_top_p: Annotated[
        float, "of the autoregressive prior: how much of the probability it draws from"
    ]


class Several(TypedDict, total=False):
    """Operations that draw several images of one thing."""

    n: Annotated[int, "1 to 10 images; image i is drawn from seed + i"]


class Moving(TypedDict, total=False):
    """Operations that draw frames."""

    frames: Annotated[int, "2 to 32 images"]
    animation: Annotated[Animation, "also make one animated image of the frames"]


class Generate(Drawing, Priming, Several, total=False):
    """Of `generate`."""


class Variations(Drawing, Several, total=False):
    """Of `variations`."""


class Interpolate(Drawing, Priming, Moving, total=False):
    """Of `interpolate`."""

    noise: Annotated[
        Literal["slerp", "fixed"],
        "slerp: the ends are the images given; fixed: one noise, from the seed",
    ]


class TextDiff(Drawing, Moving, total=False):
    """Of `text_diff`."""

    prompt_from: Annotated[
        str, "what the image shows; left out, it moves towards the other caption itself"
    ]
    theta_max: Annotated[float, "above 0 to 1: how far the last frame goes"]


class Edit(Drawing, Priming, Several, total=False):
    """Of `edit`."""


class Probe(Drawing, total=False):
    """Of `probe`."""

    labels: Annotated[list[str], "captions to choose from"]
    components: Annotated[list[int], "for each, an image from so many principal components"]
