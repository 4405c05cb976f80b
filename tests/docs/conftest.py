"""One local deployment with the bundled checkpoint, shared by all tests of the documentation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from devtools.deployment import LocalDeployment
from devtools.ports import free_port


@pytest.fixture(scope="session")
def worker_metrics_port() -> int:
    """The port on which the deployment's worker exposes its metrics."""
    return free_port()


@pytest.fixture(scope="session")
def deployment(
    worker_metrics_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalDeployment]:
    """A service with a gallery, and a worker on one CPU thread."""
    gallery = tmp_path_factory.mktemp("gallery") / "gallery.db"
    with LocalDeployment(
        environment={"OMP_NUM_THREADS": "1"},
        device="cpu",
        threads=1,
        gallery_url=f"sqlite:///{gallery}",
        worker_metrics_port=worker_metrics_port,
    ) as running:
        yield running
