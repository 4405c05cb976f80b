"""The task itself, on a real Redis, engine and (tiny) stack: from a job's record to its pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import torch
from PIL import Image

from contracts import keys
from contracts.jobs import Record, now, written
from models import UnCLIP
from worker.draw import Context, draw, install
from worker.engine import Engine, batch_limits
from worker.record import JobRecord

CUBE: dict[str, Any] = {"prompt": "a red cube", "seed": 7, "n": 1, "size": 64}


@pytest.fixture(scope="module")
def stack(tiny_checkpoint: Path) -> UnCLIP:
    return UnCLIP.load(tiny_checkpoint)


@pytest.fixture
def client(redis_server: Any, stack: UnCLIP) -> Iterator[redis.Redis]:
    """Redis, with the task set up to draw from it."""
    client = redis.Redis.from_url(redis_server.url)
    engine = Engine(stack, batch_limits(8))
    engine.start()
    install(Context(stack, engine, client, 100))
    yield client
    install(None)
    engine.stop()
    client.close()


def drawn(client: redis.Redis, request: dict[str, Any]) -> Record:
    """The record of a job with this request after it was drawn."""
    client.hset(keys.job("j"), mapping=written(operation="generate", status="queued", request=request, created_at=now()))
    draw("j")
    record = JobRecord(client, "j", 100).read()
    assert record is not None
    return record


def test_a_job_is_drawn_as_the_stack_draws_it(client: redis.Redis, stack: UnCLIP) -> None:
    """Picture i from seed + i, as PNGs that say how they were drawn; the record tells what was used."""
    record = drawn(client, CUBE | {"n": 2})
    assert record.status == "succeeded" and [picture.seed for picture in record.images] == [7, 8]
    assert record.parameters == stack.resolve(size=64).as_dict() and record.error is None and record.warnings == []
    for index, seed in enumerate((7, 8)):
        image = Image.open(io.BytesIO(client.get(keys.image("j", index))))
        wanted = stack.generate(["a red cube"], seeds=[seed], size=64)[0]
        pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8).view(64, 64, 3)
        assert (pixels.permute(2, 0, 1).float() - (wanted + 1) * 127.5).abs().max() <= 1
        told = json.loads(image.text["unclip"])  # type: ignore[attr-defined]
        assert (told["prompt"], told["seed"], told["parameters"]) == ("a red cube", seed, record.parameters)


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"size": 100}, "size"), ({"guidance": 1}, "guidance"), ({"decoder_num_inference_steps": 1, "sampler": "plms"}, "sampler")],
)
def test_what_can_never_work_fails_as_invalid_and_is_not_tried_again(client: redis.Redis, change: dict[str, Any], reason: str) -> None:
    """The task returns, so that RQ counts it as done; the record says what was wrong."""
    record = drawn(client, CUBE | change)
    assert record.status == "failed" and record.error is not None and record.error.kind == "invalid" and reason in record.error.detail


def test_a_job_fails_where_a_picture_of_it_does(client: redis.Redis, stack: UnCLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the row's own reason, and how many."""
    step = stack.step

    def failing(rows: Any) -> None:
        if any(row.seed == 8 and row.stage == "decoder" for row in rows):
            raise RuntimeError("a cosmic ray")
        step(rows)

    monkeypatch.setattr(stack, "step", failing)
    record = drawn(client, CUBE | {"n": 2})
    assert record.status == "failed" and record.images == [] and record.error is not None and record.error.kind == "internal"
    assert record.error.detail == "1 of 2 pictures failed: the decoder failed: RuntimeError: a cosmic ray"


@pytest.mark.parametrize("status", ["succeeded", "failed"])
def test_a_job_that_has_ended_is_not_drawn_again(client: redis.Redis, status: str) -> None:
    """RQ may hand one out twice; the second time nothing happens."""
    record = JobRecord(client, "j", 100)
    client.hset(keys.job("j"), mapping=written(operation="generate", status=status, request=CUBE, created_at=now()))
    before = record.read()
    draw("j")
    assert record.read() == before and client.get(keys.image("j", 0)) is None


def test_a_job_that_is_gone_is_not_drawn(client: redis.Redis) -> None:
    """It expired or was deleted while it waited."""
    draw("gone")
    assert client.keys("*") == []


def test_progress_is_told_from_the_first_step_to_the_last(client: redis.Redis) -> None:
    """On the event stream, growing, and the end after all."""
    drawn(client, CUBE | {"decoder_num_inference_steps": 300})
    events = [(fields[b"event"], json.loads(fields[b"data"])) for _, fields in client.xrange(keys.events("j"))]
    fractions = [data["fraction"] for event, data in events if event == b"progress"]
    assert fractions == sorted(fractions) and len(fractions) >= 2
    assert events[-1] == (b"ended", {"status": "succeeded"})


def test_the_task_cannot_run_outside_a_worker() -> None:
    """It says how to run it instead."""
    with pytest.raises(RuntimeError, match="python -m worker"):
        draw("j")
