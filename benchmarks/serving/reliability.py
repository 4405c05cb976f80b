"""What is promised of jobs, measured on the running house: none lost by kills, nothing that grows, and what serving costs.

Each function prints a line or two of a table and gives its figures.
"""

from __future__ import annotations

import io
import random
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
from PIL import Image

from contracts import redis_keys
from devtools.deployment import House, resident_bytes, until

SMALL = {"prompt": "a red cube", "size": 64}
# Real networks, few steps: many jobs are in flight when the worker dies, and a round takes seconds.
QUICK = SMALL | {"prior_num_inference_steps": 4, "decoder_num_inference_steps": 24}


def kills(rounds: int = 20, jobs: int = 64) -> dict[str, Any]:
    """`kill -9` of one of two workers under load, so many times; every job must succeed once. Seconds from the kill until another
    worker has begun all that the dead one was at."""
    recovered = []
    failures = 0
    with House(workers=2, threads=1, jobs_at_once=16) as house:
        for number in range(rounds):
            ids = [house.accept(**QUICK, seed=number * jobs + k) for k in range(jobs)]
            until(partial(_running, house, ids, 24), "the workers are busy")
            victim = house.workers.pop(0)
            name = house.name_of(victim)
            victim.kill()
            victim.wait()
            killed = time.monotonic()
            begun = [job_id for job_id in ids if house.owner(job_id) == name]
            house.start_worker()
            until(partial(_taken_over, house, begun, name), "the dead worker's jobs are another's")
            recovered.append(time.monotonic() - killed)
            until(partial(_ended, house, ids), "all jobs have ended")
            failures += house.statuses(ids).count("failed")
            until(lambda: house.store.scard(redis_keys.WORKERS) >= 2, "the new worker is up")
        outcomes = {
            name.decode(): int(count)
            for name, count in house.store.hgetall(redis_keys.OUTCOMES).items()
        }
    print(
        f"| kill -9, {rounds} × {jobs} jobs | ended {outcomes}; given to another worker after {_spread(recovered)} s |"
    )
    return {"outcomes": outcomes, "failures": failures, "recovered_s": recovered}


def _running(house: House, ids: list[str], count: int) -> bool:
    return house.statuses(ids).count("running") >= count


def _ended(house: House, ids: list[str]) -> bool:
    return set(house.statuses(ids)) <= {"succeeded", "failed"}


def _taken_over(house: House, ids: list[str], name: str) -> bool:
    """No job that had not ended is still the dead worker's, by RQ's books."""
    return all(
        house.owner(job_id) != name or status != "running"
        for job_id, status in zip(ids, house.statuses(ids), strict=True)
    )


def soak(jobs: int = 10_000, first: int = 1_000) -> dict[str, Any]:
    """Many small jobs through the real queue around a stub pipeline: resident memory after `first` and after all, jobs a second, and what
    Redis holds once everything has had its time."""
    with House(worker=["benchmarks.baselines.stub_worker"], result_ttl=60) as house:
        memory: list[tuple[int, int]] = []
        started = time.monotonic()
        for upto in (first, jobs):
            done = 0 if not memory else first
            with ThreadPoolExecutor(16) as pool:
                list(pool.map(lambda seed: house.accept(**SMALL, seed=seed), range(done, upto)))
            until(partial(house.have_succeeded, upto), "all have succeeded")
            memory.append((resident_bytes(house.service), resident_bytes(house.workers[0])))
        rate = jobs / (time.monotonic() - started)
        time.sleep(75)
        left = sorted(key.decode() for key in house.store.scan_iter())
    grown = [after / before - 1 for before, after in zip(*memory, strict=True)]
    print(f"| {jobs} jobs, stub pipeline | {rate:.0f} jobs/s; {_growth(grown)} since job {first} |")
    print(f"| keys in Redis after the TTLs | {len(left)}: {', '.join(left)} |")
    return {"jobs_per_s": rate, "memory_bytes": memory, "grown": grown, "keys_left": left}


def overhead(requests: int = 200) -> dict[str, Any]:
    """HTTP, queue and PNG for one 64² image around a stub pipeline, one after the other: milliseconds from request to image."""
    taken = []
    with House(worker=["benchmarks.baselines.stub_worker"]) as house:
        for seed in range(requests + 10):
            started = time.perf_counter()
            answer = house.http.post(
                "/generate",
                json=SMALL | {"seed": seed},
                headers={"prefer": "wait=60", "accept": "image/png"},
            )
            taken.append((time.perf_counter() - started) * 1000)
            assert answer.status_code == 200 and answer.content.startswith(b"\x89PNG"), answer.text
    taken = sorted(taken[10:])
    p50, p95, p99 = (taken[int(len(taken) * q)] for q in (0.5, 0.95, 0.99))
    print(
        f"| HTTP + queue + PNG over the pipeline alone | p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms |"
    )
    return {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99}


