"""Compare the service with diffusers behind LitServe, with the same random weights."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import torch

from benchmarks.serving.load import (
    MODES,
    REQUEST_TIMEOUT_S,
    Request,
    SendRequest,
    run_load_test,
    send_to_service,
)
from devtools.deployment import LocalDeployment
from devtools.ports import free_port
from devtools.processes import ManagedProcess
from devtools.wait import wait_until

STEP_NAMES = (
    "prior_num_inference_steps",
    "decoder_num_inference_steps",
    "upsampler_num_inference_steps",
)
# Steps of prior, decoder and upsampler; a pipeline of Karlo's form always generates 256².
SHORT_STEPS = (4, 4, 2)
LONG_STEPS = (25, 25, 7)


def compare_with_litserve(count: int = 0) -> dict[str, Any]:
    """Compare the service with diffusers behind LitServe.

    The weights are random and of Karlo's form: 59 million parameters on a CPU, all 3.4 billion in
    float16 on a GPU, where the other modes of `baselines/rq_workers.py` run too. `count` is the
    number of requests (default: 60, on a GPU 200).
    """
    try:
        from benchmarks.models.diffusers_pair import build_diffusers_pipeline
        from benchmarks.models.peers import free_memory
    except ImportError as error:
        raise SystemExit(f"{error}. Install it: pip install '.[bench]'") from error
    is_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if is_gpu else "cpu")
    size = "karlo" if is_gpu else "mini"
    dtype = torch.float16 if is_gpu else torch.float32
    count = count or (200 if is_gpu else 60)
    # 128 rows of a pass at 64², and therefore 8 at 256².
    settings: dict[str, Any] = {"dtype": "float16", "max_batch_size": 128} if is_gpu else {}
    modes = MODES if is_gpu else {"continuous batching": "continuous"}
    short = _request(SHORT_STEPS)
    long = _request(LONG_STEPS)
    figures: dict[str, Any] = {}
    rate_per_s = None
    with tempfile.TemporaryDirectory() as folder:
        build_diffusers_pipeline(size, device, dtype).save_pretrained(folder)
        free_memory(device)
        for name, mode in modes.items():
            command = ["benchmarks.baselines.rq_workers", mode]
            with LocalDeployment(
                worker=command, checkpoint=folder, max_wait_s=REQUEST_TIMEOUT_S, **settings
            ) as deployment:
                send = partial(send_to_service, deployment)
                figures[name] = run_load_test(name, send, count, rate_per_s, short, long)
            rate_per_s = rate_per_s or figures[name]["rate_per_s"]
        name = "diffusers behind LitServe"
        with run_litserve(Path(folder)) as send_to_litserve:
            figures[name] = run_load_test(name, send_to_litserve, count, rate_per_s, short, long)
    return figures


def _request(steps: tuple[int, int, int]) -> Request:
    request = {"prompt": "a red cube", "size": 256, "sampler": "ddpm"}
    return request | dict(zip(STEP_NAMES, steps, strict=True))


@contextmanager
def run_litserve(folder: Path) -> Iterator[SendRequest]:
    """Serve a folder's diffusers pipeline with LitServe, and yield how to send a request."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.baselines.litserve", str(folder), str(port)]
    server = ManagedProcess("LitServe", command)
    server.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=REQUEST_TIMEOUT_S) as http:

        def is_ready() -> bool:
            if not server.is_running:
                raise SystemExit(f"LitServe ended with {server.exit_code}; see its output above")
            try:
                return http.get("/health").status_code == 200
            except httpx.TransportError:
                return False

        def send(request: Request) -> None:
            body = {
                "prompt": request["prompt"],
                "seed": request["seed"],
                "steps": [request[name] for name in STEP_NAMES],
            }
            response = http.post("/predict", json=body)
            response.raise_for_status()
            if not response.json()["png"]:
                raise RuntimeError(f"LitServe returned no image: {response.text[:200]}")

        try:
            wait_until(is_ready, "LitServe is ready", timeout_s=REQUEST_TIMEOUT_S)
            yield send
        finally:
            server.kill()
