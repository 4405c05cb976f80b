"""Panels of curves as a PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl


@dataclass(frozen=True)
class Panel:
    """One plot: axis labels, and curves by name, each as y of x."""

    x_label: str
    y_label: str
    curves: Mapping[str, Mapping[float, float]]


def save_panels(path: Path, panels: Sequence[Panel], *, is_log: bool = False) -> None:
    """Draw the panels from left to right and save them; `is_log` makes all axes logarithmic."""
    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        1, len(panels), figsize=(3.4 * len(panels), 3.2), layout="constrained", squeeze=False
    )
    for ax, panel in zip(axes[0], panels, strict=True):
        for name, curve in panel.curves.items():
            ax.plot([float(x) for x in curve], list(curve.values()), "o-", markersize=3, label=name)
        ax.set(xlabel=panel.x_label, ylabel=panel.y_label)
        if is_log:
            ax.set(xscale="log", yscale="log")
        else:
            ax.set_ylim(0, None)
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)
