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
REDIS_URL = "redis://:${REDIS_PASSWORD}@redis:6379/0"
FIXED = {
    "service": {"redis_url": REDIS_URL},
    "worker": {"redis_url": REDIS_URL, "worker_metrics_port": 9100},
}
PACKAGES = {
    "service": {"contracts", "infra", "service"},
    "worker": {"contracts", "infra", "models", "worker"},
}
DIGEST = r"(@sha256:[0-9a-f]{64})?"
OVERLAYS = sorted(DOCKER.glob("*.yml"))
# Settings that are paths, and the file that mounts each.
MOUNTS = {
    "checkpoint": "checkpoint",
    "upsampler": "upsampler",
    "prompt_deny_list": "prompt-filter",
    "content_filter": "content-filter",
}


# Every container of the compose file and of the overlays, with its networks in all of them.
CONTAINERS: dict[str, dict[str, Any]] = {}
for compose in (COMPOSE, *(yaml.safe_load(path.read_text()) for path in OVERLAYS)):
    for container_name, container in compose["services"].items():
        merged = CONTAINERS.setdefault(container_name, {"all_networks": set()})
        merged["all_networks"] |= set(container.get("networks", ()))
        merged |= {key: value for key, value in container.items() if key != "networks"}


def size_mib(text: str) -> float:
    """Return a size such as 512m, 3gb or ${NAME:-4g} in MiB."""
    match = re.fullmatch(r"(?:\$\{\w+:-)?(\d+)([mg])b?\}?", text)
    assert match is not None
    return int(match[1]) * {"m": 1, "g": 1024}[match[2]]


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


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_has_few_privileges(name: str) -> None:
    """A read-only file system, no capabilities, bounded logs, and ports on this machine only."""
    service = CONTAINERS[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service["stop_grace_period"]
    assert size_mib(service["mem_limit"]) >= 512
    assert service["pids_limit"] >= 128
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
    assert text.index("\nARG BASE_IMAGE\n") < text.index("\nFROM ")
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert len(bases) == 2
    (base,) = set(bases)
    assert re.fullmatch(rf"\$\{{BASE_IMAGE:-python:3\.11-slim-bookworm{DIGEST}\}}", base)


@pytest.mark.parametrize("name", CONTAINERS)
def test_only_service_and_worker_reach_redis(name: str) -> None:
    """Who can write to Redis can start jobs: no dashboard shares a network with it."""
    assert CONTAINERS["redis"]["all_networks"] == {"inside"}
    assert ("inside" in CONTAINERS[name]["all_networks"]) is (name in OWN)


def test_only_the_service_has_a_way_out() -> None:
    """Internal networks have none. An object store outside needs the worker to have one, too."""
    networks = dict(COMPOSE["networks"])
    networks |= yaml.safe_load((DOCKER / "tracing.yml").read_text())["networks"]
    internal = {name for name, network in networks.items() if network and network["internal"]}
    assert internal == {"inside", "metrics", "traces"}
    for path in OVERLAYS:
        container = yaml.safe_load(path.read_text())["services"].get("worker", {})
        has_way_out = not set(container.get("networks", ())) <= internal
        assert has_way_out is (path.stem == "object-store")
    assert set(COMPOSE["services"]["worker"]["networks"]) <= internal
    # Ports are published on networks with a way out only.
    for container in CONTAINERS.values():
        assert not container.get("ports") or not container["all_networks"] <= internal


def test_redis_has_a_password_without_a_default() -> None:
    """Docker Compose stops with a message until one is set."""
    options = redis_options(COMPOSE["services"]["redis"]["command"])
    assert options["--requirepass"].startswith("${REDIS_PASSWORD:?set REDIS_PASSWORD in .env")
    assert COMPOSE["services"]["redis"]["environment"] == {"REDISCLI_AUTH": "${REDIS_PASSWORD}"}
    assert "--protected-mode" not in options
    head = (ROOT / "docker-compose.yml").read_text().split("docker compose up")[0]
    assert 'echo "REDIS_PASSWORD=$(openssl rand -hex 32)" >> .env' in head


def test_a_full_redis_refuses_instead_of_being_killed() -> None:
    """Its own limit is below the container's, with room to rewrite the append-only file."""
    redis = COMPOSE["services"]["redis"]
    options = redis_options(redis["command"])
    assert options["--maxmemory-policy"] == "noeviction"
    assert size_mib(options["--maxmemory"]) <= 0.75 * size_mib(redis["mem_limit"])


@pytest.mark.parametrize("name", CONTAINERS)
def test_an_operator_can_pin_every_image(name: str) -> None:
    """A variable takes a digest; the default has a version, never `latest`."""
    image = CONTAINERS[name]["image"]
    if name in SETTINGS:
        # Without a value the Dockerfile's default applies.
        assert CONTAINERS[name]["build"]["args"]["BASE_IMAGE"] is None
    else:
        tag = r"[a-z/-]+:v?[0-9][0-9a-z.-]*"
        assert re.fullmatch(rf"\$\{{[A-Z]+_IMAGE:-{tag}{DIGEST}\}}", image)


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
