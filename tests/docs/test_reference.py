"""The reference pages, the guides and the code name the same things."""

from __future__ import annotations

import fnmatch
import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.documents import ROOT, written_files

from contracts.operations import OPERATIONS
from devtools.deployment import LocalDeployment
from service.app import create_app
from service.settings import Settings as ServiceSettings
from training.presets import PRESETS
from worker.settings import Settings as WorkerSettings

# The client reads these; neither process has a setting of the name.
CLIENT_VARIABLES = {"UNCLIP_URL", "UNCLIP_API_KEY"}
# History, which names what is gone.
WITHOUT_HISTORY = [path for path in written_files() if path.name != "CHANGELOG.md"]


def is_command(module: str) -> bool:
    """Return whether `python -m` can run a module, or a package by its `__main__`."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.submodule_search_locations is None:
        return spec is not None
    return importlib.util.find_spec(f"{module}.__main__") is not None


def load_generator() -> ModuleType:
    """Import docs/generate.py, which is not in a package."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = load_generator()


def name_of(path: Path) -> str:
    """Return a path as it appears in a test's id."""
    return str(path.relative_to(ROOT))


def rows(page: str) -> dict[str, list[str]]:
    """Return the cells of all table rows whose first cell is code, by that code."""
    cells = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
        for line in page.splitlines()
        if line.startswith("| `")
    ]
    return {first.strip("`"): rest for first, *rest in cells}


def test_settings_page_lists_every_setting() -> None:
    """Each field of both classes is on the page, with a default and a meaning."""
    fields = ServiceSettings.model_fields | WorkerSettings.model_fields
    page = rows(GENERATOR.settings_page())
    assert set(page) == {f"UNCLIP_{name.upper()}" for name in fields}
    assert page["UNCLIP_MAX_QUEUED_JOBS"][0] == "`1000`"
    assert [name for name, cells in page.items() if not cells[-1]] == []


def test_routes_page_lists_every_route() -> None:
    """Each route of the application is on the page, but for the pages of the browser."""
    listed = set(re.findall(r"^## `(\w+) (\S+)`$", GENERATOR.routes_page(), re.MULTILINE))
    assert listed == routes()


def routes() -> set[tuple[str, str]]:
    """Return method and path of every route in the OpenAPI document."""
    return {
        (method.upper(), path)
        for path, methods in create_app().openapi()["paths"].items()
        for method in methods
    }


def test_fields_page_lists_every_field() -> None:
    """Each field of each request is on the page, with a meaning."""
    page = rows(GENERATOR.fields_page())
    names = {name for request in OPERATIONS.values() for name in request.model_fields}
    assert names - set(page) == set()
    assert [name for name, cells in page.items() if not cells[-1]] == []


def test_metrics_page_lists_what_is_exposed(
    deployment: LocalDeployment, worker_metrics_port: int
) -> None:
    """Each metric that service and worker expose is on the page, with type and labels."""
    deployment.http.post("/generate", json={"prompt": "a cone", "size": 64}).raise_for_status()
    for package, url in (
        ("service", f"{deployment.url}/metrics"),
        ("worker", f"http://127.0.0.1:{worker_metrics_port}/metrics"),
    ):
        listed = {name: kind for name, kind, _, _ in GENERATOR.metrics_of(package)}
        exposed = {
            family.name: family.type
            for family in text_string_to_metric_families(httpx.get(url).text)
            if family.name.startswith("unclip_") and not family.name.endswith("_created")
        }
        # The parser of the text format calls an Info a gauge whose name ends in _info.
        kinds = {
            name.removesuffix("_info"): "info" if name.endswith("_info") else kind
            for name, kind in exposed.items()
        }
        assert kinds.items() - listed.items() == set()


