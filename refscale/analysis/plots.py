"""Figures: heat-maps of exponents (authors' code, bert/init_hist.py), SNR over scale (paper, Figure 2), scales, losses.

Matplotlib is needed here only, and imported when a figure is asked for.  The same input gives the same file.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from refscale.analysis.drift import Drift
from refscale.analysis.formats_table import format_label
from refscale.analysis.snr import EXPONENTS
from refscale.errors import ArgumentError
from refscale.files import write_atomically
from refscale.formats import FORMATS, get_format
from refscale.stats.measurement import KINDS, Kind, TensorStats
from refscale.stats.report import HIGH, LOW, Report, by_layer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

KINDS_OF_FILE = (".svg", ".png", ".pdf")

FULL = 0.25
"""Share of a tensor's elements in one binade that has the darkest color; N(0, σ²) has about that in its fullest."""

COLORS = {
    "float16": "#14365c",
    "bfloat16": "#6b6b6b",
    "float8_e4m3fn": "#1f78b4",
    "float8_e5m2": "#8a5fbf",
    "float8_e4m3fnuz": "#1f78b4",
    "float8_e5m2fnuz": "#8a5fbf",
    "mxfp8_e4m3": "#1f78b4",
    "mxfp6_e2m3": "#0f9aa8",
    "mxfp4": "#b07d2b",
    "nvfp4": "#e07a2f",
}
"""Of a format in every figure; curves of the fnuz ones are dashed, of block-scaled ones dash-dotted."""
OTHER_COLOR = "#b07d2b"

SCHEME_COLORS = {"regular": "#d1495b", "unit": "#2e7d6b", "u-mup": "#946b00"}
"""Of a scheme in every figure; no format has one of these."""

WIDTH = 6.0
"""Inches, of every figure: at most two panels side by side, so that a phone shows words that can be read."""

SMALL = 9
"""Points: of the smallest words; 7.5 pixels where the figure is 360 pixels wide."""

STRIP, LABEL = 0.17, 0.2
"""Inches: height of one format's bar above a heat-map, least distance between two labels."""

LEADER = 8
"""Points: length of a line from a label to what it names."""

LIMIT, UNIT = (0, (4, 3)), (0, (1, 2))
"""Dashes of a line at a format's limit, and of one at unit scale."""

_FP16 = get_format("float16")

STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": SMALL,
    "legend.title_fontsize": SMALL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "svg.hashsalt": "refscale",
    "svg.fonttype": "path",
}


