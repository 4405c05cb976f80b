"""Nouns that WordNet (Miller 1995) puts under a thing: corgi -> dog."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from training.errors import TrainingError
from training.scenes.illustrated.art.packages import WORDNET, archive_name

MAX_DEPTH = 5
# WordNet's files of animals, foods and plants, by the group of things whose words are meant in that
# sense.
LEXICOGRAPHER_FILES = {"animals-nature": (5, 20), "food-drink": (13, 20)}
# Things whose nouns are people, islands or plants that do not look like them.
TOO_BROAD = frozenset(
    (
        "herb", "scientist", "artist", "straight ruler", "singer", "judge", "technologist",
        "health worker", "performing arts", "desert island", "school", "wood", "salt", "bone",
        "office worker", "desert", "national park", "guard", "student", "teacher", "cook",
        "mechanic", "pilot", "cityscape", "mountain", "knot", "link", "water wave", "film frames",
        "wrapped gift", "label",
    )
)  # fmt: skip


@dataclass(frozen=True)
class WordNet:
    """WordNet's nouns: the synsets of each lemma's senses, the commonest first; each synset's
    hypernyms and file number."""

    senses: dict[str, tuple[int, ...]]
    hypernyms: dict[int, tuple[int, ...]]
    files: dict[int, int]


def read_wordnet(folder: Path) -> WordNet:
    """Read WordNet from its fetched package. Raises TrainingError when it is missing or laid out
    otherwise."""
    path = folder / archive_name(WORDNET)
    if not path.exists():
        raise TrainingError(
            f"{path} is missing: run `python -m training.scenes.illustrated.fetch` first"
        )
    try:
        with tarfile.open(path) as tar:
            index = _lines(tar, "package/dict/index.noun")
            data = _lines(tar, "package/dict/data.noun")
    except (KeyError, tarfile.TarError) as error:
        raise TrainingError(f"{WORDNET.spec} has an unexpected layout: {error}") from error
    senses = {}
    for line in index:
        fields = line.split()
        # Fields of index.noun: lemma, part of speech, synset count, pointer count, pointers, two
        # counts, synset offsets.
        senses[fields[0].replace("_", " ")] = tuple(
            int(offset) for offset in fields[6 + int(fields[3]) :]
        )
    hypernyms = {}
    files = {}
    for line in data:
        fields = line.split(" | ")[0].split()
        pointers = 5 + 2 * int(fields[3], 16)
        parents = []
        for pointer in range(int(fields[pointers - 1])):
            symbol, offset, part, _ = fields[pointers + 4 * pointer : pointers + 4 * pointer + 4]
            if symbol in ("@", "@i") and part == "n":
                parents.append(int(offset))
        hypernyms[int(fields[0])] = tuple(parents)
        files[int(fields[0])] = int(fields[1])
    return WordNet(senses, hypernyms, files)


def owners_of(
    wordnet: WordNet,
    things: list[tuple[str, ...]],
    groups: list[str],
    main_things: Mapping[str, int] | None = None,
) -> dict[int, int]:
    """Map the synsets of each thing's words to the thing: each word's commonest sense of its kind.

    `things` holds each thing's words, `groups` emojibase's group of each. A word of several things
    belongs to the one in `main_things`."""
    main_things = main_things or {}
    candidates: list[list[tuple[int, int]]] = []  # of each thing, (sense, thing) in order of words
    for thing, (words, group) in enumerate(zip(things, groups, strict=True)):
        own: list[tuple[int, int]] = []
        for word in words if TOO_BROAD.isdisjoint(words) else ():
            senses = wordnet.senses.get(word.lower(), ())
            files = LEXICOGRAPHER_FILES.get(group, ())
            preferred = [sense for sense in senses if wordnet.files[sense] in files]
            if senses and main_things.get(word.lower(), thing) == thing:
                own.append(((preferred or list(senses))[0], thing))
        candidates.append(own)
    # Plainest words first, so that a synonym never takes another thing's own sense.
    ordered = [own[0] for own in candidates if own]
    ordered += [pair for own in candidates for pair in own[1:]]
    owners: dict[int, int] = {}
    for sense, thing in ordered:
        owners.setdefault(sense, thing)
    return owners


def nouns_below(
    wordnet: WordNet,
    things: list[tuple[str, ...]],
    groups: list[str],
    main_things: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Map each noun whose first sense lies below a thing to that thing, the nearest one.

    Nouns that are words of a thing themselves are left out."""
    owners = owners_of(wordnet, things, groups, main_things)
    own_words = {word.lower() for words in things for word in words}
    matches = {}
    for noun in wordnet.senses:
        thing = -1 if noun in own_words or len(noun) < 3 else nearest_thing(wordnet, noun, owners)
        if thing >= 0:
            matches[noun] = thing
    return matches


def nearest_thing(wordnet: WordNet, noun: str, owners: dict[int, int]) -> int:
    """Return the thing at or above a noun's first sense, at most `MAX_DEPTH` steps up; -1 if there
    is none."""
    level = list(wordnet.senses.get(noun.lower(), ())[:1])
    for _ in range(MAX_DEPTH + 1):
        for one in level:
            if one in owners:
                return owners[one]
        level = [parent for one in level for parent in wordnet.hypernyms.get(one, ())]
    return -1


def _lines(tar: tarfile.TarFile, member: str) -> list[str]:
    file = tar.extractfile(member)
    if file is None:
        raise KeyError(member)
    return [line for line in file.read().decode().splitlines() if not line.startswith("  ")]
