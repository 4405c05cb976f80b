"""The client's wheel contains the client alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

CLIENT = Path(__file__).parents[2] / "unclip_client"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    """Build the wheel from a copy of the folder, without an index."""
    folder = tmp_path_factory.mktemp("client")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    source = shutil.copytree(CLIENT, folder / "source", ignore=ignored)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('..'))"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return ZipFile(path)


def test_the_wheel_contains_one_package(wheel: ZipFile) -> None:
    """Installing it adds no module called models or service."""
    files = {Path(name) for name in wheel.namelist()}
    packages = {path.parts[0] for path in files if path.suffix == ".py"}
    assert packages == {"unclip_client"}
    names = {path.name for path in files if path.parts[0] == "unclip_client"}
    assert names == {path.name for path in CLIENT.glob("*.py")} | {"py.typed"}
    (top_level,) = (name for name in wheel.namelist() if name.endswith("top_level.txt"))
    assert wheel.read(top_level).split() == [b"unclip_client"]


def test_the_wheel_installs_a_command(wheel: ZipFile) -> None:
    """The console script is called unclip, and only httpx and tqdm are required."""
    (entry_points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert b"unclip = unclip_client.cli:main" in wheel.read(entry_points)
    (metadata,) = (name for name in wheel.namelist() if name.endswith("METADATA"))
    lines = wheel.read(metadata).decode().splitlines()
    requirements = [line for line in lines if line.startswith("Requires-Dist:")]
    assert requirements == ["Requires-Dist: httpx>=0.28", "Requires-Dist: tqdm>=4.66"]
