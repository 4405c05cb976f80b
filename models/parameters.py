"""The parameters that, with prompt and seed, decide an image."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Parameters:
    """Resolved parameters of one request.

    `sampler` and `eta` are the decoder's; the prior and the upsamplers use their checkpoint's.
    Candidates and steps are the diffusion prior's, temperature and top-p the autoregressive one's.
    """

    size: int  # px, the image is square
    prior: str  # "diffusion" or "autoregressive"
    negative_prompt: str
    sampler: str
    eta: float
    prior_num_candidates: int
    prior_num_inference_steps: int
    decoder_num_inference_steps: int
    upsampler_num_inference_steps: int
    prior_guidance_scale: float  # 1: no guidance
    prior_temperature: float
    prior_top_p: float
    decoder_guidance_scale: float  # 1: no guidance
    # The decoder is guided from one share of its steps to another, each from 0 to 1.
    decoder_guidance_start: float
    decoder_guidance_stop: float
    dynamic_threshold: float  # quantile of the pixels; 0 clamps instead

    def as_dict(self) -> dict[str, Any]:
        """Return the parameters by field name, as JSON's types."""
        return asdict(self)
