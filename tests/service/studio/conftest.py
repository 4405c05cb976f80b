"""A real browser on a running service."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from support.deployment import DeploymentUnderTest

# Flags that keep Chromium from contacting anybody but the service.
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TIMEOUT_MS = 120_000


@pytest.fixture(scope="module")
def studio(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path
) -> Iterator[DeploymentUnderTest]:
    """A service with a gallery and one worker."""
    folder = tmp_path_factory.mktemp("studio")
    settings = {"gallery_url": f"sqlite:///{folder}/gallery.db"}
    with DeploymentUnderTest(folder, tiny_checkpoint, **settings) as deployment:
        yield deployment


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium of the machine, otherwise the one that Playwright has installed."""
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        if executable is None and not Path(playwright.chromium.executable_path).exists():
            warnings.warn("no Chromium: the studio is NOT tested", stacklevel=1)
            pytest.skip("no Chromium (Debian: apt install chromium)")
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def problems() -> list[str]:
    """Console errors of the test's pages; a test that expects one removes it."""
    return []


@pytest.fixture
def open_page(
    browser: Browser, studio: DeploymentUnderTest, problems: list[str]
) -> Iterator[Callable[..., Page]]:
    """Return a function that opens the studio in a new context."""
    contexts: list[BrowserContext] = []

    def open_page(path: str = "/", **options: object) -> Page:
        context = browser.new_context(base_url=studio.url, **options)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "console",
            lambda message: problems.append(message.text) if message.type == "error" else None,
        )
        page.on(
            "response",
            lambda answer: (
                problems.append(f"{answer.status} {answer.url}") if answer.status == 404 else None
            ),
        )
        page.goto(path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []
