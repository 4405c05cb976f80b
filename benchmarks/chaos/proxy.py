"""A TCP proxy in front of Redis that loses answers, stalls and cuts connections."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

from devtools.ports import free_port

CHUNK_BYTES = 65_536


class FaultyProxy:
    """Forward connections on a free port of 127.0.0.1 to `target_port`.

    It runs in its own thread. Faults act on all connections, present and future.
    """

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self.num_lost_answers = 0
        self._target_port = target_port
        self._answers_to_lose = 0
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._connections: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._serve, name="faulty-proxy", daemon=True)
        self._started = threading.Event()

    def start(self) -> None:
        """Listen; return once connections are accepted."""
        self._thread.start()
        self._started.wait()

    def lose_answers(self, count: int) -> None:
        """Drop the answers to the next `count` transactions, after Redis has run them.

        A transaction is an EXEC or a script.
        """
        self._answers_to_lose = count

    def cut(self) -> None:
        """Close all connections."""
        self._loop.call_soon_threadsafe(self._close_all)

    def stall(self, seconds: float) -> None:
        """Forward nothing for a while; connections stay open."""

        def pause() -> None:
            self._flowing.clear()
            self._loop.call_later(seconds, self._flowing.set)

        self._loop.call_soon_threadsafe(pause)

    def stop(self) -> None:
        """Close everything and end the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._flowing.set()
        start = asyncio.start_server(self._accept, "127.0.0.1", self.port)
        server = self._loop.run_until_complete(start)
        self._started.set()
        self._loop.run_forever()
        server.close()
        self._close_all()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    def _close_all(self) -> None:
        for writer in list(self._connections):
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        pair = (writer, upstream[1])
        self._connections.update(pair)
        executing = asyncio.Event()
        flows = [
            asyncio.ensure_future(self._forward_commands(reader, upstream[1], executing)),
            asyncio.ensure_future(self._forward_answers(upstream[0], writer, executing)),
        ]
        with suppress(OSError):
            await asyncio.wait(flows, return_when=asyncio.FIRST_COMPLETED)
        for flow in flows:
            flow.cancel()
        await asyncio.gather(*flows, return_exceptions=True)
        for end in pair:
            end.transport.abort()
            self._connections.discard(end)

    async def _forward_commands(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, executing: asyncio.Event
    ) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await self._flowing.wait()
            if b"\r\nEXEC\r\n" in data or b"\r\nEVAL\r\n" in data:
                executing.set()
            writer.write(data)
            await writer.drain()

    async def _forward_answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, executing: asyncio.Event
    ) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await self._flowing.wait()
            if executing.is_set():
                executing.clear()
                if self._answers_to_lose > 0:
                    self._answers_to_lose -= 1
                    self.num_lost_answers += 1
                    return  # the connection closes, the answer is gone
            writer.write(data)
            await writer.drain()
