"""The guarantees under stress: killed workers, many jobs, malformed images.

Each function prints rows of a table and returns its figures.
"""

from __future__ import annotations

import io
import random
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from PIL import Image

from benchmarks.processes import resident_bytes
from benchmarks.serving.overhead import SMALL, STUB_WORKER
from contracts import redis_keys
from devtools.deployment import LocalDeployment

# Real networks and few steps: many jobs are running when the worker dies, and a round takes
# seconds.
QUICK = SMALL | {"prior_num_inference_steps": 4, "decoder_num_inference_steps": 24}
TIMEOUT_S = 600.0
RESULT_TTL_S = 60
ENDED = {"succeeded", "failed"}


def kill_workers(rounds: int = 20, jobs: int = 64) -> dict[str, Any]:
    """Kill one of two workers under load, again and again; every job must succeed once.

    Measures the seconds from each kill until another worker has begun all interrupted jobs.
    """
    recovery_s = []
    num_failed = 0
    with LocalDeployment(num_workers=2, threads=1, max_concurrent_jobs=16) as deployment:
        for round_index in range(rounds):
            seeds = range(round_index * jobs, (round_index + 1) * jobs)
            ids = [deployment.submit(**QUICK, seed=seed) for seed in seeds]
            recovery_s.append(_kill_one_worker(deployment, ids))
            num_failed += deployment.stored_statuses(ids).count("failed")
            deployment.wait_for_workers()
        hash_items = deployment.store.hgetall(redis_keys.OUTCOMES).items()
        outcomes = {name.decode(): int(count) for name, count in hash_items}
    print(
        f"| kill -9, {rounds} × {jobs} jobs | ended {outcomes}; passed to another worker after "
        f"{statistics.median(recovery_s):.1f} s (maximum {max(recovery_s):.1f}) |"
    )
    return {"outcomes": outcomes, "failures": num_failed, "recovered_s": recovery_s}


def _kill_one_worker(deployment: LocalDeployment, ids: list[str]) -> float:
    """Kill a busy worker and start another; return the seconds until no job is the dead one's."""

    def is_taken_over(interrupted: list[str], name: str) -> bool:
        statuses = deployment.stored_statuses(interrupted)
        return all(
            deployment.job_worker(job_id) != name or status != "running"
            for job_id, status in zip(interrupted, statuses, strict=True)
        )

    deployment.wait_until(
        lambda: deployment.stored_statuses(ids).count("running") >= 24, "24 jobs run"
    )
    name = deployment.kill_worker()
    killed_at = time.monotonic()
    interrupted = [job_id for job_id in ids if deployment.job_worker(job_id) == name]
    deployment.start_worker()
    deployment.wait_until(
        partial(is_taken_over, interrupted, name), "another worker runs the interrupted jobs"
    )
    recovery_s = time.monotonic() - killed_at
    deployment.wait_until(
        lambda: set(deployment.stored_statuses(ids)) <= ENDED, "all jobs have ended"
    )
    return recovery_s


def soak(jobs: int = 10_000, first: int = 1_000) -> dict[str, Any]:
    """Run many small jobs through the queue, around a stub pipeline.

    Measures jobs per second, resident memory after `first` and after all jobs, and the keys that
    Redis holds after the results' lifetime.
    """
    memory: list[tuple[int, int]] = []
    with LocalDeployment(
        worker=STUB_WORKER, result_ttl_s=RESULT_TTL_S, max_queued_jobs=jobs
    ) as deployment:
        started = time.monotonic()
        for seeds in (range(first), range(first, jobs)):
            submit_many(deployment, seeds)
            _wait_for_succeeded(deployment, seeds.stop)
            memory.append(_memory_of(deployment))
        jobs_per_s = jobs / (time.monotonic() - started)
        time.sleep(RESULT_TTL_S + 15)
        keys = sorted(key.decode() for key in deployment.store.scan_iter())
    growth = [after / before - 1 for before, after in zip(*memory, strict=True)]
    print(
        f"| {jobs} jobs, stub pipeline | {jobs_per_s:.0f} jobs/s; "
        f"{_describe_growth(growth)} since job {first} |"
    )
    print(f"| keys in Redis after the TTLs | {len(keys)}: {', '.join(keys)} |")
    return {
        "jobs_per_s": jobs_per_s,
        "memory_bytes": memory,
        "grown": growth,
        "keys_left": keys,
    }


def submit_many(deployment: LocalDeployment, seeds: range) -> None:
    """Submit a small job for each seed, 16 at a time."""
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda seed: deployment.submit(**SMALL, seed=seed), seeds))


def _wait_for_succeeded(deployment: LocalDeployment, count: int) -> None:
    deployment.wait_until(
        lambda: deployment.num_succeeded() == count,
        f"{count} jobs have succeeded",
        timeout_s=TIMEOUT_S,
    )


def fuzz_images(files: int = 1_200, seed: int = 0) -> dict[str, Any]:
    """Send mutated PNG, JPEG and WebP files to /variations, around a stub pipeline.

    Counts the statuses and measures the growth of resident memory after a third of the files.
    """
    rng = random.Random(seed)
    valid = [_random_image(kind, rng) for kind in ("PNG", "JPEG", "WEBP") for _ in range(10)]
    statuses: dict[int, int] = {}
    memory: list[tuple[int, int]] = []
    with LocalDeployment(worker=STUB_WORKER) as deployment:
        for number in range(files):
            response = deployment.http.post(
                "/variations",
                files={"image": _mutate(rng.choice(valid), rng)},
                data={"size": "64"},
            )
            statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
            if number in (files // 3, files - 1):
                deployment.wait_until(
                    lambda: deployment.store.llen(redis_keys.QUEUE_LIST) == 0, "the queue is empty"
                )
                memory.append(_memory_of(deployment))
    growth = [after / before - 1 for before, after in zip(*memory, strict=True)]
    counts = ", ".join(f"{count} × {status}" for status, count in sorted(statuses.items()))
    print(f"| {files} mutated images | {counts}; {_describe_growth(growth)} |")
    return {"statuses": statuses, "grown": growth}


def _random_image(kind: str, rng: random.Random) -> bytes:
    side = rng.randint(1, 300)
    image = Image.frombytes("RGB", (side, side), rng.randbytes(side * side * 3))
    buffer = io.BytesIO()
    image.convert(rng.choice(("RGB", "L"))).save(buffer, kind)
    return buffer.getvalue()


def _mutate(content: bytes, rng: random.Random) -> bytes:
    """Change some bytes, mostly in headers; then perhaps truncate, cut out or repeat."""
    data = bytearray(content)
    for _ in range(rng.randint(0, 8)):
        end = min(len(data), rng.choice((64, len(data))))
        data[rng.randrange(end)] = rng.randrange(256)
    choice = rng.random()
    if choice < 0.2:
        return bytes(data[: rng.randrange(len(data))])
    if choice < 0.3:
        start = rng.randrange(len(data))
        return bytes(data[:start] + data[start + rng.randint(1, 64) :])
    return bytes(data + data) if choice < 0.35 else bytes(data)


def _memory_of(deployment: LocalDeployment) -> tuple[int, int]:
    return resident_bytes(deployment.service), resident_bytes(deployment.workers[0])


def _describe_growth(growth: list[float]) -> str:
    return f"resident memory of the service {growth[0]:+.1%}, of the worker {growth[1]:+.1%}"
