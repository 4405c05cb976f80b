"""Two services and two workers on one Redis, with one proxy for each kind."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import redis

from benchmarks.chaos.proxy import FaultyProxy
from devtools.ports import free_port
from devtools.processes import ManagedProcess
from devtools.redis_server import RedisServer
from devtools.wait import wait_until

ROOT = Path(__file__).parents[2]
# Faults are far more frequent than in life, and a job must not run out of tries.
RETRIES = 20


class ChaosDeployment:
    """Processes that faults may hit; those that end by themselves are started again."""

    def __init__(self, folder: Path, checkout: Path = ROOT, webhook_port: int = 0) -> None:
        """`checkout`: the code that services and workers run; another one for comparison."""
        self.folder = folder
        self.checkout = checkout
        self.redis = RedisServer(folder)
        self.service_proxy = FaultyProxy(self.redis.port)
        self.worker_proxy = FaultyProxy(self.redis.port)
        self.webhook_port = webhook_port
        self.ports = [free_port(), free_port()]
        self.urls = [f"http://127.0.0.1:{port}" for port in self.ports]
        self.services = [
            self._process(f"service-{index}", ["service"], self.service_proxy, port)
            for index, port in enumerate(self.ports)
        ]
        stub = "benchmarks.baselines.stub_worker"
        if (checkout / "benchmarks/stub_worker.py").exists():
            stub = "benchmarks.stub_worker"
        self.workers = [
            self._process(f"worker-{index}", [stub], self.worker_proxy) for index in range(2)
        ]
        self.num_unexpected_exits = 0
        self.expected_exits: set[str] = set()
        self.store: Any = redis.Redis.from_url(self.redis.url)

    def start(self) -> None:
        """Start everything; return once both services report that they are ready."""
        self.redis.start()
        for proxy in (self.service_proxy, self.worker_proxy):
            proxy.start()
        for process in (*self.services, *self.workers):
            process.start()
        for url in self.urls:
            ready = partial(_answers, f"{url}/readyz")
            wait_until(ready, f"{url} is ready", timeout_s=180)

    def stop(self) -> None:
        """End everything at once."""
        for process in (*self.services, *self.workers):
            process.kill()
        self.redis.stop()
        self.service_proxy.stop()
        self.worker_proxy.stop()
        self.store.close()

    def supervise(self) -> None:
        """Start processes that have ended again, and count those that no fault has ended."""
        for process in (*self.services, *self.workers):
            if process.exit_code is not None:
                if process.name not in self.expected_exits:
                    self.num_unexpected_exits += 1
                self.expected_exits.discard(process.name)
                process.start()

    def logs(self) -> str:
        """Return the logs of all services and workers."""
        return "\n".join(process.log_text() for process in (*self.services, *self.workers))

    def _process(
        self, name: str, module: list[str], proxy: FaultyProxy, port: int | None = None
    ) -> ManagedProcess:
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.checkout),
            "OMP_NUM_THREADS": "1",
            "UNCLIP_THREADS": "1",
            "UNCLIP_REDIS_URL": f"redis://127.0.0.1:{proxy.port}/0",
            "UNCLIP_LOG_FORMAT": "json",
            "UNCLIP_JOB_RETRIES": str(RETRIES),
            "UNCLIP_MAX_QUEUED_JOBS": "1000000",
            "UNCLIP_WEBHOOK_HOSTS": "127.0.0.1",
            "UNCLIP_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "UNCLIP_WEBHOOK_ALLOW_HTTP": "1",
            "UNCLIP_WEBHOOK_ALLOW_PRIVATE_NETWORKS": "1",
        }
        if port is not None:
            environment["UNCLIP_PORT"] = str(port)
        log = self.folder / f"{name}.log"
        # `-P` is absent on purpose: the working directory comes first on the import path.
        code = f"import os, sys, runpy; os.chdir({str(self.checkout)!r}); sys.path[0] = ''; "
        code += f"runpy.run_module({module[0]!r}, run_name='__main__', alter_sys=True)"
        return ManagedProcess(name, [sys.executable, "-c", code], environment, log)


WEBHOOK_SECRET = "whsec_Y2hhb3MtY2FtcGFpZ24tc2VjcmV0LTAxMjM0NTY3"


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False
