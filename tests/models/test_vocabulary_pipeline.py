"""A pipeline whose checkpoint has a vocabulary, and whose prior takes images."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models import UnCLIP, operations
from models.checkpoints.checkpoint import load
from models.vocabulary import DrawnName, Vocabulary

VOCABULARY = Vocabulary(
    names=(DrawnName("cube", "solids", ("cube",)),),
    nouns={"die": "cube"},
    other_words=frozenset(("a", "red")),
)
FAST = {"size": 64, "decoder_num_inference_steps": 2, "prior_num_inference_steps": 2}


@pytest.fixture(scope="module")
def pipeline():
    checkpoint = load()
    config = checkpoint.config | {"image_prior": True}
    return UnCLIP(replace(checkpoint, config=config, vocabulary=VOCABULARY))


def test_a_noun_is_drawn_as_its_name(pipeline):
    parameters = pipeline.resolve(**FAST)
    noun = pipeline.row("a red die", 0, parameters)
    name = pipeline.row("a red cube", 0, parameters)
    pipeline.run([noun, name])
    torch.testing.assert_close(noun.image, name.image)
    assert [str(word) for word in noun.unknown_words] == ["die: drawn as a cube"]
    assert name.unknown_words == []


def test_without_a_vocabulary_prompts_are_unchanged():
    plain = UnCLIP(load())
    row = plain.prompt_row("a red die", 0, plain.resolve(**FAST), prior=False)
    plain.run([row])
    assert row.unknown_words == []


def test_variations_pass_the_prior_if_it_takes_images(pipeline):
    image = torch.rand(3, 64, 64) * 2 - 1
    parameters = pipeline.resolve("variations", **FAST)
    outcome = operations.run(pipeline, operations.variations(pipeline, image, [0, 1], parameters))
    assert [list(row.stage_costs) for row in outcome.rows] == [["prior", "decoder"]] * 2
    first, second = (row.conditioning.image_embedding for row in outcome.rows)
    assert not torch.allclose(first, second)


def test_a_checkpoint_has_its_own_defaults_of_an_operation(pipeline):
    checkpoint = pipeline.checkpoint
    defaults = checkpoint.defaults | {"operations": {"variations": {"eta": 0.25}}}
    changed = UnCLIP(replace(checkpoint, config=checkpoint.config | {"defaults": defaults}))
    assert changed.resolve("variations", **FAST).eta == 0.25
    assert changed.resolve("interpolate", **FAST).eta == 0.0
