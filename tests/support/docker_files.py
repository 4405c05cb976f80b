"""The files in docker/ and the compose file, as tests read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
KUBERNETES: list[dict[str, Any]] = [
    document
    for path in sorted((DOCKER / "kubernetes/base").glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for document in yaml.safe_load_all(path.read_text())
]


def kubernetes_objects(kind: str) -> dict[str, Any]:
    """Return Kubernetes' objects of a kind, by name."""
    return {
        document["metadata"]["name"]: document
        for document in KUBERNETES
        if document["kind"] == kind
    }


def redis_options(command: list[str]) -> dict[str, str]:
    """Return the options of a redis-server command."""
    return dict(zip(command[1::2], command[2::2], strict=True))
