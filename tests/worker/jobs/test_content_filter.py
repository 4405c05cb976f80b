"""The content check, with the default checkpoint's own CLIP: a red cube is what nobody is to see."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from PIL import Image
from prometheus_client import REGISTRY

from contracts import redis_keys
from contracts.jobs import Record, now, written
from models import UnCLIP, operations
from models.operations import Operation, Outcome, Phase
from models.row import Row
from worker.engine.core import Engine, batch_limits
from worker.jobs import runner as drawing
from worker.jobs.cancellation import Cancellations
from worker.jobs.content_filter import Concepts, ContentCheck, ContentError, read
from worker.jobs.images import png, tensor
from worker.jobs.record import JobRecord
from worker.jobs.runner import Context, draw, install

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
def check(pipeline: UnCLIP) -> ContentCheck:
    return ContentCheck(pipeline, NO_RED_CUBES)


@pytest.fixture(scope="module")
def drawn(pipeline: UnCLIP) -> list[Row]:
    """A red cube from seed 1, and a blue sphere from seed 2."""
    rows = [
        pipeline.row(text, seed, pipeline.resolve(size=64))
        for text, seed in (("a red cube on grass", 1), ("a blue sphere on grass", 2))
    ]
    pipeline.draw(rows)
    return rows


@pytest.fixture(scope="module")
def cube(drawn: list[Row]) -> bytes:
    """The red cube, as PNG."""
    assert drawn[0].image is not None
    return png(drawn[0].image, {})


@pytest.fixture
def working(redis_server: Any) -> Iterator[Callable[..., AbstractContextManager[redis.Redis]]]:
    """Redis, with the task set up to draw from it with a pipeline and its check."""

    @contextmanager
    def work(pipeline: UnCLIP, check: ContentCheck | None) -> Iterator[redis.Redis]:
        client = redis.Redis.from_url(redis_server.url)
        engine = Engine(pipeline, batch_limits(8))
        engine.start()
        install(
            Context(pipeline, engine, client, Cancellations(client, engine), 100, content=check)
        )
        try:
            yield client
        finally:
            install(None)
            engine.stop()
            client.close()

    return work


def operated(
    client: redis.Redis, operation: str, request: dict[str, Any], **images: bytes
) -> Record:
    """The record of a job after it was drawn."""
    client.flushall()
    fields = written(
        operation=operation, status="queued", request=request, inputs=list(images), created_at=now()
    )
    client.hset(redis_keys.job("j"), mapping=fields)
    for name, content in images.items():
        client.set(redis_keys.input_image("j", name), content)
    client.set(redis_keys.preview_subscribed("j"), 1)
    draw("j")
    record = JobRecord(client, "j", 100).read()
    assert record is not None
    return record


def flagged(images: str) -> float:
    return REGISTRY.get_sample_value("unclip_images_flagged_total", {"images": images}) or 0.0


def test_what_is_drawn_is_delivered_only_where_it_is_not_flagged(
    working: Callable[..., AbstractContextManager[redis.Redis]],
    pipeline: UnCLIP,
    check: ContentCheck,
) -> None:
    """A flagged drawing fails its job, leaves nothing behind, and is counted; another is drawn as ever, to its whole progress."""
    with working(pipeline, check) as client:
        before = flagged("drawn")
        record = operated(client, "generate", SMALL | {"prompt": "a red cube on grass"})
        assert record.status == "failed"
        assert record.error is not None
        assert record.error.kind == "content"
        assert record.images == []
        assert not client.keys("*:image:*")
        assert flagged("drawn") == before + 1
        assert "red" not in record.error.detail
        record = operated(client, "generate", SMALL | {"prompt": "a blue sphere on grass"})
        assert record.status == "succeeded"
        assert len(record.images) == 1
        assert record.warnings == []
        events = [
            json.loads(fields[b"data"])
            for _, fields in client.xrange(redis_keys.events("j"))
            if fields[b"event"] == b"progress"
        ]
        fractions = [event["fraction"] for event in events]
        assert fractions == sorted(fractions)
        assert record.progress is not None
        assert record.progress.fraction == 1
        assert flagged("drawn") == before + 1


def test_an_image_that_is_given_is_looked_at_before_any_work(
    working: Callable[..., AbstractContextManager[redis.Redis]],
    pipeline: UnCLIP,
    check: ContentCheck,
    cube: bytes,
) -> None:
    """Under whatever name it comes; and a mask, which shows nothing, is not."""
    with working(pipeline, check) as client:
        before = flagged("given")
        for operation, request, name in (
            ("embeddings", {}, "image"),
            ("interpolate", SMALL | {"prompt_b": "a cone"}, "image_a"),
            ("generate", SMALL | {"mix": [{"image": "mix_0"}]}, "mix_0"),
        ):
            record = operated(client, operation, request, **{name: cube})
            assert record.error is not None
            assert record.error.kind == "content"
            assert "came with the request" in record.error.detail
        assert flagged("given") == before + 3

    def first_stages(name: str) -> list[str]:
        guarded = check.guard(
            operations.embeddings(pipeline, "a", pipeline.resolve()),
            {name: tensor(cube)},
            pipeline.resolve(),
            singly=False,
        )
        return list(next(guarded).rows[0].plan)

    assert first_stages("image") == ["image"]
    assert first_stages("mask") == ["text"]


def test_of_several_images_those_that_are_flagged_are_left_out(
    pipeline: UnCLIP, check: ContentCheck, drawn: list[Row]
) -> None:
    """With a warning that names the seed; where they belong together, or none is left, the job fails."""

    def made(rows: list[Row]) -> Operation:
        yield Phase([pipeline.caption_row("a", 0, pipeline.resolve(), prior=False)])
        return Outcome(rows, {"told": 1}, ["cut"])

    outcome = operations.run(
        pipeline, check.guard(made(drawn), {}, pipeline.resolve(), singly=True)
    )
    assert [row.seed for row in outcome.rows] == [2]
    assert outcome.result == {"told": 1}
    assert outcome.warnings == [
        "cut",
        "The image of seed 1 is left out: it shows what this service does not deliver.",
    ]
    for rows, singly in ((drawn, False), (drawn[:1], True)):
        with pytest.raises(ContentError, match="does not deliver"):
            operations.run(pipeline, check.guard(made(rows), {}, pipeline.resolve(), singly=singly))


def test_concepts_that_are_alike_share_a_probability(pipeline: UnCLIP, cube: bytes) -> None:
    """Two names of one thing halve each other's share, and add up again; the threshold is met by equality too."""
    z_i = pipeline.clip.encode_image(tensor(cube)[None])[0]
    once = ContentCheck(pipeline, NO_RED_CUBES).probability(z_i)
    twice = ContentCheck(
        pipeline, Concepts(concepts=["a red cube"] * 2, neutral=NEUTRAL, threshold=0.5)
    ).probability(z_i)
    other = ContentCheck(
        pipeline, Concepts(concepts=["a white cone"], neutral=["a red cube"], threshold=0.5)
    ).probability(z_i)
    assert 0.9 < once <= twice <= 1
    assert other < 0.1


