"""What the joint space knows: names, nouns, languages and photographs, each by the nearest
label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from models.networks.two_tower_clip import TwoTowerCLIP
from training.data.illustrated.word_pairs import WordPairs, is_held_out_noun
from training.scenes.illustrated.synonyms import with_article

BATCH = 256
# Nouns that people write: at least this often (log10 per billion words), by `wordfreq`.
MIN_ZIPF = 2.5


@dataclass(frozen=True)
class Accuracy:
    """Shares of right answers, first and among five, of `count`."""

    first: float
    five: float
    count: int


@torch.inference_mode()
def embed(clip: TwoTowerCLIP, texts: Sequence[str]) -> Tensor:
    """Return z_t `[B, D]`."""
    return torch.cat(
        [
            clip.encode_text(clip.tokenize(texts[start : start + BATCH])[0]).z_t
            for start in range(0, len(texts), BATCH)
        ]
    )


class LabelIndex:
    """The labels as a classifier: distinct plainest words, and which of them are nearest to an
    embedding."""

    def __init__(self, clip: TwoTowerCLIP, words: WordPairs) -> None:
        texts: dict[int, str] = {}
        for name, group in enumerate(words.groups):
            texts.setdefault(group, words.world.words[name][0])
        self.words = words
        self.labels = list(texts.values())
        self.embeddings = embed(clip, [with_article(label) for label in self.labels])

    def score(self, embeddings: Tensor, targets: Sequence[set[int]]) -> Accuracy:
        """Return how often one of the target groups is nearest, and among the five nearest."""
        nearest = (embeddings @ self.embeddings.T).topk(5, dim=1).indices.tolist()
        first = sum(row[0] in target for row, target in zip(nearest, targets, strict=True))
        five = sum(not target.isdisjoint(row) for row, target in zip(nearest, targets, strict=True))
        return Accuracy(first / len(targets), five / len(targets), len(targets))


def evaluate_words(
    clip: TwoTowerCLIP, words: WordPairs, nouns: dict[str, int]
) -> dict[str, Accuracy]:
    """Return accuracy on nouns learned as text, nouns kept back, and each language's names."""
    from wordfreq import zipf_frequency

    index = LabelIndex(clip, words)
    world = words.world
    written = [noun for noun in nouns if zipf_frequency(noun, "en") >= MIN_ZIPF]
    results = {}
    for kind, held_out in (("nouns learned", False), ("nouns kept back", True)):
        chosen = [noun for noun in written if is_held_out_noun(noun) == held_out][:500]
        results[kind] = index.score(
            embed(clip, [with_article(noun) for noun in chosen]),
            [{words.groups[nouns[noun]]} for noun in chosen],
        )
    for language in world.names[0].translations:
        pairs = [
            (name.translations[language], words.groups[row])
            for row, name in enumerate(world.names)
            if language in name.translations
        ]
        results[language] = index.score(
            embed(clip, [text for text, _ in pairs]), [{group} for _, group in pairs]
        )
    return results


def photograph_accuracy(
    clip: TwoTowerCLIP, words: WordPairs, listing: Path, folder: Path
) -> tuple[Accuracy, list[Tensor]]:
    """Return accuracy on photographs, and their embeddings.

    `listing` holds a line a photograph: its path under `folder` without suffix, a tab, and the
    labels that count as
    right, joined by "|"."""
    index = LabelIndex(clip, words)
    groups = {name.label: words.groups[row] for row, name in enumerate(words.world.names)}
    embeddings, targets = [], []
    for line in listing.read_text().splitlines():
        if line and not line.startswith("#"):
            path, labels = line.split("\t")
            embeddings.append(clip.encode_image(read_photograph(folder / f"{path}.png")[None])[0])
            targets.append({groups[label] for label in labels.split("|") if label in groups})
    return index.score(torch.stack(embeddings), targets), embeddings


def read_photograph(path: Path, size: int = 224) -> Tensor:
    """Return an image file on white, padded to a square, `[3, size, size]` in [-1, 1]."""
    image = Image.open(path).convert("RGBA")
    side = max(image.size)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    pixels = np.asarray(square.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)).copy()
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1


def image_accuracy(
    clip: TwoTowerCLIP, words: WordPairs, features: Tensor, names: Sequence[int]
) -> Accuracy:
    """Return how often features `[N, W]` of images that show one name each have its label
    nearest."""
    with torch.inference_mode():
        z_i = torch.nn.functional.normalize(clip.image.head(features), dim=-1)
    return LabelIndex(clip, words).score(z_i, [{words.groups[name]} for name in names])
