"""Words that no caption may hold, however they are written."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from contracts.fields import MAX_PROMPT_CHARACTERS
from contracts.operations import OPERATIONS, MixedFields
from service.errors import InvalidRequest
from service.requests import prompt_filter
from service.requests.prompt_filter import DenyList

LIST = """# what we do not draw
gun
Straße

red  cube
/kni(fe|ves)/
/🔪/
"""


def grey() -> str:
    """An image of one pixel."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1), 255).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def listed(folder: Path, text: str = LIST) -> Path:
    path = folder / "denied.txt"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("caption", "line"),
    [
        ("a gun", 2),
        ("a GUN, on grass", 2),
        ("a ｇｕｎ", 2),  # full width
        ("a g\u200bu\u00adn", 2),  # zero-width space, soft hyphen
        ("a g\U000e0041u\ufe0fn", 2),  # tag, variation selector
        ("a &#103;&#x75;n", 2),  # as CLIP's tokenizer reads them
        ("a &amp;#103;un", 2),
        ("a g\x01un", 2),
        ("a STRASSE", 3),
        ("a red\n\n cube", 5),
        ("a red-cube", 5),
        ("two pocketKNIVES", 6),
        ("a \U0001f52a\ufe0f", 7),
        ("a gunner with begun", None),
        ("a cube, red", None),
        ("what we do not draw", None),
        ("", None),
    ],
)
def test_a_word_is_found_as_clip_would_read_it(
    tmp_path: Path, caption: str, line: int | None
) -> None:
    """Whole words and phrases, and patterns anywhere; by the line of the list."""
    assert DenyList(listed(tmp_path)).line(caption) == line


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("fine\n/kni(fe/", "line 2 is no regular expression"),
        ("!!", "line 1 has no word in it"),
        (None, "it cannot be read"),
    ],
)
def test_a_list_that_will_not_do_says_where(tmp_path: Path, text: str | None, reason: str) -> None:
    path = tmp_path / "none.txt" if text is None else listed(tmp_path, text)
    with pytest.raises(ValueError, match=reason):
        DenyList(path)


def test_a_list_that_changes_is_read_again(tmp_path: Path) -> None:
    """And one that has become unreadable stays as it was, until it can be read again."""

    def denies(word: str) -> bool:
        try:
            found.check(OPERATIONS["generate"].model_validate({"prompt": word}))
        except InvalidRequest:
            return True
        return False

    path = listed(tmp_path, "gun")
    found = DenyList(path)
    assert denies("gun")
    assert not denies("knife")
    listed(tmp_path, "knife and more")
    listed(tmp_path, "knife")
    assert denies("knife")
    assert not denies("gun")
    listed(tmp_path, "/kni(fe/")
    os.utime(path, (1, 1))
    assert denies("knife")
    path.unlink()
    assert denies("knife")
    listed(tmp_path, "a third")
    assert not denies("knife")
    assert denies("a third")


def test_every_field_that_is_drawn_from_is_looked_at() -> None:
    """A caption is what may be as long as one. A probe's labels are the one exception, and meant."""
    found = set()
    for fields in (*OPERATIONS.values(), MixedFields):
        for name, schema in fields.model_json_schema()["properties"].items():
            parts = [schema, schema.get("items", {}), *schema.get("anyOf", [])]
            found |= {name for part in parts if part.get("maxLength") == MAX_PROMPT_CHARACTERS}
    assert found == {*prompt_filter._CAPTIONS, "labels"}


ASKED: list[tuple[str, dict[str, Any], set[str]]] = [
    ("/generate", {"prompt": "a gun"}, {"prompt"}),
    ("/generate", {"prompt": "a gun", "negative_prompt": "knife"}, {"prompt", "negative_prompt"}),
    ("/generate", {"mix": [{"prompt": "a"}, {"prompt": "a gun", "weight": -1}]}, {"mix.1.prompt"}),
    ("/interpolate", {"prompt_a": "a gun", "prompt_b": "a gun"}, {"prompt_a", "prompt_b"}),
    (
        "/text-diff",
        {"image": grey(), "prompt_from": "a gun", "prompt_to": "knives"},
        {"prompt_from", "prompt_to"},
    ),
    ("/edits", {"image": grey(), "mask": grey(), "prompt": "a gun"}, {"prompt"}),
    ("/embeddings", {"prompt": "a gun"}, {"prompt"}),
    ("/generate", {"prompt": "a cone", "z_i": None}, set()),
    ("/probe", {"image": grey(), "labels": ["a gun", "a cone"]}, set()),
]


@pytest.mark.anyio
async def test_a_caption_that_is_denied_is_named_and_no_job_is_made(
    serve: Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]], tmp_path: Path
) -> None:
    """422, with the fields and without the words; what is not denied is accepted."""
    async with serve(deny_list=listed(tmp_path)) as client:
        for path, body, denied in ASKED:
            answer = await client.post(path, json=body)
            assert answer.status_code == (422 if denied else 202), answer.text
            if denied:
                problem = answer.json()
                assert {error["field"] for error in problem["errors"]} == denied
                assert all(name in problem["detail"] for name in denied)
                assert "gun" not in answer.text
                assert "kni" not in answer.text
        assert len((await client.get("/jobs")).json()["jobs"]) == 2
