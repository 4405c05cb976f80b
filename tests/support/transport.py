"""An httpx transport on which requests fail in chosen ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx

Send = Callable[[], httpx.Response]
Fault = Callable[[httpx.Request, Send], httpx.Response | None]


class FaultyTransport(httpx.HTTPTransport):
    """Record all requests, and let each fault replace the first response that it applies to.

    Faults apply in turn. A fault returns None for requests that it leaves alone.
    """

    def __init__(self, *faults: Fault) -> None:
        super().__init__()
        self.faults = list(faults)
        self.requests = list[httpx.Request]()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.faults:
            response = self.faults[0](
                request, lambda: super(type(self), self).handle_request(request)
            )
            if response is not None:
                self.faults.pop(0)
                return response
        return super().handle_request(request)

    def posts(self) -> list[httpx.Request]:
        """Return the POST requests."""
        return [request for request in self.requests if request.method == "POST"]


class _BrokenStream(httpx.SyncByteStream):
    def __iter__(self) -> Iterator[bytes]:
        raise httpx.ReadError("the connection broke")
        yield b""


def lose_response(request: httpx.Request, send: Send) -> httpx.Response | None:
    """Let the service accept a POST, and lose its response."""
    if request.method != "POST":
        return None
    assert send().read()
    return httpx.Response(202, stream=_BrokenStream())


def reject(status: int, retry_after: str) -> Fault:
    """Return a fault that answers a POST with `status` and Retry-After."""

    def answer(request: httpx.Request, send: Send) -> httpx.Response | None:
        if request.method != "POST":
            return None
        return httpx.Response(status, headers={"retry-after": retry_after}, json={})

    return answer


def cut_event_stream(events: int) -> Fault:
    """Return a fault that breaks an event stream inside an event, after `events` whole ones."""

    def cut(request: httpx.Request, send: Send) -> httpx.Response | None:
        if not request.url.path.endswith("/events"):
            return None
        response = send()
        return httpx.Response(200, headers=response.headers, stream=_CutStream(response, events))

    return cut


class _CutStream(httpx.SyncByteStream):
    def __init__(self, response: httpx.Response, events: int) -> None:
        self.response = response
        self.events = events

    def __iter__(self) -> Iterator[bytes]:
        remaining = self.events
        for chunk in self.response.stream:  # type: ignore[union-attr]
            remaining -= b"\nid: " in chunk or chunk.startswith(b"id: ")
            if remaining < 0:
                yield chunk[: len(chunk) // 2]
                raise httpx.ReadError("the connection broke")
            yield chunk

    def close(self) -> None:
        self.response.close()
