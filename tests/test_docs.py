"""What the README tells is what there is, and the other way round."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.app import create_app
from service.requests.models import REQUESTS
from service.settings import Settings as ServiceSettings
from training.presets import PRESETS
from worker.settings import Settings as WorkerSettings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def table(heading: str) -> list[str]:
    """The first cells of the table that begins with this heading cell."""
    lines = README[README.index(f"| {heading} |") :].split("\n\n")[0].splitlines()[2:]
    return [line.split("|")[1] for line in lines]


def test_every_setting_is_told_and_every_told_setting_is_there() -> None:
    """With its default, where that is a number."""
    told = set(re.findall(r"UNCLIP_\w+", " ".join(table("variable"))))
    fields = ServiceSettings.model_fields | WorkerSettings.model_fields
    assert told == {f"UNCLIP_{name.upper()}" for name in fields}
    for name in (
        "max_queued_jobs",
        "max_body_bytes",
        "job_timeout",
        "result_ttl",
        "jobs_at_once",
        "max_batch",
    ):
        row = next(
            line for line in README.splitlines() if line.startswith(f"| `UNCLIP_{name.upper()}`")
        )
        assert f"| {fields[name].default} |" in row, row


def test_every_route_is_told_and_every_told_route_is_there() -> None:
    """By method and path."""
    told = set(re.findall(r"(GET|POST|DELETE) (/[-\w/{}.]*)", " ".join(table("route"))))
    there = {
        (method.upper(), path)
        for path, methods in create_app().openapi()["paths"].items()
        for method in methods
    }
    assert told == there | {("GET", "/docs"), ("GET", "/openapi.json")}


def test_every_field_of_a_request_is_told() -> None:
    """And no other."""
    assert set(re.findall(r"`(\w+)`", " ".join(table("field")))) == {
        name for request in REQUESTS.values() for name in request.model_fields
    }


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md"])
def test_every_file_that_is_named_exists(name: str) -> None:
    """Links and paths in code style."""
    text = (ROOT / name).read_text()
    paths = re.findall(r"\]\((?!http)([^)#]+)\)", text) + re.findall(
        r"`((?:contracts|models|service|worker|training|unclip_client)/\w+\.py)`", text
    )
    assert paths
    for path in paths:
        assert (ROOT / path).exists(), path


def test_every_make_target_that_is_named_exists() -> None:
    """And the presets too."""
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make (\w+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert set(re.findall(r"PRESET=(\w+)", README)) <= set(PRESETS)
