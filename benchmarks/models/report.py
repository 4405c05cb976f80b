"""The figures of a comparison: written after each part, printed and plotted."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.plots import Panel, save_panels


class Report:
    """The figures so far, and the time limit of a comparison."""

    def __init__(self, figures: dict[str, Any], path: Path, limit_s: float) -> None:
        """No part begins after `limit_s` seconds."""
        self.figures = figures
        self.path = path
        self._started = time.perf_counter()
        self._deadline = self._started + limit_s

    def save(self) -> None:
        """Write the figures as JSON."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.figures, indent=2) + "\n")

    @contextmanager
    def part(self, name: str) -> Iterator[bool]:
        """Run a part of the comparison; yields whether there is time for it.

        An error is printed and recorded under "failed", and the comparison continues.
        """
        now = time.perf_counter()
        has_time = now < self._deadline
        print(
            f"[{now - self._started:.0f} s] {name}" + ("" if has_time else ": no time left"),
            flush=True,
        )
        try:
            yield has_time
        except Exception as error:
            self.record_failure(name, error)
        self.save()

    def record_failure(self, name: str, error: Exception) -> None:
        """Print an error and keep it among the figures."""
        traceback.print_exc()
        self.figures["failed"][name] = f"{type(error).__name__}: {error}"[:500]

    def add_batch(self, batch: int, peers: dict[str, dict[str, float]]) -> None:
        """Add and print the figures of peers at one batch size, compared with diffusers'."""
        batches = self.figures["batches"]
        row = batches.setdefault(str(batch), {"peers": {}})
        row["peers"] |= peers
        self.save()
        print_peers(batch, peers, row["peers"].get("diffusers", {}))


def print_peers(
    batch: int, peers: dict[str, dict[str, float]], reference: dict[str, float]
) -> None:
    """Print a table row for each peer, with its times as a share of the reference's."""
    for name, peer in peers.items():
        ratio = peer["seconds"] / reference.get("seconds", float("nan"))
        cpu_ratio = peer["cpu_seconds"] / reference.get("cpu_seconds", float("nan"))
        columns = [
            f"batch {batch}",
            name,
            f"{peer['seconds']:.2f} s ({ratio:.2f})",
            f"CPU {peer['cpu_seconds']:.2f} s ({cpu_ratio:.2f})",
            f"{peer['images_per_s']:.3f} images/s",
            f"+{peer['memory_mb']:.0f} MB",
            f"{100 * peer['of_matmul_rate']:.0f} % of matmul",
        ]
        print(f"| {' | '.join(columns)} |", flush=True)


def plot_seconds_per_image(figures: dict[str, Any], path: Path) -> None:
    """Plot seconds per image by batch size, one curve per peer."""
    curves: dict[str, dict[float, float]] = {}
    for batch, row in sorted(figures["batches"].items(), key=lambda item: int(item[0])):
        for name, peer in row["peers"].items():
            curves.setdefault(name, {})[int(batch)] = 1 / peer["images_per_s"]
    save_panels(path, [Panel("batch", "seconds per image", curves)])
