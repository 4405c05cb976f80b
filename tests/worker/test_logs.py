"""What the worker's log says of a job is found by its id and its request's, the engine's lines too."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import structlog

from contracts import redis_keys
from contracts.jobs import now, written
from infra import logging as logs
from models import UnCLIP
from worker.engine.core import Engine, batch_limits
from worker.jobs.cancellation import Cancellations
from worker.jobs.runner import Context, draw, install


@pytest.fixture
def unlogged() -> Iterator[None]:
    """No logging but what the test sets up."""
    root = logging.getLogger()
    before = root.handlers[:]
    level = root.level
    root.handlers.clear()  # pytest's own are not to be closed
    yield
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.mark.usefixtures("unlogged")
def test_a_job_that_fails_is_found_by_its_request(
    redis_server: Any,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Both ids are on the engine's line with the trace as on the task's; what was asked for is on none."""
    logs.configure("info", "json", "worker")
    pipeline = UnCLIP.load(tiny_checkpoint)

    def failing(rows: Any) -> None:
        raise RuntimeError("a cosmic ray")

    monkeypatch.setattr(pipeline, "step", failing)
    client = redis.Redis.from_url(redis_server.url)
    engine = Engine(pipeline, batch_limits(8))
    engine.start()
    install(Context(pipeline, engine, client, Cancellations(client, engine), 100))
    try:
        for job_id, n in (("alone", 1), ("several", 2)):
            fields = written(
                operation="generate",
                status="queued",
                request={"prompt": "a zebra", "n": n, "seed": 1},
                created_at=now(),
            )
            client.hset(redis_keys.job(job_id), mapping=fields | written(request_id=f"of {job_id}"))
            draw(job_id)
    finally:
        install(None)
        engine.stop()
        client.close()
    found = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    for job_id, rows in (("alone", 1), ("several", 2)):
        mine = [line for line in found if line.get("job_id") == job_id]
        assert {line["request_id"] for line in mine} == {f"of {job_id}"}
        assert [line["event"] for line in mine] == [
            "job started",
            *["a row failed in text"] * rows,
            "job failed",
        ]
        assert "a cosmic ray" in mine[1]["exception"]
        assert mine[-1]["kind"] == "internal"
    assert "zebra" not in json.dumps(found)
