"""The running service under load, beside the same stack served in the usual ways (rival_workers): images a second, and waits.

Closed load keeps so many requests in flight; open load lets them come at random (Poisson) at a share of the capacity that was measured, as
users do, who do not wait for each other.
"""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.house import House, resident_bytes

SHORT = {"prompt": "a red cube", "size": 64}
LONG = {"prompt": "a blue cone left of a green sphere", "size": 256, "n": 4, "decoder_num_inference_steps": 50}
LONG_SHARE = 0.1
WORKERS = {
    "in-flight batching": ["worker"],
    "batches by waiting": ["benchmarks.rival_workers", "waiting"],
    "SimpleWorker": ["benchmarks.rival_workers", "simple"],
}


def mixed(rng: random.Random) -> dict[str, Any]:
    """A request: short nine times of ten."""
    return (LONG if rng.random() < LONG_SHARE else SHORT) | {"seed": rng.randrange(1 << 30)}


def images(request: dict[str, Any]) -> int:
    """How many pictures it asks for."""
    return int(request.get("n", 1))


def answered(house: House, request: dict[str, Any]) -> float:
    """Seconds from request to its ended job."""
    started = time.perf_counter()
    answer = house.http.post("/generate", json=request, headers={"prefer": "wait=120"})
    assert answer.status_code == 200 and answer.json()["status"] == "succeeded", answer.text
    return time.perf_counter() - started


def closed(house: House, requests: list[dict[str, Any]], concurrency: int) -> float:
    """Images a second with so many requests in flight."""
    started = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        list(pool.map(lambda request: answered(house, request), requests))
    return sum(map(images, requests)) / (time.perf_counter() - started)


def opened(house: House, rate: float, requests: list[dict[str, Any]], rng: random.Random) -> dict[str, list[float]]:
    """Seconds that short and long requests took, coming at random `rate` times a second."""
    taken: dict[str, list[float]] = {"short": [], "long": []}

    def one(request: dict[str, Any]) -> None:
        seconds = answered(house, request)
        taken["long" if images(request) > 1 else "short"].append(seconds)

    threads = []
    for request in requests:
        time.sleep(rng.expovariate(rate))
        threads.append(threading.Thread(target=one, args=(request,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return taken


def load(count: int = 150, share: float = 0.8) -> dict[str, Any]:
    """The same requests to each way of serving; the open load is at `share` of what in-flight batching did in closed load."""
    figures: dict[str, Any] = {}
    rate = 0.0
    for name, command in WORKERS.items():
        rng = random.Random(0)
        requests = [mixed(rng) for _ in range(count)]
        with House(worker=command) as house:
            alone = statistics.median(answered(house, SHORT | {"seed": seed}) for seed in range(7))
            one, many = closed(house, requests[: count // 5], 1), closed(house, requests, 32)
            rate = rate or share * many / statistics.fmean(map(images, requests))
            taken = opened(house, rate, requests, rng)
        short = sorted(taken["short"])
        p50, p95, p99 = (short[int(len(short) * q)] for q in (0.5, 0.95, 0.99))
        figures[name] = {"images_per_s": {1: one, 32: many}, "alone_s": alone, "rate_per_s": rate, "taken_s": taken}
        print(
            f"| {name} | {one:.2f} images/s at 1, {many:.2f} at 32 | short alone {alone:.2f} s; at {rate:.2f} requests/s: "
            f"p50 {p50:.2f}, p95 {p95:.2f}, p99 {p99:.2f} s; long p50 {statistics.median(taken['long']):.2f} s |"
        )
    return figures


def growth(waiting: tuple[int, ...] = (0, 1_000, 10_000, 100_000), samples: int = 200) -> dict[str, Any]:
    """Milliseconds to enqueue and to ask for a job's status while so many jobs wait, and jobs a second of 1 to 4 stub workers."""
    figures: dict[str, Any] = {}
    with House(worker=["benchmarks.stub_worker"]) as house:
        house.workers[0].kill()
        total = 0
        for upto in waiting:
            with ThreadPoolExecutor(16) as pool:
                list(pool.map(lambda seed: house.accept(**SHORT, seed=seed), range(total, upto)))
            total = max(total, upto)
            enqueue, status = [], []
            for seed in range(samples):
                started = time.perf_counter()
                job_id = house.accept(**SHORT, seed=seed)
                enqueue.append((time.perf_counter() - started) * 1000)
                started = time.perf_counter()
                house.http.get(f"/jobs/{job_id}").raise_for_status()
                status.append((time.perf_counter() - started) * 1000)
            total += samples
            p99 = {"enqueue_ms": sorted(enqueue)[int(samples * 0.99)], "status_ms": sorted(status)[int(samples * 0.99)]}
            p50 = {"enqueue_ms": statistics.median(enqueue), "status_ms": statistics.median(status)}
            figures[str(upto)] = {"p50": p50, "p99": p99}
            print(
                f"| {upto} jobs waiting | enqueue p50 {p50['enqueue_ms']:.1f}, p99 {p99['enqueue_ms']:.1f} ms; "
                f"status p50 {p50['status_ms']:.1f}, p99 {p99['status_ms']:.1f} ms |"
            )
    return figures


def start() -> dict[str, Any]:
    """Seconds from nothing to ready and to the first picture, and memory at rest."""
    started = time.perf_counter()
    with House() as house:
        ready = time.perf_counter() - started
        first = answered(house, SHORT | {"seed": 1})
        rest = {"service": resident_bytes(house.service) / 1e6, "worker": resident_bytes(house.workers[0]) / 1e6}
        for size in (256, 1024):
            answered(house, {"prompt": "a red cube", "size": size, "seed": 1})
        peak = resident_bytes(house.workers[0], peak=True) / 1e6
    print(f"| from nothing to ready | {ready:.1f} s, the first picture {first:.2f} s after |")
    print(f"| memory at rest | service {rest['service']:.0f} MB, worker {rest['worker']:.0f} MB; worker's peak up to 1024² {peak:.0f} MB |")
    return {"ready_s": ready, "first_s": first, "rest_mb": rest, "worker_peak_mb": peak}


MEASURES: dict[str, Callable[[], dict[str, Any]]] = {"load": load, "growth": growth, "start": start}
