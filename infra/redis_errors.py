"""Errors of Redis: which ones pass by themselves, how to describe them, and how to outwait them."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import redis
from redis import exceptions
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

log = logging.getLogger(__name__)
# Error codes of replies that say nothing about the command: the same one succeeds later.
REFUSALS = {
    "OOM": "Redis is full: its memory limit is reached",
    "NOREPLICAS": "Redis has too few replicas to accept writes",
    "READONLY": "Redis is a replica at present and accepts no writes",
    "LOADING": "Redis is loading its data",
    "BUSY": "Redis is busy with a script",
    "MISCONF": "Redis cannot write to its disk",
    "MASTERDOWN": "Redis has lost its master",
    "CLUSTERDOWN": "the Redis cluster is down",
    "TRYAGAIN": "Redis is moving keys",
    "UNBLOCKED": "Redis has become a replica",
}
# redis-py removes the code from the text of these.
_CODES: dict[type[Exception], str] = {
    exceptions.OutOfMemoryError: "OOM",
    exceptions.ReadOnlyError: "READONLY",
    exceptions.BusyLoadingError: "LOADING",
    exceptions.MasterDownError: "MASTERDOWN",
    exceptions.ClusterDownError: "CLUSTERDOWN",
    exceptions.TryAgainError: "TRYAGAIN",
}
# Errors inside a transaction and, in Redis 6, inside a script have the code after other text.
_CODE = re.compile(rf"(?:^|-|because of: )({'|'.join(REFUSALS)})\b")
# Failures with shorter pauses than this belong to one episode, which is logged once.
EPISODE_PAUSE_S = 30.0
_thread = threading.local()


def refusal_code(error: BaseException) -> str | None:
    """Return the code of an error reply that passes by itself, such as OOM; None for others."""
    for kind, code in _CODES.items():
        if isinstance(error, kind):
            return code
    if not isinstance(error, exceptions.ResponseError):
        return None
    match = _CODE.search(_reply(error))
    return match[1] if match else None


def describe(error: BaseException) -> str:
    """Describe an error without the command that caused it, which may hold prompts or images."""
    code = refusal_code(error)
    if code is not None:
        return f"{REFUSALS[code]} ({code})"
    return f"{type(error).__name__}: {_reply(error)}"


class Episode:
    """Log repeated failures as one line for each series of them. Threads may share it."""

    def __init__(self, message: str) -> None:
        """`message`: what fails; the description of the error is added."""
        self.message = message
        self._lock = threading.Lock()
        self._failed_at = -float("inf")

    def note(self, error: BaseException) -> None:
        """Log a failure unless another one came less than EPISODE_PAUSE_S before."""
        now_s = time.monotonic()
        with self._lock:
            is_new = now_s - self._failed_at > EPISODE_PAUSE_S
            self._failed_at = now_s
        if is_new:
            log.warning("%s: %s", self.message, describe(error))


class EndlessRetry(Retry):
    """Repeat every command until Redis accepts it, also if Redis refuses it for the moment.

    redis-py repeats a command only if the connection fails. A command that can never succeed is
    an error at once, without the command in its text.
    """

    def __init__(self, cap_s: float = 1.0, base_s: float = 0.05) -> None:
        """`cap_s`, `base_s`: longest and shortest pause between two attempts."""
        super().__init__(ExponentialBackoff(cap=cap_s, base=base_s), -1)
        self._episode = Episode("waiting for Redis")

    def __deepcopy__(self, memo: dict[int, Any]) -> EndlessRetry:
        # redis-py copies it for each connection, and all connections share one episode.
        return self

    def call_with_retry(
        self,
        do: Callable[[], Any],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> Any:
        """Call `do` until it succeeds; arguments as in `redis.retry.Retry`."""
        num_failures = 0
        while True:
            try:
                return do()
            except exceptions.ResponseError as error:
                if refusal_code(error) is None:
                    error.args = (_reply(error), *error.args[1:])
                    raise
                failure: Exception = error
            except self._supported_errors as error:
                failure = error
            if is_retryable is not None and not is_retryable(failure):
                raise failure
            num_failures += 1
            is_last = _should_give_up()
            if not is_last:
                self._episode.note(failure)
                # Before `fail`: it raises if keys are watched, and callers repeat that at once.
                time.sleep(self._backoff.compute(num_failures))
            # Disconnects, so that the next attempt finds the present master.
            if with_failure_count:
                fail(failure, num_failures)
            else:
                fail(failure)
            if is_last:
                raise failure


@contextmanager
def give_up_when(condition: Callable[[], bool]) -> Iterator[None]:
    """Let `EndlessRetry` raise a failure if the condition holds, in this thread and block."""
    before = getattr(_thread, "should_give_up", None)
    _thread.should_give_up = condition
    try:
        yield
    finally:
        _thread.should_give_up = before


def single_attempt() -> AbstractContextManager[None]:
    """Let `EndlessRetry` raise the first failure inside the block, in this thread."""
    return give_up_when(lambda: True)


def is_transient(error: BaseException) -> bool:
    """Return whether a command that failed with this error may succeed later."""
    if isinstance(error, redis.ConnectionError | redis.TimeoutError):
        return True
    return refusal_code(error) is not None


def _should_give_up() -> bool:
    condition: Callable[[], bool] | None = getattr(_thread, "should_give_up", None)
    return condition is not None and condition()


def _reply(error: BaseException) -> str:
    """Return Redis' own words: redis-py puts the command of a pipeline before them."""
    return str(error.args[0] if error.args else error).rpartition("caused error: ")[2]
