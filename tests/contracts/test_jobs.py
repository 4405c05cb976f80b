"""The record of a job: what is written into the hash is what is read from it."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from contracts.jobs import (
    ImageInfo,
    JobError,
    JobOutcome,
    JobRecord,
    JobSpec,
    Progress,
    encode_fields,
    now,
)
from contracts.operations import EditRequest, GenerateRequest
from contracts.webhooks import Webhook

SPEC = JobSpec(
    operation="edit",
    request=EditRequest(
        prompt='say "hi": ünïcode 🟥\n', n=2, seed=0, priority=-3, image="image", mask="mask"
    ),
    inputs=["image", "mask"],
    webhook=Webhook(
        url="https://hooks.example/x", events=["failed"], base_url="http://service.test"
    ),
    owner="1f0c9a7be2d4",
    link="s3cret",
    idempotency="0f",
    trace={"traceparent": "00-1-2-01"},
    request_id="a request",
    created_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
)
RECORD = JobRecord(
    id="j",
    spec=SPEC,
    status="failed",
    parameters={"size": 64, "eta": 0.0, "negative_prompt": ""},
    progress=Progress(stage="decoder", step=3, steps=6, fraction=0.25, eta_seconds=1.5),
    outcome=JobOutcome(
        images=[ImageInfo(seed=2**32 - 1, width=64, height=64)],
        animation="webp",
        result={"labels": [{"label": "a", "probability": 0.5}]},
        warnings=["truncated: the end"],
        error=JobError(kind="internal", title="Generation failed", detail="why"),
    ),
    started_at=datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC),
    finished_at=datetime(2026, 1, 2, 3, 4, 7, 1, tzinfo=UTC),
)
# What changes after a job is accepted.
CHANGES = {"status", "parameters", "progress", "outcome", "started_at", "finished_at"}


def as_redis(texts: dict[str, str]) -> dict[bytes, bytes]:
    """Return a hash as Redis returns it."""
    return {name.encode(): text.encode() for name, text in texts.items()}


def full_hash() -> dict[str, str]:
    """Return the hash of RECORD, written as service and worker do."""
    changes = {name: getattr(RECORD, name) for name in CHANGES}
    return replace(RECORD, status="queued").to_hash() | encode_fields(**changes)


def test_a_full_record_round_trips() -> None:
    """Every field keeps value and type, and times their microseconds."""
    record = JobRecord.from_hash("j", as_redis(full_hash()))
    assert record == RECORD
    assert type(record.spec.request) is EditRequest


def test_every_field_of_the_record_is_tested() -> None:
    """A new field belongs into RECORD."""
    assert {field.name for field in fields(JobRecord)} == CHANGES | {"id", "spec", "invalid_reason"}
    assert all(getattr(SPEC, name) for name in JobSpec.model_fields)
    assert all(getattr(RECORD.outcome, name) for name in JobOutcome.model_fields)


def test_a_new_record_has_only_its_spec() -> None:
    """The rest is empty until the job runs."""
    spec = JobSpec(operation="generate", request=GenerateRequest(prompt="a"), created_at=now())
    record = JobRecord.from_hash("j", as_redis(JobRecord("j", spec).to_hash()))
    assert record == JobRecord("j", spec)
    assert record.status == "queued"
    assert record.outcome == JobOutcome()


def test_scripts_find_operation_and_priority() -> None:
    """Redis scripts read these two without JSON."""
    texts = RECORD.to_hash()
    assert texts["operation"] == "edit"
    assert texts["priority"] == "-3"


def test_unknown_fields_are_ignored() -> None:
    """A process of another version may add some."""
    assert JobRecord.from_hash("j", as_redis(full_hash() | {"previews": "[1]"})) == RECORD


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "lost"}, "status 'lost' is unknown"),
        ({"spec": "{}"}, "Field required"),
        ({"progress": "[]"}, "Input should be an object"),
        ({"started_at": "yesterday"}, "Invalid isoformat"),
    ],
)
def test_an_invalid_record_is_an_error(change: dict[str, str], message: str) -> None:
    """A damaged record is reported rather than guessed."""
    with pytest.raises(ValueError, match=message):
        JobRecord.from_hash("j", as_redis(full_hash() | change))


def test_an_invalid_request_is_a_validation_error() -> None:
    """The worker validates the request that it reads."""
    text = SPEC.to_json().replace('"n":2', '"n":99')
    with pytest.raises(ValidationError, match="less than or equal to 10"):
        JobSpec.model_validate_json(text)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"n":2', '"n":99', "less than or equal to 10"),
        ('"n":2', '"n":2,"later":1', "Extra inputs are not permitted"),
        ('"edit"', '"paint"', "'paint' is unknown"),
    ],
)
def test_a_record_of_another_version_can_still_be_read(old: str, new: str, reason: str) -> None:
    """Its request is not valid here; the job can be shown and must be able to end."""
    texts = full_hash() | {"spec": SPEC.to_json().replace(old, new)}
    record = JobRecord.from_hash("j", as_redis(texts))
    assert record.invalid_reason is not None
    assert reason in record.invalid_reason
    assert record.spec.inputs == SPEC.inputs
    assert record.spec.webhook == SPEC.webhook
    assert record.spec.created_at == SPEC.created_at
    assert record.status == "failed"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("running", "running"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
        ({"size": 64}, '{"size": 64}'),
        (
            JobError(kind="internal", title="t", detail="d"),
            '{"kind":"internal","title":"t","detail":"d"}',
        ),
    ],
)
def test_fields_are_encoded_by_their_type(value: Any, text: str) -> None:
    """Text and times stay text; anything else is JSON."""
    assert encode_fields(field=value) == {"field": text}
