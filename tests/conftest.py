"""Fixtures of all tests: Redis, a tiny checkpoint, object stores, a running deployment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.checkpoint import save_tiny_checkpoint
from support.deployment import DeploymentUnderTest

from devtools.ports import free_port
from devtools.redis_server import RedisServer


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """Return a running Redis of this test alone."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a checkpoint with random weights and tiny networks."""
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny_checkpoint(folder)
    return folder


@pytest.fixture(scope="session")
def deployment(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path
) -> Iterator[DeploymentUnderTest]:
    """Return a running service with one worker, for tests that leave it running."""
    with DeploymentUnderTest(tmp_path_factory.mktemp("deployment"), tiny_checkpoint) as deployment:
        yield deployment


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """Return the URL of a prefix in an S3 bucket on 127.0.0.1.

    The endpoint and credentials are in the environment variables of AWS' own tools.
    """
    import fsspec
    from moto.server import ThreadedMotoServer

    with pytest.MonkeyPatch.context() as patch:
        server = ThreadedMotoServer("127.0.0.1", free_port(), verbose=False)
        server.start()
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server._port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "a")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").mkdir("images")
        yield "s3://images/of/this/deployment"
        server.stop()


@pytest.fixture(params=["file", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an object store, once as a folder and once as S3."""
    if request.param == "file":
        return f"file://{tmp_path}/store"
    return str(request.getfixturevalue("s3"))
