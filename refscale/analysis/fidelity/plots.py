"""The figure of a fidelity report: errors by policy and op, and the SNR of each operand's cast."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from refscale.analysis.fidelity.report import MARGIN, Errors, FidelityReport
from refscale.analysis.figures import COLORS, OTHER_COLOR, SMALL, open_figure, scheme_color
from refscale.analysis.snr.curves import snr
from refscale.analysis.tables.formats import format_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKS = {"weight": "s", "activation": "o", "activation gradient": "^"}


def plot_fidelity(path: str | Path, report: FidelityReport) -> None:
    """Plot the errors of a trained network in narrow formats.

    Above, the errors of output and gradients, by policy and by op; below, the SNR of each operand's cast by RMS,
    with that of Gaussian numbers as a line, and the bound, 1 dB below its best, as a thin one.

    Args:
        path: name of the figure, ending in .svg, .png or .pdf.
        report: result of ``fidelity``.

    Raises:
        ArgumentError: as in ``check_plot``.
        OSError: the file cannot be written.
    """
    names = list(dict.fromkeys(e.policy for e in (*report.policies, *report.classes)))
    rows = max(3.0, 1.2 + 0.24 * len(names))
    with open_figure(path, rows + 4.0) as figure:
        panels = [["output", "gradient"], ["operands", "operands"]]
        axes: dict[str, Axes] = figure.subplot_mosaic(panels, height_ratios=(rows, 2.8))
        _plot_errors(axes["output"], report, "output")
        _plot_errors(axes["gradient"], report, "gradient")
        handles, labels = axes["gradient"].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
        axes["gradient"].set_yticklabels([])
        _plot_operands(axes["operands"], report)


def _plot_errors(ax: Axes, report: FidelityReport, what: Literal["output", "gradient"]) -> None:
    """Draw a row for each pass, a dot for each scheme; a ring for the regular one with a loss scale."""
    rows = [*(e.policy for e in report.policies), *(e.policy for e in report.classes)]
    names = list(dict.fromkeys(rows))
    split = len({e.policy for e in report.policies})
    at = {name: i + (0.7 if i >= split else 0.0) for i, name in enumerate(names)}
    groups: dict[str, list[Errors]] = {}
    for e in (*report.policies, *report.classes):
        if e.loss_scale is None or what == "gradient":
            groups.setdefault(e.scheme if e.loss_scale is None else f"{e.scheme}, loss scale", []).append(e)
    shifts = np.linspace(-0.16, 0.16, len(groups)) if len(groups) > 1 else [0.0]
    for shift, (label, errors) in zip(shifts, groups.items(), strict=True):
        color = scheme_color(label)
        fill = "white" if "loss scale" in label else color
        values = [getattr(e, what) for e in errors]
        x = [value if 0 < value < np.inf else np.nan for value in values]
        y = [at[e.policy] + shift for e in errors]
        ax.plot(x, y, "o", color=color, markerfacecolor=fill, markersize=5, label=label)
        for height in (h for h, value in zip(y, values, strict=True) if value == np.inf):
            ax.text(0.98, height, "∞", color=color, transform=ax.get_yaxis_transform(), ha="right", va="center")
    ax.set_xscale("log")
    ax.set_yticks(list(at.values()), names)
    ax.set_ylim(max(at.values()) + 0.6, -0.6)
    if report.classes:
        ax.axhline(split - 0.15, color="#555555", linewidth=0.6)
        ax.text(0.02, split + 0.2, f"of {report.focus}, alone", transform=ax.get_yaxis_transform(), fontsize=SMALL)
    ax.set_xlabel("relative error ‖x − x0‖/‖x0‖")
    ax.set_title({"output": "encoder output", "gradient": "all gradients"}[what])


def _plot_operands(ax: Axes, report: FidelityReport) -> None:
    """Draw a mark for each operand, and the curve of each operand format."""
    drawn = [t for t in report.operands if t.rms and np.isfinite(t.snr)]
    logs = [float(np.log2(t.rms)) for t in drawn] or [0.0]
    low, high = min(*logs, -8.0) - 2, max(*logs, 4.0) + 2
    exponents = np.arange(np.floor(low), np.ceil(high) + 0.25, 0.25)
    for name, best in report.best.items():
        color, curve = COLORS.get(name, OTHER_COLOR), snr(name, list(2.0**exponents))
        ax.plot(exponents, curve, color=color, linewidth=1.2, label=f"{format_label(name)}, N(0, σ²)")
        ax.axhline(best - MARGIN, color=color, linewidth=0.6, linestyle=(0, (4, 3)))
    for scheme in report.schemes:
        color = scheme_color(scheme)
        for kind, mark in MARKS.items():
            found = [t for t in drawn if t.scheme == scheme and t.kind == kind]
            if found:
                x, y = [np.log2(t.rms) for t in found], [t.snr for t in found]
                ax.plot(x, y, mark, color=color, markersize=4, alpha=0.7, linewidth=0, label=f"{scheme}: {kind}s")
    ax.set_xlim(low, high)
    ax.set_ylim(-2)
    ax.set_xlabel("log₂ of RMS")
    ax.set_ylabel("SNR of the cast, dB")
    title = f"operands of {report.focus}" if report.operands else "no operand is cast"
    ax.set_title(f"{title}; dashed: {MARGIN:.0f} dB below the best")
    if report.best:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
