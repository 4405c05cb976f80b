"""Things that can be drawn: names, synonyms, groups and translations from emojibase-data."""

from __future__ import annotations

import json
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import TrainingError

LANGUAGES = ("de", "es", "fr", "it", "pt", "nl", "ru", "zh", "ja", "ko")
GROUPS = (
    "smileys-emotion",
    "animals-nature",
    "food-drink",
    "travel-places",
    "activities",
    "objects",
)
PEOPLE = ("person-fantasy", "person-role", "body-parts", "person-symbol")

# Variants of one person, and clock faces: many near twins that no prompt tells apart.
_VARIANTS = re.compile(
    r"^(man|woman|men|women|person|people|family|pregnant|mr|mrs|mx|kiss|couple)\b"
    r"|o.clock|-thirty|feeding",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Name:
    """One thing with the words for it."""

    label: str  # emojibase's English label
    code: str  # code points, lower case, joined by "-"
    group: str
    subgroup: str
    tags: tuple[str, ...]
    translations: dict[str, str]  # language -> label


def read_names(archive: Path) -> list[Name]:
    """Read the names worth drawing from emojibase-data's archive, in its order.

    Raises TrainingError when the archive's layout is not the expected one."""
    try:
        with tarfile.open(archive) as tar:
            messages = _read_json(tar, "package/en/messages.json")
            records = _read_json(tar, "package/en/data.json")
            translations = {
                language: _labels(_read_json(tar, f"package/{language}/data.json"))
                for language in LANGUAGES
            }
    except (tarfile.TarError, KeyError, json.JSONDecodeError) as error:
        raise TrainingError(f"{archive.name} has an unexpected layout: {error!r}") from error
    groups = {group["order"]: group["key"] for group in messages["groups"]}
    subgroups = {group["order"]: group["key"] for group in messages["subgroups"]}
    names = []
    for record in records:
        group = groups.get(record.get("group"), "")
        subgroup = subgroups.get(record.get("subgroup"), "")
        if not is_drawable(record["label"], group, subgroup):
            continue
        code = record["hexcode"].lower()
        words = {
            language: labels[code] for language, labels in translations.items() if code in labels
        }
        names.append(
            Name(record["label"], code, group, subgroup, tuple(record.get("tags", ())), words)
        )
    return names


def is_drawable(label: str, group: str, subgroup: str) -> bool:
    """Return whether a name is one that a prompt may ask for."""
    return (
        group in GROUPS or (group == "people-body" and subgroup in PEOPLE)
    ) and not _VARIANTS.search(label)


def _labels(records: list[dict[str, Any]]) -> dict[str, str]:
    return {record["hexcode"].lower(): record["label"] for record in records}


def _read_json(tar: tarfile.TarFile, member: str) -> Any:
    file = tar.extractfile(member)
    if file is None:
        raise KeyError(member)
    return json.load(file)
