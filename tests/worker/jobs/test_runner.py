"""The job runner on a real Redis, engine and tiny pipeline: from a record to images."""

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
from support.images import load_png, read_provenance
from support.jobs import read_job, running, store_job

from contracts import redis_keys
from contracts.jobs import JobRecord, JobStatus, now
from devtools.redis_server import RedisServer
from models import UnCLIP
from worker.jobs.runner import JobRunner

CUBE: dict[str, Any] = {"prompt": "a red cube", "seed": 7, "n": 1, "size": 64}
SMALL = {"seed": 3, "size": 64, "decoder_num_inference_steps": 4}


@pytest.fixture(scope="module")
def pipeline(tiny_checkpoint: Path) -> UnCLIP:
    return UnCLIP.load(tiny_checkpoint)


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


@pytest.fixture
def runner(client: redis.Redis, pipeline: UnCLIP) -> Iterator[JobRunner]:
    with running(client, pipeline) as runner:
        yield runner


def run_job(
    runner: JobRunner, request: dict[str, Any], operation: str = "generate", **images: bytes
) -> JobRecord:
    """Store a job, run it, and return its record."""
    store_job(runner.connection, request, operation=operation, **images)
    runner.run("j")
    return read_job(runner.connection)


def solid_png(colour: Any, mode: str = "RGB", size_px: int = 64) -> bytes:
    """A square of one colour, as the service stores it."""
    buffer = io.BytesIO()
    Image.new(mode, (size_px, size_px), colour).save(buffer, "PNG")
    return buffer.getvalue()


def stored_png(client: redis.Redis, index: int = 0) -> Image.Image:
    content = client.get(redis_keys.image("j", index))
    assert isinstance(content, bytes)
    return load_png(content)


def read_events(client: redis.Redis) -> list[tuple[bytes, dict[str, Any]]]:
    """Names and data of the job's events."""
    stream = client.xrange(redis_keys.events("j"))
    return [(fields[b"event"], json.loads(fields[b"data"])) for _, fields in stream]


def progress_fractions(client: redis.Redis) -> list[float]:
    return [data["fraction"] for event, data in read_events(client) if event == b"progress"]


def test_a_job_has_the_images_of_the_pipeline(runner: JobRunner, client: redis.Redis) -> None:
    """Image i is that of seed + i, and record and PNG hold the resolved parameters."""
    pipeline = runner.pipeline
    record = run_job(runner, CUBE | {"n": 2})
    assert record.status == "succeeded"
    assert [image.seed for image in record.outcome.images] == [7, 8]
    assert record.parameters == pipeline.resolve(size=64).as_dict()
    assert record.outcome.error is None
    assert record.outcome.warnings == []
    for index, seed in enumerate((7, 8)):
        image = stored_png(client, index)
        levels = (pipeline.generate(["a red cube"], seeds=[seed], size=64)[0] + 1) * 127.5
        pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
        difference = pixels.view(64, 64, 3).permute(2, 0, 1).float() - levels
        assert difference.abs().max() <= 1
        provenance = json.loads(image.text["unclip"])  # type: ignore[attr-defined]
        assert provenance["prompt"] == "a red cube"
        assert provenance["seed"] == seed
        assert provenance["parameters"] == record.parameters


def test_waits_and_durations_are_measured(runner: JobRunner, client: redis.Redis) -> None:
    """As metrics of this worker, and as means in Redis for the service's estimates."""
    names = ["unclip_queue_wait_seconds_count", "unclip_job_duration_seconds_count"]
    labels = {"operation": "generate"}
    before = [REGISTRY.get_sample_value(name, labels) or 0 for name in names]
    run_job(runner, CUBE)
    after = [REGISTRY.get_sample_value(name, labels) for name in names]
    assert after == [count + 1 for count in before]
    means = client.hgetall(redis_keys.MEAN_DURATIONS)
    assert set(means) == {b"generate:64", b"any:None"}
    assert all(float(mean) > 0 for mean in means.values())


