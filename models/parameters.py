"""Everything that decides an image beside its prompt and seed, with nothing left open."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Parameters:
    """Resolved parameters of one request. `sampler` and `eta` are the decoder's; the prior and the upsamplers use their
    checkpoint's own. A guidance scale of 1 means none; the decoder is guided from one share of its steps, `decoder_guidance_start`,
    to another, `decoder_guidance_stop`. `dynamic_threshold` is a share of the pixels, 0 for plain clamping.
    Candidates and steps are the diffusion prior's; temperature and top-p are the autoregressive one's."""

    size: int  # pixels, the image is square
    prior: str
    negative_prompt: str
    sampler: str
    eta: float
    prior_num_candidates: int
    prior_num_inference_steps: int
    decoder_num_inference_steps: int
    upsampler_num_inference_steps: int
    prior_guidance_scale: float
    prior_temperature: float
    prior_top_p: float
    decoder_guidance_scale: float
    decoder_guidance_start: float
    decoder_guidance_stop: float
    dynamic_threshold: float

    def as_dict(self) -> dict[str, Any]:
        """By field name, ready for JSON."""
        return asdict(self)
