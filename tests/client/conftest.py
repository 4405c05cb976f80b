"""A client of the shared deployment."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.deployment import DeploymentUnderTest

from unclip_client import Client


@pytest.fixture
def client(deployment: DeploymentUnderTest) -> Iterator[Client]:
    """Return a client with its defaults."""
    with Client(deployment.url) as client:
        yield client
