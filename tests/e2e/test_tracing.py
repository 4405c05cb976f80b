"""One trace from the request to its images: over HTTP, through Redis, into the worker's stages, as the SDK's exporter is given it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from contracts import redis_keys
from devtools.ports import free_port
from models import UnCLIP
from service.app import create_app
from service.settings import Settings
from worker.engine.core import Engine, batch_limits
from worker.jobs.cancellation import Cancellations
from worker.jobs.runner import Context, draw, install

pytestmark = pytest.mark.anyio
CUBE = {"prompt": "a secret cube", "size": 64, "seed": 1, "n": 2}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    """Where this process's spans go. A process has one provider."""
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
def store(redis_server: Any, pipeline: UnCLIP) -> Iterator[redis.Redis]:
    """Redis, with a worker's task set up to draw from it."""
    store = redis.Redis.from_url(redis_server.url)
    engine = Engine(pipeline, batch_limits(8))
    engine.start()
    install(Context(pipeline, engine, store, Cancellations(store, engine), 100))
    yield store
    install(None)
    engine.stop()
    store.close()


@pytest.fixture
async def client(
    redis_server: Any, spans: InMemorySpanExporter, anyio_backend: str
) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(Settings(redis_url=redis_server.url))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://house") as client,
    ):
        yield client


def named(spans: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans.get_finished_spans()}


async def test_one_trace_leads_from_the_request_to_the_stages(
    client: httpx.AsyncClient, store: redis.Redis, spans: InMemorySpanExporter
) -> None:
    """It goes on from the caller's, each span hangs on the one before, times are in order, and no prompt is in it."""
    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    job_id = (await client.post("/generate", json=CUBE, headers={"traceparent": caller})).json()[
        "id"
    ]
    await asyncio.to_thread(draw, job_id)
    found = named(spans)
    request, enqueued, drawn = (
        found[name] for name in ("POST /generate", "enqueue generate", "draw generate")
    )
    assert {span.context.trace_id for span in found.values()} == {
        0x0AF7651916CD43DD8448EB211C80319C
    }
    assert (request.kind, enqueued.kind, drawn.kind) == (
        SpanKind.SERVER,
        SpanKind.PRODUCER,
        SpanKind.CONSUMER,
    )
    assert request.parent.span_id == 0xB7AD6B7169203331
    assert enqueued.parent.span_id == request.context.span_id
    assert drawn.parent.span_id == enqueued.context.span_id
    assert drawn.attributes == {"unclip.operation": "generate", "unclip.job.id": job_id}
    assert drawn.status.status_code != StatusCode.ERROR
    stages = [found[stage] for stage in ("text", "prior", "decoder")]
    assert all(
        stage.parent.span_id == drawn.context.span_id and stage.attributes == {"unclip.rows": 2}
        for stage in stages
    )
    times = [
        drawn.start_time,
        *(time for stage in stages for time in (stage.start_time, stage.end_time)),
        drawn.end_time,
    ]
    slack = 2_000_000  # ns; the stages' clock is another
    assert all(later - earlier > -slack for earlier, later in zip(times, times[1:], strict=False))
    assert "secret" not in "".join(span.to_json() for span in found.values())
    assert "trace" not in (await client.get(f"/jobs/{job_id}")).json()


async def test_a_job_that_failed_is_an_error_by_its_reason(
    client: httpx.AsyncClient, store: redis.Redis, spans: InMemorySpanExporter
) -> None:
    """What the user is told may quote the prompt, and is left out."""
    job_id = (await client.post("/generate", json=CUBE)).json()["id"]
    store.hset(redis_keys.job(job_id), "request", '{"prompt": "a secret cube", "size": 7}')
    await asyncio.to_thread(draw, job_id)
    drawn = named(spans)["draw generate"]
    assert drawn.status.status_code == StatusCode.ERROR
    assert drawn.status.description == "invalid"
    assert "secret" not in drawn.to_json()


async def test_what_machines_ask_all_the_time_is_no_trace(
    client: httpx.AsyncClient, spans: InMemorySpanExporter
) -> None:
    """Health, readiness and metrics."""
    for path in ("/healthz", "/readyz", "/metrics"):
        await client.get(path)
    assert not named(spans)


def test_where_the_sdk_is_not_installed_it_is_said() -> None:
    """At the start, and with what would do, where the environment switches traces on."""
    environment = os.environ | {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "UNCLIP_PORT": str(free_port()),
    }
    hidden = "import sys; sys.modules['opentelemetry.exporter.otlp.proto.http.trace_exporter'] = None; import runpy; "
    command = [sys.executable, "-c", hidden + "runpy.run_module('service', run_name='__main__')"]
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert ended.returncode == 1
    assert "pip install 'unclip-service[telemetry]'" in ended.stderr
    assert "Traceback" not in ended.stderr
