"""The compose files and the images: every setting reaches its container, with few privileges."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.docker_files import COMPOSE, DOCKER, ROOT, redis_options

from service.settings import Settings as ServiceSettings
from worker.settings import Settings as WorkerSettings

SETTINGS = {"service": ServiceSettings, "worker": WorkerSettings}
OWN = ("redis", "service", "worker")
# The image sets them, and the compose file publishes its port by them.
SET_BY_IMAGE = {"service": {"host", "port"}, "worker": set()}
FIXED = {
    "service": {"redis_url": "redis://redis:6379/0"},
    "worker": {"redis_url": "redis://redis:6379/0", "worker_metrics_port": 9100},
}
PACKAGES = {
    "service": {"contracts", "infra", "service"},
    "worker": {"contracts", "infra", "models", "worker"},
}
OVERLAYS = sorted(DOCKER.glob("*.yml"))
# Settings that are paths, and the file that mounts each.
MOUNTS = {
    "checkpoint": "checkpoint",
    "upsampler": "upsampler",
    "prompt_deny_list": "prompt-filter",
    "content_filter": "content-filter",
}


def settings_in(environment: dict[str, Any]) -> dict[str, Any]:
    return {
        name.removeprefix("UNCLIP_").lower(): value
        for name, value in environment.items()
        if name.startswith("UNCLIP_")
    }


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_reaches_its_container(name: str) -> None:
    """From the shell or .env, so none of them is ignored without a word."""
    settings = settings_in(COMPOSE["services"][name]["environment"])
    assert settings.keys() == SETTINGS[name].model_fields.keys() - SET_BY_IMAGE[name]
    fixed = {field: value for field, value in settings.items() if value is not None}
    assert fixed == FIXED[name]


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: path.stem)
def test_every_setting_of_an_overlay_exists(path: Path) -> None:
    """Under the container that it is for."""
    for name, container in yaml.safe_load(path.read_text())["services"].items():
        if name in SETTINGS:
            settings = settings_in(container.get("environment", {}))
            assert settings.keys() <= SETTINGS[name].model_fields.keys()


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: path.stem)
def test_the_compose_file_lists_every_overlay(path: Path) -> None:
    """Its head says what each is for."""
    head = (ROOT / "docker-compose.yml").read_text().split("\n\nx-hardened")[0]
    assert f"docker/{path.name} " in head


@pytest.mark.parametrize("field", MOUNTS)
def test_every_path_has_an_overlay_that_mounts_it(field: str) -> None:
    """Without it the container does not start, as it cannot read the path."""
    overlay = yaml.safe_load((DOCKER / f"{MOUNTS[field]}.yml").read_text())
    (container,) = overlay["services"].values()
    (volume,) = container["volumes"]
    assert volume.startswith(f"${{UNCLIP_{field.upper()}:?")
    assert volume.endswith(":ro")


def test_every_path_setting_is_known_here() -> None:
    """A new setting with a path needs an overlay too."""
    paths = {
        name
        for settings in SETTINGS.values()
        for name, field in settings.model_fields.items()
        if "Path" in str(field.annotation)
    }
    assert paths == MOUNTS.keys()


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_container_has_few_privileges(name: str) -> None:
    """A read-only file system, no capabilities, bounded logs, and ports on this machine only."""
    service = COMPOSE["services"][name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service["stop_grace_period"]
    assert service["tmpfs"]
    allowed = {"CHOWN", "SETGID", "SETUID"} if name == "redis" else set()
    assert set(service.get("cap_add", ())) <= allowed
    for port in service.get("ports", ()):
        assert port.startswith(("127.0.0.1:", "${UNCLIP_HOST:-127.0.0.1}:"))


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_container_has_a_health_check(name: str) -> None:
    """In the compose file or in its image."""
    service = COMPOSE["services"][name]
    if "healthcheck" not in service:
        assert "HEALTHCHECK" in (ROOT / service["build"]["dockerfile"]).read_text()


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_monitoring_is_a_profile(name: str) -> None:
    """`docker compose up` starts Redis, service and worker only."""
    profiles = COMPOSE["services"][name].get("profiles", [])
    assert profiles == ([] if name in OWN else ["monitoring"])


@pytest.mark.parametrize("name", ["service", "worker"])
def test_an_image_runs_without_root(name: str) -> None:
    """It also says how it is checked and stopped."""
    text = (DOCKER / f"{name}.Dockerfile").read_text()
    last_stage = text[text.rindex("\nFROM ") :]
    assert re.search(r"^USER 10001:10001$", last_stage, re.MULTILINE)
    assert "HEALTHCHECK" in last_stage
    assert "STOPSIGNAL SIGTERM" in last_stage


@pytest.mark.parametrize("name", ["service", "worker"])
def test_an_image_holds_only_the_packages_that_it_needs(name: str) -> None:
    """The service's holds no models and no torch; the build context holds every package."""
    text = (DOCKER / f"{name}.Dockerfile").read_text()
    packages = set(re.findall(r"^COPY (\w+) /app/", text, re.MULTILINE))
    assert packages == PACKAGES[name]
    context = (ROOT / ".dockerignore").read_text().splitlines()
    assert {f"!{package}" for package in packages | {"requirements"}} <= set(context)


@pytest.mark.parametrize("name", ["service", "worker"])
def test_an_image_starts_from_one_base(name: str) -> None:
    """A build argument, which an operator sets to a digest."""
    text = (DOCKER / f"{name}.Dockerfile").read_text()
    assert re.findall(r"^ARG BASE_IMAGE=(.+)$", text, re.MULTILINE) == ["python:3.11-slim-bookworm"]
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${BASE_IMAGE}"}


def test_redis_writes_before_it_replies() -> None:
    """So an accepted job survives a power cut."""
    options = redis_options(COMPOSE["services"]["redis"]["command"])
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "always"
    assert options["--dir"] == "/data"


def test_a_stopped_worker_has_time_for_its_jobs() -> None:
    """For the longest one."""
    longest_s = ServiceSettings.model_fields["job_timeout_s"].default
    assert COMPOSE["services"]["worker"]["stop_grace_period"] == f"{longest_s // 60}m"
