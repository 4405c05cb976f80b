"""The worker's log lines carry the ids of job and request, those of the engine too."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import structlog
from support.jobs import running

from contracts import redis_keys
from contracts.jobs import JobRecord, JobSpec, now
from contracts.operations import GenerateRequest
from devtools.redis_server import RedisServer
from infra import logging as logs
from models import UnCLIP


@pytest.fixture
def own_logging() -> Iterator[None]:
    """Remove pytest's handlers during the test, and what the test sets up after it."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    level = root.level
    # Cleared, because `configure` would close them.
    root.handlers.clear()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.mark.usefixtures("own_logging")
def test_lines_of_a_failed_job_carry_its_ids(
    redis_server: RedisServer,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The engine's line has the traceback; the prompt is in no line."""
    logs.configure("info", "json", "worker")
    pipeline = UnCLIP.load(tiny_checkpoint)

    def failing_step(rows: Any) -> None:
        raise RuntimeError("a cosmic ray")

    monkeypatch.setattr(pipeline, "step", failing_step)
    num_rows = {"single": 1, "several": 2}
    with (
        redis.Redis.from_url(redis_server.url) as client,
        running(client, pipeline) as runner,
    ):
        for job_id, n in num_rows.items():
            spec = JobSpec(
                operation="generate",
                request=GenerateRequest(prompt="a zebra", n=n, seed=1),
                request_id=f"request {job_id}",
                created_at=now(),
            )
            client.hset(redis_keys.job(job_id), mapping=JobRecord(job_id, spec).to_hash())
            runner.run(job_id)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    for job_id, n in num_rows.items():
        own = [line for line in lines if line.get("job_id") == job_id]
        assert {line["request_id"] for line in own} == {f"request {job_id}"}
        row_failures = ["a row failed in stage text"] * n
        assert [line["event"] for line in own] == ["job started", *row_failures, "job failed"]
        assert "a cosmic ray" in own[1]["exception"]
        assert own[-1]["kind"] == "internal"
    assert "zebra" not in json.dumps(lines)
