"""SNR over scale as a figure (paper, Figure 2)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refscale.analysis.figures import COLORS, OTHER_COLOR, UNIT, open_figure
from refscale.analysis.snr.curves import EXPONENTS
from refscale.analysis.tables.formats import format_label
from refscale.formats import FORMATS


def plot_snr(path: str | Path, found: Mapping[str, NDArray[np.float64]]) -> None:
    """Plot SNR in dB over σ = 2^-30 … 2^30, a curve for each format.

    Args:
        path: name of the figure, ending in .svg, .png or .pdf.
        found: result of ``snr.curves.curves``, or of ``snr.blocks.curves_over_scale``.

    Raises:
        ArgumentError: as in ``check_plot``.
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
