"""Clients that submit stub jobs through both services, and a receiver of their webhooks."""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

SECRET_PROMPT = "a secret cube that no log may hold"
RETRY_STATUSES = {429, 502, 503, 507}


@dataclass
class History:
    """What the clients observed."""

    accepted: dict[str, str] = field(default_factory=dict)  # job id -> idempotency key
    cancelled: set[str] = field(default_factory=set)
    conflicts: list[str] = field(default_factory=list)
    unexpected: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Receiver:
    """An HTTP server on 127.0.0.1 that counts webhooks and sometimes hangs or fails."""

    def __init__(self, seed: int) -> None:
        self.deliveries: Counter[tuple[str, str]] = Counter()  # (job, status)
        self.ids: dict[str, set[tuple[str, str]]] = {}
        rng = random.Random(seed)
        lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    fate = rng.random()
                    event = (str(job.get("id") or job["data"]["id"]), str(job.get("status")))
                    receiver.ids.setdefault(self.headers["webhook-id"], set()).add(event)
                    if fate >= 0.1:
                        receiver.deliveries[event] += 1
                if fate < 0.05:
                    time.sleep(3)
                self.send_response(500 if fate < 0.1 else 204)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                """Print nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


class Client(threading.Thread):
    """Submit jobs one after the other until `stop`; repeat with the same key on failures."""

    def __init__(
        self, urls: list[str], history: History, seed: int, rate: float, webhook_port: int
    ) -> None:
        """`rate`: jobs a second."""
        super().__init__(daemon=True)
        self._urls = urls
        self._history = history
        self._rng = random.Random(seed)
        self._interval_s = 1 / rate
        self._webhook = f"http://127.0.0.1:{webhook_port}/hook"
        self.stopping = threading.Event()

    def run(self) -> None:
        with httpx.Client(timeout=20) as http:
            due = time.monotonic()
            while not self.stopping.is_set():
                self._submit(http)
                due = max(due + self._interval_s, time.monotonic() - 1)
                time.sleep(max(0.0, due - time.monotonic()))

    def _submit(self, http: httpx.Client) -> None:
        body: dict[str, Any] = {"prompt": SECRET_PROMPT, "size": 64}
        body["seed"] = self._rng.getrandbits(32)
        if self._rng.random() < 0.2:
            body["webhook"] = self._webhook
        # Some clients send no key: an acceptance whose answer is lost must still happen once.
        key = str(uuid.uuid4()) if self._rng.random() < 0.7 else ""
        headers = {"Idempotency-Key": key} if key else {}
        for _ in range(200):
            url = self._rng.choice(self._urls)
            try:
                response = http.post(f"{url}/generate", json=body, headers=headers)
            except httpx.TransportError:
                if not key:
                    return  # whether it was accepted is not known
                time.sleep(0.2)
                continue
            if response.status_code == 202:
                self._accept(http, url, response.json()["id"], key)
                return
            if response.status_code not in RETRY_STATUSES:
                with self._history.lock:
                    self._history.unexpected[f"{response.status_code} {response.text[:200]}"] += 1
                return
            if not key:
                return
            time.sleep(0.2)

    def _accept(self, http: httpx.Client, url: str, job_id: str, key: str) -> None:
        history = self._history
        with history.lock:
            history.accepted[job_id] = key
        if self._rng.random() < 0.05:
            try:
                response = http.delete(f"{url}/jobs/{job_id}")
            except httpx.TransportError:
                response = None
            with history.lock:
                if response is None or response.status_code != 200:
                    history.cancelled.add(job_id)  # it may have been cancelled
                elif response.json()["status"] == "cancelled":
                    history.cancelled.add(job_id)
