"""The bench generates each image once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from training.evaluation.solids import generation
from training.experiments.harness import Bench


def test_images_are_generated_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a new caption, seed, mode or parameter needs a new image."""
    first = bench.generate(["a red cube", "a blue cube"], [0, 1])
    generated = list[str]()

    def record(pipeline: Any, texts: list[str], *arguments: Any, **parameters: Any) -> Any:
        generated.extend(texts)
        return generation.generate(pipeline, texts, *arguments, **parameters)

    monkeypatch.setattr("training.experiments.harness.generate", record)
    again = bench.generate(["a blue cube", "a green cube"], [1, 1])
    assert generated == ["a green cube"]
    assert torch.equal(again[0], first[1])
    for seed, mode, scale in ((1, "prior", None), (0, "text", None), (0, "prior", 3.0)):
        other = bench.generate(["a red cube"], [seed], mode, decoder_guidance_scale=scale)
        assert not torch.equal(other[0], first[0])
