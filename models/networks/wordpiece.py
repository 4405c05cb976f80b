"""A WordPiece tokenizer (Wu et al. 2016, arXiv 1609.08144) for BERT's uncased vocabularies, pruned
or extended.

Two differences from BERT's: a word that no pieces spell becomes single unknown pieces, not one;
and runs of Han and kana
characters are matched as long as the vocabulary allows, not character by character.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

PAD, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
MAX_PIECE_LENGTH = 40


class WordPieceTokenizer:
    """Split text into ids of a vocabulary. The vocabulary starts with the four special pieces."""

    def __init__(self, vocabulary: Sequence[str], context_length: int) -> None:
        if tuple(vocabulary[:4]) != (PAD, UNKNOWN, START, END):
            raise ValueError(
                f"a vocabulary starts with {PAD}, {UNKNOWN}, {START}, {END}, "
                f"not with {list(vocabulary[:4])}"
            )
        self.vocabulary = list(vocabulary)
        self.ids = {piece: index for index, piece in enumerate(vocabulary)}
        self.context_length = context_length

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without start and end."""
        return [piece for word in split_words(text) for piece in self.encode_word(word)]

    def encode_word(self, word: str) -> list[int]:
        """Return the ids of one word from `split_words`, longest pieces first."""
        prefix = "" if is_ideographic(word[0]) else "##"
        ids = []
        start = 0
        while start < len(word):
            end = min(len(word), start + MAX_PIECE_LENGTH)
            while end > start:
                piece = (prefix if start else "") + word[start:end]
                if piece in self.ids:
                    break
                end -= 1
            if end == start:
                ids.append(self.ids[UNKNOWN])
                end = start + 1
            else:
                ids.append(self.ids[piece])
            start = end
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text that ids spell, in lower case."""
        return " ".join(self.vocabulary[index] for index in ids).replace(" ##", "")


def normalize(text: str) -> str:
    """Return text in lower case without accents and control characters, in Unicode's decomposed
    form."""
    decomposed = unicodedata.normalize("NFD", text.lower())
    letters = [character for character in decomposed if unicodedata.category(character) != "Mn"]
    return "".join(
        " " if character.isspace() else character
        for character in letters
        if not _is_control(character)
    )


def split_words(text: str) -> list[str]:
    """Return the words of a text: punctuation marks alone, runs of Han and kana characters
    together."""
    words: list[str] = []
    last = ""
    for character in normalize(text):
        kind = _kind(character)
        if kind == "space":
            last = kind
            continue
        if kind != "mark" and kind == last:
            words[-1] += character
        else:
            words.append(character)
        last = kind
    return words


def is_ideographic(character: str) -> bool:
    """Return whether a character is Han or kana, which are written without spaces."""
    code = ord(character)
    return (
        0x3040 <= code <= 0x30FF
        or 0x3400 <= code <= 0x9FFF
        or 0xF900 <= code <= 0xFAFF
        or 0x20000 <= code <= 0x2FA1F
        or code == 0x3005
    )


def _kind(character: str) -> str:
    if character == " ":
        return "space"
    if is_ideographic(character):
        return "ideographic"
    is_ascii_mark = character.isascii() and not character.isalnum()
    return "mark" if is_ascii_mark or unicodedata.category(character).startswith("P") else "letter"


def _is_control(character: str) -> bool:
    return not character.isspace() and unicodedata.category(character).startswith("C")
