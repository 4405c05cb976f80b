"""The running service under load, beside others that serve the same (rival_workers, rival_litserve): images a second, and waits.

Closed load keeps so many requests in flight; open load lets them come at random (Poisson) at a share of the capacity that was measured, as
users do, who do not wait for each other.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import torch

from benchmarks.plots import panels
from devtools.deployment import PATIENCE_S, House, process, resident_bytes, until
from devtools.launch import free_port

Request = dict[str, Any]
Ask = Callable[[Request], None]  # and wait for the images

SHORT: Request = {"prompt": "a red cube", "size": 64}
LONG: Request = {
    "prompt": "a blue cone left of a green sphere",
    "size": 256,
    "n": 4,
    "decoder_num_inference_steps": 50,
}
LONG_SHARE = 0.1
SHARE = 0.8  # of the capacity, in open load
WAYS = {
    "in-flight batching": "in-flight",
    "batches by waiting": "waiting",
    "SimpleWorker": "simple",
}  # of rival_workers
# Of prior, decoder and upsampler, for a pipeline of Karlo's form, which draws 256² always.
FEW_STEPS = (4, 4, 2)
MANY_STEPS = (25, 25, 7)
STEPS = (
    "prior_num_inference_steps",
    "decoder_num_inference_steps",
    "upsampler_num_inference_steps",
)


def mixed(rng: random.Random, short: Request = SHORT, long: Request = LONG) -> Request:
    """A request: short nine times of ten."""
    return (long if rng.random() < LONG_SHARE else short) | {"seed": rng.randrange(1 << 30)}


def images(request: Request) -> int:
    """How many images it asks for."""
    return int(request.get("n", 1))


def asked(house: House, request: Request) -> None:
    """Of the service: from request to its ended job."""
    answer = house.http.post(
        "/generate", json=request, headers={"prefer": f"wait={PATIENCE_S:.0f}"}
    )
    assert answer.status_code == 200 and answer.json()["status"] == "succeeded", answer.text


def seconds(ask: Ask, request: Request) -> float:
    """What it takes."""
    started = time.perf_counter()
    ask(request)
    return time.perf_counter() - started


def closed(ask: Ask, requests: list[Request], concurrency: int) -> float:
    """Images a second with so many requests in flight."""
    started = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        list(pool.map(ask, requests))
    return sum(map(images, requests)) / (time.perf_counter() - started)


def opened(
    ask: Ask, rate: float, requests: list[Request], long: Request, rng: random.Random
) -> dict[str, list[float]]:
    """Seconds that short and long requests took, coming at random `rate` times a second."""
    taken: dict[str, list[float]] = {"short": [], "long": []}

    def one(request: Request) -> None:
        taken["long" if request | long == request else "short"].append(seconds(ask, request))

    threads = []
    for request in requests:
        time.sleep(rng.expovariate(rate))
        threads.append(threading.Thread(target=one, args=(request,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return taken


def loaded(
    name: str,
    ask: Ask,
    count: int,
    rate: float | None,
    short: Request = SHORT,
    long: Request = LONG,
) -> dict[str, Any]:
    """One way of serving under the same requests as every other; without a `rate` the open load is at SHARE of what closed load got."""
    rng = random.Random(0)
    requests = [mixed(rng, short, long) for _ in range(count)]
    alone = statistics.median(seconds(ask, short | {"seed": seed}) for seed in range(7))
    one = closed(ask, requests[: count // 5], 1)
    many = closed(ask, requests, 32)
    rate = rate or SHARE * many / statistics.fmean(map(images, requests))
    taken = opened(ask, rate, requests, long, rng)
    times = sorted(taken["short"])
    p50, p95, p99 = (times[int(len(times) * q)] for q in (0.5, 0.95, 0.99))
    print(
        f"| {name} | {one:.2f} images/s at 1, {many:.2f} at 32 | short alone {alone:.2f} s; at {rate:.2f} requests/s: "
        f"p50 {p50:.2f}, p95 {p95:.2f}, p99 {p99:.2f} s; long p50 {statistics.median(taken['long']):.2f} s |",
        flush=True,
    )
    return {
        "images_per_s": {1: one, 32: many},
        "alone_s": alone,
        "rate_per_s": rate,
        "taken_s": taken,
        "short_s": {"p50": p50, "p95": p95, "p99": p99},
    }


def load(count: int = 150, *pipeline: str) -> dict[str, Any]:
    """The default checkpoint, served by the product and in the two ways of rival_workers; the open load is at SHARE of what in-flight
    batching did in closed load."""
    figures: dict[str, Any] = {}
    rate = None
    for name, way in WAYS.items():
        with House(
            worker=["benchmarks.baselines.rq_workers", way, *pipeline], max_wait=int(PATIENCE_S)
        ) as house:
            figures[name] = loaded(name, partial(asked, house), count, rate)
        rate = rate or figures[name]["rate_per_s"]
    return figures


def load_paced(count: int = 300) -> dict[str, Any]:
    """The same with a pipeline that sleeps as long as a real one draws: on a machine that has other work, and for more requests."""
    return load(count, "paced")


def load_diffusers(count: int = 0) -> dict[str, Any]:
    """The product, and diffusers behind LitServe, with the same random weights of Karlo's form: benchmarks.models.compare_diffusers's `mini`; on a GPU all
    3.4 billion in float16, and the ways of rival_workers too. `count`: requests; 0 for 60, on a GPU 200."""
    try:
        from benchmarks.models.compare_diffusers import emptied
        from benchmarks.models.diffusers_pair import pipeline
    except ImportError as error:
        raise SystemExit(f"{error}: pip install '.[bench]' has what this needs") from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpu = device.type == "cuda"
    count = count or (200 if gpu else 60)
    size, dtype = ("karlo", torch.float16) if gpu else ("mini", torch.float32)
    # On a GPU 128 rows of a pass at 64², and so 8 at 256².
    settings: dict[str, Any] = {"dtype": "float16", "max_batch": 128} if gpu else {}
    common = {"prompt": "a red cube", "size": 256, "sampler": "ddpm"}
    short, long = (common | dict(zip(STEPS, of, strict=True)) for of in (FEW_STEPS, MANY_STEPS))
    figures: dict[str, Any] = {}
    rate = None
    with tempfile.TemporaryDirectory() as folder:
        pipeline(size, device, dtype).save_pretrained(folder)
        emptied(device)
        for name, way in WAYS.items() if gpu else [next(iter(WAYS.items()))]:
            with House(
                worker=["benchmarks.baselines.rq_workers", way],
                checkpoint=folder,
                max_wait=int(PATIENCE_S),
                **settings,
            ) as house:
                figures[name] = loaded(name, partial(asked, house), count, rate, short, long)
            rate = rate or figures[name]["rate_per_s"]
        with litserve(Path(folder)) as ask:
            figures["diffusers behind LitServe"] = loaded(
                "diffusers behind LitServe", ask, count, rate, short, long
            )
    return figures


@contextmanager
def litserve(folder: Path) -> Iterator[Ask]:
    """diffusers' pipeline of a folder behind LitServe, and how to ask it."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.baselines.litserve", str(folder), str(port)]
    with (
        process(command) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as http,
    ):

        def ready() -> bool:
            if server.poll() is not None:
                raise SystemExit(
                    f"LitServe ended with {server.returncode}: {' '.join(command)} says why"
                )
            try:
                return http.get("/health").status_code == 200
            except httpx.TransportError:
                return False

        until(ready, "LitServe is ready")

        def ask(request: Request) -> None:
            body = {
                "prompt": request["prompt"],
                "seed": request["seed"],
                "steps": [request[name] for name in STEPS],
            }
            answer = http.post("/predict", json=body)
            assert answer.status_code == 200 and answer.json()["png"], answer.text

        yield ask


