"""What a checkpoint knows: the things that it draws, and the words for them.

A checkpoint folder may hold `vocabulary.json`. Prompts are compared with it, so that a job can
report words that
training never saw.
"""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

FILE_NAME = "vocabulary.json"
MAX_WORDS = 6  # longest phrase that is looked up
CLOSE_MATCHES = 3
# What JSON in `vocabulary.json` begins with.
FORMAT = 1


@dataclass(frozen=True)
class DrawnName:
    """One thing that the checkpoint draws. `words` are its English names, the plainest first."""

    label: str
    group: str
    words: tuple[str, ...]
    translations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Vocabulary:
    """Names that are drawn, nouns that stand for one of them, and all other words that training
    saw."""

    names: tuple[DrawnName, ...]
    nouns: Mapping[str, str]  # noun -> the drawn name's plainest word
    other_words: frozenset[str]  # colours, places, relations, connectives
    examples: tuple[str, ...] = ()  # prompts that it can do

    @cached_property
    def known(self) -> frozenset[str]:
        """Return every phrase that was drawn in training, normalized."""
        phrases = {
            word
            for name in self.names
            for word in (*name.words, name.label, *name.translations.values())
        }
        return frozenset(normalize(phrase) for phrase in phrases)

    @cached_property
    def known_by_letter(self) -> dict[str, list[str]]:
        """Return known phrases by their first letter, in alphabetical order."""
        letters: dict[str, list[str]] = {}
        for phrase in sorted(self.known - {""}):
            letters.setdefault(phrase[0], []).append(phrase)
        return letters

    @cached_property
    def phrase_words(self) -> frozenset[str]:
        """Return the single words of known phrases."""
        return frozenset(word for phrase in self.known for word in phrase.split())


@dataclass(frozen=True)
class Unknown:
    """A phrase of a prompt that training never saw.

    `drawn_as` is empty when it was not understood."""

    phrase: str
    drawn_as: str = ""
    nearest: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.drawn_as:
            return f"{self.phrase}: drawn as {with_article(self.drawn_as)}"
        if self.nearest:
            return f"{self.phrase}: not understood; nearest known: {', '.join(self.nearest)}"
        return f"{self.phrase}: not understood"


@dataclass(frozen=True)
class _Word:
    """One word of a prompt, normalized, and where it is."""

    text: str
    start: int
    end: int


def explain_prompt(vocabulary: Vocabulary, prompt: str) -> list[Unknown]:
    """Return what a prompt asks for that training never saw, in the prompt's order.

    Phrases are matched longest first. Numbers and single letters count as known, and so does text
    in quotes."""
    return list(dict.fromkeys(unknown for unknown, _, _ in _find_unknown(vocabulary, prompt)))


def rewrite_prompt(vocabulary: Vocabulary, prompt: str) -> str:
    """Return the prompt with each noun that stands for a drawn name replaced by that name.

    "a corgi on grass" becomes "a dog on grass": the text encoder then reads only words that
    training saw."""
    pieces = []
    position = 0
    for unknown, start, end in _find_unknown(vocabulary, prompt):
        if unknown.drawn_as:
            is_plural = unknown.phrase not in vocabulary.nouns and unknown.phrase.endswith("s")
            pieces += [prompt[position:start], unknown.drawn_as + ("s" if is_plural else "")]
            position = end
    return "".join((*pieces, prompt[position:]))


def _find_unknown(vocabulary: Vocabulary, prompt: str) -> list[tuple[Unknown, int, int]]:
    words = _split(prompt)
    texts = [word.text for word in words]
    unknowns: list[tuple[Unknown, int, int]] = []
    place = 0
    while place < len(words):
        length = _known_length(vocabulary, texts, place)
        if length:
            place += length
            continue
        length, drawn_as = _noun_at(vocabulary, texts, place)
        start = words[place].start
        if drawn_as:
            phrase = " ".join(texts[place : place + length])
            unknowns.append((Unknown(phrase, drawn_as), start, words[place + length - 1].end))
        elif not _is_plain(vocabulary, texts[place]):
            # Words with another first letter are left out: comparing with all takes 0.1 s.
            candidates = vocabulary.known_by_letter.get(texts[place][0], [])
            near = difflib.get_close_matches(texts[place], candidates, CLOSE_MATCHES, 0.75)
            unknowns.append((Unknown(texts[place], nearest=tuple(near)), start, words[place].end))
        place += length or 1
    return unknowns


