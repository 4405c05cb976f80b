"""Observer of the engine: what happens in it, as metrics and supervisors see it."""

from __future__ import annotations

import os

from worker import metrics
from worker.engine.errors import is_out_of_memory


class EngineObserver:
    """Receive the engine's events, in the engine's thread. Override what is of interest."""

    def pass_finished(self, stage: str, rows: int, seconds: float) -> None:
        """Handle a forward pass of `rows` rows, successful or not."""

    def pass_failed(self, stage: str, error: Exception) -> None:
        """Handle a forward pass that raised."""

    def engine_crashed(self) -> None:
        """Handle an error outside a pass: end the process, so that its jobs go to another worker.

        A worker without an engine would go on taking jobs and finish none.
        """
        os._exit(1)


class MetricsObserver(EngineObserver):
    """Count passes and their errors as Prometheus metrics."""

    def pass_finished(self, stage: str, rows: int, seconds: float) -> None:
        """Count a forward pass."""
        metrics.count_pass(stage, rows, seconds)

    def pass_failed(self, stage: str, error: Exception) -> None:
        """Count a failed forward pass."""
        metrics.count_pass_error(stage, is_out_of_memory=is_out_of_memory(error))
