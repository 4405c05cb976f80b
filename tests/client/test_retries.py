"""The client's retries: no work is lost and none is done twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.deployment import DeploymentUnderTest
from support.transport import Fault, FaultyTransport, cut_event_stream, lose_response, reject

from devtools.ports import free_port
from unclip_client import Client, ConnectionFailedError, ProblemError

SMALL: dict[str, Any] = {"size": 64, "decoder_num_inference_steps": 4}

Connect = Callable[..., tuple[Client, FaultyTransport]]


@pytest.fixture
def connect(deployment: DeploymentUnderTest) -> Iterator[Connect]:
    """Return a function that makes a client whose requests meet the faults."""
    clients = []

    def make_client(*faults: Fault, **options: Any) -> tuple[Client, FaultyTransport]:
        transport = FaultyTransport(*faults)
        client = Client(deployment.url, transport=transport, **options)
        clients.append(client)
        return client, transport

    yield make_client
    for client in clients:
        client.close()


def test_a_lost_response_does_not_start_a_second_job(connect: Connect) -> None:
    """Each call has a new Idempotency-Key, and its retries repeat it."""
    client, transport = connect(lose_response, lose_response)
    before = {job.id for job in client.list_jobs()}
    first = client.submit.generate("a cone", **SMALL)
    second = client.submit.generate("a cone", **SMALL)
    assert {job.id for job in client.list_jobs()} - before == {first.id, second.id}
    assert first.id != second.id
    keys = [request.headers["idempotency-key"] for request in transport.posts()]
    assert keys[0] == keys[1] == keys[2]
    assert keys[2] != keys[3]


def test_an_explicit_idempotency_key_is_used(connect: Connect) -> None:
    """Two calls with one key are one job."""
    client, _ = connect()
    key = f"test {time.time()}"
    first = client.submit.generate("a cone", idempotency_key=key, **SMALL)
    second = client.submit.generate("a cone", idempotency_key=key, **SMALL)
    assert first.id == second.id


def test_retry_after_is_respected(connect: Connect) -> None:
    """429 and 503 are retried after the time that the service names."""
    client, transport = connect(reject(429, "1"), reject(503, "0.5"))
    started = time.monotonic()
    assert client.generate("a cone", **SMALL).status == "succeeded"
    assert time.monotonic() - started >= 1.5
    assert [request.method for request in transport.requests][:3] == ["POST"] * 3


def test_a_retry_after_beyond_the_limit_is_an_error(connect: Connect) -> None:
    """The client does not wait longer than `retry_for_s`."""
    client, transport = connect(reject(429, "30"), retry_for_s=20)
    with pytest.raises(ProblemError, match="429"):
        client.generate("a cone")
    assert len(transport.requests) == 1


def test_no_service_is_an_error() -> None:
    """The message names the URL."""
    url = f"http://127.0.0.1:{free_port()}"
    with (
        Client(url, retry_for_s=0) as client,
        pytest.raises(ConnectionFailedError, match=f"no response from {url}"),
    ):
        client.generate("a cone")


def test_a_broken_event_stream_resumes(connect: Connect) -> None:
    """Every event comes once and in order, although the stream breaks inside an event, twice."""
    client, transport = connect(cut_event_stream(1), cut_event_stream(2))
    job = client.submit.generate("a grey cone", size=64, decoder_num_inference_steps=600)
    events = [event for event in job.events() if event.id]
    whole = [event for event in client.get_job(job.id).events() if event.id]
    assert events == whole
    assert events[-1].name == "ended"
    assert len(events) > 3
    resume_ids = [
        request.headers.get("last-event-id")
        for request in transport.requests
        if request.url.path.endswith("/events")
    ]
    assert resume_ids == [None, events[0].id, events[2].id, None]


def test_a_restart_of_redis_is_waited_out(
    deployment: DeploymentUnderTest, connect: Connect
) -> None:
    """The POST meets 503, and is retried with the same key until Redis is back."""
    client, transport = connect()
    deployment.redis.stop()
    restart = threading.Timer(3, deployment.redis.start)
    restart.start()
    try:
        assert client.generate("a cone", seed=77, **SMALL).images[0].seed == 77
    finally:
        restart.join()
    posts = transport.posts()
    assert len(posts) > 1
    assert len({request.headers["idempotency-key"] for request in posts}) == 1
