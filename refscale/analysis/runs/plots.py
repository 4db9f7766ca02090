"""Figures of runs: scales over steps, final losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refscale.analysis.figures import COLORS, LIMIT, SMALL, open_figure, scheme_color
from refscale.analysis.runs.drift import Drift
from refscale.formats import get_format
from refscale.stats.measurement import HIGH, KINDS, LOW

_FP16 = get_format("float16")


def plot_drift(path: str | Path, drifts: Sequence[Drift]) -> None:
    """Plot the scale of every tensor over the steps of training: a row for each kind, a column for each run.

    Args:
        path: name of the figure, ending in .svg, .png or .pdf.
        drifts: at least one, from ``drift.read_drift``.

    Raises:
        ArgumentError: as in ``check_plot``.
        OSError: the file cannot be written.
    """
    with open_figure(path, 0.4 + 1.7 * len(KINDS)) as figure:
        grid = figure.subplots(len(KINDS), len(drifts), squeeze=False, sharex="col", sharey=True)
        for axes_row, kind in zip(grid, KINDS, strict=True):
            for ax, drift in zip(axes_row, drifts, strict=True):
                ax.axhspan(np.log2(LOW), np.log2(HIGH), color="#e8f0ec", linewidth=0)
                for series in drift.of_kind(kind):
                    logs = [np.log2(x) if x > 0 else np.nan for x in series.scales]
                    ax.plot(drift.steps, logs, color=scheme_color(drift.label), linewidth=0.6, alpha=0.5)
                ax.axhline(_FP16.emin, color=COLORS["float16"], linewidth=0.7, linestyle=LIMIT)
                ax.set_title(f"{drift.label}: {kind}s")
        for ax in grid[-1]:
            ax.set_xlabel("step")
        for ax in grid[:, 0]:
            ax.set_ylabel("log₂ of scale")
        where = {"fontsize": SMALL, "va": "top", "transform": grid[0, 0].get_yaxis_transform()}
        grid[0, 0].text(0.04, np.log2(LOW), "¼ to 4", **where)
        grid[0, 0].text(0.04, _FP16.emin - 0.6, "FP16, E5M2: smallest normal", color=COLORS["float16"], **where)


def plot_losses(
    path: str | Path, rows: Mapping[str, Sequence[float | None]], levels: Mapping[str, float] | None = None
) -> None:
    """Plot the final loss of every run: a row for each variant, a dot for each seed; × in a strip for divergence.

    Args:
        path: name of the figure, ending in .svg, .png or .pdf.
        rows: losses of the seeds by name of the variant; None for a diverged run.
        levels: losses for comparison, by name: dashed lines.

    Raises:
        ArgumentError: as in ``check_plot``.
        OSError: the file cannot be written.
    """
    known = {name: [x for x in losses if x is not None] for name, losses in rows.items()}
    lost = {name: len(losses) - len(known[name]) for name, losses in rows.items()}
    marks = levels or {}
    drawn = [*(x for losses in known.values() for x in losses), *marks.values()] or [0.0, 1.0]
    margin = 0.05 * (max(drawn) - min(drawn)) or 0.1
    end = max(drawn) + margin
    with open_figure(path, 0.9 + 0.24 * len(rows)) as figure:
        ax = figure.subplots()
        for y, name in enumerate(rows):
            color = scheme_color(name)
            ax.plot(known[name], [y] * len(known[name]), "o", color=color, markersize=3.5, alpha=0.8)
            if lost[name]:
                ax.plot([end + 1.5 * margin] * lost[name], [y] * lost[name], "x", color=color)
        above: Any = {"transform": ax.get_xaxis_transform(), "fontsize": SMALL, "ha": "center", "va": "bottom"}
        for name, x in marks.items():
            ax.axvline(x, color="#555555", linewidth=0.8, linestyle=LIMIT)
            ax.text(x, 1.01, f"{name}, {x:.2f}", **above)
        if any(lost.values()):
            ax.axvspan(end, end + 3 * margin, color="#eeeeee", linewidth=0, zorder=0)
            ax.text(end + 1.5 * margin, 1.01, "diverged", **above)
        ax.set_xlim(min(drawn) - margin, end + (3 * margin if any(lost.values()) else 0))
        ax.set_yticks(range(len(rows)), list(rows))
        ax.invert_yaxis()
        ax.set_xlabel("validation loss of masked words, nats")
