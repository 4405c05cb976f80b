"""What a client prefers: to wait (RFC 7240), and images instead of JSON (RFC 9110, section 12)."""

from __future__ import annotations

import math
from collections.abc import Iterable


def wait_seconds(prefer: Iterable[str], max_wait_s: float) -> float | None:
    """Return the wait that Prefer headers request, at most `max_wait_s`; None without one.

    An invalid wait is ignored, and the first of several counts (RFC 7240).
    """
    for preference in ",".join(prefer).split(","):
        name, _, value = preference.split(";")[0].partition("=")
        if name.strip().lower() == "wait":
            try:
                seconds = float(value.strip().strip('"'))
            except ValueError:
                return None
            return min(seconds, max_wait_s) if math.isfinite(seconds) and seconds >= 0 else None
    return None


def wants_png(accept: Iterable[str]) -> bool:
    """Return whether Accept headers prefer image/png (or image/*) to JSON. `*/*` means JSON."""
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
