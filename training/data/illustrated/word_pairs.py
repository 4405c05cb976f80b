"""Words paired with the thing they stand for: labels, synonyms, tags, translations, and nouns that
WordNet puts below a thing."""

from __future__ import annotations

import random
from dataclasses import dataclass
from zlib import crc32

from training.scenes.illustrated.captions import foreign_caption, frame_noun
from training.scenes.illustrated.world import World

# One noun in this many is kept back from all text, to measure words never seen.
HELD_OUT_NOUNS = 6
SHARES = {"label": 1.0, "tag": 1.0, "foreign": 3.0, "noun": 4.0}


@dataclass(frozen=True)
class WordPairs:
    """Draws texts for things. `groups` numbers the distinct plainest words: "dog" and "dog face"
    share one."""

    world: World
    nouns: list[list[str]]  # of each name, those that training may use
    groups: list[int]  # of each name

    def draw(self, count: int, rng: random.Random) -> tuple[list[str], list[int]]:
        """Return texts of distinct names, and the groups that they stand for."""
        names = rng.sample(range(len(self.world.names)), count)
        return [self._text(name, rng) for name in names], [self.groups[name] for name in names]

    def _text(self, name: int, rng: random.Random) -> str:
        kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
        if kind == "noun" and self.nouns[name]:
            return frame_noun(rng.choice(self.nouns[name]), rng)
        if kind == "tag" and self.world.tags[name]:
            return frame_noun(rng.choice(self.world.tags[name]), rng)
        if kind == "foreign":
            return foreign_caption(self.world, name, rng)
        return frame_noun(rng.choice(self.world.words[name]), rng)


def build_word_pairs(world: World, nouns: dict[str, int]) -> WordPairs:
    """Gather the words of every name, without the held-out nouns."""
    below: list[list[str]] = [[] for _ in world.names]
    for noun, name in nouns.items():
        if not is_held_out_noun(noun):
            below[name].append(noun)
    order: dict[str, int] = {}
    groups = [order.setdefault(words[0].lower(), len(order)) for words in world.words]
    return WordPairs(world, below, groups)


def is_held_out_noun(noun: str) -> bool:
    """Return whether a noun is kept back from every training text and from the vocabulary."""
    return crc32(noun.encode()) % HELD_OUT_NOUNS == 0
