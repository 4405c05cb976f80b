"""The documentation site builds without warnings and loads nothing from other hosts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from support.documents import ROOT


def test_site_builds_and_loads_nothing_from_other_hosts(tmp_path: Path) -> None:
    """A strict build succeeds; scripts, styles, fonts and images are files of the site."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    pages = list(tmp_path.rglob("*.html"))
    pattern = r'(?:\bsrc=|<link\b[^>]*\brel="?(?:stylesheet|preload|icon|preconnect)\b[^>]*\bhref=)'
    foreign = [
        f"{page.relative_to(tmp_path)}: {address}"
        for page in pages
        for address in re.findall(rf'{pattern}"?((?:https?:)?//[^"\s>]+)', page.read_text())
    ]
    assert len(pages) > 40
    assert foreign == []
