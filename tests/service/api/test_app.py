"""The application: its start, probes, behaviour without Redis, and its OpenAPI document."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import httpx
import pytest
import redis.asyncio

from contracts import redis_keys
from contracts.jobs import WorkerHeartbeat
from devtools.redis_server import RedisServer

pytestmark = pytest.mark.anyio
JOB_ID = "0" * 32
FORBIDDEN = ("torch", "open_clip", "numpy", "models", "worker", "training")
START_WITHOUT = f"""
import sys

class Reject:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {FORBIDDEN!r}:
            raise ImportError(f"the service must not import {{name}}")

sys.meta_path.insert(0, Reject())
import service.app, service.__main__
service.app.create_app().openapi()
print("created")
"""


def test_the_service_starts_without_torch() -> None:
    """The app is created in a process in which the worker's packages cannot be imported."""
    process = subprocess.run(
        [sys.executable, "-c", START_WITHOUT],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert process.stdout == "created\n", process.stderr


async def test_healthz_needs_no_redis(alone: httpx.AsyncClient) -> None:
    """The process is healthy without Redis."""
    response = await alone.get("/healthz")
    assert response.status_code == 200
    assert response.text == "ok\n"


async def test_readyz_needs_redis(alone: httpx.AsyncClient) -> None:
    """Without Redis it responds 503 and says so."""
    response = await alone.get("/readyz")
    assert response.status_code == 503
    assert "Redis is unavailable" in response.json()["detail"]
    assert response.headers["retry-after"]


async def test_a_full_redis_is_reported(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """To clients and in /readyz, with the reason. Jobs can still be read."""
    accepted = await client.post("/generate", json={"prompt": "a"})
    await store.config_set("maxmemory", "1")
    for response in (
        await client.post("/generate", json={"prompt": "a"}),
        await client.get("/readyz"),
    ):
        assert response.status_code == 503
        assert "Redis is full" in response.json()["detail"]
        assert response.headers["retry-after"]
    assert (await client.get(accepted.headers["location"])).status_code == 200
    await store.config_set("maxmemory", "0")
    assert (await client.post("/generate", json={"prompt": "a"})).status_code == 202


async def test_readyz_needs_a_live_worker(
    client: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """A worker that has registered and sent no heartbeat recently does not count."""
    response = await client.get("/readyz")
    assert response.status_code == 503
    assert "No worker is alive" in response.json()["detail"]
    assert response.headers["content-type"] == "application/problem+json"
    await store.sadd(redis_keys.WORKERS, "w")
    assert (await client.get("/readyz")).status_code == 503
    heartbeat = WorkerHeartbeat(pid=1, slots=2).model_dump_json()
    await store.sadd(redis_keys.WORKERS, "w")
    await store.set(redis_keys.worker("w"), heartbeat, ex=10)
    assert (await client.get("/readyz")).text == "ready\n"


@pytest.mark.parametrize(
    "path", [f"/jobs/{JOB_ID}", f"/jobs/{JOB_ID}/images/0.png", f"/jobs/{JOB_ID}/events"]
)
async def test_without_redis_a_query_is_503(alone: httpx.AsyncClient, path: str) -> None:
    """The response is a problem with Retry-After, and comes soon."""
    response = await alone.get(path)
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["retry-after"]
    assert response.elapsed.total_seconds() < 15


async def test_the_service_recovers_when_redis_is_back(
    client: httpx.AsyncClient, redis_server: RedisServer
) -> None:
    """The process keeps running, and accepted jobs still exist."""
    before = (await client.post("/generate", json={"prompt": "a"})).json()
    path = f"/jobs/{before['id']}"
    await asyncio.to_thread(redis_server.stop)
    responses = [await client.post("/generate", json={"prompt": "a"}), await client.get(path)]
    for response in responses:
        assert response.status_code == 503
        assert response.headers["content-type"] == "application/problem+json"
    assert (await client.get("/healthz")).status_code == 200
    await asyncio.to_thread(redis_server.start)
    assert (await client.post("/generate", json={"prompt": "a"})).json()["queue_position"] == 1
    assert (await client.get(path)).json() == before


OPERATION_PATHS = (
    "/generate",
    "/variations",
    "/interpolate",
    "/text-diff",
    "/edits",
    "/probe",
    "/embeddings",
)
OPERATION_STATUSES = {"200", "202", "400", "406", "413", "415", "422", "429", "500", "503"}
READ_STATUSES = {"200", "404", "422", "500", "503"}
OPENAI = "/v1/"
# Routes that have tests of their own.
OTHERS = (OPENAI, "/gallery", "/vocabulary")
DOCUMENTED = {
    **{("post", path): OPERATION_STATUSES for path in OPERATION_PATHS},
    ("get", "/jobs"): {"200", "422", "500", "503"},
    ("get", "/jobs/{job_id}"): READ_STATUSES,
    ("delete", "/jobs/{job_id}"): READ_STATUSES,
    ("delete", "/jobs/{job_id}/link"): {"200", "404", "422", "500", "503"},
    ("get", "/jobs/{job_id}/events"): READ_STATUSES,
    ("get", "/jobs/{job_id}/images/{index}.json"): READ_STATUSES,
    ("get", "/jobs/{job_id}/images/{index}.png"): READ_STATUSES | {"304"},
    ("get", "/jobs/{job_id}/animation"): READ_STATUSES | {"304"},
    ("get", "/healthz"): {"200", "500"},
    ("get", "/readyz"): {"200", "500", "503"},
    ("get", "/metrics"): {"200", "500"},
}


async def read_document(client: httpx.AsyncClient) -> dict[str, Any]:
    """Return the OpenAPI document."""
    document: dict[str, Any] = (await client.get("/openapi.json")).json()
    return document


def operations_of(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the document's operations by method and path."""
    paths = document["paths"].items()
    return {(method, path): one for path, methods in paths for method, one in methods.items()}


def references_of(node: Any) -> set[str]:
    """Return all values of $ref in a document."""
    if isinstance(node, list):
        children = node
    elif isinstance(node, dict):
        children = list(node.values())
    else:
        return set()
    own = {node["$ref"]} if isinstance(node, dict) and "$ref" in node else set()
    return own.union(*map(references_of, children))


async def test_the_document_lists_every_status(alone: httpx.AsyncClient) -> None:
    """Each route documents the statuses that it responds with."""
    operations = operations_of(await read_document(alone))
    statuses = {
        key: set(one["responses"])
        for key, one in operations.items()
        if not key[1].startswith(OTHERS)
    }
    assert statuses == DOCUMENTED


async def test_the_document_describes_errors(alone: httpx.AsyncClient) -> None:
    """Each error is a Problem, or under /v1 an error in OpenAI's form."""
    for (_, path), one in operations_of(await read_document(alone)).items():
        media, schema = ("application/problem+json", "Problem")
        if path.startswith(OPENAI):
            media, schema = ("application/json", "OpenAIErrorBody")
        content = {media: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
        errors = {s: r["content"] for s, r in one["responses"].items() if int(s) >= 400}
        assert errors == dict.fromkeys(errors, content)


async def test_the_document_describes_responses(alone: httpx.AsyncClient) -> None:
    """Each route documents the media types and parameters that it has."""
    operations = operations_of(await read_document(alone))
    generate = operations["post", "/generate"]
    assert set(generate["responses"]["200"]["content"]) == {"application/json", "image/png"}
    accepted = generate["responses"]["202"]["content"]["application/json"]
    assert accepted["schema"] == {"$ref": "#/components/schemas/Job"}
    parameters = {parameter["name"].lower() for parameter in generate["parameters"]}
    assert parameters == {"prefer", "accept", "idempotency-key"}
    image = operations["get", "/jobs/{job_id}/images/{index}.png"]
    assert set(image["responses"]["200"]["content"]) == {"image/png"}
    for path in ("/healthz", "/readyz", "/metrics"):
        assert set(operations["get", path]["responses"]["200"]["content"]) == {"text/plain"}


async def test_the_document_has_no_dangling_reference(alone: httpx.AsyncClient) -> None:
    """Every reference leads to a schema, and FastAPI's validation errors are not among them."""
    document = await read_document(alone)
    schemas = document["components"]["schemas"]
    assert references_of(document) <= {f"#/components/schemas/{name}" for name in schemas}
    assert "HTTPValidationError" not in schemas
    assert "ValidationError" not in schemas


async def test_a_problem_matches_its_schema(alone: httpx.AsyncClient) -> None:
    """A problem and its errors have the documented fields."""
    schemas = (await read_document(alone))["components"]["schemas"]
    problem = (await alone.post("/generate", json={"n": 0})).json()
    assert set(problem) == set(schemas["Problem"]["properties"])
    assert set(problem["errors"][0]) == set(schemas["FieldProblem"]["properties"])


async def test_a_job_matches_its_schema(client: httpx.AsyncClient) -> None:
    """A job has the documented fields and no others."""
    schema = (await read_document(client))["components"]["schemas"]["Job"]
    job = (await client.post("/generate", json={"prompt": "a"})).json()
    assert set(job) == set(schema["properties"])
    assert set(job) == set(schema["required"])
