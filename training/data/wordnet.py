"""Nouns that WordNet (Miller 1995) puts under a thing: corgi -> dog."""

from __future__ import annotations

import tarfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from training.errors import TrainingError
from training.scenes.illustrated.packages import WORDNET, archive_name

MAX_DEPTH = 5
# A thing with more nouns than this below it is too broad to stand for each of them.
MAX_NOUNS = 400


@dataclass(frozen=True)
class WordNet:
    """WordNet's nouns: the synset of each lemma's first sense, and each synset's hypernyms and lemmas."""

    first_sense: dict[str, int]
    hypernyms: dict[int, tuple[int, ...]]


def read_wordnet(folder: Path) -> WordNet:
    """Read WordNet from its fetched package. Raises TrainingError when it is missing or laid out otherwise."""
    path = folder / archive_name(WORDNET)
    if not path.exists():
        raise TrainingError(
            f"{path} is missing: run `python -m training.scenes.illustrated.fetch --folder {folder}`"
        )
    try:
        with tarfile.open(path) as tar:
            index = _lines(tar, "package/dict/index.noun")
            data = _lines(tar, "package/dict/data.noun")
    except (KeyError, tarfile.TarError) as error:
        raise TrainingError(f"{WORDNET.spec} has an unexpected layout: {error}") from error
    first_sense = {}
    for line in index:
        fields = line.split()
        # Fields of index.noun: lemma, part of speech, synset count, pointer count, pointers, two counts, synset offsets.
        first_sense[fields[0].replace("_", " ")] = int(fields[6 + int(fields[3])])
    hypernyms = {}
    for line in data:
        fields = line.split(" | ")[0].split()
        pointers = 5 + 2 * int(fields[3], 16)
        parents = []
        for pointer in range(int(fields[pointers - 1])):
            symbol, offset, part, _ = fields[pointers + 4 * pointer : pointers + 4 * pointer + 4]
            if symbol in ("@", "@i") and part == "n":
                parents.append(int(offset))
        hypernyms[int(fields[0])] = tuple(parents)
    return WordNet(first_sense, hypernyms)


def nouns_below(wordnet: WordNet, things: list[tuple[str, ...]]) -> dict[str, int]:
    """Map each noun whose first sense lies below a thing to that thing, the nearest one.

    `things` holds each thing's words, the plainest first; nouns that are such words themselves are left out. Proper
    nouns are kept, for WordNet files them under instances."""
    owners: dict[int, int] = {}
    for thing, words in enumerate(things):
        for word in words:
            synset = wordnet.first_sense.get(word.lower())
            if synset is not None:
                owners.setdefault(synset, thing)
                break
    own_words = {word.lower() for words in things for word in words}
    found: dict[int, list[str]] = defaultdict(list)
    for lemma, synset in wordnet.first_sense.items():
        if lemma in own_words or len(lemma) < 3:
            continue
        thing_or_none = _nearest_owner(wordnet, synset, owners)
        if thing_or_none is not None:
            found[thing_or_none].append(lemma)
    return {
        lemma: thing
        for thing, lemmas in found.items()
        if len(lemmas) <= MAX_NOUNS
        for lemma in lemmas
    }


def _nearest_owner(wordnet: WordNet, synset: int, owners: dict[int, int]) -> int | None:
    level = [synset]
    for _ in range(MAX_DEPTH + 1):
        for one in level:
            if one in owners:
                return owners[one]
        level = [parent for one in level for parent in wordnet.hypernyms.get(one, ())]
    return None


def _lines(tar: tarfile.TarFile, member: str) -> list[str]:
    file = tar.extractfile(member)
    if file is None:
        raise KeyError(member)
    return [line for line in file.read().decode().splitlines() if not line.startswith("  ")]
