"""How a request's parameters are completed: by the operation's defaults, then the checkpoint's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from models.parameters import Parameters

# DDIM is the sampler that can run backwards. Guidance would make the inversion follow another path
# than the decoding.
_INVERTED = {
    "sampler": "ddim",
    "eta": 0.0,
    "decoder_num_inference_steps": 50,
    "decoder_guidance_scale": 1.0,
}
# What an operation sets differently from the checkpoint's defaults.
OPERATION_DEFAULTS: dict[str, dict[str, Any]] = {
    "variations": _INVERTED | {"eta": 0.7},
    "interpolate": _INVERTED,
    # Without guidance the new colour appears at the cost of the shape.
    "text-diff": _INVERTED | {"decoder_guidance_scale": 2.0},
    "edit": {"sampler": "ddpm"},
    "probe": {"decoder_guidance_scale": 1.0},
}
# The decoder's guidance scale for a negative prompt if neither the request nor the defaults guide:
# without guidance a negative prompt has no effect.
NEGATIVE_PROMPT_SCALE = 2.0
# For checkpoints that are older than these parameters.
_LATER_DEFAULTS: dict[str, Any] = {
    "prior_temperature": 1.0,
    "prior_top_p": 1.0,
    "decoder_guidance_start": 0.0,
    "decoder_guidance_stop": 1.0,
    "dynamic_threshold": 0.0,
}


def resolve(
    checkpoint_defaults: Mapping[str, Any], operation: str, values: Mapping[str, Any]
) -> Parameters:
    """Complete a request's values, of which None counts as absent.

    Raises ValueError for a name that is no parameter."""
    names = Parameters.__dataclass_fields__
    unknown = values.keys() - names.keys()
    if unknown:
        raise ValueError(
            f"unknown parameter {', '.join(sorted(unknown))}: use one of {', '.join(names)}"
        )
    defaults = _LATER_DEFAULTS | dict(checkpoint_defaults) | OPERATION_DEFAULTS.get(operation, {})
    # A checkpoint may have its own defaults of an operation.
    defaults |= checkpoint_defaults.get("operations", {}).get(operation, {})
    if values.get("negative_prompt") and defaults["decoder_guidance_scale"] == 1:
        defaults["decoder_guidance_scale"] = NEGATIVE_PROMPT_SCALE
    complete = {
        name: defaults[name] if values.get(name) is None else values[name] for name in names
    }
    return Parameters(**complete)


def check(
    parameters: Parameters, checkpoint: str, sizes: Sequence[int], priors: Sequence[str]
) -> None:
    """Raise ValueError for a size or a prior that the checkpoint lacks, and a reversed interval."""
    if parameters.size not in sizes:
        raise ValueError(
            f"size is {parameters.size}: checkpoint {checkpoint!r} generates "
            f"{', '.join(map(str, sizes))}"
        )
    start = parameters.decoder_guidance_start
    stop = parameters.decoder_guidance_stop
    if start > stop:
        raise ValueError(
            f"decoder_guidance_start is {start:g} and decoder_guidance_stop is {stop:g}: "
            "the start must not exceed the stop"
        )
    if parameters.prior not in priors:
        raise ValueError(
            f"prior is {parameters.prior!r}: checkpoint {checkpoint!r} has "
            f"{' and '.join(map(repr, priors))}"
        )
