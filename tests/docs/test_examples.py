"""Every block that the documentation marks as runnable works as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from support.documents import ROOT, Block, markdown_files, runnable_blocks

from devtools.deployment import LocalDeployment

PAGES = [path for path in markdown_files() if runnable_blocks(path.read_text())]
TIMEOUT_S = 120
# A plain curl exits with 0 whatever the service answers.
STRICT_CURL = 'set -euo pipefail\ncurl() { command curl --fail-with-body "$@"; }\n'


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_blocks_of_a_page_run(path: Path, tmp_path: Path, deployment: LocalDeployment) -> None:
    """The blocks of a page run in order, in one folder, against a real deployment."""
    for number, block in enumerate(runnable_blocks(path.read_text()), 1):
        result = run(block, tmp_path, deployment)
        assert result.returncode == block.exit_status, (
            f"block {number} of {path.name}:\n{block.code}\n{result.stdout}\n{result.stderr}"
        )
    # A response that is no image, such as a job that still runs, ends up in a file as well.
    for file in tmp_path.glob("*.png"):
        with Image.open(file) as image:
            image.verify()


def test_there_are_runnable_blocks_in_readme_and_guides() -> None:
    """The marker is in use, so that the test above cannot pass without a block."""
    names = {path.relative_to(ROOT).parts[0] for path in PAGES}
    assert names == {"README.md", "docs"}


def run(
    block: Block, folder: Path, deployment: LocalDeployment
) -> subprocess.CompletedProcess[str]:
    """Run a block in a folder, with the address of the deployment in place of the default."""
    code = block.code.replace("http://localhost:8000", deployment.url)
    code = code.replace("localhost:8000", deployment.url)
    command = (
        [sys.executable, "-c", code]
        if block.language == "python"
        else ["bash", "-c", STRICT_CURL + code]
    )
    environment = {
        **deployment.environment,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "UNCLIP_URL": deployment.url,
    }
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
