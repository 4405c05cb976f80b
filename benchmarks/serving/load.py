"""Throughput and latency of the service under load, and of other ways to serve the pipeline.

Closed-loop load keeps a number of requests in flight. Open-loop load sends them at random times
(Poisson), at a share of the measured capacity, as users do: they do not wait for one another.
"""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.plots import Panel, save_panels
from devtools.deployment import LocalDeployment

Request = dict[str, Any]
SendRequest = Callable[[Request], None]  # returns when the images are there

SHORT: Request = {"prompt": "a red cube", "size": 64}
LONG: Request = {
    "prompt": "a blue cone left of a green sphere",
    "size": 256,
    "n": 4,
    "decoder_num_inference_steps": 50,
}
LONG_SHARE = 0.1
OPEN_LOOP_SHARE = 0.8  # of the closed-loop throughput
CONCURRENCY = 32
REQUEST_TIMEOUT_S = 300
# Names in tables, and the modes of `baselines/rq_workers.py`.
MODES = {
    "continuous batching": "continuous",
    "dynamic batching": "dynamic",
    "sequential worker": "sequential",
}


def random_request(rng: random.Random, short: Request = SHORT, long: Request = LONG) -> Request:
    """Return a request with a random seed: long for one in ten, short otherwise."""
    request = long if rng.random() < LONG_SHARE else short
    return request | {"seed": rng.randrange(1 << 30)}


def num_images(request: Request) -> int:
    """Return how many images a request generates."""
    return int(request.get("n", 1))


def send_to_service(deployment: LocalDeployment, request: Request) -> None:
    """Send a request to the service and wait until its job has succeeded."""
    headers = {"prefer": f"wait={REQUEST_TIMEOUT_S}"}
    response = deployment.http.post(
        "/generate", json=request, headers=headers, timeout=REQUEST_TIMEOUT_S
    )
    response.raise_for_status()
    if response.json()["status"] != "succeeded":
        raise RuntimeError(f"the job did not succeed: {response.text}")


def latency_s(send: SendRequest, request: Request) -> float:
    """Send one request and return its seconds."""
    started = time.perf_counter()
    send(request)
    return time.perf_counter() - started


def closed_loop_throughput(send: SendRequest, requests: list[Request], concurrency: int) -> float:
    """Send all requests, `concurrency` at a time, and return images per second."""
    started = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        list(pool.map(send, requests))
    return sum(map(num_images, requests)) / (time.perf_counter() - started)


def open_loop_latencies(
    send: SendRequest,
    rate_per_s: float,
    requests: list[Request],
    long: Request,
    rng: random.Random,
) -> dict[str, list[float]]:
    """Send requests at random times, and return the seconds of the short and the long ones."""
    latencies: dict[str, list[float]] = {"short": [], "long": []}

    def measure(request: Request) -> None:
        is_long = request | long == request
        latencies["long" if is_long else "short"].append(latency_s(send, request))

    threads = []
    for request in requests:
        time.sleep(rng.expovariate(rate_per_s))
        threads.append(threading.Thread(target=measure, args=(request,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return latencies


def run_load_test(
    name: str,
    send: SendRequest,
    count: int,
    rate_per_s: float | None,
    short: Request = SHORT,
    long: Request = LONG,
) -> dict[str, Any]:
    """Measure one way of serving; the requests are the same for each.

    Without `rate_per_s` the open-loop load is OPEN_LOOP_SHARE of the closed-loop throughput.
    """
    rng = random.Random(0)
    requests = [random_request(rng, short, long) for _ in range(count)]
    alone_s = statistics.median(latency_s(send, short | {"seed": seed}) for seed in range(7))
    single = closed_loop_throughput(send, requests[: count // 5], 1)
    concurrent = closed_loop_throughput(send, requests, CONCURRENCY)
    if rate_per_s is None:
        rate_per_s = OPEN_LOOP_SHARE * concurrent / statistics.fmean(map(num_images, requests))
    latencies = open_loop_latencies(send, rate_per_s, requests, long, rng)
    short_s = sorted(latencies["short"])
    quantiles = {f"p{q}": short_s[len(short_s) * q // 100] for q in (50, 95, 99)}
    print(
        f"| {name} | {single:.2f} images/s at 1, {concurrent:.2f} at {CONCURRENCY} "
        f"| short alone {alone_s:.2f} s; at {rate_per_s:.2f} requests/s: "
        + ", ".join(f"{q} {seconds:.2f}" for q, seconds in quantiles.items())
        + f" s; long p50 {statistics.median(latencies['long']):.2f} s |",
        flush=True,
    )
    return {
        "images_per_s": {1: single, CONCURRENCY: concurrent},
        "alone_s": alone_s,
        "rate_per_s": rate_per_s,
        "latencies_s": latencies,
        "short_s": quantiles,
    }


def compare_modes(count: int = 150, *pipeline: str) -> dict[str, Any]:
    """Compare continuous batching, dynamic batching and the sequential worker.

    The open-loop load is OPEN_LOOP_SHARE of what continuous batching reached.
    """
    figures: dict[str, Any] = {}
    rate_per_s = None
    for name, mode in MODES.items():
        command = ["benchmarks.baselines.rq_workers", mode, *pipeline]
        with LocalDeployment(worker=command, max_wait_s=REQUEST_TIMEOUT_S) as deployment:
            send = partial(send_to_service, deployment)
            figures[name] = run_load_test(name, send, count, rate_per_s)
        rate_per_s = rate_per_s or figures[name]["rate_per_s"]
    return figures


def compare_simulated_modes(count: int = 300) -> dict[str, Any]:
    """Compare the same with a simulated device, for a machine with other work."""
    return compare_modes(count, "simulated")


def plot_answered_shares(figures: dict[str, Any], path: Path) -> None:
    """Plot the share of short requests answered by each second, one curve per way of serving."""
    curves = {}
    for name, result in figures.items():
        seconds = sorted(result["latencies_s"]["short"])
        curves[name] = {x: (k + 1) / len(seconds) for k, x in enumerate(seconds)}
    save_panels(path, [Panel("seconds", "share of short requests answered", curves)])