def cancels(times: int = 20) -> dict[str, Any]:
    """Milliseconds from DELETE to the rows having left the batch, by the worker's own gauge, while another job is being drawn."""
    taken = []
    port = 19_464
    with House(worker_metrics_port=port) as house, httpx.Client() as metrics:

        def rows() -> int:
            text = metrics.get(f"http://127.0.0.1:{port}/metrics").text
            return int(
                float(
                    next(
                        line.split()[1]
                        for line in text.splitlines()
                        if line.startswith("unclip_rows_in_flight ")
                    )
                )
            )

        neighbour = house.accept(**SMALL, seed=1, decoder_num_inference_steps=1000, n=1)
        until(lambda: rows() == 1, "the neighbour is in flight")
        for seed in range(times):
            job_id = house.accept(**SMALL, seed=seed, decoder_num_inference_steps=1000, n=3)
            until(lambda: rows() == 4, "four rows are in flight")
            started = time.perf_counter()
            house.http.delete(f"/jobs/{job_id}").raise_for_status()
            until(lambda: rows() == 1, "three have left")
            taken.append((time.perf_counter() - started) * 1000)
            if house.statuses([neighbour]) != ["running"]:
                neighbour = house.accept(**SMALL, seed=1, decoder_num_inference_steps=1000, n=1)
                until(lambda: rows() == 1, "the neighbour is in flight")
    print(f"| DELETE to the rows having left | {_spread(taken)} ms |")
    return {"ms": taken}


def listeners(count: int = 200) -> dict[str, Any]:
    """Server-sent events to many listeners of one job: all hear its end; seconds from the end to the last of them."""
    heard: list[float] = []
    previews = 0
    lock = threading.Lock()
    with House() as house:
        job_id = house.accept(**SMALL, seed=1, decoder_num_inference_steps=300)

        def listen() -> None:
            nonlocal previews
            with (
                httpx.Client(timeout=300) as client,
                client.stream("GET", f"{house.address}/jobs/{job_id}/events") as answer,
            ):
                for line in answer.iter_lines():
                    if line == "event: preview":
                        with lock:
                            previews += 1
                    if line == "event: ended":
                        with lock:
                            heard.append(time.monotonic())

        threads = [threading.Thread(target=listen) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        blocked = sum(client["cmd"] == "xread" for client in house.store.client_list())
    spread = max(heard) - min(heard)
    print(
        f"| {count} listeners of one job | {len(heard)} heard its end, within {spread:.2f} s; {previews / count:.1f} previews each |"
    )
    return {
        "heard": len(heard),
        "spread_s": spread,
        "previews_each": previews / count,
        "readers_left": blocked,
    }


def fuzz(files: int = 1_200, seed: int = 0) -> dict[str, Any]:
    """Mutated PNG, JPEG and WebP files sent to /variations around a stub pipeline: statuses, and memory from a third of them on."""
    rng = random.Random(seed)
    whole = [_image(kind, rng) for kind in ("PNG", "JPEG", "WEBP") for _ in range(10)]
    statuses: dict[int, int] = {}
    memory: list[tuple[int, int]] = []
    with House(worker=["benchmarks.baselines.stub_worker"]) as house:
        for number in range(files):
            answer = house.http.post(
                "/variations",
                files={"image": _mutated(rng.choice(whole), rng)},
                data={"size": "64"},
            )
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
            if number in (files // 3, files - 1):
                until(lambda: house.store.llen(redis_keys.QUEUE_LIST) == 0, "the queue is empty")
                memory.append((resident_bytes(house.service), resident_bytes(house.workers[0])))
    grown = [after / before - 1 for before, after in zip(*memory, strict=True)]
    answers = ", ".join(f"{count} × {status}" for status, count in sorted(statuses.items()))
    print(f"| {files} mutated images | {answers}; {_growth(grown)} |")
    return {"statuses": statuses, "grown": grown}


def _image(kind: str, rng: random.Random) -> bytes:
    side = rng.randint(1, 300)
    image = Image.frombytes("RGB", (side, side), rng.randbytes(side * side * 3)).convert(
        rng.choice(("RGB", "L"))
    )
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def _mutated(content: bytes, rng: random.Random) -> bytes:
    """Some bytes changed (headers more often than the rest), cut short, doubled, or with a hole."""
    data = bytearray(content)
    for _ in range(rng.randint(0, 8)):
        data[rng.randrange(min(len(data), rng.choice((64, len(data)))))] = rng.randrange(256)
    cut = rng.random()
    if cut < 0.2:
        return bytes(data[: rng.randrange(len(data))])
    if cut < 0.3:
        at = rng.randrange(len(data))
        return bytes(data[:at] + data[at + rng.randint(1, 64) :])
    return bytes(data + data) if cut < 0.35 else bytes(data)


def _growth(grown: list[float]) -> str:
    return f"resident memory of the service {grown[0]:+.1%}, of the worker {grown[1]:+.1%}"


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} (largest {max(values):.1f})"


MEASURES: dict[str, Callable[[], dict[str, Any]]] = {
    "kills": kills,
    "soak": soak,
    "overhead": overhead,
    "cancels": cancels,
    "listeners": listeners,
    "fuzz": fuzz,
}
