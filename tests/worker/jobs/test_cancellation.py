"""A running job that is cancelled leaves the batch within two steps, by the channel, and without it by its record."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from PIL import Image

from contracts import redis_keys
from contracts.jobs import Progress, now, read_record, written
from contracts.transitions import finish_job
from models import UnCLIP
from models.row import Row
from worker.engine.core import Engine, batch_limits
from worker.jobs.cancellation import Cancellations
from worker.jobs.runner import Context, draw, install

WAIT_S = 60.0
SLOW = {"prompt": "a red cube", "seed": 7, "n": 2, "size": 64, "decoder_num_inference_steps": 1000}


class House:
    """An engine and what listens for it; `steps` counts the rows' names of each pass."""

    def __init__(self, client: redis.Redis, pipeline: UnCLIP) -> None:
        self.client = client
        self.passes = list[list[str]]()
        self.engine = Engine(self, batch_limits(8))
        self.cancellations = Cancellations(client, self.engine)
        self.pipeline = pipeline
        install(Context(pipeline, self.engine, client, self.cancellations, 100))
        self.engine.start()

    def step(self, rows: Sequence[Row]) -> None:
        self.passes.append([row.prompt for row in rows])
        self.pipeline.step(rows)

    def begin(self, job_id: str, request: dict[str, Any]) -> threading.Thread:
        """A thread that draws the job."""
        fields = written(operation="generate", status="queued", request=request, created_at=now())
        self.client.hset(redis_keys.job(job_id), mapping=fields)
        thread = threading.Thread(target=draw, args=(job_id,))
        thread.start()
        return thread

    def cancel(self, job_id: str) -> None:
        """As the service does."""
        record = read_record(self.client.hgetall(redis_keys.job(job_id)))
        with self.client.pipeline() as pipe:
            finish_job(pipe, job_id, record, "cancelled", 100)
            pipe.publish(redis_keys.CANCELLED, job_id)
            pipe.execute()

    def close(self) -> None:
        install(None)
        self.engine.stop()
        self.cancellations.stop()


@pytest.fixture
def house(redis_server: Any, tiny_checkpoint: Path) -> Iterator[House]:
    with redis.Redis.from_url(redis_server.url) as client:
        house = House(client, UnCLIP.load(tiny_checkpoint))
        yield house
        house.close()


def until(true: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (found := true()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def test_a_cancelled_job_leaves_and_its_neighbours_stay(house: House) -> None:
    """Its rows are in no pass from the next but one on; the others' image is what it would have been."""
    house.cancellations.start()
    until(lambda: house.client.pubsub_numsub(redis_keys.CANCELLED)[0][1])
    neighbour = SLOW | {"prompt": "a blue cone", "n": 1, "decoder_num_inference_steps": 200}
    cancelled = house.begin("a", SLOW)
    until(lambda: len(house.passes) > 20)  # past the prior, where the two would not share passes
    other = house.begin("b", neighbour)
    until(lambda: {*house.passes[-1]} == {"a red cube", "a blue cone"})
    house.cancel("a")
    cancelled.join(WAIT_S)
    at = len(house.passes)
    other.join(WAIT_S)
    assert not cancelled.is_alive()
    assert not other.is_alive()
    assert all("a red cube" not in names for names in house.passes[at + 1 :])
    assert len(house.passes) > at + 10
    assert house.client.hget(redis_keys.job("a"), "status") == b"cancelled"
    assert not house.client.exists(redis_keys.image("a", 0))
    alone = house.begin("c", neighbour)
    alone.join(WAIT_S)
    assert house.client.hget(redis_keys.job("b"), "status") == b"succeeded"
    assert np.abs(pixels(house.client, "b") - pixels(house.client, "c")).max() <= 2


def pixels(client: redis.Redis, job_id: str) -> Any:
    return np.asarray(Image.open(io.BytesIO(client.get(redis_keys.image(job_id, 0))))).astype(int)  # type: ignore[arg-type]


def test_a_cancellation_nobody_heard_is_seen_in_the_record(house: House) -> None:
    """Nobody listens to the channel; the next telling of progress is refused, and the rows leave."""
    thread = house.begin("a", SLOW)
    until(lambda: len(house.passes) > 5)
    house.cancel("a")
    thread.join(WAIT_S)
    assert not thread.is_alive()
    assert len(house.passes) < 1000
    until(lambda: house.engine.rows_in_flight == 0)


def test_previews_are_made_while_somebody_watches(house: House) -> None:
    """Of each image, small and as WebP; none where nobody looks."""
    house.client.set(redis_keys.preview_subscribed("a"), "1")
    threads = [house.begin(job_id, SLOW | {"decoder_num_inference_steps": 300}) for job_id in "ab"]
    for thread in threads:
        thread.join(WAIT_S)
    events = {
        job_id: [fields for _, fields in house.client.xrange(redis_keys.events(job_id))]
        for job_id in "ab"
    }
    shown = [fields for fields in events["a"] if fields[b"event"] == b"preview"]
    assert shown
    assert b"data:image/webp;base64,UklGR" in shown[0][b"data"]
    assert {b'"index": 0' in one[b"data"] for one in shown} == {True, False}
    assert {fields[b"event"] for fields in events["b"]} == {b"progress", b"ended"}


def test_the_time_left_is_told_from_what_steps_took(house: House) -> None:
    """Once each stage was measured it comes with the progress, falls, and is about right."""
    house.begin("first", SLOW | {"decoder_num_inference_steps": 30}).join(WAIT_S)
    started = time.monotonic()
    house.begin("a", SLOW | {"decoder_num_inference_steps": 400}).join(WAIT_S)
    took = time.monotonic() - started
    told = [
        fields[b"data"]
        for _, fields in house.client.xrange(redis_keys.events("a"))
        if fields[b"event"] == b"progress"
    ]
    etas = [Progress.model_validate_json(data).eta_seconds for data in told]
    assert etas[0] is not None
    assert etas[-1] is not None
    assert etas[-1] < etas[0]
    assert took / 5 < etas[0] < took * 5
    assert (
        float(
            house.client.hget(redis_keys.MEAN_DURATIONS, redis_keys.mean_duration("generate", 64))
            or 0
        )
        > 0
    )