def test_redis_page_lists_what_is_written(deployment: LocalDeployment) -> None:
    """Each key that a job leaves in Redis matches a pattern on the page."""
    deployment.http.post(
        "/generate",
        json={"prompt": "a cone", "size": 64},
        headers={"Prefer": "wait=60", "Idempotency-Key": "documented"},
    ).raise_for_status()
    patterns = [
        re.sub(r"\b[A-Z_]{2,}\b", "*", key).replace("KEY_HASH", "*")
        for key, _ in GENERATOR.redis_keys()
    ]
    keys = [key.decode() for key in deployment.store.scan_iter("unclip:*")]
    unknown = [
        key for key in keys if not any(fnmatch.fnmatch(key, pattern) for pattern in patterns)
    ]
    assert len(keys) > 5
    assert unknown == []
    assert [key for key, text in GENERATOR.redis_keys() if not text] == []


@pytest.mark.parametrize("path", WITHOUT_HISTORY, ids=name_of)
def test_variables_exist(path: Path) -> None:
    """Each variable that a document names is a setting."""
    fields = ServiceSettings.model_fields | WorkerSettings.model_fields
    existing = {f"UNCLIP_{name.upper()}" for name in fields} | CLIENT_VARIABLES
    assert set(re.findall(r"\bUNCLIP_[A-Z_]+\b", path.read_text())) - existing == set()


@pytest.mark.parametrize("path", WITHOUT_HISTORY, ids=name_of)
def test_routes_exist(path: Path) -> None:
    """Each method and path that a document names is a route."""
    pattern = r"`(GET|POST|PATCH|PUT|DELETE) (/[-\w/{}.]+)`"
    existing = routes() | {("GET", "/docs"), ("GET", "/openapi.json")}
    assert set(re.findall(pattern, path.read_text())) - existing == set()


@pytest.mark.parametrize("path", WITHOUT_HISTORY, ids=name_of)
def test_metrics_exist(path: Path) -> None:
    """Each metric that a document names is one."""
    existing = {
        name for package in ("service", "worker") for name, *_ in GENERATOR.metrics_of(package)
    }
    names = set(re.findall(r"`(unclip_\w+)`", path.read_text())) - {"unclip_client"}
    assert {name.removesuffix("_total") for name in names} - existing == set()


@pytest.mark.parametrize("path", WITHOUT_HISTORY, ids=name_of)
def test_files_exist(path: Path) -> None:
    """Each link and each path in code style leads to a file or folder."""
    text = path.read_text()
    links = re.findall(r"\]\((?!https?:|\.\./\.\./actions|#)([^)#\s]+)", text)
    generated = {(ROOT / "docs" / page).resolve() for page in GENERATOR.PAGES}
    generated |= {(ROOT / "docs" / page).resolve() for page in GENERATOR.ROOT_FILES}
    missing = [
        link
        for link in links
        if not (target := (path.parent / link).resolve()).exists() and target not in generated
    ]
    packages = "benchmarks|contracts|devtools|docker|docs|examples|infra|models|service|tests"
    paths = re.findall(rf"`((?:{packages}|training|unclip_client|worker)/[\w./-]*)`", text)
    missing += [name for name in paths if not (ROOT / name).exists()]
    assert missing == []


@pytest.mark.parametrize("path", WITHOUT_HISTORY, ids=name_of)
def test_commands_exist(path: Path) -> None:
    """Each module, make target, preset and extra that a document names exists."""
    text = path.read_text()
    modules = set(re.findall(r"(?:python|torchrun[\w\s-]*) -m ((?!pip|pytest)[\w.]+)", text))
    targets = set(re.findall(r"(?:`|^)make (?:PYTHON=\S+ )?([a-z]+)", text, re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(re.findall(r"'\.\[(\w+)\]'", text))
    assert [name for name in modules if not is_command(name)] == []
    assert [name for name in targets if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []
    assert extras - set(project["optional-dependencies"]) == set()
    assert set(re.findall(r"PRESET=(\w+)", text)) - set(PRESETS) == set()