@pytest.mark.parametrize("checked", [False, True])
def test_nobody_sees_a_preview_of_what_was_not_looked_at(
    working: Callable[..., AbstractContextManager[redis.Redis]],
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    checked: bool,
) -> None:
    """With the check there are none, and without it there are."""
    for name in ("POLL_S", "TELL_EVERY_S", "SHOW_EVERY_S"):
        monkeypatch.setattr(drawing, name, 0.001)
    pipeline = UnCLIP.load(tiny_checkpoint)
    lenient = ContentCheck(pipeline, NO_RED_CUBES.model_copy(update={"threshold": 1.0}))
    with working(pipeline, lenient if checked else None) as client:
        record = operated(
            client, "generate", SMALL | {"prompt": "a", "decoder_num_inference_steps": 300}
        )
        events = {fields[b"event"] for _, fields in client.xrange(redis_keys.events("j"))}
    assert record.status == "succeeded"
    assert events == {b"progress", b"ended"} | (set() if checked else {b"preview"})


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
def test_a_file_that_will_not_do_says_where(tmp_path: Path, text: str | None, reason: str) -> None:
    path = tmp_path / "check.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=reason):
        read(path)


def test_a_checkpoint_that_cannot_look_is_told_at_once(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = UnCLIP.load(tiny_checkpoint)
    monkeypatch.setattr(pipeline.clip, "has_image_encoder", False)
    with pytest.raises(ValueError, match="checkpoint 'tiny' has no image encoder"):
        ContentCheck(pipeline, NO_RED_CUBES)


def test_an_image_as_large_as_they_come_is_looked_at_too(
    pipeline: UnCLIP, check: ContentCheck, cube: bytes
) -> None:
    """At CLIP's own size: what is flagged at 64² is flagged at 1024²."""
    large = io.BytesIO()
    Image.open(io.BytesIO(cube)).resize((1024, 1024), Image.Resampling.BICUBIC).save(large, "PNG")
    operation = operations.embeddings(pipeline, "a", pipeline.resolve())
    with pytest.raises(ContentError):
        operations.run(
            pipeline,
            check.guard(
                operation, {"image": tensor(large.getvalue())}, pipeline.resolve(), singly=False
            ),
        )