def test_a_request_that_this_checkpoint_cannot_serve_is_invalid(
    runner: JobRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runner returns, so that RQ does not retry it; the record has the reason."""
    monkeypatch.setattr(runner.pipeline, "sizes", (64,))
    record = run_job(runner, CUBE | {"size": 256})
    assert record.status == "failed"
    assert record.outcome.error is not None
    assert record.outcome.error.kind == "invalid"
    assert "size is 256" in record.outcome.error.detail


@pytest.mark.parametrize("change", [{"size": 100}, {"unknown": 1}])
def test_a_record_that_this_version_cannot_read_is_invalid(
    runner: JobRunner, client: redis.Redis, change: dict[str, Any]
) -> None:
    """It ends instead of being retried, for example after a service of a newer version."""
    spec = {"operation": "generate", "request": CUBE | change, "created_at": now().isoformat()}
    key = redis_keys.job("j")
    fields = {"spec": json.dumps(spec), "status": "queued", "operation": "generate"}
    client.hset(key, mapping=fields)
    runner.run("j")
    assert client.hget(key, "status") == b"failed"
    assert client.hgetall(redis_keys.OUTCOMES) == {b"generate:failed:invalid": b"1"}
    outcome = json.loads(client.hget(key, "outcome") or b"{}")
    assert outcome["error"]["kind"] == "invalid"
    assert next(iter(change)) in outcome["error"]["detail"]


def test_a_job_fails_if_one_of_its_images_does(
    runner: JobRunner, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the row's own reason and the number of failed images."""
    step = runner.pipeline.step

    def failing_step(rows: Any) -> None:
        if any(row.seed == 8 and row.stage == "decoder" for row in rows):
            raise RuntimeError("a cosmic ray")
        step(rows)

    monkeypatch.setattr(runner.pipeline, "step", failing_step)
    record = run_job(runner, CUBE | {"n": 2})
    assert record.status == "failed"
    assert record.outcome.images == []
    assert record.outcome.error is not None
    assert record.outcome.error.kind == "internal"
    assert record.outcome.error.detail == (
        "1 of 2 images failed: stage decoder failed: RuntimeError: a cosmic ray"
    )
    assert client.hgetall(redis_keys.OUTCOMES) == {b"generate:failed:rows": b"1"}


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
def test_an_ended_job_is_not_run_again(
    runner: JobRunner, client: redis.Redis, status: JobStatus
) -> None:
    """RQ may dequeue a job twice; the second time nothing happens."""
    store_job(client, CUBE, status=status)
    before = read_job(client)
    runner.run("j")
    assert read_job(client) == before
    assert client.get(redis_keys.image("j", 0)) is None


def test_a_deleted_job_is_not_run(runner: JobRunner, client: redis.Redis) -> None:
    """It expired or was deleted while it waited."""
    runner.run("deleted")
    assert client.keys("*") == []


def test_progress_is_published_until_the_end(runner: JobRunner, client: redis.Redis) -> None:
    """It only grows, and the event of the end comes last."""
    run_job(runner, CUBE | {"decoder_num_inference_steps": 300})
    fractions = progress_fractions(client)
    assert fractions == sorted(fractions)
    assert len(fractions) >= 2
    assert read_events(client)[-1] == (b"ended", {"status": "succeeded"})


OPERATIONS: list[tuple[str, dict[str, Any], dict[str, bytes], int]] = [
    ("variations", SMALL | {"n": 2}, {"image": solid_png("red")}, 2),
    (
        "interpolate",
        SMALL | {"frames": 3, "prompt_b": "b", "animation": "apng"},
        {"image_a": solid_png("red")},
        3,
    ),
    (
        "text-diff",
        SMALL | {"frames": 2, "prompt_to": "b", "animation": "webp"},
        {"image": solid_png("red")},
        2,
    ),
    ("edit", SMALL | {"prompt": "a"}, {"image": solid_png("red"), "mask": solid_png(255, "L")}, 1),
    ("probe", SMALL | {"labels": ["a", "b"], "components": [2]}, {"image": solid_png("red")}, 1),
    ("embeddings", {"prompt": "a"}, {}, 0),
    ("embeddings", {}, {"image": solid_png("red")}, 0),
    (
        "generate",
        SMALL | {"mix": [{"prompt": "a"}, {"image": "mix_1", "weight": 0.5}]},
        {"mix_1": solid_png("red")},
        1,
    ),
    ("generate", SMALL | {"z_i": [1.0] * 16}, {}, 1),
]


@pytest.mark.parametrize(("operation", "request_", "images", "count"), OPERATIONS)
def test_every_operation_succeeds(
    runner: JobRunner,
    client: redis.Redis,
    operation: str,
    request_: dict[str, Any],
    images: dict[str, bytes],
    count: int,
) -> None:
    """Each image has its provenance, progress only grows, and the input images are deleted."""
    record = run_job(runner, request_, operation, **images)
    assert record.status == "succeeded", record.outcome.error
    assert len(record.outcome.images) == count
    assert not client.keys("*:input:*")
    for index in range(count):
        provenance = read_provenance(client.get(redis_keys.image("j", index)))
        assert provenance["operation"] == operation
        assert provenance["index"] == index
        assert provenance["parameters"] == record.parameters
    assert (record.outcome.result is not None) == (operation in ("probe", "embeddings"))
    fractions = progress_fractions(client)
    assert fractions == sorted(fractions)
    assert record.progress is not None
    assert record.progress.fraction == 1


@pytest.mark.parametrize(("kind", "image_format"), [("apng", "PNG"), ("webp", "WEBP")])
def test_frames_become_an_animation(
    runner: JobRunner, client: redis.Redis, kind: str, image_format: str
) -> None:
    """It plays forth and back: three frames are four images of a loop."""
    request = SMALL | {"prompt_a": "a", "prompt_b": "b", "frames": 3, "animation": kind}
    record = run_job(runner, request, "interpolate")
    content = client.get(redis_keys.animation("j"))
    assert isinstance(content, bytes)
    animation = Image.open(io.BytesIO(content))
    assert record.outcome.animation == kind
    assert animation.n_frames == 4  # type: ignore[attr-defined]
    assert animation.format == image_format


@pytest.mark.parametrize(
    ("operation", "request_", "images", "reason"),
    [
        ("probe", SMALL | {"components": [99]}, {"image": solid_png("red")}, "keeps 6"),
        ("generate", SMALL | {"z_i": [1.0]}, {}, "has 1 numbers"),
    ],
)
def test_an_operation_that_the_checkpoint_cannot_do_is_invalid(
    runner: JobRunner,
    operation: str,
    request_: dict[str, Any],
    images: dict[str, bytes],
    reason: str,
) -> None:
    """The operation finds that out while it runs."""
    record = run_job(runner, request_, operation, **images)
    assert record.outcome.error is not None
    assert record.outcome.error.kind == "invalid"
    assert reason in record.outcome.error.detail


def test_a_job_whose_input_image_expired_is_invalid(runner: JobRunner, client: redis.Redis) -> None:
    """The error says to send the request again."""
    store_job(client, SMALL, operation="variations", image=solid_png("red"))
    client.delete(redis_keys.input_image("j", "image"))
    runner.run("j")
    error = read_job(client).outcome.error
    assert error is not None
    assert "no longer there; send the request again" in error.detail


def test_pixels_outside_the_mask_are_unchanged(runner: JobRunner, client: redis.Redis) -> None:
    """To the bit, through PNG, torch and PNG again, whatever the pixels are."""
    noise = Image.effect_noise((64, 64), 90).convert("RGB")
    buffer = io.BytesIO()
    noise.save(buffer, "PNG")
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (16, 16, 48, 48))
    masked = io.BytesIO()
    mask.save(masked, "PNG")
    request = SMALL | {"prompt": "a"}
    record = run_job(runner, request, "edit", image=buffer.getvalue(), mask=masked.getvalue())
    assert record.status == "succeeded", record.outcome.error
    result = stored_png(client)
    pixels = [(x, y) for x in range(64) for y in range(64)]
    changed = [place for place in pixels if result.getpixel(place) != noise.getpixel(place)]
    assert changed
    assert all(16 <= x < 48 and 16 <= y < 48 for x, y in changed)


def test_the_truncated_part_of_every_prompt_is_a_warning(runner: JobRunner) -> None:
    """Also of prompts whose rows have no image."""
    request = SMALL | {"prompt_to": "red " * 75 + "tail end", "frames": 2}
    record = run_job(runner, request, "text-diff", image=solid_png("red"))
    assert record.outcome.warnings == ["A prompt exceeds CLIP's context; truncated: tail end"]
