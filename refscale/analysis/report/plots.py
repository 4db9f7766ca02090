"""Heat-maps of exponents (authors' code, bert/init_hist.py)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from refscale.analysis.figures import LABEL, LEADER, LIMIT, STRIP, UNIT, mark_ranges, open_figure
from refscale.errors import ArgumentError
from refscale.formats import get_format
from refscale.stats.measurement import KINDS, Kind, TensorStats
from refscale.stats.report import Report, by_layer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

FULL = 0.25
"""Share of a tensor's elements in one binade with the darkest color; about the largest share for N(0, σ²)."""


def plot(path: str | Path, reports: Sequence[Report], kinds: Sequence[Kind] = KINDS) -> None:
    """Plot heat-maps of exponents: a row for each kind of tensor, a column for each report.

    The horizontal axis is the exponent ⌊log2 |x|⌋. Each row of a map is a tensor, in the order of the forward pass,
    with lines between layers; darker means more of its elements. Above each panel are the ranges of the formats, see
    ``mark_ranges``.

    Args:
        path: name of the figure, ending in .svg, .png or .pdf.
        reports: one or two, of the same model.
        kinds: the kinds of tensors to draw, from top to bottom; default: all four.

    Raises:
        ArgumentError: ``kinds`` is empty or has an unknown kind; see also ``check_plot``.
        OSError: the file cannot be written.
    """
    if not kinds or set(kinds) - set(KINDS):
        raise ArgumentError(f"plot(kinds={kinds!r}): expected at least one of {', '.join(map(repr, KINDS))}")
    exponents = _span(reports, kinds)
    rows = max(len(reports[0].of_kind(kind)) for kind in kinds)
    layers = max(len(list(by_layer(_drawn(r, kind)))) for r in reports for kind in kinds)
    named = 1.05 * LABEL * layers + STRIP * (len(reports[0].formats) + 0.3)  # room for all names, and the formats
    panel = min(4.0, max(1.4, 0.035 * rows, named))  # inches
    with open_figure(path, 1.5 + len(kinds) * (panel + 0.4)) as figure:
        grid = figure.subplots(len(kinds), len(reports), squeeze=False, sharex=True)
        images = []
        for axes_row, kind in zip(grid, kinds, strict=True):
            last: list[str] = []
            for ax, report in zip(axes_row, reports, strict=True):
                tensors = _drawn(report, kind)
                strips = STRIP / panel * (len(report.formats) + 0.3)
                images.append(_heat_map(ax, tensors, exponents))
                if last != (names := [t.layer for t in tensors]):  # once in a row of panels with the same names
                    _name_layers(ax, tensors, LABEL / panel * (1 + strips))
                    last = names
                ax.set_ylim(max(1, len(tensors)), -strips * max(1, len(tensors)))
                ax.set_xlim(exponents[0] - 0.5, exponents[-1] + 0.5)
                mark_ranges(ax, report.formats, STRIP / panel / (1 + strips))
                ax.set_title(f"{report.scheme}: {kind}s")
        for ax in grid[-1]:
            ax.set_xlabel("exponent ⌊log₂ |x|⌋")
        bar = figure.colorbar(images[0], ax=grid, location="bottom", aspect=50, pad=0.01, extend="max")
        bar.set_label("share of a tensor's non-zero elements")
        bar.ax.xaxis.set_major_formatter(lambda x, _: f"{100 * x:.0f} %")
        _explain_ranges(figure)


def _drawn(report: Report, kind: Kind) -> list[TensorStats]:
    """Return the tensors of a kind with a row; tensors that are zero by construction have rounding errors only."""
    return [t for t in report.of_kind(kind) if t.exponents and not t.zero_because]


def _span(reports: Sequence[Report], kinds: Sequence[Kind]) -> range:
    """Return the shown exponents: those of nearly all elements, and the ranges of the formats with their names."""
    drawn = [t for r in reports for kind in kinds for t in _drawn(r, kind)]
    found = [e for t in drawn for e, n in t.exponents.items() if t.share(n) > 0.01]
    formats = [get_format(name) for name in reports[0].formats]
    low = min([*found, *(f.emin - f.mantissa_bits for f in formats)])
    return range(max(low - 10, -60), min(max([*found, *(f.emax for f in formats)]) + 3, 60))


def _heat_map(ax: Axes, tensors: Sequence[TensorStats], exponents: range) -> AxesImage:
    """Draw the map, with a line between layers."""
    from matplotlib.colors import PowerNorm

    shares = [[t.share(t.exponents.get(e, 0)) for e in exponents] for t in tensors]
    rows = max(1, len(tensors))
    image = ax.imshow(
        shares or np.zeros((1, len(exponents))),
        cmap="Greys",
        norm=PowerNorm(0.5, vmin=0, vmax=FULL),
        aspect="auto",
        interpolation="nearest",
        extent=(exponents[0] - 0.5, exponents[-1] + 0.5, rows, 0),
    )
    for start in _starts(tensors)[1:]:
        ax.axhline(start, color="#bbbbbb", linewidth=0.4)
    ax.set_yticks([])
    ax.tick_params(axis="x", labelbottom=True, width=0.6)
    return image


def _starts(tensors: Sequence[TensorStats]) -> list[int]:
    """Return the first row of each layer."""
    return [0, *itertools.accumulate(len(found) for _, found in by_layer(tensors))][:-1]


def _name_layers(ax: Axes, tensors: Sequence[TensorStats], apart: float) -> None:
    """Draw names at the left, at least a share ``apart`` of the map apart, each with a line to its layer."""
    layers = zip(_starts(tensors), by_layer(tensors), strict=True)
    names = [(start + len(found) / 2, name) for start, (name, found) in layers]
    if len(names) * apart > 1:  # a deep model: every few layers
        names = names[:: math.ceil(len(names) * apart)]
    heights = _spread([middle for middle, _ in names], apart * len(tensors), len(tensors))
    ax.set_yticks(heights, [name for _, name in names])
    ax.tick_params(axis="y", length=0, pad=LEADER + 2)
    where = ("axes points", "data")
    for height, (middle, _) in zip(heights, names, strict=True):
        line = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0}
        ax.annotate(
            "", (0, middle), (-LEADER, height), xycoords=where, textcoords=where, arrowprops=line, annotation_clip=False
        )


def _spread(places: Sequence[float], apart: float, end: float) -> list[float]:
    """Move sorted places as little as possible to be ``apart``, the last one half of that before the end."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + apart) if moved else place)
    limit = end - apart / 2
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], limit)
        limit = moved[i] - apart
    return moved


def _explain_ranges(figure: Figure) -> None:
    """Draw a legend of the lines of ``mark_ranges`` below all panels."""
    from matplotlib.lines import Line2D

    lines = {
        "normal numbers of a format": Line2D([], [], color="#555555", linewidth=3, solid_capstyle="butt"),
        "subnormal numbers of a format": Line2D([], [], color="#555555", linewidth=1),
        "limits of a format": Line2D([], [], color="#555555", linewidth=0.7, linestyle=LIMIT),
        "exponent 0": Line2D([], [], color="#222222", linewidth=0.6, linestyle=UNIT),
    }
    figure.legend(list(lines.values()), list(lines), loc="outside lower center", ncols=2)
