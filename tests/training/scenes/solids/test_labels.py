"""Labels name what an image shows, and leave out what it does not."""

from __future__ import annotations

from training.scenes.solids.captions import Caption
from training.scenes.solids.labels import (
    QUESTIONS,
    UNLABELLED,
    encode_labels,
    expected_labels,
    labels_of,
    matches,
)
from training.scenes.solids.scene import Scene, SceneObject

CUBE = SceneObject("cube", "red", "large", "shiny")
SPHERE = SceneObject("sphere", "blue", "small", "matte")


def build_scene(style: str = "photo") -> Scene:
    return Scene("pair", (CUBE, SPHERE), "above", "snow", "day", style)


def test_both_objects_of_a_pair_are_labelled() -> None:
    """The order is that of the scene."""
    labels = labels_of(build_scene())
    assert labels["colour0"] == "red"
    assert labels["shape1"] == "sphere"
    assert labels["relation"] == "above"
    assert "count" not in labels


def test_a_sketch_has_no_place_time_and_material() -> None:
    """A pencil sketch shows none of them."""
    labels = labels_of(build_scene("pencil sketch"))
    assert not {"place", "time", "material0", "material1"} & labels.keys()
    assert labels["style"] == "pencil sketch"


def test_encoded_labels_are_indices_of_answers() -> None:
    """Questions without an answer are ignored by the loss."""
    row = dict(zip(QUESTIONS, encode_labels([build_scene()])[0].tolist(), strict=True))
    assert QUESTIONS["colour0"][row["colour0"]] == "red"
    assert row["letter0"] == UNLABELLED
    assert row["count"] == UNLABELLED


def test_a_captions_claims_are_expected_labels() -> None:
    """Only the claims count, and a word is padded with spaces."""
    claims = {"objects": ({"colour": "red"}, {"shape": "sphere"}), "word": "HI"}
    expected = expected_labels(Caption("", claims))
    letters = {"letter0": "H", "letter1": "I", "letter2": " ", "letter3": " ", "letter4": " "}
    assert expected == {"colour0": "red", "shape1": "sphere", **letters}
    assert matches(labels_of(build_scene()), {"colour0": "red", "shape1": "sphere"})
    assert not matches(labels_of(build_scene()), {"colour0": "blue"})
