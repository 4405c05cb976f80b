"""The compositional split: combinations that training never sees, by fixed rules on names."""

from __future__ import annotations

from zlib import crc32


def is_held_out(kind: str, *parts: str) -> bool:
    """Return whether a combination belongs to the compositional split.

    `kind` is one of `MODULI`; `parts` are labels and attribute words, in the order of the
    rule's name."""
    return crc32("|".join((kind, *parts)).encode()) % MODULI[kind] == 0


# One combination in this many is held out.
MODULI = {
    "style": 16,  # thing, style
    "colour": 8,  # thing, colour
    "worn": 8,  # thing, worn thing
    "relation": 11,  # thing, thing, relation
    "count": 11,  # thing, number
}
