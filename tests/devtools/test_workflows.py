"""Workflows run pinned actions with few rights, and updates reach every pin."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from devtools.lock import FOLDER, ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
RENOVATE = json.loads((ROOT / "renovate.json").read_text())


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned(path: Path) -> None:
    """By a commit, with its version in a comment: a tag may move."""
    actions = re.findall(r"uses: (.+)", path.read_text())
    pinned = re.compile(r"actions/[a-z-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+")
    assert actions
    assert [action for action in actions if not pinned.fullmatch(action)] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_only_read(path: Path) -> None:
    """A job that publishes asks for more. No job keeps the token after the checkout."""
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    writers = [name for name, job in workflow["jobs"].items() if "permissions" in job]
    assert writers == (["publish"] if path.stem == "docs" else [])
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    checkouts = [step for step in steps if "checkout@" in step.get("uses", "")]
    assert checkouts
    assert all(step["with"] == {"persist-credentials": False} for step in checkouts)


def test_vulnerabilities_are_audited_every_week() -> None:
    """In what is installed here, and in the tool itself, which is locked too."""
    # YAML reads the key `on` as true.
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert workflow[True]["schedule"]
    commands = " ".join(step.get("run", "") for step in workflow["jobs"]["audit"]["steps"])
    assert "pip install --require-hashes --requirement requirements/audit.txt" in commands
    audited = re.findall(r"--requirement requirements/(\w+)\.txt", commands.split("pip-audit")[1])
    assert audited == ["dev", "audit"]


@pytest.mark.parametrize(
    ("manager", "paths"),
    [
        ("docker-compose", sorted((ROOT / "docker").glob("*.yml"))),
        ("kubernetes", sorted((ROOT / "docker/kubernetes/base").glob("*.yaml"))),
        ("pip_requirements", sorted(FOLDER.glob("*.txt"))),
    ],
)
def test_updates_reach_every_file(manager: str, paths: list[Path]) -> None:
    """Renovate's own patterns cover the compose file, Dockerfiles, workflows, pyproject.toml."""
    (pattern,) = RENOVATE[manager]["managerFilePatterns"]
    expression = re.compile(pattern.strip("/"))
    assert paths
    assert all(expression.search(str(path.relative_to(ROOT))) for path in paths)


def test_updates_know_every_vendored_library() -> None:
    """Each folder of vendored files names the npm package and its version."""
    (manager,) = RENOVATE["customManagers"]
    file_pattern = manager["managerFilePatterns"][0].strip("/")
    expression = manager["matchStrings"][0].replace("(?<", "(?P<")
    versions = {}
    for folder in (ROOT / "service").rglob("vendor"):
        path = folder / "LICENSES.md"
        assert re.search(file_pattern, str(path))
        match = re.search(expression, path.read_text())
        assert match is not None
        versions[match["depName"]] = match["currentValue"]
    assert versions.keys() == {"htm", "swagger-ui-dist"}
