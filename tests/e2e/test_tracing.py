"""One trace from the request to its images: over HTTP, through Redis, to the worker's stages."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import redis
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from support.jobs import running

from devtools.ports import free_port
from devtools.redis_server import RedisServer
from models import UnCLIP
from service.app import create_app
from service.settings import Settings
from worker.jobs.runner import JobRunner

pytestmark = pytest.mark.anyio
CUBE = {"prompt": "a secret cube", "size": 64, "seed": 1, "n": 2}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    """Return the exporter that receives this process's spans; a process has one provider."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> InMemorySpanExporter:
    exporter.clear()
    return exporter


@pytest.fixture(scope="module")
def pipeline(tiny_checkpoint: Path) -> UnCLIP:
    return UnCLIP.load(tiny_checkpoint)


@pytest.fixture
def runner(redis_server: RedisServer, pipeline: UnCLIP) -> Iterator[JobRunner]:
    """Return a worker's job runner in this process."""
    with (
        redis.Redis.from_url(redis_server.url) as connection,
        running(connection, pipeline) as runner,
    ):
        yield runner


@pytest.fixture
async def client(
    redis_server: RedisServer, spans: InMemorySpanExporter, anyio_backend: str
) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(Settings(redis_url=redis_server.url))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        yield client


def spans_by_name(spans: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    """Return the finished spans by their names."""
    return {span.name: span for span in spans.get_finished_spans()}


async def test_no_span_has_a_query(client: httpx.AsyncClient, spans: InMemorySpanExporter) -> None:
    """It may hold the link of an image, or a key that was sent so by mistake."""
    await client.get("/jobs/" + "0" * 32 + "/images/0.png", params={"link": "a-secret"})
    (span,) = [span for span in spans.get_finished_spans() if span.kind == SpanKind.SERVER]
    assert "a-secret" not in span.to_json()
    assert any("/images/0.png" in str(value) for value in (span.attributes or {}).values())


async def test_one_trace_leads_from_the_request_to_the_stages(
    client: httpx.AsyncClient, runner: JobRunner, spans: InMemorySpanExporter
) -> None:
    """The trace continues the caller's, and each span has the one before as its parent."""
    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    response = await client.post("/generate", json=CUBE, headers={"traceparent": caller})
    job_id = response.json()["id"]
    await asyncio.to_thread(runner.run, job_id)
    by_name = spans_by_name(spans)
    request = by_name["POST /generate"]
    enqueue = by_name["enqueue generate"]
    job = by_name["run generate"]
    trace_ids = {span.context.trace_id for span in by_name.values()}
    assert trace_ids == {0x0AF7651916CD43DD8448EB211C80319C}
    assert request.kind == SpanKind.SERVER
    assert enqueue.kind == SpanKind.PRODUCER
    assert job.kind == SpanKind.CONSUMER
    assert request.parent.span_id == 0xB7AD6B7169203331
    assert enqueue.parent.span_id == request.context.span_id
    assert job.parent.span_id == enqueue.context.span_id
    assert job.attributes == {"unclip.operation": "generate", "unclip.job.id": job_id}
    assert job.status.status_code != StatusCode.ERROR
    stages = [by_name[stage] for stage in ("text", "prior", "decoder")]
    for stage in stages:
        assert stage.parent.span_id == job.context.span_id
        assert stage.attributes == {"unclip.rows": 2}
    check_order(job, stages)


def check_order(job: ReadableSpan, stages: list[ReadableSpan]) -> None:
    """Check that the stages follow one another within the job."""
    times = [job.start_time]
    for stage in stages:
        times += [stage.start_time, stage.end_time]
    times.append(job.end_time)
    slack_ns = 2_000_000  # the stages are timed by another clock
    for earlier, later in itertools.pairwise(times):
        assert later - earlier > -slack_ns


async def test_no_span_contains_the_prompt(
    client: httpx.AsyncClient, runner: JobRunner, spans: InMemorySpanExporter
) -> None:
    """Prompts are private; and a trace's id is not part of the public job."""
    job_id = (await client.post("/generate", json=CUBE)).json()["id"]
    await asyncio.to_thread(runner.run, job_id)
    job = (await client.get(f"/jobs/{job_id}")).json()
    assert job["status"] == "succeeded"
    assert "trace" not in job
    assert "secret" not in "".join(span.to_json() for span in spans.get_finished_spans())


async def test_a_failed_job_is_an_error_with_its_reason(
    client: httpx.AsyncClient, runner: JobRunner, spans: InMemorySpanExporter
) -> None:
    """The reason is in the span; the message is not, since it may quote the prompt."""
    short_embedding = [1.0, 2.0]
    request = {"mix": [{"prompt": "a secret cube"}, {"z_i": short_embedding}], "size": 64}
    job_id = (await client.post("/generate", json=request)).json()["id"]
    await asyncio.to_thread(runner.run, job_id)
    span = spans_by_name(spans)["run generate"]
    assert span.status.status_code == StatusCode.ERROR
    assert span.status.description == "invalid"
    assert "secret" not in span.to_json()


async def test_probes_are_not_traced(
    client: httpx.AsyncClient, spans: InMemorySpanExporter
) -> None:
    """Machines query health, readiness and metrics all the time."""
    for path in ("/healthz", "/readyz", "/metrics"):
        await client.get(path)
    assert not spans_by_name(spans)


def test_a_missing_sdk_is_reported() -> None:
    """The service exits with the remedy if the environment turns traces on without the SDK."""
    environment = os.environ | {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "UNCLIP_PORT": str(free_port()),
    }
    program = """
import runpy
import sys

sys.modules["opentelemetry.exporter.otlp.proto.http.trace_exporter"] = None
runpy.run_module("service", run_name="__main__")
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert result.returncode == 1
    assert "pip install 'unclip-service[telemetry]'" in result.stderr
    assert "Traceback" not in result.stderr
