"""`make lock`: pin every requirement, with the hashes of its files, in requirements/."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "requirements"
PROJECTS = ("pyproject.toml", "unclip_client/pyproject.toml")
# The extras of pyproject.toml in each image.
IMAGE_EXTRAS = {
    "service": ("service", "store", "telemetry"),
    "worker": ("worker", "store", "telemetry", "upsampling"),
}
# Checks the lock for known vulnerabilities in CI. It requires a pip of its choice, so it is not
# part of dev.txt.
AUDIT = ("pip-audit>=2.9",)
# An image for the CPU takes these from another index, whose files have other hashes.
TORCH = re.compile(r"torch|torchvision|triton|cuda-.+|nvidia-.+")
HEADER = "# Written by `make lock`. Do not edit.\n"


def read_requirements(path: Path) -> list[Requirement]:
    """Return the requirements of a lock file, without their hashes."""
    return [Requirement(line.rstrip(" \\")) for line, _ in _blocks(path.read_text())]


def write_locks(upgrades: Sequence[str] = ()) -> None:
    """Write all lock files. A package keeps its version unless a requirement excludes it.

    upgrades: names of packages to upgrade; "all" upgrades every package.
    """
    upgrade = ["--upgrade"] if "all" in upgrades else []
    upgrade += [f"--upgrade-package={name}" for name in upgrades if name != "all"]
    _compile("dev", [*PROJECTS, "--extra=dev", *upgrade])
    for image, extras in IMAGE_EXTRAS.items():
        options = [f"--extra={extra}" for extra in extras]
        # The images run what the tests ran.
        _compile(image, [PROJECTS[0], *options, "--constraints=requirements/dev.txt"])
    _split_worker()
    build = tomllib.loads((ROOT / PROJECTS[0]).read_text())["build-system"]["requires"]
    _compile("build", ["-", "--constraints=requirements/dev.txt"], build)
    _compile("audit", ["-", *upgrade], AUDIT)


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield the first line of each requirement in a lock file, and all its lines."""
    for block in re.split(r"\n(?=[a-z0-9])", text):
        if not block.startswith("#"):
            yield block.partition("\n")[0], block.rstrip("\n") + "\n"


def _compile(name: str, options: Sequence[str], requirements: Sequence[str] = ()) -> None:
    """Write one lock file by uv, for all platforms and every Python from 3.11 on."""
    path = FOLDER / f"{name}.txt"
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal"]
    command += ["--system-certs", "--python-version=3.11", "--generate-hashes", "--no-header"]
    command += ["--no-annotate", f"--output-file={path}", *options]
    result = subprocess.run(command, cwd=ROOT, input="\n".join(requirements), text=True)
    if result.returncode != 0:
        sys.exit(f"uv could not lock requirements/{name}.txt.")
    path.write_text(HEADER + path.read_text())


def _split_worker() -> None:
    """Move torch and its CUDA libraries from worker.txt to torch.txt."""
    parts = {"worker": HEADER, "torch": HEADER}
    for line, block in _blocks((FOLDER / "worker.txt").read_text()):
        name = line.partition("==")[0]
        parts["torch" if TORCH.fullmatch(name) else "worker"] += block
    for name, text in parts.items():
        (FOLDER / f"{name}.txt").write_text(text)


def main() -> None:
    """Parse the arguments and write the lock files."""
    parser = argparse.ArgumentParser(prog="python -m devtools.lock", description=__doc__)
    parser.add_argument("--upgrade", nargs="+", default=[], metavar="NAME", help="or `all`")
    write_locks(parser.parse_args().upgrade)


if __name__ == "__main__":
    main()
