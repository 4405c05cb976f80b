"""The licences and the bill of materials of what the images install."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from devtools.licenses import (
    EXCEPTIONS,
    find_license,
    is_expression_allowed,
    read_expression,
    runtime_requirements,
)
from devtools.lock import FOLDER, ROOT, read_requirements


def test_every_licence_is_allowed() -> None:
    """An unknown licence, or a copyleft one, needs a decision in devtools/licenses.py."""
    licenses = [find_license(requirement.name) for requirement in runtime_requirements()]
    rejected = [f"{each.package}: {each.expression}" for each in licenses if not each.is_allowed]
    assert rejected == []
    assert len(licenses) > 80


@pytest.mark.parametrize(
    ("expression", "is_allowed"),
    [
        ("MIT", True),
        ("Apache-2.0 AND MIT", True),
        ("GPL-3.0-only OR MIT", True),
        ("(MIT OR Apache-2.0) AND BSD-3-Clause", True),
        ("Apache-2.0 AND GPL-3.0-only", False),
        ("AGPL-3.0-or-later", False),
        ("LGPL-3.0-only", False),
        ("unknown", False),
    ],
)
def test_an_expression_is_checked(expression: str, is_allowed: bool) -> None:
    """Of a choice one licence suffices; of a sum all count."""
    assert is_expression_allowed(expression) is is_allowed


@pytest.mark.parametrize(
    ("expressions", "classifiers", "texts", "result"),
    [
        (["MIT"], ["License :: OSI Approved :: BSD License"], ["x"], "MIT"),
        ([], ["Topic :: X", "License :: OSI Approved :: MIT License"], ["x"], "MIT"),
        ([], ["License :: OSI Approved :: MIT License"] * 2, [], "MIT AND MIT"),
        ([], [], ["Apache 2.0\nand more"], "Apache-2.0"),
        ([], ["Topic :: X"], ["  "], "unknown"),
    ],
)
def test_a_licence_is_read_from_metadata(
    expressions: list[str], classifiers: list[str], texts: list[str], result: str
) -> None:
    """The newest field comes first."""
    assert read_expression(expressions, classifiers, texts) == result


def test_every_exception_is_needed_and_has_a_reason() -> None:
    """A package that left takes its exception with it."""
    names = [
        requirement.name for path in FOLDER.glob("*.txt") for requirement in read_requirements(path)
    ]
    for pattern, reason in EXCEPTIONS.items():
        assert any(re.fullmatch(pattern, name) for name in names)
        assert len(reason) > 20


def test_make_sbom_names_every_package(tmp_path: Path) -> None:
    """The bill of materials holds each package of the service's image, with its hashes."""
    output = tmp_path / "service.cdx.json"
    lock = FOLDER / "service.txt"
    command = [sys.executable, "-m", "cyclonedx_py", "requirements", "--no-validate"]
    subprocess.run([*command, "--output-file", str(output), str(lock)], check=True)
    document = json.loads(output.read_text())
    assert document["bomFormat"] == "CycloneDX"
    versions = {each["name"]: each["version"] for each in document["components"]}
    assert versions.keys() == {requirement.name for requirement in read_requirements(lock)}
    for each in document["components"]:
        assert each["purl"] == f"pkg:pypi/{each['name']}@{each['version']}"
        assert each["externalReferences"][0]["hashes"]
    assert "requirements/service.txt" in (ROOT / "Makefile").read_text()
