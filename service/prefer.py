"""What a client prefers: to wait (RFC 7240), and pictures instead of JSON (RFC 9110, section 12)."""

from __future__ import annotations

import math


def wait_seconds(prefer: str | None, longest: float) -> float | None:
    """The wait that a Prefer header asks for, at most `longest`; None without one. What does not parse is ignored, as
    RFC 7240 wants."""
    for preference in (prefer or "").split(","):
        name, _, value = preference.split(";")[0].partition("=")
        if name.strip().lower() == "wait":
            try:
                seconds = float(value.strip().strip('"'))
            except ValueError:
                return None
            return min(seconds, longest) if math.isfinite(seconds) and seconds >= 0 else None
    return None


def wants_png(accept: str | None) -> bool:
    """True where image/png is accepted and JSON is not liked better."""
    weights = {"image/png": 0.0, "application/json": 0.0}
    for entry in (accept or "").split(","):
        media, *parameters = (part.strip().lower() for part in entry.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = float(parameter[2:])
                except ValueError:
                    weight = 0.0
        if media in weights:
            weights[media] = max(weights[media], weight)
    return weights["image/png"] > weights["application/json"]
