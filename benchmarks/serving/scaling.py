"""How costs grow with images, steps, pixels, waiting jobs and workers.

Curves, and the exponents of power laws fitted to them.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.plots import Panel, save_panels
from benchmarks.serving.overhead import SMALL, STUB_WORKER
from benchmarks.serving.reliability import submit_many
from devtools.deployment import LocalDeployment
from models import UnCLIP
from worker.engine.memory import tune_malloc

WAITING_JOBS = (0, 1_000, 10_000, 100_000)
TIMEOUT_S = 600.0

# "enqueue" and "status": p50 and p99 of each, in milliseconds.
Spread = dict[str, dict[str, float]]


def fit_exponent(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return the slope of log y over log x, by least squares; 1 means proportional."""
    return float(np.polyfit(np.log(xs), np.log(ys), 1)[0])


def measure_scaling() -> dict[str, Any]:
    """Measure the pipeline, the queue and the number of workers, and fit all exponents."""
    figures: dict[str, Any] = {
        "pipeline": measure_pipeline(),
        "waiting": measure_queue(),
        "workers": measure_workers(),
    }
    waiting = {int(count): row for count, row in figures["waiting"].items() if count != "0"}
    for name in ("enqueue", "status"):
        ratios = [row[name]["p50"] / row["empty"][name]["p50"] for row in waiting.values()]
        figures[f"{name}_exponent"] = fit_exponent(list(waiting), ratios)
    rates = {int(count): row["jobs_per_s"] for count, row in figures["workers"].items()}
    figures["workers_exponent"] = fit_exponent(list(rates), list(rates.values()))
    names = ("enqueue", "status", "workers")
    exponents = ", ".join(f"{name} {figures[f'{name}_exponent']:.2f}" for name in names)
    print(f"| exponents | {exponents} |")
    return figures


def measure_pipeline(repeats: int = 3) -> dict[str, Any]:
    """Measure seconds of the pipeline alone, by images, decoder steps and pixels (medians)."""
    tune_malloc()
    pipeline = UnCLIP.load(device="cuda" if torch.cuda.is_available() else "cpu")
    pipeline.prepack()

    def measure(n: int = 1, **parameters: Any) -> float:
        parameters = {"size": 64} | parameters
        seconds = []
        for _ in range(repeats + 1):
            started = time.perf_counter()
            pipeline.generate(["a red cube"] * n, seeds=range(n), **parameters)
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds[1:])  # the first one warms up

    decoder_steps = (8, 16, 32, 64, 128)
    curves = {
        "images": {n: measure(n) for n in (1, 2, 4, 8, 16)},
        "decoder steps": {
            steps: measure(decoder_num_inference_steps=steps) for steps in decoder_steps
        },
        "pixels": {size * size: measure(size=size) for size in pipeline.sizes},
    }
    figures = {}
    for name, curve in curves.items():
        exponent = fit_exponent(list(curve), list(curve.values()))
        figures[name] = {"seconds": curve, "exponent": exponent}
        points = ", ".join(f"{x}: {y:.2f} s" for x, y in curve.items())
        print(f"| {name} | {points} | exponent {exponent:.2f} |", flush=True)
    return figures


def measure_queue(counts: Sequence[int] = WAITING_JOBS, samples: int = 1_000) -> dict[str, Any]:
    """Measure milliseconds to enqueue a job and to query its status while jobs wait.

    Each sample alternates with one of a second deployment without waiting jobs, so that other work
    on the machine affects both.
    """
    figures: dict[str, Any] = {}
    with (
        LocalDeployment(worker=STUB_WORKER, max_queued_jobs=1_000_000) as full,
        LocalDeployment(worker=STUB_WORKER, max_queued_jobs=1_000_000) as empty,
    ):
        full.stop_worker()
        empty.stop_worker()
        num_waiting = 0
        for count in counts:
            accepted_per_s = None
            if count > num_waiting:
                started = time.perf_counter()
                submit_many(full, range(num_waiting, count))
                accepted_per_s = (count - num_waiting) / (time.perf_counter() - started)
            empty.store.flushdb()
            full_spread, empty_spread = _sample_alternately(full, empty, samples)
            num_waiting = max(num_waiting, count) + samples
            redis_mb = full.store.info("memory")["used_memory"] / 1e6
            figures[str(count)] = full_spread | {
                "empty": empty_spread,
                "accepted_per_s": accepted_per_s,
                "redis_mb": redis_mb,
            }
            columns = "; ".join(
                f"{name} {q} {full_spread[name][q]:.1f} ms (empty queue "
                f"{empty_spread[name][q]:.1f})"
                for name in ("enqueue", "status")
                for q in ("p50", "p99")
            )
            print(
                f"| {count} waiting jobs | {columns}; Redis holds {redis_mb:.0f} MB |", flush=True
            )
    return figures


