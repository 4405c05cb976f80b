"""The HTTP server: uvicorn with limits on connections, on heads, and on a shutdown.

uvicorn itself waits for the head of a request without a limit. At the limit of descriptors, the
accept loop would fail and log without a pause.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Descriptors for files, threads' connections and the rest of the process.
RESERVED_DESCRIPTORS = 64
MAX_DESCRIPTORS = 1 << 16
MAX_CONNECTIONS = 4096
# A connection has this long for the head of a request.
HEAD_TIMEOUT_S = 10.0
BACKLOG = 100
# uvicorn's own exit status.
EXIT_NOT_STARTED = 3
# `docker stop` and `make run` kill a service after 60 s.
SHUTDOWN_S = 50
# After this part of it, waits for jobs end with what is known.
END_WAITS_AFTER_S = 30.0


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files as far as allowed, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < highest:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
        return highest
    return highest if soft == resource.RLIM_INFINITY else soft


def connection_limit(num_descriptors: int) -> int:
    """Return how many clients may be connected: each may need a connection to Redis as well."""
    return max(8, min((num_descriptors - RESERVED_DESCRIPTORS) // 2, MAX_CONNECTIONS))


def bounded_protocol(max_connections: int) -> type[HttpToolsProtocol]:
    """Return uvicorn's protocol with limits on connections and on the time to a head."""

    class BoundedProtocol(HttpToolsProtocol):
        """Close connections that send no head, and idle ones to make room for new ones."""

        idle_since: float | None = None
        head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._expect_head()
            if len(self.connections) > max_connections:
                self._make_room()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            # Data ends uvicorn's own timer of idle connections, also if it is only a line end.
            if self.head_timer is None and not self._is_busy():
                self._expect_head()
            super().data_received(data)

        def on_headers_complete(self) -> None:
            self._stop_timer()
            super().on_headers_complete()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self._is_busy():
                self.idle_since = time.monotonic()

        def _is_busy(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _expect_head(self) -> None:
            self._stop_timer()
            self.idle_since = time.monotonic()
            self.head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._close_without_head)

        def _stop_timer(self) -> None:
            self.idle_since = None
            if self.head_timer is not None:
                self.head_timer.cancel()
                self.head_timer = None

        def _close_without_head(self) -> None:
            self.head_timer = None
            if not self._is_busy():
                self.transport.close()

        def _make_room(self) -> None:
            """Close the connection that is idle for longest; this one, the newest, comes last."""
            idle = [
                connection
                for connection in self.connections
                if isinstance(connection, BoundedProtocol) and connection.idle_since is not None
            ]
            oldest = min(idle, key=lambda connection: connection.idle_since or 0.0)
            oldest._stop_timer()
            self.connections.discard(oldest)
            oldest.transport.abort()

    return BoundedProtocol


class Server(uvicorn.Server):
    """End event streams when a shutdown begins, and waits for jobs soon after."""

    def __init__(
        self, config: uvicorn.Config, end_streams: Callable[[], None], end_waits: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self.end_streams = end_streams
        self.end_waits = end_waits

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.end_streams()
        timer = asyncio.get_running_loop().call_later(END_WAITS_AFTER_S, self.end_waits)
        await super().shutdown(sockets)
        timer.cancel()


def serve(
    app: Any,
    host: str,
    port: int,
    end_streams: Callable[[], None],
    end_waits: Callable[[], None],
) -> None:
    """Serve an ASGI app until a signal ends the process.

    end_streams, end_waits: end open event streams and waits for jobs, so that a shutdown is short.
    """
    limit = connection_limit(raise_descriptor_limit())
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        proxy_headers=True,
        http=bounded_protocol(limit),
        backlog=BACKLOG,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
    server = Server(config, end_streams, end_waits)
    server.run()
    if not server.started:
        sys.exit(EXIT_NOT_STARTED)
