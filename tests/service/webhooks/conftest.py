"""Fixtures of webhooks: receivers, and a dispatcher that does not pause."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from support.service.webhooks import Receiver

from service.webhooks import dispatcher


@pytest.fixture
def receive() -> Iterator[Callable[..., Receiver]]:
    """Start receivers, and close them after the test."""
    receivers: list[Receiver] = []

    def start(*answers: int | Callable[[], int]) -> Receiver:
        receivers.append(Receiver(*answers))
        return receivers[-1]

    yield start
    for receiver in receivers:
        receiver.shutdown()
        receiver.server_close()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "POLL_S", 0.05)
    monkeypatch.setattr(dispatcher, "FIRST_PAUSE_S", 0.01)
