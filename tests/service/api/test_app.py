"""The application as a whole: what it needs to start, how it stands without Redis, and whether its OpenAPI document is true."""

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
FORBIDDEN = ("torch", "open_clip", "numpy", "models", "worker", "training")


def test_the_service_starts_where_nothing_of_the_gpus_side_is_installed() -> None:
    """`service.app` and `service.__main__` import, and an app is made, in a process where those imports raise."""
    program = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {FORBIDDEN!r}:
            raise ImportError(f"{{name}} is not for the service")
sys.meta_path.insert(0, Refuse())
import service.app, service.__main__
service.app.create_app().openapi()
print("made")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=180, check=False
    )
    assert ended.stdout == "made\n", ended.stderr


async def test_healthz_touches_nothing(alone: httpx.AsyncClient) -> None:
    """The process is up, whatever Redis does."""
    answer = await alone.get("/healthz")
    assert (answer.status_code, answer.text) == (200, "ok\n")


async def test_readyz_wants_redis_and_a_worker(
    client: httpx.AsyncClient, alone: httpx.AsyncClient, store: redis.asyncio.Redis
) -> None:
    """503 says which of them is missing; one that signed on and gave no sign since is none."""
    without = await alone.get("/readyz")
    assert without.status_code == 503
    assert "Redis does not answer" in without.json()["detail"]
    assert without.headers["retry-after"]
    nobody = await client.get("/readyz")
    assert nobody.status_code == 503
    assert "No worker is alive" in nobody.json()["detail"]
    assert nobody.headers["content-type"] == "application/problem+json"
    await store.sadd(redis_keys.WORKERS, "w")
    assert (await client.get("/readyz")).status_code == 503
    await store.sadd(redis_keys.WORKERS, "w")
    await store.set(
        redis_keys.worker("w"), WorkerHeartbeat(pid=1, slots=2).model_dump_json(), ex=10
    )
    assert (await client.get("/readyz")).text == "ready\n"


@pytest.mark.parametrize("path", ["/jobs/x", "/jobs/x/images/0.png", "/jobs/x/events"])
async def test_without_redis_a_question_is_503(alone: httpx.AsyncClient, path: str) -> None:
    """As a problem, with a time to try again, and soon."""
    answer = await alone.get(path)
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"]
    assert answer.elapsed.total_seconds() < 15


async def test_work_is_taken_again_by_itself_once_redis_is_back(
    client: httpx.AsyncClient, redis_server: RedisServer
) -> None:
    """503 while it is away; then the same process goes on, and what it had accepted is still there."""
    before = (await client.post("/generate", json={"prompt": "a"})).json()
    await asyncio.to_thread(redis_server.stop)
    for answer in (
        await client.post("/generate", json={"prompt": "a"}),
        await client.get(f"/jobs/{before['id']}"),
    ):
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
    assert (await client.get("/healthz")).status_code == 200
    await asyncio.to_thread(redis_server.start)
    assert (await client.post("/generate", json={"prompt": "a"})).json()["queue_position"] == 1
    assert (await client.get(f"/jobs/{before['id']}")).json() == before


async def test_the_root_leads_to_the_documentation(alone: httpx.AsyncClient) -> None:
    """A person who opens the address finds something."""
    answer = await alone.get("/", follow_redirects=True)
    assert answer.status_code == 200
    assert "swagger" in answer.text.lower()


POSTED = (
    "/generate",
    "/variations",
    "/interpolate",
    "/text-diff",
    "/edits",
    "/probe",
    "/embeddings",
)
OPENAIS = ("/v1/images/generations", "/v1/images/edits", "/v1/images/variations")
DOCUMENTED = {
    **{
        ("post", path): {"200", "400", "404", "409", "413", "429", "500", "503"} for path in OPENAIS
    },
    ("get", "/v1/models"): {"200", "500", "503"},
    ("get", "/v1/models/{model_id}"): {"200", "404", "500", "503"},
    **{
        ("post", path): {"200", "202", "400", "406", "413", "415", "422", "429", "500", "503"}
        for path in POSTED
    },
    ("get", "/jobs"): {"200", "422", "500", "503"},
    ("get", "/jobs/{job_id}/animation"): {"200", "304", "404", "422", "500", "503"},
    ("get", "/jobs/{job_id}"): {"200", "404", "422", "500", "503"},
    ("delete", "/jobs/{job_id}"): {"200", "404", "422", "500", "503"},
    ("get", "/jobs/{job_id}/events"): {"200", "404", "422", "500", "503"},
    ("get", "/jobs/{job_id}/images/{index}.png"): {"200", "304", "404", "422", "500", "503"},
    ("get", "/jobs/{job_id}/images/{index}.json"): {"200", "404", "422", "500", "503"},
    ("get", "/healthz"): {"200", "500"},
    ("get", "/readyz"): {"200", "500", "503"},
    ("get", "/metrics"): {"200", "500"},
}


async def test_the_openapi_document_is_true(alone: httpx.AsyncClient) -> None:
    """Every route with every status it answers; each error a Problem, or OpenAI's; no reference that leads nowhere."""
    document = (await alone.get("/openapi.json")).json()
    operations = {
        (method, path): one
        for path, methods in document["paths"].items()
        for method, one in methods.items()
    }
    assert {at: set(one["responses"]) for at, one in operations.items()} == DOCUMENTED
    for at, one in operations.items():
        media, schema = (
            ("application/json", "OpenAIErrorBody")
            if at[1].startswith("/v1/")
            else ("application/problem+json", "Problem")
        )
        for status, response in one["responses"].items():
            if int(status) >= 400:
                assert response["content"] == {
                    media: {"schema": {"$ref": f"#/components/schemas/{schema}"}}
                }, at
    generate = operations["post", "/generate"]
    assert set(generate["responses"]["200"]["content"]) == {"application/json", "image/png"}
    assert generate["responses"]["202"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/Job"
    }
    assert {parameter["name"].lower() for parameter in generate["parameters"]} == {
        "prefer",
        "accept",
        "idempotency-key",
    }
    assert set(
        operations["get", "/jobs/{job_id}/images/{index}.png"]["responses"]["200"]["content"]
    ) == {"image/png"}
    for path in ("/healthz", "/readyz", "/metrics"):
        assert set(operations["get", path]["responses"]["200"]["content"]) == {"text/plain"}
    schemas = document["components"]["schemas"]
    assert references(document) <= {f"#/components/schemas/{name}" for name in schemas}
    assert not {"HTTPValidationError", "ValidationError"} & set(schemas)


def references(node: Any) -> set[str]:
    """All $ref in a document."""
    if isinstance(node, dict):
        return (
            {node["$ref"]}
            if "$ref" in node
            else set().union(*map(references, node.values()), set())
        )
    return set().union(*map(references, node), set()) if isinstance(node, list) else set()


async def test_a_problem_is_as_its_schema_says(alone: httpx.AsyncClient) -> None:
    """The fields that come are those that are documented, at the problem and at each of its fields."""
    schemas = (await alone.get("/openapi.json")).json()["components"]["schemas"]
    body = (await alone.post("/generate", json={"n": 0})).json()
    assert set(body) == set(schemas["Problem"]["properties"])
    assert set(body["errors"][0]) == set(schemas["FieldProblem"]["properties"])


async def test_a_job_is_as_its_schema_says(client: httpx.AsyncClient) -> None:
    """All that is documented comes, and nothing else."""
    schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]
    assert (
        set((await client.post("/generate", json={"prompt": "a"})).json())
        == set(schemas["Job"]["properties"])
        == set(schemas["Job"]["required"])
    )
