"""The lock files cover every requirement with hashes, and everything is installed from them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from devtools.lock import AUDIT, FOLDER, IMAGE_EXTRAS, ROOT, TORCH, read_requirements

FILES = sorted(FOLDER.glob("*.txt"))
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")


def project(path: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / path).read_text())


def expand(extras: tuple[str, ...]) -> list[Requirement]:
    """Return the requirements of extras, and those of the extras that they name."""
    own = project("pyproject.toml")["project"]
    texts = list(own["dependencies"])
    for name in extras:
        texts += own["optional-dependencies"][name]
    requirements: list[Requirement] = []
    for requirement in map(Requirement, texts):
        if requirement.name == own["name"]:
            requirements += expand(tuple(requirement.extras))
        else:
            requirements.append(requirement)
    return requirements


def locked(*names: str) -> dict[str, list[Requirement]]:
    """Return the locked requirements of files by name. One may differ between Pythons."""
    by_name: dict[str, list[Requirement]] = {}
    for name in names:
        for requirement in read_requirements(FOLDER / f"{name}.txt"):
            by_name.setdefault(requirement.name, []).append(requirement)
    return by_name


def uncovered(requirements: list[Requirement], lock: dict[str, list[Requirement]]) -> list[str]:
    """Return the requirements that no locked version satisfies."""
    return [
        str(requirement)
        for requirement in requirements
        if not any(
            requirement.specifier.contains(version(each))
            for each in lock.get(canonicalize_name(requirement.name), [])
        )
    ]


def version(requirement: Requirement) -> str:
    """Return the version of a locked requirement."""
    (specifier,) = requirement.specifier
    assert specifier.operator == "=="
    return specifier.version


def test_every_lock_file_is_written_by_make_lock() -> None:
    """A file that it does not write would stay at old versions."""
    names = {"dev", *IMAGE_EXTRAS, "torch", "build", "audit"}
    assert {path.stem for path in FILES} == names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_requirement_has_a_version_and_hashes(path: Path) -> None:
    """Nothing else is in a lock file: no address of an index and no path."""
    head, *lines = path.read_text().splitlines()
    assert head.startswith("# Written by `make lock`")
    pins = [line for line in lines if not HASH.fullmatch(line)]
    assert [pin for pin in pins if not re.match(r"[a-z0-9.-]+==[^ ]+ ", pin)] == []
    assert [pin for pin in pins if "/" in pin or " @ " in pin] == []
    # A backslash continues a line, so a hash follows it.
    assert [pin for pin in pins if not pin.endswith(" \\")] == []
    assert len(read_requirements(path)) == len(pins)


@pytest.mark.parametrize(
    ("files", "extras"),
    [
        (("dev",), ("dev",)),
        (("service",), IMAGE_EXTRAS["service"]),
        (("worker", "torch"), IMAGE_EXTRAS["worker"]),
    ],
    ids=["dev", "service", "worker"],
)
def test_the_lock_covers_every_requirement(files: tuple[str, ...], extras: tuple[str, ...]) -> None:
    """In a version that the requirement permits. `make lock` adds a new one."""
    assert uncovered(expand(extras), locked(*files)) == []


def test_the_lock_covers_the_client_the_build_and_the_audit() -> None:
    """They are installed from the lock, too."""
    client = project("unclip_client/pyproject.toml")["project"]["dependencies"]
    build = project("pyproject.toml")["build-system"]["requires"]
    assert uncovered([Requirement(text) for text in client], locked("dev")) == []
    assert uncovered([Requirement(text) for text in build], locked("build")) == []
    assert uncovered([Requirement(text) for text in AUDIT], locked("audit")) == []


def test_a_missing_requirement_is_noticed() -> None:
    """The checks above can fail."""
    requirements = [Requirement("numpy>=1"), Requirement("numpy>=999"), Requirement("no-such>=1")]
    assert uncovered(requirements, locked("dev")) == ["numpy>=999", "no-such>=1"]


@pytest.mark.parametrize("name", ["service", "torch", "worker", "build"])
def test_images_run_what_the_tests_ran(name: str) -> None:
    """Each version of an image's lock is in the lock of development."""
    dev = {(each.name, version(each)) for each in read_requirements(FOLDER / "dev.txt")}
    image = {(each.name, version(each)) for each in read_requirements(FOLDER / f"{name}.txt")}
    assert image - dev == set()


def test_torch_is_apart() -> None:
    """An image for the CPU takes torch and no CUDA library from another index."""
    assert [name for name in locked("worker") if TORCH.fullmatch(name)] == []
    assert [name for name in locked("torch") if not TORCH.fullmatch(name)] == []
    assert {"torch", "torchvision"} <= locked("torch").keys()


def test_the_lock_is_for_every_supported_platform() -> None:
    """CUDA libraries carry a marker, since there is none for macOS."""
    (cublas,) = locked("torch")["nvidia-cublas"]
    assert cublas.marker is not None
    assert cublas.marker.evaluate({"sys_platform": "linux"})
    assert not cublas.marker.evaluate({"sys_platform": "darwin"})


def test_make_installs_from_the_lock() -> None:
    """And from nothing else: the packages of this repository bring no requirements along."""
    recipe = (ROOT / "Makefile").read_text().split("$(STAMP): ")[1].split("\n\n")[0]
    installs = re.findall(r"-m pip install (.*(?:\\\n.*)*)", recipe)
    assert len(installs) == 2
    assert "--require-hashes --requirement requirements/dev.txt" in installs[0]
    assert "--no-deps --no-build-isolation" in installs[1]


@pytest.mark.parametrize("image", IMAGE_EXTRAS)
def test_images_install_from_the_lock(image: str) -> None:
    """Every installation has hashes, apart from this project's and torch from another index."""
    text = (ROOT / f"docker/{image}.Dockerfile").read_text()
    installs = re.findall(r"pip install (.*(?:\\\n +\$.*)*)", text)
    unlocked = [each for each in installs if "--require-hashes --only-binary :all:" not in each]
    allowed = ["--no-deps --no-build-isolation --target /app", '--index-url "$TORCH_INDEX_URL"']
    expected = allowed[:1] if image == "service" else allowed
    assert len(unlocked) == len(expected)
    assert all(option in each for option, each in zip(expected, unlocked, strict=True))
    locks = set(re.findall(r"requirements/(\w+)\.txt", text))
    assert locks == ({"build", "service"} if image == "service" else {"build", "torch", "worker"})
