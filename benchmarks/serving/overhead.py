"""What serving costs: latency beyond the pipeline, cancellation, and event streams.

Each function prints rows of a table and returns its figures.
"""

from __future__ import annotations

import statistics
import threading
import time
from typing import Any

import httpx

from devtools.deployment import LocalDeployment
from devtools.ports import free_port

SMALL = {"prompt": "a red cube", "size": 64}
STUB_WORKER = ["benchmarks.baselines.stub_worker"]
LISTENER_TIMEOUT_S = 300


def measure_overhead(requests: int = 200) -> dict[str, Any]:
    """Measure HTTP, queue and PNG around a stub pipeline: milliseconds from request to image.

    The requests, of one 64² image each, follow one another.
    """
    milliseconds = []
    headers = {"prefer": "wait=60", "accept": "image/png"}
    num_warmup = 10
    with LocalDeployment(worker=STUB_WORKER) as deployment:
        for seed in range(requests + num_warmup):
            started = time.perf_counter()
            response = deployment.http.post(
                "/generate", json=SMALL | {"seed": seed}, headers=headers
            )
            milliseconds.append((time.perf_counter() - started) * 1000)
            response.raise_for_status()
            if not response.content.startswith(b"\x89PNG"):
                raise RuntimeError(f"the service returned no PNG: {response.text[:200]}")
    milliseconds = sorted(milliseconds[num_warmup:])
    p50, p95, p99 = (milliseconds[int(len(milliseconds) * q)] for q in (0.5, 0.95, 0.99))
    print(
        f"| HTTP + queue + PNG around a stub pipeline "
        f"| p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms |",
        flush=True,
    )
    return {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99}


def measure_cancellation(times: int = 20) -> dict[str, Any]:
    """Measure milliseconds from DELETE until the job's rows have left the batch.

    Another job is in the batch. The worker's gauge of images in flight shows the rows.
    """
    milliseconds = []
    port = free_port()
    slow = {**SMALL, "decoder_num_inference_steps": 1000}
    with LocalDeployment(worker_metrics_port=port) as deployment, httpx.Client() as metrics:
        url = f"http://127.0.0.1:{port}/metrics"

        def wait_for_rows(count: int) -> None:
            deployment.wait_until(
                lambda: images_in_flight(metrics, url) == count,
                f"{count} images are in flight",
                poll_s=0.002,
            )

        neighbour = deployment.submit(**slow, seed=1, n=1)
        wait_for_rows(1)
        for seed in range(times):
            job_id = deployment.submit(**slow, seed=seed, n=3)
            wait_for_rows(4)
            started = time.perf_counter()
            deployment.http.delete(f"/jobs/{job_id}").raise_for_status()
            wait_for_rows(1)
            milliseconds.append((time.perf_counter() - started) * 1000)
            if deployment.stored_statuses([neighbour]) != ["running"]:
                neighbour = deployment.submit(**slow, seed=1, n=1)
                wait_for_rows(1)
    median = statistics.median(milliseconds)
    print(
        f"| DELETE until the rows have left the batch "
        f"| {median:.1f} ms (maximum {max(milliseconds):.1f}) |"
    )
    return {"ms": milliseconds}


def images_in_flight(metrics: httpx.Client, url: str) -> int:
    """Return the gauge of a worker's metrics."""
    for line in metrics.get(url).text.splitlines():
        if line.startswith("unclip_images_in_flight "):
            return int(float(line.split()[1]))
    raise RuntimeError(f"{url} has no unclip_images_in_flight")


def measure_listeners(count: int = 200) -> dict[str, Any]:
    """Measure event streams of one job: seconds from the first to the last "ended"."""
    ended_at: list[float] = []
    num_previews = 0
    lock = threading.Lock()
    with LocalDeployment() as deployment:
        job_id = deployment.submit(**SMALL, seed=1, decoder_num_inference_steps=300)
        url = f"{deployment.url}/jobs/{job_id}/events"

        def listen() -> None:
            nonlocal num_previews
            with (
                httpx.Client(timeout=LISTENER_TIMEOUT_S) as client,
                client.stream("GET", url) as response,
            ):
                for line in response.iter_lines():
                    if line == "event: preview":
                        with lock:
                            num_previews += 1
                    if line == "event: ended":
                        with lock:
                            ended_at.append(time.monotonic())

        threads = [threading.Thread(target=listen) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        clients = deployment.store.client_list()
        num_readers = sum(client["cmd"] == "xread" for client in clients)
    spread_s = max(ended_at) - min(ended_at)
    print(
        f"| {count} listeners of one job | {len(ended_at)} received its end, within "
        f"{spread_s:.2f} s; {num_previews / count:.1f} previews each |"
    )
    return {
        "heard": len(ended_at),
        "spread_s": spread_s,
        "previews_each": num_previews / count,
        "readers_left": num_readers,
    }
