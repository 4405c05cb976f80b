"""Cancellation of running jobs, by the Redis channel and, if a message is lost, by the record."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from support.images import load_png
from support.jobs import TTL_S, read_job, store_job

from contracts import redis_keys
from contracts.jobs import Progress, now
from contracts.transitions import finish_job
from devtools.redis_server import RedisServer
from devtools.wait import wait_until
from models import UnCLIP
from models.row import Row
from worker.engine.core import Engine
from worker.engine.memory import batch_limits
from worker.jobs.cancellation import CancellationListener
from worker.jobs.runner import JobRunner

WAIT_S = 60.0
SLOW = {"prompt": "a red cube", "seed": 7, "n": 2, "size": 64, "decoder_num_inference_steps": 1000}


class CancellationHarness:
    """An engine, a job runner and a listener that a test may start; `passes` has their prompts."""

    def __init__(self, client: redis.Redis, pipeline: UnCLIP) -> None:
        self.client = client
        self.pipeline = pipeline
        self.passes: list[list[str]] = []
        self.engine = Engine(self, batch_limits(8))
        self.cancellations = CancellationListener(client, self.engine)
        self.runner = JobRunner(pipeline, self.engine, client, self.cancellations, TTL_S)
        self.engine.start()

    def step(self, rows: Sequence[Row]) -> None:
        """Stand in for the pipeline's own step, for the engine."""
        self.passes.append([row.prompt for row in rows])
        self.pipeline.step(rows)

    def start_job(self, job_id: str, request: dict[str, Any]) -> threading.Thread:
        """Run a job in a new thread."""
        store_job(self.client, request, job_id=job_id)
        thread = threading.Thread(target=self.runner.run, args=(job_id,))
        thread.start()
        return thread

    def run_job(self, job_id: str, request: dict[str, Any]) -> None:
        """Run a job to its end."""
        self.start_job(job_id, request).join(WAIT_S)

    def cancel(self, job_id: str) -> None:
        """Cancel a job as the service does."""
        with self.client.pipeline() as pipe:
            finish_job(pipe, read_job(self.client, job_id), "cancelled", TTL_S, finished_at=now())
            pipe.publish(redis_keys.CANCELLED, job_id)
            pipe.execute()

    def pixels(self, job_id: str) -> np.ndarray:
        """Pixels of a job's first image."""
        content = self.client.get(redis_keys.image(job_id, 0))
        assert isinstance(content, bytes)
        return np.asarray(load_png(content)).astype(int)

    def close(self) -> None:
        """Stop engine and listener."""
        self.engine.stop()
        self.cancellations.stop()


@pytest.fixture
def harness(redis_server: RedisServer, tiny_checkpoint: Path) -> Iterator[CancellationHarness]:
    with redis.Redis.from_url(redis_server.url) as client:
        harness = CancellationHarness(client, UnCLIP.load(tiny_checkpoint))
        yield harness
        harness.close()


def test_a_cancelled_job_leaves_within_two_steps(harness: CancellationHarness) -> None:
    """The other job of its passes goes on, and its image does not change."""
    harness.cancellations.start()
    wait_until(lambda: harness.client.pubsub_numsub(redis_keys.CANCELLED)[0][1])
    other_request = SLOW | {"prompt": "a blue cone", "n": 1, "decoder_num_inference_steps": 200}
    cancelled = harness.start_job("a", SLOW)
    # Past the prior, where the two jobs would not share passes.
    wait_until(lambda: len(harness.passes) > 20)
    other = harness.start_job("b", other_request)
    wait_until(lambda: {*harness.passes[-1]} == {"a red cube", "a blue cone"})
    harness.cancel("a")
    cancelled.join(WAIT_S)
    passes_at_end = len(harness.passes)
    other.join(WAIT_S)
    assert not cancelled.is_alive()
    assert not other.is_alive()
    assert all("a red cube" not in prompts for prompts in harness.passes[passes_at_end + 1 :])
    assert len(harness.passes) > passes_at_end + 10
    assert read_job(harness.client, "a").status == "cancelled"
    assert not harness.client.exists(redis_keys.image("a", 0))
    assert read_job(harness.client, "b").status == "succeeded"
    harness.run_job("c", other_request)
    assert np.abs(harness.pixels("b") - harness.pixels("c")).max() <= 2


def test_a_lost_message_is_noticed_at_the_next_progress(harness: CancellationHarness) -> None:
    """The listener does not run; the update of an ended job is refused, and its rows leave."""
    thread = harness.start_job("a", SLOW)
    wait_until(lambda: len(harness.passes) > 5)
    harness.cancel("a")
    thread.join(WAIT_S)
    assert not thread.is_alive()
    assert len(harness.passes) < 1000
    wait_until(lambda: harness.engine.num_rows == 0)


def test_previews_are_published_to_subscribers(harness: CancellationHarness) -> None:
    """For each image, as WebP; a job without a subscriber has none."""
    harness.client.set(redis_keys.preview_subscribed("a"), "1")
    request = SLOW | {"decoder_num_inference_steps": 300}
    for thread in [harness.start_job(job_id, request) for job_id in "ab"]:
        thread.join(WAIT_S)
    streams = {
        job_id: [fields for _, fields in harness.client.xrange(redis_keys.events(job_id))]
        for job_id in "ab"
    }
    previews = [fields[b"data"] for fields in streams["a"] if fields[b"event"] == b"preview"]
    assert previews
    assert b"data:image/webp;base64,UklGR" in previews[0]
    assert {b'"index": 0' in data for data in previews} == {True, False}
    assert {fields[b"event"] for fields in streams["b"]} == {b"progress", b"ended"}


def test_the_estimated_time_falls_and_is_about_right(harness: CancellationHarness) -> None:
    """It comes with the progress once each stage was measured."""
    harness.run_job("first", SLOW | {"decoder_num_inference_steps": 30})
    started_at = time.monotonic()
    harness.run_job("a", SLOW | {"decoder_num_inference_steps": 400})
    duration_s = time.monotonic() - started_at
    estimates = [
        Progress.model_validate_json(fields[b"data"]).eta_seconds
        for _, fields in harness.client.xrange(redis_keys.events("a"))
        if fields[b"event"] == b"progress"
    ]
    assert estimates[0] is not None
    assert estimates[-1] is not None
    assert estimates[-1] < estimates[0]
    assert duration_s / 5 < estimates[0] < duration_s * 5
