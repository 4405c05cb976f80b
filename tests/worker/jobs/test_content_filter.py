"""The content filter, with the CLIP of the bundled checkpoint: it excludes red cubes."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from PIL import Image
from prometheus_client import REGISTRY
from support.jobs import read_job, running, store_job

from contracts import redis_keys
from contracts.jobs import JobRecord
from devtools.redis_server import RedisServer
from models import UnCLIP, operations
from models.operations import Operation, Outcome, Phase
from models.row import Row
from worker.jobs import progress
from worker.jobs.content_filter import Concepts, ContentFilter, read_concepts
from worker.jobs.errors import FlaggedContentError
from worker.jobs.images import decode_png, encode_png
from worker.jobs.runner import JobRunner

NEUTRAL = [
    "a blue cube",
    "a green cube",
    "a red sphere",
    "a blue sphere",
    "a green sphere",
    "a white cone",
    "a blue cylinder",
]
NO_RED_CUBES = Concepts(concepts=["a red cube"], neutral=NEUTRAL, threshold=0.5)
SMALL = {"seed": 1, "size": 64}


@pytest.fixture(scope="module")
def pipeline() -> UnCLIP:
    return UnCLIP.load()


@pytest.fixture(scope="module")
def content_filter(pipeline: UnCLIP) -> ContentFilter:
    return ContentFilter(pipeline, NO_RED_CUBES)


@pytest.fixture(scope="module")
def rows(pipeline: UnCLIP) -> list[Row]:
    """A red cube from seed 1, and a blue sphere from seed 2."""
    prompts = {1: "a red cube on grass", 2: "a blue sphere on grass"}
    parameters = pipeline.resolve(size=64)
    rows = [pipeline.row(prompt, seed, parameters) for seed, prompt in prompts.items()]
    pipeline.run(rows)
    return rows


@pytest.fixture(scope="module")
def cube(rows: list[Row]) -> bytes:
    """The red cube as PNG."""
    assert rows[0].image is not None
    return encode_png(rows[0].image, {})


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


@pytest.fixture
def runner(
    client: redis.Redis, pipeline: UnCLIP, content_filter: ContentFilter
) -> Iterator[JobRunner]:
    with running(client, pipeline, content_filter) as runner:
        yield runner


def run_job(
    runner: JobRunner, request: dict[str, Any], operation: str = "generate", **images: bytes
) -> JobRecord:
    """Run a job whose previews a client watches, and return its record."""
    runner.connection.flushall()
    store_job(runner.connection, request, operation=operation, **images)
    runner.connection.set(redis_keys.preview_subscribed("j"), 1)
    runner.run("j")
    return read_job(runner.connection)


def num_flagged(source: str) -> float:
    return REGISTRY.get_sample_value("unclip_images_flagged_total", {"source": source}) or 0.0


def test_a_flagged_output_fails_its_job(runner: JobRunner) -> None:
    """No image is stored, the metric counts it, and the error does not quote the prompt."""
    before = num_flagged("output")
    record = run_job(runner, SMALL | {"prompt": "a red cube on grass"})
    assert record.status == "failed"
    assert record.outcome.error is not None
    assert record.outcome.error.kind == "content"
    assert "red" not in record.outcome.error.detail
    assert record.outcome.images == []
    assert not runner.connection.keys("*:image:*")
    assert num_flagged("output") == before + 1


def test_another_output_is_delivered(runner: JobRunner) -> None:
    """Its progress grows up to 1 over the checks and the operation."""
    before = num_flagged("output")
    record = run_job(runner, SMALL | {"prompt": "a blue sphere on grass"})
    assert record.status == "succeeded"
    assert len(record.outcome.images) == 1
    assert record.outcome.warnings == []
    fractions = [
        json.loads(fields[b"data"])["fraction"]
        for _, fields in runner.connection.xrange(redis_keys.events("j"))
        if fields[b"event"] == b"progress"
    ]
    assert fractions == sorted(fractions)
    assert record.progress is not None
    assert record.progress.fraction == 1
    assert num_flagged("output") == before


@pytest.mark.parametrize(
    ("operation", "request_", "name"),
    [
        ("embeddings", {}, "image"),
        ("interpolate", SMALL | {"prompt_b": "a cone"}, "image_a"),
        ("generate", SMALL | {"mix": [{"image": "mix_0"}]}, "mix_0"),
    ],
)
def test_a_flagged_input_fails_its_job(
    runner: JobRunner, cube: bytes, operation: str, request_: dict[str, Any], name: str
) -> None:
    """Whatever the name of the input image is."""
    before = num_flagged("input")
    record = run_job(runner, request_, operation, **{name: cube})
    assert record.outcome.error is not None
    assert record.outcome.error.kind == "content"
    assert "input image" in record.outcome.error.detail
    assert num_flagged("input") == before + 1


@pytest.mark.parametrize(("name", "stages"), [("image", ["image"]), ("mask", ["text"])])
def test_inputs_are_checked_before_any_work_and_masks_are_not(
    pipeline: UnCLIP, content_filter: ContentFilter, cube: bytes, name: str, stages: list[str]
) -> None:
    """The first phase is the check, or the operation's own for a mask."""
    guarded = content_filter.guard(
        operations.embeddings(pipeline, "a", pipeline.resolve()),
        {name: decode_png(cube)},
        pipeline.resolve(),
        drop_flagged=False,
    )
    assert list(next(guarded).rows[0].stage_costs) == stages


