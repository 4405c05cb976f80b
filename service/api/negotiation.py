"""What a client prefers: to wait (RFC 7240), and images instead of JSON (RFC 9110, section 12)."""

from __future__ import annotations

import math
from collections.abc import Iterable


def wait_seconds(prefer: Iterable[str], longest: float) -> float | None:
    """The wait that the Prefer headers ask for, at most `longest`; None without one. What does not parse is ignored, and of
    several the first counts, as RFC 7240 wants."""
    for preference in ",".join(prefer).split(","):
        name, _, value = preference.split(";")[0].partition("=")
        if name.strip().lower() == "wait":
            try:
                seconds = float(value.strip().strip('"'))
            except ValueError:
                return None
            return min(seconds, longest) if math.isfinite(seconds) and seconds >= 0 else None
    return None


def wants_png(accept: Iterable[str]) -> bool:
    """True where the Accept headers like image/png (or image/*) better than JSON. `*/*` is content with JSON."""
    weights = {"image/png": 0.0, "application/json": 0.0}
    for entry in ",".join(accept).split(","):
        media, *parameters = (part.strip().lower() for part in entry.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = float(parameter[2:])
                except ValueError:
                    weight = 0.0
        media = "image/png" if media == "image/*" else media
        if media in weights:
            weights[media] = max(weights[media], weight)
    return weights["image/png"] > weights["application/json"]
