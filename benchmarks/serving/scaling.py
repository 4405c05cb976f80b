"""What costs grow with: images asked for, steps, pixels, jobs that wait, workers. Curves, and the exponents of those."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.plots import panels
from benchmarks.serving.reliability import SMALL
from contracts import redis_keys
from contracts.jobs import WorkerHeartbeat
from devtools.deployment import House, until
from models import UnCLIP
from worker.engine.memory import keep_freed_memory

WAITING = (0, 1_000, 10_000, 100_000)


def exponent(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The slope of log y over log x, by least squares: 1 where twice as much costs twice as much."""
    return float(np.polyfit(np.log(xs), np.log(ys), 1)[0])


def drawing(repeats: int = 3) -> dict[str, Any]:
    """Seconds of the pipeline alone, against images, decoder steps and pixels; medians of `repeats`."""
    keep_freed_memory()
    pipeline = UnCLIP.load(device="cuda" if torch.cuda.is_available() else "cpu")
    pipeline.pack()

    def seconds(n: int = 1, **parameters: Any) -> float:
        taken = []
        for _ in range(repeats + 1):  # the first warms up
            started = time.perf_counter()
            pipeline.generate(["a red cube"] * n, seeds=range(n), **{"size": 64} | parameters)
            taken.append(time.perf_counter() - started)
        return statistics.median(taken[1:])

    curves = {
        "images": {n: seconds(n) for n in (1, 2, 4, 8, 16)},
        "decoder steps": {
            steps: seconds(decoder_num_inference_steps=steps) for steps in (8, 16, 32, 64, 128)
        },
        "pixels": {size * size: seconds(size=size) for size in pipeline.sizes},
    }
    found = {
        name: {"seconds": of, "exponent": exponent(list(of), list(of.values()))}
        for name, of in curves.items()
    }
    for name, of in curves.items():
        told = ", ".join(f"{x}: {y:.2f} s" for x, y in of.items())
        print(f"| {name} | {told} | exponent {found[name]['exponent']:.2f} |", flush=True)
    return found


def waiting(counts: Sequence[int] = WAITING, samples: int = 1_000) -> dict[str, Any]:
    """Milliseconds to enqueue a job and to ask for its status, one after the other, while so many wait; and in turns with them
    the same of a second house where none does, which this machine is as fast for at that moment."""
    figures: dict[str, Any] = {}
    with (
        House(worker=["benchmarks.baselines.stub_worker"]) as house,
        House(worker=["benchmarks.baselines.stub_worker"]) as empty,
    ):
        house.stop_worker()
        empty.stop_worker()
        total = 0
        for upto in counts:
            filling = upto > total
            filled = time.perf_counter()
            with ThreadPoolExecutor(16) as pool:
                list(pool.map(lambda seed: house.accept(**SMALL, seed=seed), range(total, upto)))
            rate = (upto - total) / (time.perf_counter() - filled)
            empty.store.flushdb()
            here, beside = _alternating(house, empty, samples)
            total = max(total, upto) + samples
            memory = house.store.info("memory")["used_memory"]
            figures[str(upto)] = here | {
                "beside": beside,
                "accepted_per_s": rate if filling else None,
                "redis_mb": memory / 1e6,
            }
            told = "; ".join(
                f"{name} {q} {ms[q]:.1f} ms, beside an empty queue's {beside[name][q]:.1f}"
                for name, ms in here.items()
                for q in ms
            )
            print(
                f"| {upto} jobs waiting | {told}; Redis holds {memory / 1e6:.0f} MB |", flush=True
            )
    return figures


Spread = dict[str, dict[str, float]]  # "enqueue" and "status", p50 and p99 of each in milliseconds


