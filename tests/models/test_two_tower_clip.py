"""A CLIP of two pretrained towers: its tokenizer, its interface, and its place in a checkpoint."""

from __future__ import annotations

import json

import pytest
import torch

from models.checkpoints.checkpoint import (
    WORDPIECES,
    build,
    load_network,
    read_wordpieces,
)
from models.checkpoints.tensor_files import CheckpointError
from models.networks.wordpiece import WordPieceTokenizer, split_words

PIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "a",
    "dog",
    "##s",
    "猫",
    "猫の",
    "顔",
    ",",
    "d",
    "##o",
    "##g",
]
CONFIG = {
    "embed_dim": 32,
    "text_tower": {"width": 32, "layers": 2, "heads": 4, "context_length": 8, "hidden": 16},
    "image_tower": {"image_size": 64, "hidden": 16},
}


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    return build("clip", CONFIG | {"vocabulary": PIECES}).eval()


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("A dog", ["a", "dog"]),
        ("dogs,", ["dog", "##s", ","]),
        ("dóg", ["dog"]),
        ("猫の顔", ["猫の", "顔"]),
        ("a犬", ["a", "[UNK]"]),
    ],
)
def test_text_is_split_into_the_longest_pieces(text, pieces):
    tokenizer = WordPieceTokenizer(PIECES, 8)
    assert [PIECES[index] for index in tokenizer.encode(text)] == pieces


def test_marks_are_words():
    assert split_words("it's  3D!") == ["it", "'", "s", "3d", "!"]


def test_a_vocabulary_without_special_pieces_is_refused():
    with pytest.raises(ValueError, match="starts with"):
        WordPieceTokenizer(["a"], 8)


def test_text_beyond_the_context_is_reported(clip):
    tokens, cut = clip.tokenize(["a dog a dog a dog a dogs", "a dog"])
    assert tokens.shape == (2, 8)
    assert cut == ["a dogs", None]


def test_padding_does_not_change_an_embedding(clip):
    short = clip.encode_text(clip.tokenize(["a dog"])[0]).z_t
    padded = clip.encode_text(clip.tokenize(["a dog", "a dog, a dog"])[0]).z_t
    torch.testing.assert_close(short[0], padded[0])


def test_embeddings_have_unit_norm(clip):
    with torch.inference_mode():
        z_i = clip.encode_image(torch.rand(2, 3, 96, 96) * 2 - 1)
        z_t = clip.encode_text(clip.tokenize(["a dog"])[0]).z_t
    torch.testing.assert_close(z_i.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(z_t.norm(dim=1), torch.ones(1))


def test_a_checkpoint_keeps_the_vocabulary(clip, tmp_path):
    from safetensors.torch import save_file

    save_file(
        {key: value.contiguous() for key, value in clip.state_dict().items()},
        tmp_path / "clip.safetensors",
    )
    (tmp_path / WORDPIECES).write_text(json.dumps(PIECES))
    loaded = load_network(tmp_path, "clip", CONFIG)
    with torch.inference_mode():
        expected = clip.encode_text(clip.tokenize(["a dog"])[0]).z_t
        actual = loaded.encode_text(loaded.tokenize(["a dog"])[0]).z_t
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    ("contents", "message"),
    [(None, "is missing"), ("{", "not JSON"), ("[1]", "not a list of strings")],
)
def test_a_broken_vocabulary_is_an_error(tmp_path, contents, message):
    if contents is not None:
        (tmp_path / WORDPIECES).write_text(contents)
    with pytest.raises(CheckpointError, match=message):
        read_wordpieces(tmp_path)