def _split(prompt: str) -> list[_Word]:
    """Return the prompt's words. Text in quotes is what a sign says, and left out."""
    hidden = re.sub(
        r"\"[^\"]*\"|\u201c[^\u201d]*\u201d", lambda quoted: " " * len(quoted[0]), prompt
    )
    words = []
    for match in re.finditer(r"[\w'’]+", hidden):
        text = normalize(match[0])
        if text:
            words.append(_Word(text, match.start(), match.end()))
    return words


def load_vocabulary(folder: Path) -> Vocabulary | None:
    """Read a checkpoint folder's vocabulary; None when it has none. Raises ValueError for a file of
    another form."""
    path = folder / FILE_NAME
    if not path.exists():
        return None
    try:
        contents: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        names = tuple(
            DrawnName(
                name["label"], name["group"], tuple(name["words"]), name.get("translations", {})
            )
            for name in contents["names"]
        )
        return Vocabulary(
            names,
            dict(contents["nouns"]),
            frozenset(contents["other_words"]),
            tuple(contents.get("examples", ())),
        )
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a vocabulary: {error!r}. Restore it from the checkpoint's source."
        ) from error


def save_vocabulary(folder: Path, vocabulary: Vocabulary) -> None:
    """Write `vocabulary.json` into a checkpoint folder."""
    names = [
        {
            "label": name.label,
            "group": name.group,
            "words": list(name.words),
            "translations": dict(name.translations),
        }
        for name in vocabulary.names
    ]
    contents = {
        "format": FORMAT,
        "names": names,
        "nouns": dict(vocabulary.nouns),
        "other_words": sorted(vocabulary.other_words),
        "examples": list(vocabulary.examples),
    }
    (folder / FILE_NAME).write_text(
        json.dumps(contents, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )


def normalize(text: str) -> str:
    """Return text in lower case, without accents and punctuation, words one space apart."""
    decomposed = unicodedata.normalize("NFD", text.lower().replace("’", "'"))
    plain = "".join(
        character for character in decomposed if unicodedata.category(character) != "Mn"
    )
    return " ".join(re.sub(r"[^\w']+", " ", plain).split())


def with_article(noun: str) -> str:
    """Return a noun with "a" or "an"."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def _known_length(vocabulary: Vocabulary, words: list[str], start: int) -> int:
    for length in range(min(MAX_WORDS, len(words) - start), 0, -1):
        phrase = " ".join(words[start : start + length])
        if phrase in vocabulary.known or _singular(phrase) in vocabulary.known:
            return length
    return 0


def _noun_at(vocabulary: Vocabulary, words: list[str], start: int) -> tuple[int, str]:
    if words[start] in vocabulary.other_words:
        return 0, ""
    for length in range(min(MAX_WORDS, len(words) - start), 0, -1):
        phrase = " ".join(words[start : start + length])
        drawn_as = vocabulary.nouns.get(phrase) or vocabulary.nouns.get(_singular(phrase))
        if drawn_as:
            return length, drawn_as
    return 0, ""


def _is_plain(vocabulary: Vocabulary, word: str) -> bool:
    is_small = len(word) < 2 or any(character.isdigit() for character in word)
    return is_small or word in vocabulary.other_words or word in vocabulary.phrase_words


def _singular(phrase: str) -> str:
    for ending, singular in (
        ("ies", "y"),
        ("ves", "f"),
        ("oes", "o"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("xes", "x"),
        ("sses", "ss"),
        ("s", ""),
    ):
        if phrase.endswith(ending):
            return phrase[: -len(ending)] + singular
    return phrase