def _alternating(house: House, other: House, samples: int) -> tuple[Spread, Spread]:
    """Of both houses, asked in turns over a connection each: services close those that are idle, so they are new."""
    taken: list[dict[str, list[float]]] = [
        {"enqueue": [], "status": []},
        {"enqueue": [], "status": []},
    ]
    ways = [
        partial(_asked, HTTPConnection(one.address.removeprefix("http://")))
        for one in (house, other)
    ]
    for seed in range(samples):
        for ask, of in zip(ways, taken, strict=True):
            started = time.perf_counter()
            job_id = ask("POST", "/generate", SMALL | {"seed": seed})["id"]
            between = time.perf_counter()
            ask("GET", f"/jobs/{job_id}")
            of["enqueue"].append((between - started) * 1000)
            of["status"].append((time.perf_counter() - between) * 1000)
    here, there = (
        {
            name: {"p50": statistics.median(ms), "p99": sorted(ms)[int(samples * 0.99)]}
            for name, ms in of.items()
        }
        for of in taken
    )
    return here, there


def _asked(
    service: HTTPConnection, method: str, path: str, body: dict[str, Any] | None = None
) -> Any:
    """By the plainest client there is: what is measured is the service."""
    service.request(
        method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"}
    )
    answer = service.getresponse()
    content = answer.read()
    assert answer.status in (200, 202), content
    return json.loads(content)


def workers(counts: Sequence[int] = (1, 2, 3, 4), jobs: int = 1_500) -> dict[str, Any]:
    """Jobs a second that stub workers get through, of jobs that waited before they came: from when all are there to the last job's end."""
    found: dict[str, Any] = {}
    for count in counts:
        with House(worker=["benchmarks.baselines.stub_worker"]) as house:
            house.stop_worker()
            with ThreadPoolExecutor(16) as pool:
                list(pool.map(lambda seed: house.accept(**SMALL, seed=seed), range(jobs)))
            for _ in range(count):
                house.start_worker()
            until(partial(_are_at_work, house, count), "all workers are there")
            before = house.succeeded()
            started = time.perf_counter()
            until(partial(house.have_succeeded, jobs), "all jobs have succeeded")
            found[str(count)] = {
                "jobs_per_s": (jobs - before) / (time.perf_counter() - started),
                "of": jobs - before,
            }
            print(
                f"| {count} stub workers | {found[str(count)]['jobs_per_s']:.0f} jobs/s |",
                flush=True,
            )
    return found


def _are_at_work(house: House, count: int) -> bool:
    pids = {worker.pid for worker in house.workers}
    beats = [
        house.store.get(redis_keys.worker(name.decode()))
        for name in house.store.smembers(redis_keys.WORKERS)
    ]
    return (
        sum(WorkerHeartbeat.model_validate_json(beat).pid in pids for beat in beats if beat)
        == count
    )


def growth() -> dict[str, Any]:
    """All of them."""
    found: dict[str, Any] = {"drawing": drawing(), "waiting": waiting(), "workers": workers()}
    many = {int(count): of for count, of in found["waiting"].items() if count != "0"}
    for name in ("enqueue", "status"):
        found[f"{name}_exponent"] = exponent(
            list(many), [of[name]["p50"] / of["beside"][name]["p50"] for of in many.values()]
        )
    rates = {int(count): of["jobs_per_s"] for count, of in found["workers"].items()}
    found["workers_exponent"] = exponent(list(rates), list(rates.values()))
    print(
        "| exponents | "
        + ", ".join(
            f"{name} {found[f'{name}_exponent']:.2f}" for name in ("enqueue", "status", "workers")
        )
        + " |"
    )
    return found


def plot(found: dict[str, Any], path: Path) -> None:
    """Five panels, all axes logarithmic."""
    drawn = {
        name: {f"exponent {of['exponent']:.2f}": of["seconds"]}
        for name, of in found["drawing"].items()
    }
    queue = {
        f"{name} {q}": {
            max(1, int(count)): of[name][q] / of["beside"][name][q]
            for count, of in found["waiting"].items()
        }
        for name in ("enqueue", "status")
        for q in ("p50", "p99")
    }
    rates = {
        f"exponent {found['workers_exponent']:.2f}": {
            int(count): of["jobs_per_s"] for count, of in found["workers"].items()
        }
    }
    curves = [
        *((name, "seconds", of) for name, of in drawn.items()),
        ("jobs waiting (1: none)", "times an empty queue's", queue),
        ("stub workers", "jobs/s", rates),
    ]
    panels(path, curves, log=True)


MEASURES: dict[str, Callable[[], dict[str, Any]]] = {"growth": growth}
PLOTS = {"growth": plot}
