"""Figures of sweeps: one variant against another, point by point (paper, Figure 4); loss by learning rate and width."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from refscale.analysis.figures import WIDTH, open_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#1f78b4", "#e07a2f", "#8a5fbf", "#0f9aa8", "#b07d2b", "#6b6b6b")
"""Colors of groups and values, distinct from those of schemes."""


def plot_against(
    path: str | Path,
    reference: str,
    groups: Sequence[str],
    points: Mapping[str, Sequence[tuple[str, float, float]]],
    unit: str,
    within: float = 0.0,
) -> None:
    """Plot a panel for each variant: its loss over that of the reference, a mark for each point, a band of no
    difference.

    Args:
        path: name of the figure, ending in .svg, .png or .pdf.
        reference: name of the variant on the horizontal axes.
        groups: names of groups, each with its own color.
        points: (group, loss of the reference, loss of the variant) by variant; infinite losses are at the top.
        unit: unit of the losses.
        within: half the width of the band, in that unit: the expected difference of losses between seeds.

    Raises:
        ArgumentError: as in ``check_plot``.

    Source: paper, Figure 4, which has no band.
    """
    finite = [x for rows in points.values() for _, *pair in rows for x in pair if math.isfinite(x)]
    low, high = min(finite, default=0.0) - 0.05, max(finite, default=1.0) + 0.1
    across = min(2, max(1, len(points)))
    down = -(-max(1, len(points)) // across)
    above = 0.0 if len(points) < across * down else 0.8  # for the legend, in inches
    with open_figure(path, WIDTH * down / across + above) as figure:
        panels = list(figure.subplots(down, across, squeeze=False).flat)
        for ax, (name, rows) in zip(panels, points.items(), strict=False):
            ends = np.array([low, high])
            ax.fill_between(ends, ends - within, ends + within, color="#eeeeee", linewidth=0, zorder=0)
            ax.plot(ends, ends, color="#999999", linewidth=0.6, zorder=0.5)
            for k, group in enumerate(groups):
                mine = np.array([(x, min(y, high - 0.02)) for g, x, y in rows if g == group and math.isfinite(x)])
                if mine.size:
                    color = COLORS[k % len(COLORS)]
                    ax.scatter(mine[:, 0], mine[:, 1], s=10, color=color, alpha=0.8, label=group, linewidths=0)
            ax.set(xlim=(low, high), ylim=(low, high))
            ax.set_title(name)
            ax.set_aspect("equal")
        figure.supxlabel(f"{reference}, {unit}", fontsize="medium")
        figure.supylabel(unit, fontsize="medium")
        if len(points) < len(panels):
            _key(panels, len(points))
        else:  # the diagonal would cross a legend inside a panel
            figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)


def plot_rates(
    path: str | Path, curves: Mapping[str, Mapping[str, Mapping[float, float]]], axis: str, unit: str
) -> None:
    """Plot a panel for each variant: loss by log2 of the learning rate, a line for each value of one axis.

    Args:
        path: name of the figure, ending in .svg, .png or .pdf.
        curves: loss by exponent, by value of the axis, by variant.
        axis: setting in which the lines differ.
        unit: unit of the losses.

    Raises:
        ArgumentError: as in ``check_plot``.

    Source: u-μP (arXiv 2407.17465), Figure 1.
    """
    finite = [x for lines in curves.values() for line in lines.values() for x in line.values() if math.isfinite(x)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    top = min(high, low + 1.5)
    across = min(2, max(1, len(curves)))
    down = -(-max(1, len(curves)) // across)
    with open_figure(path, 2.4 * down) as figure:
        panels = list(figure.subplots(down, across, sharey=True, squeeze=False).flat)
        for ax, (name, lines) in zip(panels, curves.items(), strict=False):
            for k, (value, line) in enumerate(lines.items()):
                shown = [(e, x) for e, x in sorted(line.items()) if x <= top]
                color = COLORS[k % len(COLORS)]
                if shown:
                    x, y = zip(*shown, strict=True)
                    ax.plot(x, y, color=color, marker="o", markersize=2.5, linewidth=1, label=value)
                    ax.plot(*min(shown, key=lambda point: point[1]), color=color, marker="*", markersize=8)
            ax.set(xlabel="log₂ of the learning rate", ylim=(low - 0.08, top + 0.03))
            ax.set_title(name)
        for ax in panels[::across]:
            ax.set_ylabel(f"loss ({unit})")
        _key(panels, len(curves), title=axis)


def _key(panels: Sequence[Axes], used: int, title: str = "") -> None:
    """Draw the legend of the first panel in the first unused panel, or else in the last one."""
    for ax in panels[used:]:
        ax.axis("off")
    handles, labels = panels[0].get_legend_handles_labels()
    if used < len(panels):
        panels[used].legend(handles, labels, title=title, loc="center")
    else:
        panels[-1].legend(handles, labels, title=title)
