"""The prompt filter: words that no prompt may contain, however they are written."""

from __future__ import annotations

import base64
import io
import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from contracts.fields import MAX_PROMPT_CHARACTERS
from contracts.operations import OPERATIONS, MixPart
from service.errors import InvalidRequest
from service.requests import prompt_filter
from service.requests.prompt_filter import PromptFilter

Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
LIST = """# the operator's policy
gun
Straße

red  cube
/kni(fe|ves)/
/🔪/
"""


def white_pixel() -> str:
    """Return an image of one pixel as base64."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1), 255).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def write_list(folder: Path, text: str = LIST) -> Path:
    """Write a list and return its path."""
    path = folder / "denied.txt"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("prompt", "line"),
    [
        ("a gun", 2),
        ("a GUN, on grass", 2),
        ("a ｇｕｎ", 2),  # full width
        ("a g\u200bu\u00adn", 2),  # zero-width space, soft hyphen
        ("a g\U000e0041u\ufe0fn", 2),  # tag, variation selector
        ("a &#103;&#x75;n", 2),  # HTML entities
        ("a &amp;#103;un", 2),  # escaped twice
        ("a g\x01un", 2),
        ("a STRASSE", 3),
        ("a red\n\n cube", 5),
        ("a red-cube", 5),
        ("two pocketKNIVES", 6),
        ("a \U0001f52a\ufe0f", 7),
        ("a gunner with begun", None),
        ("a cube, red", None),
        ("the operator's policy", None),
        ("", None),
    ],
)
def test_prompts_are_matched_as_clip_reads_them(
    tmp_path: Path, prompt: str, line: int | None
) -> None:
    """Words and phrases match as a whole, patterns anywhere."""
    assert PromptFilter(write_list(tmp_path)).matching_line(prompt) == line


@pytest.mark.parametrize(
    ("text", "reason"),
    [("fine\n/kni(fe/", "line 2 is not a regular expression"), ("!!", "line 1 has no word")],
)
def test_an_invalid_line_is_reported(tmp_path: Path, text: str, reason: str) -> None:
    """The error has the number of the line."""
    with pytest.raises(ValueError, match=reason):
        PromptFilter(write_list(tmp_path, text))


def test_a_missing_list_is_reported(tmp_path: Path) -> None:
    """The error names the file."""
    with pytest.raises(ValueError, match="cannot read .*missing"):
        PromptFilter(tmp_path / "missing")


def test_a_changed_list_is_reloaded(tmp_path: Path) -> None:
    """A list that becomes invalid or disappears stays as it was, until it can be read again."""
    path = write_list(tmp_path, "gun")
    words = PromptFilter(path)

    def blocks(word: str) -> bool:
        try:
            words.check(OPERATIONS["generate"].model_validate({"prompt": word}))
        except InvalidRequest:
            return True
        return False

    assert blocks("gun")
    assert not blocks("knife")
    write_list(tmp_path, "knife and more")
    write_list(tmp_path, "knife")
    assert blocks("knife")
    assert not blocks("gun")
    write_list(tmp_path, "/kni(fe/")
    os.utime(path, (1, 1))
    assert blocks("knife")
    path.unlink()
    assert blocks("knife")
    write_list(tmp_path, "a third")
    assert not blocks("knife")
    assert blocks("a third")


def test_every_prompt_field_is_checked() -> None:
    """A field as long as a prompt is one. A probe's labels are the only exception."""
    fields = set()
    for model in (*OPERATIONS.values(), MixPart):
        for name, schema in model.model_json_schema()["properties"].items():
            parts = [schema, schema.get("items", {}), *schema.get("anyOf", [])]
            lengths = {part.get("maxLength") for part in parts}
            if MAX_PROMPT_CHARACTERS in lengths:
                fields.add(name)
    assert fields == {*prompt_filter._PROMPT_FIELDS, "labels"}


BLOCKED: list[tuple[str, dict[str, Any], set[str]]] = [
    ("/generate", {"prompt": "a gun"}, {"prompt"}),
    ("/generate", {"prompt": "a gun", "negative_prompt": "knife"}, {"prompt", "negative_prompt"}),
    ("/generate", {"mix": [{"prompt": "a"}, {"prompt": "a gun", "weight": -1}]}, {"mix.1.prompt"}),
    ("/interpolate", {"prompt_a": "a gun", "prompt_b": "a gun"}, {"prompt_a", "prompt_b"}),
    (
        "/text-diff",
        {"image": white_pixel(), "prompt_from": "a gun", "prompt_to": "knives"},
        {"prompt_from", "prompt_to"},
    ),
    ("/edits", {"image": white_pixel(), "mask": white_pixel(), "prompt": "a gun"}, {"prompt"}),
    ("/embeddings", {"prompt": "a gun"}, {"prompt"}),
]
ALLOWED: list[tuple[str, dict[str, Any]]] = [
    ("/generate", {"prompt": "a cone", "z_i": None}),
    ("/probe", {"image": white_pixel(), "labels": ["a gun", "a cone"]}),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("path", "body", "fields"), BLOCKED)
async def test_a_blocked_prompt_starts_no_job(
    serve: Serve, tmp_path: Path, path: str, body: dict[str, Any], fields: set[str]
) -> None:
    """The problem names the fields and does not quote the list."""
    async with serve(prompt_deny_list=write_list(tmp_path)) as client:
        response = await client.post(path, json=body)
        jobs = (await client.get("/jobs")).json()["jobs"]
    assert response.status_code == 422
    problem = response.json()
    assert {error["field"] for error in problem["errors"]} == fields
    assert all(name in problem["detail"] for name in fields)
    assert "gun" not in response.text
    assert "kni" not in response.text
    assert jobs == []


@pytest.mark.anyio
@pytest.mark.parametrize(("path", "body"), ALLOWED)
async def test_other_prompts_are_accepted(
    serve: Serve, tmp_path: Path, path: str, body: dict[str, Any]
) -> None:
    """Labels of a probe are not checked."""
    async with serve(prompt_deny_list=write_list(tmp_path)) as client:
        assert (await client.post(path, json=body)).status_code == 202


def test_a_slow_expression_blocks_the_prompt_and_not_the_service(tmp_path: Path) -> None:
    """This one takes twice as long for each letter; other threads run meanwhile."""
    denied = PromptFilter(write_list(tmp_path, "gun\n/^(a|aa)+!$/\n"))
    num_pauses = 0
    is_done = threading.Event()

    def count_pauses() -> None:
        nonlocal num_pauses
        while not is_done.wait(0.01):
            num_pauses += 1

    counting = threading.Thread(target=count_pauses)
    counting.start()
    started_at = time.process_time()
    line = denied.matching_line("a" * 60 + "b!")
    spent_s = time.process_time() - started_at
    is_done.set()
    counting.join()
    assert line == 2
    assert spent_s < 1
    assert num_pauses > 0
    assert denied.matching_line("aaa!") == 2
    assert denied.matching_line("a cube") is None
