"""Child processes that are stopped with everything they started."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path


class ManagedProcess:
    """A command that may be started, stopped and started again.

    The process leads a session. Ctrl-C in a terminal therefore reaches only the parent, and
    `kill` ends the children of the process too.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        """`log` receives the output; without it the output goes to the terminal."""
        self.name = name
        self.command = list(command)
        self.environment = None if environment is None else dict(environment)
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Return the id of the process started last."""
        return self._started().pid

    @property
    def exit_code(self) -> int | None:
        """Return the exit code, or None while the process runs or before it starts."""
        return None if self._process is None else self._process.poll()

    @property
    def is_running(self) -> bool:
        """Return whether the process has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the command; the log of an earlier run is extended."""
        output = None if self.log is None else self.log.open("ab")
        try:
            self._process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdout=output,
                stderr=None if output is None else subprocess.STDOUT,
                start_new_session=True,
            )
        finally:
            if output is not None:
                output.close()

    def send_signal(self, number: int) -> None:
        """Send a signal to the process."""
        self._started().send_signal(number)

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the end of the process and return its exit code.

        Raises:
            subprocess.TimeoutExpired: the process still runs after `timeout_s` seconds.
        """
        return self._started().wait(timeout_s)

    def stop(self, grace_s: float) -> bool:
        """Send SIGTERM, and SIGKILL after `grace_s` seconds; return whether SIGTERM sufficed."""
        if not self.is_running:
            return True
        process = self._started()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        return True

    def kill(self) -> None:
        """Send SIGKILL to the process and its children, and wait for its end."""
        # Another thread may start the process again as soon as it has ended.
        process = self._process
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def log_text(self) -> str:
        """Return everything written to the log."""
        return "" if self.log is None else self.log.read_text(errors="replace")

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"the {self.name} has not been started")
        return self._process
