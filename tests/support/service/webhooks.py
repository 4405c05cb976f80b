"""A receiver of webhooks on 127.0.0.1, and settings that allow it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import redis.asyncio

from contracts import redis_keys
from devtools.wait import wait_until_async

SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SECOND_SECRET = "whsec_" + "A" * 44 + "AAAA"
LOCAL: dict[str, Any] = {
    "webhook_hosts": "127.0.0.1,*.test",
    "webhook_secret": SECRET,
    "webhook_allow_http": True,
    "webhook_allow_private_networks": True,
}
WAIT_S = 120.0


class Receiver(ThreadingHTTPServer):
    """Record deliveries. Answer with the given statuses one after the other, then with 200."""

    daemon_threads = True

    def __init__(self, *answers: int | Callable[[], int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = list(answers)
        self.deliveries = list[tuple[str, dict[str, str], bytes]]()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/hook?key=1"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    async def wait_for(self, count: int) -> None:
        """Wait until this many deliveries have arrived."""
        await wait_until_async(lambda: len(self.deliveries) >= count, timeout_s=WAIT_S)


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.deliveries.append((self.path, headers, body))
        answer = self.server.answers.pop(0) if self.server.answers else 200
        self.send_response(answer if isinstance(answer, int) else answer())
        self.send_header("location", "/elsewhere")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


async def wait_until_delivered(store: redis.asyncio.Redis) -> None:
    """Wait until no delivery and no count of attempts is left in Redis."""
    deadline = time.monotonic() + WAIT_S
    while await store.exists(redis_keys.WEBHOOKS, redis_keys.WEBHOOK_TRIES):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