def check_plot(path: str | Path) -> None:
    """Say early what ``plot`` would say late.

    Args:
        path: of the figure to be.

    Raises:
        ArgumentError: matplotlib is not installed, or the name does not end in .svg, .png or .pdf.
    """
    if Path(path).suffix.lower() not in KINDS_OF_FILE:
        raise ArgumentError(f"plot: cannot write {str(path)!r}, expected a name ending in {', '.join(KINDS_OF_FILE)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ArgumentError("plot: matplotlib is missing: pip install 'refscale[plots]'") from error


@contextmanager
def open_figure(path: str | Path, height: float) -> Iterator[Figure]:
    """A figure ``WIDTH`` by ``height`` inches, written to ``path`` at the end."""
    check_plot(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    suffix = Path(path).suffix.lower()
    metadata: dict[str, None] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(suffix, {})

    def write(file: IO[bytes]) -> None:
        figure.savefig(file, format=suffix[1:], dpi=300, metadata=metadata)

    with mpl.rc_context({**mpl.rcParamsDefault, **STYLE, "backend": mpl.rcParams["backend"]}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure
        write_atomically(path, write)


def plot(path: str | Path, reports: Sequence[Report]) -> None:
    """Heat-maps of exponents: a row for each kind of tensor, a column for each report.

    Across, the exponent ⌊log2 |x|⌋; down, tensors in the order of the forward pass, a line between layers; dark, many
    of a tensor's elements.  Above each panel are the ranges of the formats: see ``mark_ranges``.

    Args:
        path: .svg, .png or .pdf.
        reports: one or two, of the same model.

    Raises:
        ArgumentError: see ``check_plot``.
        OSError: the file cannot be written.
    """
    exponents = _span(reports)
    rows = max(len(reports[0].of_kind(kind)) for kind in KINDS)
    layers = max(len(list(by_layer(_drawn(r, kind)))) for r in reports for kind in KINDS)
    named = 1.05 * LABEL * layers + STRIP * (len(reports[0].formats) + 0.3)  # room for all names, and the formats
    panel = min(4.0, max(1.4, 0.035 * rows, named))  # inches
    with open_figure(path, 1.5 + len(KINDS) * (panel + 0.4)) as figure:
        grid = figure.subplots(len(KINDS), len(reports), squeeze=False, sharex=True)
        images = []
        for axes_row, kind in zip(grid, KINDS, strict=True):
            last: list[str] = []
            for ax, report in zip(axes_row, reports, strict=True):
                tensors = _drawn(report, kind)
                strips = STRIP / panel * (len(report.formats) + 0.3)
                images.append(_heat_map(ax, tensors, exponents))
                if last != (names := [t.layer for t in tensors]):  # once for a row, where its panels have the same
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
    """The tensors of a kind that have a row; of those that are zero by construction, only rounding errors are left."""
    return [t for t in report.of_kind(kind) if t.exponents and not t.zero_because]


def _span(reports: Sequence[Report]) -> range:
    """All exponents that matter: those of nearly all elements, and the ranges of the formats with room for a name."""
    drawn = [t for r in reports for kind in KINDS for t in _drawn(r, kind)]
    found = [e for t in drawn for e, n in t.exponents.items() if t.share(n) > 0.01]
    formats = [get_format(name) for name in reports[0].formats]
    low = min([*found, *(f.emin - f.mantissa_bits for f in formats)])
    return range(max(low - 10, -60), min(max([*found, *(f.emax for f in formats)]) + 3, 60))


def _heat_map(ax: Axes, tensors: Sequence[TensorStats], exponents: range) -> AxesImage:
    """The map, with a line between layers."""
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
    """The first row of each layer."""
    return [0, *itertools.accumulate(len(found) for _, found in by_layer(tensors))][:-1]


def _name_layers(ax: Axes, tensors: Sequence[TensorStats], apart: float) -> None:
    """Names at the left, at least a share ``apart`` of the map apart, each with a line to the middle of its layer."""
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
    """Places in order, moved as little as it takes to be ``apart``, the last one half of that before the end."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + apart) if moved else place)
    limit = end - apart / 2
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], limit)
        limit = moved[i] - apart
    return moved


def _explain_ranges(figure: Figure) -> None:
    """What the lines of ``mark_ranges`` are, below all panels."""
    from matplotlib.lines import Line2D

    lines = {
        "normal numbers of a format": Line2D([], [], color="#555555", linewidth=3, solid_capstyle="butt"),
        "its subnormal numbers": Line2D([], [], color="#555555", linewidth=1),
        "its limits": Line2D([], [], color="#555555", linewidth=0.7, linestyle=LIMIT),
        "exponent 0": Line2D([], [], color="#222222", linewidth=0.6, linestyle=UNIT),
    }
    figure.legend(list(lines.values()), list(lines), loc="outside lower center", ncols=2)


def mark_ranges(ax: Axes, formats: Sequence[str], share: float) -> None:
    """Across the top of a panel over exponents, the range of each format: thick where normal, thin where subnormal.

    Its limits are dashed lines down the panel, exponent 0 a dotted one.  Bars take ``share·(len(formats) + 0.3)`` of
    the panel's height: leave it free.  A name stands left of its bar, or on it where the bar begins at or beyond the
    panel's edge.

    Args:
        ax: whose horizontal axis is log2 of magnitude, with its limits set.
        formats: names.
        share: of the panel's height, for one bar.
    """
    ax.grid(visible=False)
    across = ax.get_xaxis_transform()
    top = 1 - share * (len(formats) + 0.3)
    for i, name in enumerate(formats):
        f, color, y = get_format(name), COLORS.get(name, OTHER_COLOR), 1 - share * (i + 0.7)
        smallest = f.emin - f.mantissa_bits
        low, high = ax.get_xlim()
        bars = (((f.emin - 0.5, f.emax + 0.5), 3), ((smallest - 0.5, f.emin - 0.5), 1))
        for ends, width in bars:
            x = np.clip(ends, low, high)
            ax.plot(x, [y, y], color=color, linewidth=width, solid_capstyle="butt", transform=across)
        words: Any = {"color": color, "fontsize": SMALL, "va": "center", "transform": across}
        if smallest > low:
            ax.text(smallest - 1, y, format_label(name), ha="right", **words)
        else:
            ax.text((low + high) / 2, y, format_label(name), ha="center", backgroundcolor="white", **words)
        for limit in (smallest - 0.5, f.emax + 0.5):
            ax.plot([limit, limit], [0, top], color=color, linewidth=0.7, linestyle=LIMIT, transform=across)
    ax.axvline(0, ymax=top, color="#222222", linewidth=0.6, linestyle=UNIT)
    ax.axhline(ax.get_ylim()[0] + top * (ax.get_ylim()[1] - ax.get_ylim()[0]), color="#555555", linewidth=0.6)


def scheme_color(name: str) -> str:
    """That of the scheme which a label begins with."""
    return SCHEME_COLORS.get(name.split()[0].rstrip(","), SCHEME_COLORS["unit"])


def plot_snr(path: str | Path, found: Mapping[str, NDArray[np.float64]]) -> None:
    """SNR in dB over σ = 2^-30 … 2^30, a curve for each format.

    Args:
        path: .svg, .png or .pdf.
        found: from ``snr.curves``, or from ``snr_blocks.curves_over_scale``.

    Raises:
        ArgumentError: see ``check_plot``.
        OSError: the file cannot be written.
    """
    with open_figure(path, 3.6) as figure:
        ax = figure.subplots()
        for name, values in found.items():
            known = name in FORMATS
            color = COLORS.get(name, OTHER_COLOR)
            style = "-." if not known else "--" if "fnuz" in name else "-"
            label = format_label(name) if known else name
            ax.plot(list(EXPONENTS), values, style, color=color, linewidth=1.4, label=label)
        ax.axvline(0, color="#222222", linewidth=0.6, linestyle=UNIT)
        ax.set_xlim(EXPONENTS[0], EXPONENTS[-1])
        ax.set_ylim(0)
        ax.xaxis.set_major_formatter(lambda k, _: f"$2^{{{k:.0f}}}$")
        ax.set_xlabel("σ")
        ax.set_ylabel("SNR, dB")
        ax.set_title("Signal-to-noise ratio of N(0, σ²) cast to a format")
        ax.legend()


def plot_drift(path: str | Path, drifts: Sequence[Drift]) -> None:
    """The scale of every tensor over the steps of training: a row for each kind, a column for each run.

    Args:
        path: .svg, .png or .pdf.
        drifts: at least one, from ``drift.read_drift``.

    Raises:
        ArgumentError: see ``check_plot``.
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
    """The final loss of every run: a row for each variant, a dot for each seed; × in a strip for one that diverged.

    Args:
        path: .svg, .png or .pdf.
        rows: losses of the seeds by name of the variant; None if it diverged.
        levels: losses to compare with, by name: dashed lines.

    Raises:
        ArgumentError: see ``check_plot``.
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