def _sample_alternately(
    full: LocalDeployment, empty: LocalDeployment, samples: int
) -> tuple[Spread, Spread]:
    """Measure both deployments in turns, over a new connection each: services close idle ones."""
    milliseconds: list[dict[str, list[float]]] = []
    senders = []
    for deployment in (full, empty):
        milliseconds.append({"enqueue": [], "status": []})
        connection = HTTPConnection(deployment.url.removeprefix("http://"))
        senders.append(partial(_send, connection))
    for seed in range(samples):
        for send, times in zip(senders, milliseconds, strict=True):
            started = time.perf_counter()
            job_id = send("POST", "/generate", SMALL | {"seed": seed})["id"]
            enqueued = time.perf_counter()
            send("GET", f"/jobs/{job_id}")
            times["enqueue"].append((enqueued - started) * 1000)
            times["status"].append((time.perf_counter() - enqueued) * 1000)
    return _spread_of(milliseconds[0]), _spread_of(milliseconds[1])


def _spread_of(milliseconds: dict[str, list[float]]) -> Spread:
    return {
        name: {"p50": statistics.median(times), "p99": sorted(times)[int(len(times) * 0.99)]}
        for name, times in milliseconds.items()
    }


def _send(
    connection: HTTPConnection, method: str, path: str, body: dict[str, Any] | None = None
) -> Any:
    """Send a request with the plainest client, so that the service is what is measured."""
    headers = {"Content-Type": "application/json"}
    connection.request(method, path, json.dumps(body) if body else None, headers)
    response = connection.getresponse()
    content = response.read()
    if response.status not in (200, 202):
        raise RuntimeError(f"{method} {path} returned {response.status}: {content!r}")
    return json.loads(content)


def measure_workers(counts: Sequence[int] = (1, 2, 3, 4), jobs: int = 1_500) -> dict[str, Any]:
    """Measure jobs per second of stub workers, for jobs that wait before the workers start."""
    figures: dict[str, Any] = {}
    for count in counts:
        with LocalDeployment(worker=STUB_WORKER, max_queued_jobs=1_000_000) as deployment:
            deployment.stop_worker()
            submit_many(deployment, range(jobs))
            for _ in range(count):
                deployment.start_worker()
            deployment.wait_for_workers()
            before = deployment.num_succeeded()
            started = time.perf_counter()
            deployment.wait_until(
                partial(_have_succeeded, deployment, jobs),
                "all jobs have succeeded",
                timeout_s=TIMEOUT_S,
            )
            jobs_per_s = (jobs - before) / (time.perf_counter() - started)
        figures[str(count)] = {"jobs_per_s": jobs_per_s, "of": jobs - before}
        print(f"| {count} stub workers | {jobs_per_s:.0f} jobs/s |", flush=True)
    return figures


def _have_succeeded(deployment: LocalDeployment, count: int) -> bool:
    return deployment.num_succeeded() == count


def plot_scaling(figures: dict[str, Any], path: Path) -> None:
    """Plot five panels with logarithmic axes."""
    panels = []
    for name, row in figures["pipeline"].items():
        curves = {f"exponent {row['exponent']:.2f}": row["seconds"]}
        panels.append(Panel(name, "seconds", curves))
    queue: dict[str, dict[float, float]] = {}
    for count, row in figures["waiting"].items():
        for name in ("enqueue", "status"):
            for q in ("p50", "p99"):
                ratio = row[name][q] / row["empty"][name][q]
                queue.setdefault(f"{name} {q}", {})[max(1, int(count))] = ratio
    panels.append(Panel("waiting jobs (1: none)", "times an empty queue's", queue))
    rates = {int(count): row["jobs_per_s"] for count, row in figures["workers"].items()}
    curves = {f"exponent {figures['workers_exponent']:.2f}": rates}
    panels.append(Panel("stub workers", "jobs/s", curves))
    save_panels(path, panels, is_log=True)
