"""Jobs while they run, seen from outside: progress, events, cancellation, logs, load."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.deployment import SLOW, DeploymentUnderTest
from support.images import read_provenance
from support.requests import CUBE, WAIT, WAIT_FOR_PNG


def test_progress_grows(deployment: DeploymentUnderTest) -> None:
    """Progress is reported while the job runs, and never falls."""
    (job_id,) = deployment.post_jobs(1, SLOW | {"decoder_num_inference_steps": 600})
    jobs: list[dict[str, Any]] = []

    def has_succeeded() -> bool:
        jobs.append(deployment.get_job(job_id))
        return bool(jobs[-1]["status"] == "succeeded")

    deployment.wait_until(has_succeeded, "the job has succeeded")
    progress = [job["progress"] for job in jobs if job["progress"]]
    fractions = [one["fraction"] for one in progress]
    assert fractions == sorted(fractions)
    assert len(set(fractions)) > 3
    assert fractions[-1] == 1
    assert "decoder" in {one["stage"] for one in progress}


def test_a_job_is_watched_and_cancelled(deployment: DeploymentUnderTest) -> None:
    """Progress and previews come as events; DELETE ends the job and its events."""
    request = SLOW | {"decoder_num_inference_steps": 1000, "n": 4}
    job_id = deployment.post_job(request).json()["id"]
    events: list[str] = []
    with deployment.http.stream("GET", f"/jobs/{job_id}/events") as response:
        for line in response.iter_lines():
            if line.startswith("event: "):
                events.append(line.removeprefix("event: "))
            if "preview" in events and "progress" in events:
                deployment.http.delete(f"/jobs/{job_id}").raise_for_status()
    assert events[-1] == "ended"
    assert deployment.get_job(job_id)["status"] == "cancelled"
    assert deployment.http.get(f"/jobs/{job_id}/images/0.png").status_code == 404


def read_logs(deployment: DeploymentUnderTest, request_id: str) -> dict[str, list[dict[str, Any]]]:
    """Return the log records of a request, by process."""
    records = {}
    for process in (deployment.service, *deployment.workers):
        lines = map(json.loads, process.log_text().splitlines())
        records[process.name] = [line for line in lines if line.get("request_id") == request_id]
    return records


def test_a_request_id_is_in_every_log(deployment: DeploymentUnderTest) -> None:
    """The service and the worker log it, and neither logs the prompt."""
    headers = {**WAIT, "x-request-id": "request 77"}
    response = deployment.post_job(CUBE | {"prompt": "a zebra"}, **headers)
    assert response.headers["x-request-id"] == "request 77"
    assert response.json()["request_id"] == "request 77"

    def is_written() -> bool:
        records = read_logs(deployment, "request 77")
        return len(records["service"]) == 2 and len(records["worker"]) == 2

    deployment.wait_until(is_written, "the last lines are written")
    records = read_logs(deployment, "request 77")
    assert [line["event"] for line in records["service"]] == ["job accepted", "request"]
    assert [line["event"] for line in records["worker"]] == ["job started", "job succeeded"]
    accepted, access = records["service"]
    job_ids = {line["job_id"] for line in (accepted, *records["worker"])}
    assert job_ids == {response.json()["id"]}
    assert access["method"] == "POST"
    assert access["path"] == "/generate"
    assert access["status"] == 200
    for process in (deployment.service, *deployment.workers):
        assert "zebra" not in process.log_text()


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_over_the_limit_is_rejected(
    deployment: DeploymentUnderTest, is_chunked: bool
) -> None:
    """413 reaches the client although it still sends, and the service stays healthy."""
    # The limit of requests with images is 64 MiB.
    content = iter([b" " * (1 << 20)] * 70) if is_chunked else b" " * (70 << 20)
    headers = {"content-type": "application/json"}
    response = deployment.http.post("/generate", content=content, headers=headers)
    assert response.status_code == 413
    assert response.headers["content-type"] == "application/problem+json"
    assert deployment.http.get("/readyz").text == "ready\n"


def test_twenty_clients_each_get_their_own_image(deployment: DeploymentUnderTest) -> None:
    """The seed in each PNG is the seed of its request."""
    with ThreadPoolExecutor(20) as pool:
        responses = list(
            pool.map(
                lambda seed: deployment.post_job(CUBE | {"seed": seed}, **WAIT_FOR_PNG), range(20)
            )
        )
    assert [response.status_code for response in responses] == [200] * 20
    seeds = [read_provenance(response.content)["seed"] for response in responses]
    assert seeds == list(range(20))