def plot(found: dict[str, Any], path: Path) -> None:
    """What share of short requests was answered within so many seconds, a line a way of serving."""
    curves = {}
    for name, of in found.items():
        times = sorted(of["taken_s"]["short"])
        curves[name] = {x: (k + 1) / len(times) for k, x in enumerate(times)}
    panels(path, [("seconds", "share of short requests answered", curves)])


def start() -> dict[str, Any]:
    """Seconds from nothing to ready and to the first image, of importing the service, and memory at rest."""
    started = time.perf_counter()
    with House() as house:
        ready = time.perf_counter() - started
        ask = partial(asked, house)
        first = seconds(ask, SHORT | {"seed": 1})
        rest = {
            "service": resident_bytes(house.service) / 1e6,
            "worker": resident_bytes(house.workers[0]) / 1e6,
        }
        for size in (256, 1024):
            ask({"prompt": "a red cube", "size": size, "seed": 1})
        peak = resident_bytes(house.workers[0], peak=True) / 1e6
    imported = statistics.median(_importing("service.app") for _ in range(5))
    print(
        f"| from nothing to ready | {ready:.1f} s, the first image {first:.2f} s after; the service's import {imported:.2f} s |"
    )
    print(
        f"| memory at rest | service {rest['service']:.0f} MB, worker {rest['worker']:.0f} MB; worker's peak up to 1024² {peak:.0f} MB |"
    )
    return {
        "ready_s": ready,
        "first_s": first,
        "service_import_s": imported,
        "rest_mb": rest,
        "worker_peak_mb": peak,
    }


def _importing(module: str) -> float:
    """Seconds of a process that does nothing else."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    return time.perf_counter() - started


MEASURES: dict[str, Callable[[], dict[str, Any]]] = {
    "load": load,
    "load-paced": load_paced,
    "load-diffusers": load_diffusers,
    "start": start,
}
PLOTS = dict.fromkeys(("load", "load-paced", "load-diffusers"), plot)
