"""Words of the illustrated world: WordNet's nouns, pairs, and the text tower's vocabulary."""

from __future__ import annotations

import random

import pytest
import torch

from tests.training.scenes.illustrated.fake_art import make_world
from training.data.illustrated.pretrained import MiniLM
from training.data.illustrated.text_vocabulary import build_vocabulary
from training.data.illustrated.word_pairs import build_word_pairs, is_held_out_noun
from training.data.illustrated.wordnet import (
    WordNet,
    nearest_thing,
    nouns_below,
    owners_of,
    read_wordnet,
)
from training.errors import TrainingError

WORLD = make_world()
# Synsets: 1 animal, 2 dog, 3 corgi, 4 a quarrel, 5 lion.
WORDNET = WordNet(
    senses={"animal": (1,), "dog": (4, 2), "corgi": (3,), "lion": (5,), "row": (4,)},
    hypernyms={1: (), 2: (1,), 3: (2,), 4: (), 5: (1,)},
    files={1: 3, 2: 5, 3: 5, 4: 10, 5: 5},
)
THINGS = [("dog", "dog face"), ("lion",)]
GROUPS = ["animals-nature", "animals-nature"]


def test_a_noun_belongs_to_the_nearest_thing_above_it():
    assert nouns_below(WORDNET, THINGS, GROUPS) == {"corgi": 0}


def test_an_animal_is_meant_in_its_own_sense():
    owners = owners_of(WORDNET, THINGS, GROUPS)
    assert owners == {2: 0, 5: 1}
    assert nearest_thing(WORDNET, "row", owners) == -1


def test_a_word_of_several_things_belongs_to_the_main_one():
    things = [("wolf", "dog"), ("dog face", "dog")]
    assert owners_of(WORDNET, things, GROUPS) == {2: 0}
    assert owners_of(WORDNET, things, GROUPS, {"dog": 1}) == {2: 1}


def test_wordnet_names_the_command_that_fetches_it(tmp_path):
    with pytest.raises(TrainingError, match="illustrated.fetch"):
        read_wordnet(tmp_path)


def test_held_out_nouns_are_in_no_text():
    nouns = {f"noun{number}": 0 for number in range(60)}
    held_out = {noun for noun in nouns if is_held_out_noun(noun)}
    pairs = build_word_pairs(WORLD, nouns)
    assert held_out
    assert held_out.isdisjoint(pairs.nouns[0])
    assert len(pairs.nouns[0]) == 60 - len(held_out)


def test_things_that_share_a_word_share_a_group():
    pairs = build_word_pairs(WORLD, {})
    texts, groups = pairs.draw(5, random.Random(0))
    assert len(texts) == len(groups) == 5
    assert len(set(groups)) == 5


def test_a_new_word_starts_as_what_it_stands_for():
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "lion", "bear", "das", "##x"]
    pieces += [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces += [f"##{chr(code)}" for code in range(ord("a"), ord("z") + 1)]
    table = torch.randn(len(pieces), 6)
    minilm = MiniLM({"embeddings.word_embeddings.weight": table}, pieces)
    lion = WORLD.index("lion")
    vocabulary = build_vocabulary(minilm, WORLD, {"simba": lion})
    row = vocabulary.embeddings[vocabulary.pieces.index("simba")]
    spelled = [pieces.index(piece) for piece in ("s", "##i", "##m", "##b", "##a")]
    lion_row = table[pieces.index("lion")]
    torch.testing.assert_close(row, 0.6 * lion_row + 0.4 * table[spelled].mean(0))
    assert "猫" in vocabulary.pieces
