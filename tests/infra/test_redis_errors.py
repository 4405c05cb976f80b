"""Refusals of a real Redis: they are outwaited, logged once, and described without content."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from devtools.redis_server import RedisServer
from infra.redis_errors import (
    EndlessRetry,
    describe,
    give_up_when,
    refusal_code,
    single_attempt,
)

CONTENT = "secret content"
REFUSED_S = 0.5


@pytest.fixture
def patient(redis_server: RedisServer) -> Iterator[Any]:
    """A client that waits until Redis accepts its commands."""
    with redis.Redis.from_url(redis_server.url, retry=EndlessRetry()) as client:
        yield client


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[Any]:
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


def use_all_memory(client: Any) -> Callable[[], Any]:
    client.config_set("maxmemory", "1")
    return lambda: client.config_set("maxmemory", "0")


def miss_replicas(client: Any) -> Callable[[], Any]:
    client.config_set("min-replicas-to-write", "1")
    return lambda: client.config_set("min-replicas-to-write", "0")


def become_replica(client: Any) -> Callable[[], Any]:
    client.replicaof("127.0.0.1", "1")
    return lambda: client.replicaof("NO", "ONE")


REFUSALS = {"OOM": use_all_memory, "NOREPLICAS": miss_replicas, "READONLY": become_replica}


def write(client: Any) -> None:
    client.set("a", CONTENT)


def write_in_a_pipeline(client: Any) -> None:
    with client.pipeline(transaction=False) as pipe:
        pipe.set("b", CONTENT).eval("return redis.call('SET', 'a', ARGV[1])", 0, CONTENT)
        pipe.execute()


def write_in_a_transaction(client: Any) -> None:
    with client.pipeline() as pipe:
        pipe.set("b", CONTENT).set("a", CONTENT)
        pipe.execute()


def write_after_a_watch(client: Any) -> None:
    client.transaction(lambda pipe: (pipe.multi(), pipe.set("a", CONTENT)), "a")


@pytest.mark.parametrize("code", REFUSALS)
@pytest.mark.parametrize(
    "act", [write, write_in_a_pipeline, write_in_a_transaction, write_after_a_watch]
)
def test_refused_writes_are_repeated(
    client: Any,
    patient: Any,
    caplog: pytest.LogCaptureFixture,
    code: str,
    act: Callable[[Any], None],
) -> None:
    """Until Redis accepts them, with one line in the log that says why."""
    accept = REFUSALS[code](client)
    with pytest.raises(redis.ResponseError) as refused:
        act(client)
    assert refusal_code(refused.value) == code
    assert CONTENT not in describe(refused.value)
    timer = threading.Timer(REFUSED_S, accept)
    timer.start()
    with caplog.at_level(logging.INFO, "infra"):
        act(patient)
    timer.join()
    assert client.get("a") == CONTENT.encode()
    (line,) = caplog.messages
    assert line.startswith("waiting for Redis: ")
    assert f"({code})" in line


def test_an_error_that_does_not_pass_is_raised(client: Any, patient: Any) -> None:
    """Without the command, which may hold an image."""
    client.rpush("list", "1")
    with patient.pipeline() as pipe, pytest.raises(redis.ResponseError) as refused:
        pipe.set("a", CONTENT).incr("list").append("list", CONTENT).execute()
    assert str(refused.value).startswith("WRONGTYPE")
    assert CONTENT not in str(refused.value)


def test_a_single_attempt_does_not_wait(client: Any, patient: Any) -> None:
    """The error is raised at once, also when Redis is away."""
    use_all_memory(client)
    with single_attempt(), pytest.raises(redis.ResponseError):
        patient.set("a", 1)
    away = redis.Redis(port=1, retry=EndlessRetry())
    with single_attempt(), pytest.raises(redis.ConnectionError):
        away.set("a", 1)


def test_retries_end_on_a_condition(client: Any, patient: Any) -> None:
    """A worker that stops waits for a limited time."""
    use_all_memory(client)
    stopped = threading.Event()
    threading.Timer(0.2, stopped.set).start()
    with give_up_when(stopped.is_set), pytest.raises(redis.ResponseError):
        patient.set("a", 1)
    assert stopped.is_set()
