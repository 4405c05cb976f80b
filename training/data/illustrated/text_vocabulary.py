"""The text tower's vocabulary: MiniLM's, pruned to what prompts need, extended by whole words of
other languages and rare nouns.

A new word starts as what it stands for: "hund" as the mean of the pieces of "dog"."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.networks.text_tower import TextTower
from models.networks.wordpiece import (
    END,
    PAD,
    START,
    UNKNOWN,
    WordPieceTokenizer,
    is_ideographic,
    split_words,
)
from training.data.illustrated.pretrained import MiniLM
from training.scenes.illustrated.world import World

# MiniLM's pieces are ordered by frequency: those before this id stay whether or not a training text
# needs them.
FREQUENT = 16000
NOUN_SHARE = 0.6  # how much of a rare noun's first embedding is that of the thing above it


@dataclass(frozen=True)
class TextVocabulary:
    """Pieces in order of token ids, and their first embeddings `[V, W]`."""

    pieces: list[str]
    embeddings: Tensor


def build_vocabulary(minilm: MiniLM, world: World, nouns: dict[str, int]) -> TextVocabulary:
    """Choose the pieces and compute their first embeddings. `nouns` maps rare nouns to indices of
    names."""
    special = [PAD, UNKNOWN, START, END]
    first = special + [piece for piece in minilm.vocabulary if piece not in special]
    table = minilm.tensors["embeddings.word_embeddings.weight"]
    old_ids = {piece: index for index, piece in enumerate(minilm.vocabulary)}
    tokenizer = WordPieceTokenizer(first, 77)

    def embed(text: str) -> Tensor:
        rows = [old_ids[first[index]] for index in tokenizer.encode(text)]
        return table[rows].mean(0)

    plain = [embed(words[0]) for words in world.words]
    # Sums and counts of what each new word stands for.
    added: dict[str, list[Tensor]] = {}
    for index, name in enumerate(world.names):
        for translation in name.translations.values():
            for word in split_words(translation):
                if word not in old_ids and (len(word) > 1 or is_ideographic(word)):
                    added.setdefault(word, []).append(plain[index])
    for noun, index in nouns.items():
        if noun.isalpha() and noun not in old_ids and noun not in added:
            added[noun] = [NOUN_SHARE * plain[index] + (1 - NOUN_SHARE) * embed(noun)]
    needed = _used_pieces(tokenizer, world, nouns)
    used_pieces = [
        piece
        for piece in first
        if piece in special or piece in needed or _is_frequent(piece, old_ids[piece])
    ]
    rows = [table[old_ids[piece]] for piece in used_pieces] + [
        torch.stack(values).mean(0) for values in added.values()
    ]
    return TextVocabulary([*used_pieces, *added], torch.stack(rows))


def fill_text_tower(tower: TextTower, minilm: MiniLM, embeddings: Tensor) -> None:
    """Load MiniLM's layers and these embeddings into the tower. Its head stays the identity."""
    tensors = minilm.tensors
    types = tensors["embeddings.token_type_embeddings.weight"][0]
    values = {
        "token_embedding.weight": embeddings,
        "positions": tensors["embeddings.position_embeddings.weight"][: tower.config.context_length]
        + types,
        "norm_in.weight": tensors["embeddings.LayerNorm.weight"],
        "norm_in.bias": tensors["embeddings.LayerNorm.bias"],
    }
    parts = {
        "to_q": "attention.self.query",
        "to_k": "attention.self.key",
        "to_v": "attention.self.value",
        "to_out": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "up": "intermediate.dense",
        "down": "output.dense",
        "norm2": "output.LayerNorm",
    }
    for layer in range(tower.config.layers):
        for ours, theirs in parts.items():
            for kind in ("weight", "bias"):
                values[f"layers.{layer}.{ours}.{kind}"] = tensors[
                    f"encoder.layer.{layer}.{theirs}.{kind}"
                ]
    missing, unexpected = tower.load_state_dict(values, strict=False)
    assert not unexpected
    assert all(key.startswith("head.") for key in missing)


def _used_pieces(tokenizer: WordPieceTokenizer, world: World, nouns: dict[str, int]) -> set[str]:
    texts = [word for words in (*world.words, *world.tags) for word in words]
    texts += nouns
    texts += [translation for name in world.names for translation in name.translations.values()]
    return {tokenizer.vocabulary[index] for text in texts for index in tokenizer.encode(text)}


def _is_frequent(piece: str, index: int) -> bool:
    text = piece.removeprefix("##")
    if len(text) == 1:
        return not is_ideographic(text)
    return index < FREQUENT and text.isascii() and text.isalpha()
