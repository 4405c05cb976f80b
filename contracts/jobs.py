"""The record of a job: what service and worker store in Redis, and how they read it.

The record is a hash. `spec` holds as JSON what the request says; only its link changes, if the
owner revokes it. The other fields change while the job runs: `status` and times as text,
`parameters`, `progress` and `outcome` as JSON. `operation` and `priority` repeat two values of the
spec, because Redis scripts read them. The service writes the record when it accepts the job, the
worker from then on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from contracts.fields import Animation, QueueFields
from contracts.operations import OPERATIONS
from contracts.webhooks import Webhook

JobStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]
FailureKind = Literal["invalid", "content", "internal"]
ENDED: tuple[JobStatus, ...] = ("succeeded", "failed", "cancelled")


class Progress(BaseModel):
    """Progress of a job, by its slowest image."""

    stage: str = Field(
        description=(
            "Current stage: text, image, prior, ar_prior, inversion, decoder, upsampler_256 or "
            "upsampler_1024."
        )
    )
    step: int = Field(description="Steps of this stage that are done.")
    steps: int = Field(description="Steps of this stage.")
    fraction: float = Field(ge=0, le=1, description="Fraction of the whole job that is done.")
    eta_seconds: float | None = Field(
        None, description="Seconds to the end of the job, from this worker's recent speed."
    )


class Preview(BaseModel):
    """An image before it is finished."""

    index: int = Field(description="Index of the image in the job.")
    image: str = Field(description="Current estimate of the decoder or upsampler, as a data URL.")


class WorkerHeartbeat(BaseModel):
    """Heartbeat of a worker."""

    pid: int
    slots: int = Field(description="Number of jobs that the worker runs concurrently.")
    checkpoint: str = Field("", description="Name of its checkpoint.")


class ImageInfo(BaseModel):
    """One generated image."""

    seed: int = Field(description="Seed that generates this image again.")
    width: int
    height: int


class JobError(BaseModel):
    """Why a job failed.

    `kind` is "invalid" if the request can never succeed, "content" if the content filter stopped
    it, "internal" if the generation failed.
    """

    kind: FailureKind
    title: str
    detail: str


class JobOutcome(BaseModel):
    """What a job produced. Empty until it ends."""

    images: list[ImageInfo] = []
    animation: Animation | None = None
    result: dict[str, Any] | None = None
    warnings: list[str] = []
    error: JobError | None = None


class JobSpec(BaseModel):
    """What a job's request says. It never changes."""

    operation: str
    request: SerializeAsAny[QueueFields] = Field(
        description="Fields of the request. Image fields hold names of input images."
    )
    inputs: list[str] = Field([], description="Names of the input images.")
    webhook: Webhook | None = None
    owner: str | None = Field(None, description="Id of the API key that the job belongs to.")
    link: str | None = Field(None, description="Token that opens the job's images without a key.")
    idempotency: str | None = Field(None, description="Hash of the Idempotency-Key.")
    trace: dict[str, str] = Field({}, description="W3C trace context of the request.")
    request_id: str | None = Field(None, description="X-Request-ID of the request.")
    created_at: datetime

    @field_validator("request", mode="before")
    @classmethod
    def _parse_request(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, QueueFields):
            return value
        operation = info.data.get("operation", "")
        if operation not in OPERATIONS:
            raise ValueError(f"operation {operation!r} is unknown")
        return OPERATIONS[operation].model_validate(value)

    def to_json(self) -> str:
        """Return the JSON text that the record holds."""
        return self.model_dump_json(exclude_none=True)


@dataclass(frozen=True)
class JobRecord:
    """A job as Redis stores it.

    `parameters`: those that the pipeline resolved, empty until the job runs. `invalid_reason`: why
    the stored request cannot run here, such as a field of another version; None if it can.
    """

    id: str
    spec: JobSpec
    status: JobStatus = "queued"
    parameters: dict[str, Any] = field(default_factory=dict)
    progress: Progress | None = None
    outcome: JobOutcome = field(default_factory=JobOutcome)
    started_at: datetime | None = None
    finished_at: datetime | None = None
    invalid_reason: str | None = None

    @classmethod
    def from_hash(cls, job_id: str, fields: Mapping[bytes, bytes]) -> Self:
        """Parse the hash of a job. Raises ValidationError if it is not a record."""
        return cls.from_texts(job_id, {key.decode(): value for key, value in fields.items()})

    @classmethod
    def from_texts(cls, job_id: str, fields: Mapping[str, str | bytes]) -> Self:
        """Parse fields of a record by name. All but `spec` and `status` may be missing."""
        spec, invalid_reason = _parse_spec(fields["spec"])
        parameters = fields.get("parameters")
        progress = fields.get("progress")
        outcome = fields.get("outcome")
        return cls(
            id=job_id,
            spec=spec,
            status=_parse_status(fields["status"]),
            parameters=json.loads(parameters) if parameters else {},
            progress=Progress.model_validate_json(progress) if progress else None,
            outcome=JobOutcome.model_validate_json(outcome) if outcome else JobOutcome(),
            started_at=_parse_time(fields.get("started_at")),
            finished_at=_parse_time(fields.get("finished_at")),
            invalid_reason=invalid_reason,
        )

    def to_hash(self) -> dict[str, str]:
        """Return the hash of a new job."""
        spec = self.spec
        return {
            "spec": spec.to_json(),
            "status": self.status,
            "operation": spec.operation,
            "priority": str(spec.request.priority),
        }


def encode_fields(**values: Any) -> dict[str, str]:
    """Encode fields of a record that change: text and times as text, anything else as JSON."""
    return {name: _encode(value) for name, value in values.items()}


def _parse_spec(text: str | bytes) -> tuple[JobSpec, str | None]:
    """Parse a spec. If its request is invalid, return it unvalidated, and the reason.

    A process of another version may have accepted it. The job must still be able to end.
    """
    try:
        return JobSpec.model_validate_json(text), None
    except ValidationError as error:
        values = json.loads(text)
        if "request" not in values:
            raise
        model = OPERATIONS.get(values.get("operation"), QueueFields)
        request = model.model_construct(**values.pop("request"))
        return JobSpec(request=request, **values), str(error)


def _encode(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, BaseModel):
        return value.model_dump_json()
    return json.dumps(value)


def _parse_status(value: str | bytes) -> JobStatus:
    text = _decode(value)
    for status in ("queued", "running", *ENDED):
        if text == status:
            return status
    raise ValueError(f"status {text!r} is unknown")


def _parse_time(value: str | bytes | None) -> datetime | None:
    return datetime.fromisoformat(_decode(value)) if value else None


def _decode(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)
