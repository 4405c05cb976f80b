"""A deployment whose workers and Redis may be killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.deployment import DeploymentUnderTest

MAX_CONCURRENT_JOBS = 3


@pytest.fixture(scope="module")
def disposable_deployment(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path
) -> Iterator[DeploymentUnderTest]:
    """Return a deployment for all tests of a module that stop its processes."""
    folder = tmp_path_factory.mktemp("disposable")
    with DeploymentUnderTest(
        folder, tiny_checkpoint, max_concurrent_jobs=MAX_CONCURRENT_JOBS
    ) as deployment:
        yield deployment


@pytest.fixture
def repair(
    disposable_deployment: DeploymentUnderTest,
) -> Callable[[int], DeploymentUnderTest]:
    """Return a function that gives the deployment the number of workers that a test needs.

    A worker needs ten seconds to start, so those that survived the test before are used again.
    """

    def repair(num_workers: int) -> DeploymentUnderTest:
        disposable_deployment.replace_dead_workers(num_workers)
        disposable_deployment.wait_for_empty_queue()
        return disposable_deployment

    return repair
