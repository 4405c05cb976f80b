"""Errors that are not the call's own: limits, outages, failed jobs, and other layers' errors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from fastapi import Depends
from support.service.openai_service import PROMPT, TIMEOUT_S, ServiceUnderTest

from contracts import redis_keys
from contracts.jobs import FailureKind
from devtools.redis_server import RedisServer
from devtools.wait import wait_until
from service.errors import Unauthorized
from service.openai import stream

StartService = Callable[..., ServiceUnderTest]


def test_a_full_queue_is_a_rate_limit(start_service: StartService) -> None:
    """With a time to retry, which the client observes by itself."""
    service = start_service(max_queued_jobs=1)
    httpx.post(f"{service.url}/generate", json={"prompt": PROMPT})
    with pytest.raises(openai.RateLimitError, match="The queue is full") as error_info:
        service.client.images.generate(prompt=PROMPT)
    assert error_info.value.response.headers["retry-after"] == "30"
    assert error_info.value.code == "rate_limit_exceeded"


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.images.generate(prompt=PROMPT),
        lambda client: client.models.list(),
    ],
    ids=["generate", "models"],
)
def test_without_redis_the_response_is_503(
    service: ServiceUnderTest, redis_server: RedisServer, call: Callable[[openai.OpenAI], Any]
) -> None:
    """With a time to retry."""
    redis_server.stop()
    with pytest.raises(openai.InternalServerError, match="Redis is unavailable") as error_info:
        call(service.client)
    assert error_info.value.status_code == 503
    assert error_info.value.type == "server_error"
    assert error_info.value.response.headers["retry-after"]


def test_a_large_body_is_413(start_service: StartService) -> None:
    """Calls with images have the larger limit."""
    service = start_service(max_body_bytes=2048, max_upload_bytes=20_000)
    with pytest.raises(openai.APIStatusError, match="exceeds 2048 bytes") as error_info:
        service.client.images.generate(prompt=PROMPT, user="x" * 3000)
    assert error_info.value.status_code == 413
    assert error_info.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError):
        service.client.images.create_variation(image=b" " * 10_000)


@pytest.mark.parametrize(
    ("kind", "detail", "error_class", "message", "param", "code"),
    [
        (
            "internal",
            "the result is NaN",
            openai.InternalServerError,
            "Generation failed: the result is NaN",
            None,
            None,
        ),
        (
            "content",
            "an image was flagged",
            openai.BadRequestError,
            "Blocked by content filter: an image was flagged",
            None,
            "content_policy_violation",
        ),
        (
            "invalid",
            "size is 1024: the checkpoint has 64",
            openai.BadRequestError,
            "the checkpoint has 64; 512x512 is generated at 1024 and reduced",
            "size",
            "invalid_value",
        ),
    ],
)
def test_a_failed_job_is_not_retried(
    service: ServiceUnderTest,
    kind: FailureKind,
    detail: str,
    error_class: type[openai.APIStatusError],
    message: str,
    param: str | None,
    code: str | None,
) -> None:
    """The service has retried what is worth it. The error says why the job failed."""
    client = service.client.with_options(max_retries=2)
    with pytest.raises(error_class, match=message) as error_info:
        service.call(
            lambda: client.images.generate(prompt=PROMPT, size="512x512"),
            lambda job_id: service.job(job_id).fail(kind, detail),
        )
    assert error_info.value.param == param
    assert error_info.value.code == code
    assert service.redis.zcard(redis_keys.listing()) == 1


def test_a_cancelled_job_is_a_conflict(service: ServiceUnderTest) -> None:
    """Another client cancelled it."""
    with pytest.raises(openai.ConflictError, match="was cancelled"):
        service.call(
            lambda: service.client.images.generate(prompt=PROMPT),
            lambda job_id: httpx.delete(f"{service.url}/jobs/{job_id}"),
        )


@pytest.mark.parametrize("status", ["queued", "running"])
def test_a_client_that_disconnects_cancels_its_job(service: ServiceUnderTest, status: str) -> None:
    """No other client knows the job."""

    def generate() -> None:
        with pytest.raises(openai.APITimeoutError):
            service.client.images.generate(prompt=PROMPT, timeout=5)

    thread = threading.Thread(target=generate)
    thread.start()
    if status == "running":
        job_id = service.next_job()
        service.job(job_id).start({})
    else:
        queued = wait_until(lambda: service.redis.lrange(redis_keys.QUEUE_LIST, 0, 0))
        job_id = queued[0].decode()
    assert service.status(job_id) == status
    thread.join(TIMEOUT_S)
    wait_until(lambda: service.status(job_id) == "cancelled")
    assert not service.redis.llen(redis_keys.QUEUE_LIST)


def test_without_a_worker_the_job_is_cancelled(
    service: ServiceUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while, with 503."""
    monkeypatch.setattr(stream, "MAX_TIME_WITHOUT_WORKER_S", 0.5)
    monkeypatch.setattr(stream, "POLL_S", 0.3)
    with pytest.raises(openai.InternalServerError, match="No worker was alive") as error_info:
        service.client.images.generate(prompt=PROMPT)
    assert error_info.value.status_code == 503
    assert service.redis.hgetall(redis_keys.OUTCOMES) == {b"generate:cancelled": b"1"}


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/v1/chat", 404, "No route matches /v1/chat"),
        ("/v1/images/edits", 405, "Use POST"),
    ],
)
def test_routing_errors_have_openais_form(
    without_redis: ServiceUnderTest, path: str, status: int, message: str
) -> None:
    """Under /v1 only."""
    answer = httpx.get(without_redis.url + path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert message in answer.json()["error"]["message"]
    other = httpx.get(without_redis.url + "/nothing")
    assert other.headers["content-type"] == "application/problem+json"


def test_a_405_lists_the_methods(without_redis: ServiceUnderTest) -> None:
    """The headers of the translated problem stay."""
    answer = httpx.get(without_redis.url + "/v1/images/edits")
    assert answer.headers["allow"] == "POST"


def add_failing_routes(app: Any) -> None:
    """Add a route that rejects every key, and one with a bug."""

    def reject() -> None:
        raise Unauthorized("There is no such key.", headers={"WWW-Authenticate": "Bearer"})

    @app.get("/v1/locked", dependencies=[Depends(reject)])
    def locked() -> None: ...

    @app.get("/v1/broken")
    def broken() -> None:
        raise RuntimeError("a secret")


def test_an_invalid_key_is_an_authentication_error(start_service: StartService) -> None:
    """The challenge is passed on."""
    client = start_service(add_failing_routes).client
    with pytest.raises(openai.AuthenticationError, match="no such key") as error_info:
        client.get("/locked", cast_to=object)
    assert error_info.value.code == "invalid_api_key"
    assert error_info.value.response.headers["www-authenticate"] == "Bearer"


def test_an_unhandled_exception_is_500(start_service: StartService) -> None:
    """Its text stays in the log."""
    client = start_service(add_failing_routes).client
    with pytest.raises(openai.InternalServerError, match="see its log") as error_info:
        client.get("/broken", cast_to=object)
    assert error_info.value.type == "server_error"
    assert "secret" not in error_info.value.message
