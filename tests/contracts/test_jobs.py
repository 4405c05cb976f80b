"""A job's record: what is written into the hash is what is read from it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from contracts.jobs import ImageInfo, JobError, Progress, Record, now, read_record, written

FULL: dict[str, Any] = {
    "operation": "generate",
    "status": "failed",
    "request": {"prompt": 'say "hi": ünïcode 🟥\n', "n": 2, "seed": 0, "size": None},
    "priority": -3,
    "parameters": {"size": 64, "eta": 0.0, "negative_prompt": ""},
    "warnings": ["cut was: the end"],
    "progress": {"stage": "decoder", "step": 3, "steps": 6, "fraction": 0.25, "eta_seconds": 1.5},
    "images": [{"seed": 2**32 - 1, "width": 64, "height": 64}],
    "inputs": ["image", "mask"],
    "idempotency": "0f",
    "webhook": {"url": "https://hooks.example/x", "events": ["failed"], "base_url": "http://house"},
    "owner": "1f0c9a7be2d4",
    "link": "s3cret",
    "request_id": "a request",
    "trace": {"traceparent": "00-1-2-01"},
    "animation": "webp",
    "result": {"labels": [{"label": "a", "probability": 0.5}]},
    "error": {"kind": "internal", "title": "The drawing failed", "detail": "why"},
    "created_at": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    "started_at": datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC),
    "finished_at": datetime(2026, 1, 2, 3, 4, 7, tzinfo=UTC),
}


def in_redis(fields: dict[str, str]) -> dict[bytes, bytes]:
    """As Redis gives a hash back."""
    return {key.encode(): value.encode() for key, value in fields.items()}


def test_a_full_record_round_trips() -> None:
    """Every field comes back equal and of its type, times to the microsecond."""
    record = read_record(in_redis(written(**FULL)))
    assert record.model_dump() == FULL
    assert record.progress == Progress(
        stage="decoder", step=3, steps=6, fraction=0.25, eta_seconds=1.5
    )
    assert record.images == [ImageInfo(seed=2**32 - 1, width=64, height=64)]
    assert record.error == JobError(kind="internal", title="The drawing failed", detail="why")
    assert set(FULL) == set(Record.model_fields), "a new field belongs in this test"


def test_a_fresh_record_has_nothing_yet() -> None:
    """What the service writes at first is enough; the rest is empty."""
    record = read_record(
        in_redis(
            written(
                operation="generate", status="queued", request={"prompt": "a"}, created_at=now()
            )
        )
    )
    assert (record.parameters, record.warnings, record.images, record.inputs) == ({}, [], [], [])
    assert record.animation is record.result is None
    assert record.progress is record.error is record.started_at is record.finished_at is None


def test_a_newer_version_may_add_fields() -> None:
    """During a rolling update an older service reads what a newer worker wrote."""
    assert read_record(in_redis(written(**FULL, previews=[1]))).status == "failed"


def test_a_status_nobody_knows_is_refused() -> None:
    """The statuses are the contract."""
    with pytest.raises(ValidationError, match="status"):
        read_record(in_redis(written(**FULL | {"status": "lost"})))


@pytest.mark.parametrize("fraction", [-0.01, 1.01])
def test_a_fraction_is_a_share(fraction: float) -> None:
    """0 to 1, else a progress bar runs over."""
    with pytest.raises(ValidationError):
        Progress(stage="decoder", step=1, steps=1, fraction=fraction)


def test_now_is_in_utc() -> None:
    """Times without a zone would be read as anybody's."""
    assert now().utcoffset() == timedelta(0)
