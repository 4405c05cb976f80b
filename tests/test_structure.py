"""Limits on layout and language that CONTRIBUTING.md describes, one folder at a time."""

from __future__ import annotations

import ast
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "benchmarks",
    "contracts",
    "devtools",
    "examples",
    "infra",
    "models",
    "service",
    "tests",
    "training",
    "unclip_client",
    "worker",
)
MAX_COLUMNS = 100
MAX_FILE_LINES = 450
MAX_TEST_FILE_LINES = 600
MAX_FUNCTION_LINES = 80
MAX_FILES = 12
# Participles and metaphors that say nothing about what a function does or a variable holds.
NAMES = re.compile(
    r"^_?(told|said|asked|given|found|kept|held|made|taken|drawn|shown|heard|house|floors?"
    r"|gate|courier|handed|ways|beats?|ticks?|haste|patience|pace|pictures?|stack)$"
)
# Prose: phrases with a plain equivalent in the glossary of CONTRIBUTING.md.
PHRASES = re.compile(
    r"\b(told|tells(?! .* apart)"
    r"|(?:will|would) not do|would do|so many|so long as|nobody|whoever|courier|handed"
    r"|is asked|are asked|asked for|any more|at the door|pictures?|in the making"
    r"|for ever|gives? back|come to nothing|house|captions? of a request)\b(?! apart)",
    re.IGNORECASE,
)
# Plain English in these places: a scene has a floor plane, and shows houses and pictures.
ALLOWED_NAMES = {
    "floor": ("training/scenes/", "tests/training/scenes/"),
    "_floor": ("training/scenes/",),
}
ALLOWED_PHRASES = re.compile(r"houses?|pictures?", re.IGNORECASE)
SCENES = ("training/scenes/", "training/evaluation/", "tests/training/")


def _tracked(*patterns: str) -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / line for line in output.splitlines() if (ROOT / line).is_file()]


def _is_about_scenes(path: Path) -> bool:
    return str(path.relative_to(ROOT)).startswith(SCENES)


def _python_files(package: str) -> list[Path]:
    return _tracked(f"{package}/*.py")


def _functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _names(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


@pytest.mark.parametrize("package", PACKAGES)
def test_lines_fit(package: str) -> None:
    """Long lines cannot be read side by side."""
    long = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in _python_files(package)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        # The hash of a package cannot be broken.
        if len(line) > MAX_COLUMNS and "sha512-" not in line
    ]
    assert long == []


@pytest.mark.parametrize("package", PACKAGES)
def test_files_and_folders_are_small(package: str) -> None:
    """A file holds one noun, a folder at most a dozen files."""
    files = _python_files(package)
    limit = MAX_TEST_FILE_LINES if package == "tests" else MAX_FILE_LINES
    long = [
        str(path.relative_to(ROOT)) for path in files if len(path.read_text().splitlines()) > limit
    ]
    folders = Counter(path.parent.relative_to(ROOT) for path in files)
    assert long == []
    assert [str(folder) for folder, count in folders.items() if count > MAX_FILES] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_functions_are_short(package: str) -> None:
    """Training loops may be longer; they carry no such exception today."""
    long = [
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}"
        for path in _python_files(package)
        for function in _functions(path)
        if (function.end_lineno or 0) - function.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert long == []


@pytest.mark.parametrize("package", PACKAGES)
def test_names_say_what_they_hold(package: str) -> None:
    """The words that CONTRIBUTING.md rules out as names do not come back."""
    wrong = [
        f"{path.relative_to(ROOT)}:{number} {name}"
        for path in _python_files(package)
        if path != Path(__file__)
        for number, name in _names(path)
        if NAMES.match(name)
        and not str(path.relative_to(ROOT)).startswith(ALLOWED_NAMES.get(name, ("\0",)))
    ]
    assert wrong == []


@pytest.mark.parametrize("package", [*PACKAGES, "docs", "*.md", "docker"])
def test_prose_uses_plain_words(package: str) -> None:
    """Docstrings, comments, messages and documents use the glossary's words."""
    pattern = package if "*" in package else f"{package}/*"
    files = [path for path in _tracked(pattern) if path.suffix in {".py", ".md", ".yml", ".yaml"}]
    wrong = [
        f"{path.relative_to(ROOT)}:{number} {match[0]}"
        for path in files
        if path != Path(__file__) and path.name not in {"LICENSE", "CONTRIBUTING.md"}
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if (match := PHRASES.search(line))
        and not (_is_about_scenes(path) and ALLOWED_PHRASES.fullmatch(match[0]))
    ]
    assert wrong == []
