"""The task itself, on a real Redis, engine and (tiny) pipeline: from a job's record to its images."""

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
from prometheus_client import REGISTRY

from contracts import redis_keys
from contracts.jobs import Record, now, written
from models import UnCLIP
from worker.engine.core import Engine, batch_limits
from worker.jobs.cancellation import Cancellations
from worker.jobs.record import JobRecord
from worker.jobs.runner import Context, draw, install

CUBE: dict[str, Any] = {"prompt": "a red cube", "seed": 7, "n": 1, "size": 64}


@pytest.fixture(scope="module")
def pipeline(tiny_checkpoint: Path) -> UnCLIP:
    return UnCLIP.load(tiny_checkpoint)


@pytest.fixture
def client(redis_server: Any, pipeline: UnCLIP) -> Iterator[redis.Redis]:
    """Redis, with the task set up to draw from it."""
    client = redis.Redis.from_url(redis_server.url)
    engine = Engine(pipeline, batch_limits(8))
    engine.start()
    cancellations = Cancellations(client, engine)
    cancellations.start()
    install(Context(pipeline, engine, client, cancellations, 100))
    yield client
    install(None)
    cancellations.stop()
    engine.stop()
    client.close()


def drawn(client: redis.Redis, request: dict[str, Any]) -> Record:
    """The record of a job with this request after it was drawn."""
    client.hset(
        redis_keys.job("j"),
        mapping=written(operation="generate", status="queued", request=request, created_at=now()),
    )
    draw("j")
    record = JobRecord(client, "j", 100).read()
    assert record is not None
    return record


def test_a_job_is_drawn_as_the_pipeline_draws_it(client: redis.Redis, pipeline: UnCLIP) -> None:
    """Image i from seed + i, as PNGs that say how they were drawn; the record tells what was used."""
    counts = [f"unclip_{name}_seconds_count" for name in ("queue_wait", "job_duration")]
    before = [REGISTRY.get_sample_value(name, {"operation": "generate"}) or 0 for name in counts]
    record = drawn(client, CUBE | {"n": 2})
    assert [REGISTRY.get_sample_value(name, {"operation": "generate"}) for name in counts] == [
        count + 1 for count in before
    ]
    assert record.status == "succeeded"
    assert [image.seed for image in record.images] == [7, 8]
    assert record.parameters == pipeline.resolve(size=64).as_dict()
    assert record.error is None
    assert record.warnings == []
    for index, seed in enumerate((7, 8)):
        image = Image.open(io.BytesIO(client.get(redis_keys.image("j", index))))
        wanted = pipeline.generate(["a red cube"], seeds=[seed], size=64)[0]
        pixels = torch.frombuffer(
            bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8
        ).view(64, 64, 3)
        assert (pixels.permute(2, 0, 1).float() - (wanted + 1) * 127.5).abs().max() <= 1
        told = json.loads(image.text["unclip"])  # type: ignore[attr-defined]
        assert (told["prompt"], told["seed"], told["parameters"]) == (
            "a red cube",
            seed,
            record.parameters,
        )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"size": 100}, "size"),
        ({"guidance": 1}, "guidance"),
        ({"decoder_num_inference_steps": 1, "sampler": "plms"}, "sampler"),
    ],
)
def test_what_can_never_work_fails_as_invalid_and_is_not_tried_again(
    client: redis.Redis, change: dict[str, Any], reason: str
) -> None:
    """The task returns, so that RQ counts it as done; the record says what was wrong."""
    record = drawn(client, CUBE | change)
    assert record.status == "failed"
    assert record.error is not None
    assert record.error.kind == "invalid"
    assert reason in record.error.detail


