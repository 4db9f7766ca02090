"""The common style of figures: size, colors of formats and schemes, ranges of formats; files are written atomically.

Only this module needs Matplotlib, and imports it for the first figure. The same input gives the same file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from refscale.analysis.tables.formats import format_label
from refscale.errors import ArgumentError
from refscale.files import check_output, write_atomically
from refscale.formats import get_format

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS_OF_FILE = (".svg", ".png", ".pdf")

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
"""Colors of formats in every figure; curves of fnuz formats are dashed, of block-scaled ones dash-dotted."""
OTHER_COLOR = "#b07d2b"

SCHEME_COLORS = {"regular": "#d1495b", "unit": "#2e7d6b", "u-mup": "#946b00"}
"""Colors of schemes in every figure, distinct from those of formats."""

WIDTH = 6.0
"""Width of every figure in inches: at most two panels side by side, so that text is readable on a phone."""

SMALL = 9
"""Size of the smallest text in points; 7.5 pixels if the figure is 360 pixels wide."""

STRIP, LABEL = 0.17, 0.2
"""Height of one format's bar above a heat-map, and smallest distance between two labels, in inches."""

LEADER = 8
"""Length of the line from a label to its object, in points."""

LIMIT, UNIT = (0, (4, 3)), (0, (1, 2))
"""Dash patterns of the lines at a format's limit, and at unit scale."""

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
    """Check before a long computation that ``plot`` can write a figure.

    Args:
        path: name of the figure.

    Raises:
        ArgumentError: matplotlib is not installed; or the name does not end in .svg, .png or .pdf, its directory does
            not exist, or it is a directory.
    """
    if Path(path).suffix.lower() not in KINDS_OF_FILE:
        raise ArgumentError(f"plot: cannot write {str(path)!r}, expected a name ending in {', '.join(KINDS_OF_FILE)}")
    check_output(path, "plot")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ArgumentError("plot: matplotlib is missing: pip install 'refscale[plots]'") from error


@contextmanager
def open_figure(path: str | Path, height: float) -> Iterator[Figure]:
    """Open a figure ``WIDTH`` by ``height`` inches, and write it to ``path`` at the end."""
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


def mark_ranges(ax: Axes, formats: Sequence[str], share: float) -> None:
    """Draw the range of each format at the top of a panel over exponents: thick where normal, thin where subnormal.

    Dashed lines down the panel mark the limits, a dotted one exponent 0. The bars need ``share·(len(formats) + 0.3)``
    of the panel's height without data. A name is left of its bar, or on it if the bar begins at or beyond the panel's
    edge.

    Args:
        ax: axes with log2 of the magnitude as the horizontal axis, and limits set.
        formats: names of formats.
        share: height of one bar as a share of the panel's height.
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
    """Return the color of the scheme whose name begins a label."""
    return SCHEME_COLORS.get(name.split()[0].rstrip(","), SCHEME_COLORS["unit"])
