"""The text stage: CLIP encodes the prompt and the negative prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from models.networks.clip import CLIP
from models.row import Conditioning, Row
from models.stages.base import Role, Runtime, Stage
from models.vocabulary import Unknown, explain_prompt, rewrite_prompt


class TextStage(Stage):
    """Sets `text` and `unconditional` of the conditioning, and the truncated prompts.

    With a vocabulary, nouns that stand for a drawn name are replaced by it."""

    name = "text"
    role = Role.TEXT
    network = "clip"
    cost = 0.2

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.clip = cast(CLIP, runtime.networks[self.network])

    def step(self, rows: Sequence[Row]) -> list[Row]:
        # Each prompt is encoded once, however many rows share it.
        pairs = [(row.prompt, row.parameters.negative_prompt) for row in rows]
        prompts = list(dict.fromkeys(prompt for pair in pairs for prompt in pair))
        vocabulary = self.runtime.vocabulary
        texts = prompts
        unknown: dict[str, list[Unknown]] = {}
        if vocabulary is not None:
            texts = [rewrite_prompt(vocabulary, prompt) for prompt in prompts]
            unknown = {prompt: explain_prompt(vocabulary, prompt) for prompt in prompts}
        tokens, truncated = self.clip.tokenize(texts)
        encoding = self.clip.encode_text(tokens)
        index = {prompt: k for k, prompt in enumerate(prompts)}
        for row, (prompt, negative_prompt) in zip(rows, pairs, strict=True):
            k = index[prompt]
            negative = index[negative_prompt]
            row.truncated_prompt = truncated[k]
            row.truncated_negative_prompt = truncated[negative]
            row.unknown_words = unknown.get(prompt, [])
            row.conditioning = Conditioning(encoding.row(k), encoding.row(negative))
        return list(rows)
