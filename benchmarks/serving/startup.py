"""Time and memory from start to the first image."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from benchmarks.processes import import_seconds, peak_resident_bytes, resident_bytes
from benchmarks.serving.load import SHORT, latency_s, send_to_service
from devtools.deployment import LocalDeployment


def measure_startup() -> dict[str, Any]:
    """Measure seconds until ready and until the first image, import time, and resident memory."""
    started = time.perf_counter()
    with LocalDeployment() as deployment:
        ready_s = time.perf_counter() - started
        send = partial(send_to_service, deployment)
        first_image_s = latency_s(send, SHORT | {"seed": 1})
        worker = deployment.workers[0]
        idle_mb = {
            "service": resident_bytes(deployment.service) / 1e6,
            "worker": resident_bytes(worker) / 1e6,
        }
        for size in (256, 1024):
            send({"prompt": "a red cube", "size": size, "seed": 1})
        worker_peak_mb = peak_resident_bytes(worker) / 1e6
    service_import_s = import_seconds("service.app")
    print(
        f"| start | ready after {ready_s:.1f} s, first image {first_image_s:.2f} s later; "
        f"importing the service {service_import_s:.2f} s |"
    )
    print(
        f"| resident memory | service {idle_mb['service']:.0f} MB, worker {idle_mb['worker']:.0f} "
        f"MB; the worker's peak up to 1024² {worker_peak_mb:.0f} MB |"
    )
    return {
        "ready_s": ready_s,
        "first_s": first_image_s,
        "service_import_s": service_import_s,
        "rest_mb": idle_mb,
        "worker_peak_mb": worker_peak_mb,
    }