def test_a_job_fails_where_an_image_of_it_does(
    client: redis.Redis, pipeline: UnCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the row's own reason, and how many."""
    step = pipeline.step

    def failing(rows: Any) -> None:
        if any(row.seed == 8 and row.stage == "decoder" for row in rows):
            raise RuntimeError("a cosmic ray")
        step(rows)

    monkeypatch.setattr(pipeline, "step", failing)
    record = drawn(client, CUBE | {"n": 2})
    assert record.status == "failed"
    assert record.images == []
    assert record.error is not None
    assert record.error.kind == "internal"
    assert (
        record.error.detail
        == "1 of 2 images failed: the decoder failed: RuntimeError: a cosmic ray"
    )
    assert client.hgetall(redis_keys.OUTCOMES) == {b"generate:failed:rows": b"1"}


@pytest.mark.parametrize("status", ["succeeded", "failed"])
def test_a_job_that_has_ended_is_not_drawn_again(client: redis.Redis, status: str) -> None:
    """RQ may hand one out twice; the second time nothing happens."""
    record = JobRecord(client, "j", 100)
    client.hset(
        redis_keys.job("j"),
        mapping=written(operation="generate", status=status, request=CUBE, created_at=now()),
    )
    before = record.read()
    draw("j")
    assert record.read() == before
    assert client.get(redis_keys.image("j", 0)) is None


def test_a_job_that_is_gone_is_not_drawn(client: redis.Redis) -> None:
    """It expired or was deleted while it waited."""
    draw("gone")
    assert client.keys("*") == []


def test_progress_is_told_from_the_first_step_to_the_last(client: redis.Redis) -> None:
    """On the event stream, growing, and the end after all."""
    drawn(client, CUBE | {"decoder_num_inference_steps": 300})
    events = [
        (fields[b"event"], json.loads(fields[b"data"]))
        for _, fields in client.xrange(redis_keys.events("j"))
    ]
    fractions = [data["fraction"] for event, data in events if event == b"progress"]
    assert fractions == sorted(fractions)
    assert len(fractions) >= 2
    assert events[-1] == (b"ended", {"status": "succeeded"})


def test_the_task_cannot_run_outside_a_worker() -> None:
    """It says how to run it instead."""
    with pytest.raises(RuntimeError, match="python -m worker"):
        draw("j")


def image(colour: Any, mode: str = "RGB", size: int = 64) -> bytes:
    """A square of one colour, as the service stores it."""
    buffer = io.BytesIO()
    Image.new(mode, (size, size), colour).save(buffer, "PNG")
    return buffer.getvalue()


def operated(
    client: redis.Redis, operation: str, request: dict[str, Any], **images: bytes
) -> Record:
    """The record of a job of any operation after it was drawn."""
    fields = written(
        operation=operation, status="queued", request=request, inputs=list(images), created_at=now()
    )
    client.hset(redis_keys.job("j"), mapping=fields)
    for name, content in images.items():
        client.set(redis_keys.input_image("j", name), content)
    draw("j")
    record = JobRecord(client, "j", 100).read()
    assert record is not None
    return record


SMALL = {"seed": 3, "size": 64, "decoder_num_inference_steps": 4}
OPERATIONS: list[tuple[str, dict[str, Any], dict[str, bytes], int]] = [
    ("variations", SMALL | {"n": 2}, {"image": image("red")}, 2),
    (
        "interpolate",
        SMALL | {"frames": 3, "prompt_b": "b", "animation": "apng"},
        {"image_a": image("red")},
        3,
    ),
    (
        "text-diff",
        SMALL | {"frames": 2, "prompt_to": "b", "animation": "webp"},
        {"image": image("red")},
        2,
    ),
    ("edit", SMALL | {"prompt": "a"}, {"image": image("red"), "mask": image(255, "L")}, 1),
    ("probe", SMALL | {"labels": ["a", "b"], "components": [2]}, {"image": image("red")}, 1),
    ("embeddings", {"prompt": "a"}, {}, 0),
    ("embeddings", {}, {"image": image("red")}, 0),
    (
        "generate",
        SMALL | {"mix": [{"prompt": "a"}, {"image": "mix_1", "weight": 0.5}]},
        {"mix_1": image("red")},
        1,
    ),
    ("generate", SMALL | {"z_i": [1.0] * 16}, {}, 1),
]


@pytest.mark.parametrize(("operation", "request_", "images", "count"), OPERATIONS)
def test_every_operation_is_drawn_and_leaves_no_source_behind(
    client: redis.Redis,
    operation: str,
    request_: dict[str, Any],
    images: dict[str, bytes],
    count: int,
) -> None:
    """As many images as asked for, whose own text says how; animations; what was found; progress that only grows."""
    record = operated(client, operation, request_, **images)
    assert record.status == "succeeded", record.error
    assert len(record.images) == count
    assert not client.keys("*:input:*")
    for index in range(count):
        told = json.loads(
            Image.open(io.BytesIO(client.get(redis_keys.image("j", index)))).text["unclip"]
        )  # type: ignore[attr-defined]
        assert told["operation"] == operation
        assert told["index"] == index
        assert told["parameters"] == record.parameters
    assert (record.result is not None) == (operation in ("probe", "embeddings"))
    if request_.get("animation"):
        moving = Image.open(io.BytesIO(client.get(redis_keys.animation("j"))))
        assert moving.n_frames == 2 * count - 2
        assert moving.format == {"apng": "PNG", "webp": "WEBP"}[request_["animation"]]
    events = [
        (fields[b"event"], json.loads(fields[b"data"]))
        for _, fields in client.xrange(redis_keys.events("j"))
    ]
    fractions = [data["fraction"] for event, data in events if event == b"progress"]
    assert fractions == sorted(fractions)
    assert record.progress is not None
    assert record.progress.fraction == 1


def test_an_operation_that_cannot_be_done_fails_as_invalid(client: redis.Redis) -> None:
    """Found when it moves: too many components, a z_i of another length, a source that is gone."""
    for operation, request_, images, reason in (
        ("probe", SMALL | {"components": [99]}, {"image": image("red")}, "keeps 6"),
        ("generate", SMALL | {"z_i": [1.0]}, {}, "has 1 numbers"),
        (
            "edit",
            SMALL | {"prompt": "a", "sampler": "dpm++"},
            {"image": image("red"), "mask": image(255, "L")},
            "looks back",
        ),
    ):
        client.flushall()
        record = operated(client, operation, request_, **images)
        assert record.error is not None
        assert record.error.kind == "invalid"
        assert reason in record.error.detail
    client.flushall()
    fields = written(
        operation="variations", status="queued", request=SMALL, inputs=["image"], created_at=now()
    )
    client.hset(redis_keys.job("j"), mapping=fields)
    draw("j")
    record = JobRecord(client, "j", 100).read()
    assert record.error is not None
    assert "no longer there" in record.error.detail


def test_a_kept_part_comes_back_byte_for_byte(client: redis.Redis) -> None:
    """Through PNG in, torch, and PNG out, whatever the pixels."""
    noisy = Image.effect_noise((64, 64), 90).convert("RGB")
    buffer = io.BytesIO()
    noisy.save(buffer, "PNG")
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (16, 16, 48, 48))
    masked = io.BytesIO()
    mask.save(masked, "PNG")
    record = operated(
        client, "edit", SMALL | {"prompt": "a"}, image=buffer.getvalue(), mask=masked.getvalue()
    )
    assert record.status == "succeeded", record.error
    drawn = Image.open(io.BytesIO(client.get(redis_keys.image("j", 0))))
    changed = [
        (x, y)
        for x in range(64)
        for y in range(64)
        if drawn.getpixel((x, y)) != noisy.getpixel((x, y))
    ]
    assert changed
    assert all(16 <= x < 48 and 16 <= y < 48 for x, y in changed)


def test_what_clip_did_not_read_is_told_of_every_prompt(client: redis.Redis) -> None:
    """Also of those whose rows draw nothing themselves."""
    long = "red " * 75 + "tail end"
    record = operated(
        client, "text-diff", SMALL | {"prompt_to": long, "frames": 2}, image=image("red")
    )
    assert record.warnings == ["A prompt is longer than CLIP reads; cut was: tail end"]