def finished_operation(pipeline: UnCLIP, rows: list[Row]) -> Operation:
    """An operation that ends with these rows."""
    yield Phase([pipeline.prompt_row("a", 0, pipeline.resolve(), prior=False)])
    return Outcome(rows, {"label": 1}, ["truncated"])


def test_flagged_images_among_several_are_left_out(
    pipeline: UnCLIP, content_filter: ContentFilter, rows: list[Row]
) -> None:
    """A warning names the seed; the operation's own values and warnings stay."""
    guarded = content_filter.guard(
        finished_operation(pipeline, rows), {}, pipeline.resolve(), drop_flagged=True
    )
    outcome = operations.run(pipeline, guarded)
    assert [row.seed for row in outcome.rows] == [2]
    assert outcome.result == {"label": 1}
    assert outcome.warnings == [
        "truncated",
        "The image of seed 1 was flagged by the content filter and is left out.",
    ]


@pytest.mark.parametrize(("count", "drop_flagged"), [(2, False), (1, True)])
def test_flagged_frames_or_nothing_left_fail_the_job(
    pipeline: UnCLIP, content_filter: ContentFilter, rows: list[Row], count: int, drop_flagged: bool
) -> None:
    """Frames belong together, and a job without images has no result."""
    guarded = content_filter.guard(
        finished_operation(pipeline, rows[:count]),
        {},
        pipeline.resolve(),
        drop_flagged=drop_flagged,
    )
    with pytest.raises(FlaggedContentError, match="flagged by the content filter"):
        operations.run(pipeline, guarded)


def test_concepts_with_one_meaning_add_up(pipeline: UnCLIP, cube: bytes) -> None:
    """Two names of one concept halve each other's probability, and the sum counts."""
    z_i = pipeline.clip.encode_image(decode_png(cube)[None])[0]
    two_names = Concepts(concepts=["a red cube"] * 2, neutral=NEUTRAL, threshold=0.5)
    other = Concepts(concepts=["a white cone"], neutral=["a red cube"], threshold=0.5)
    once = ContentFilter(pipeline, NO_RED_CUBES).probability(z_i)
    twice = ContentFilter(pipeline, two_names).probability(z_i)
    assert 0.9 < once <= twice <= 1
    assert ContentFilter(pipeline, other).probability(z_i) < 0.1


@pytest.mark.parametrize("is_filtered", [False, True])
def test_previews_are_off_with_a_content_filter(
    client: redis.Redis,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_filtered: bool,
) -> None:
    """A preview would show an image before its check."""
    for name in ("POLL_S", "PROGRESS_INTERVAL_S", "PREVIEW_INTERVAL_S"):
        monkeypatch.setattr(progress, name, 0.001)
    pipeline = UnCLIP.load(tiny_checkpoint)
    lenient = ContentFilter(pipeline, NO_RED_CUBES.model_copy(update={"threshold": 1.0}))
    with running(client, pipeline, lenient if is_filtered else None) as runner:
        record = run_job(runner, SMALL | {"prompt": "a", "decoder_num_inference_steps": 300})
        events = {fields[b"event"] for _, fields in client.xrange(redis_keys.events("j"))}
    assert record.status == "succeeded"
    assert events == {b"progress", b"ended"} | (set() if is_filtered else {b"preview"})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Invalid JSON"),
        (
            '{"concepts": [], "neutral": ["a"], "threshold": 0.5}',
            "concepts: List should have at least 1 item",
        ),
        ('{"concepts": ["a"], "threshold": 0.5}', "neutral: Field required"),
        (
            '{"concepts": ["a"], "neutral": ["b"], "threshold": 2, "x": 1}',
            "threshold: .* less than or equal to 1; x: Extra inputs",
        ),
        (None, "it cannot be read"),
    ],
)
def test_an_invalid_file_has_a_reason(tmp_path: Path, text: str | None, reason: str) -> None:
    path = tmp_path / "filter.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_concepts(path)


def test_a_checkpoint_without_an_image_encoder_is_rejected(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = UnCLIP.load(tiny_checkpoint)
    monkeypatch.setattr(pipeline.clip, "has_image_encoder", False)
    with pytest.raises(ValueError, match="checkpoint 'tiny' has no image encoder"):
        ContentFilter(pipeline, NO_RED_CUBES)


def test_large_images_are_checked_at_the_size_of_clip(
    pipeline: UnCLIP, content_filter: ContentFilter, cube: bytes
) -> None:
    """What is flagged at 64² is flagged at 1024²."""
    large = io.BytesIO()
    Image.open(io.BytesIO(cube)).resize((1024, 1024), Image.Resampling.BICUBIC).save(large, "PNG")
    guarded = content_filter.guard(
        operations.embeddings(pipeline, "a", pipeline.resolve()),
        {"image": decode_png(large.getvalue())},
        pipeline.resolve(),
        drop_flagged=False,
    )
    with pytest.raises(FlaggedContentError):
        operations.run(pipeline, guarded)
