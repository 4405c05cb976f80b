"""A real service and worker for the client to ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.deployment import House, standing_house

from unclip_client import Client


@pytest.fixture(scope="package")
def house(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[House]:
    """With one worker, for all tests of the client."""
    with standing_house(tmp_path_factory.mktemp("house"), tiny_checkpoint) as house:
        yield house


@pytest.fixture
def client(house: House) -> Iterator[Client]:
    """As a stranger makes one."""
    with Client(str(house.http.base_url)) as client:
        yield client
