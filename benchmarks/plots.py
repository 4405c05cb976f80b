"""Curves beside each other, as a PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

Curves = Mapping[str, Mapping[float, float]]  # by their names: y of x


def panels(path: Path, of: Sequence[tuple[str, str, Curves]], *, log: bool = False) -> None:
    """A panel for each (what x is, what y is, curves)."""
    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        1, len(of), figsize=(3.4 * len(of), 3.2), layout="constrained", squeeze=False
    )
    for ax, (x, y, curves) in zip(axes[0], of, strict=True):
        for name, curve in curves.items():
            ax.plot([float(k) for k in curve], list(curve.values()), "o-", markersize=3, label=name)
        ax.set(xlabel=x, ylabel=y)
        if log:
            ax.set(xscale="log", yscale="log")
        else:
            ax.set_ylim(0, None)
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)
