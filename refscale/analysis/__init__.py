"""Instruments: reports of scales, predictions, signal-to-noise ratios, fidelity, tables and plots.

A folder or a module per instrument, in reading order (``refscale.stats`` defines the measured quantities: an array, a
pass, a ``Report``):

1. ``tables``: every op's factors; every format.
2. ``figures``: the style of all plots.
3. ``snr``: the signal-to-noise ratio of N(0, σ²) in each format.
4. ``predict``: every scale of a model before it runs, by the rules that the ops declare.
5. ``report``: one training step of a model at initialization; as text, as plots, as JSON, as an HTML page.
6. ``flops``: the cost of factors in multiplications.
7. ``fidelity``: the error of narrow formats in a trained model.
8. ``runs``: the scales of a run over its steps; figures of runs and of sweeps.

    >>> import refscale as rs
    >>> rs.report("bert-tiny", "unit").summary().outside["weight"]
    0
"""

from typing import TYPE_CHECKING

from refscale.analysis.fidelity.plots import plot_fidelity
from refscale.analysis.fidelity.report import (
    CastLosses,
    Errors,
    FidelityReport,
    OperandStats,
    StorageStats,
    fidelity_from_json,
    fidelity_to_json,
    load_fidelity,
    save_fidelity,
)
from refscale.analysis.fidelity.run import fidelity
from refscale.analysis.fidelity.text import render_fidelity
from refscale.analysis.figures import (
    COLORS,
    SCHEME_COLORS,
    SMALL,
    check_plot,
    mark_ranges,
    open_figure,
    scheme_color,
)
from refscale.analysis.flops import Flops, OpFlops, count_flops, render_flops, save_flops, tape_flops
from refscale.analysis.predict import predict
from refscale.analysis.report.files import from_json, load, save, to_json
from refscale.analysis.report.first_step import report
from refscale.analysis.report.html import save_html, to_html
from refscale.analysis.report.plots import plot
from refscale.analysis.report.text import render
from refscale.analysis.runs.drift import Drift, load_drifts, read_drift, render_drift, save_drifts
from refscale.analysis.runs.plots import plot_drift, plot_losses
from refscale.analysis.snr.blocks import block_curves, curves_over_scale, render_block_snr
from refscale.analysis.snr.curves import cast_snr, curves, plateau, render_snr, snr
from refscale.analysis.snr.plots import plot_snr
from refscale.names import lazily
from refscale.prediction import Prediction

__all__ = [
    "COLORS",
    "SCHEME_COLORS",
    "SMALL",
    "CastLosses",
    "Drift",
    "Errors",
    "FidelityReport",
    "Flops",
    "OpFlops",
    "OperandStats",
    "Prediction",
    "StorageStats",
    "block_curves",
    "cast_snr",
    "check_plot",
    "count_flops",
    "curves",
    "curves_over_scale",
    "fidelity",
    "fidelity_from_json",
    "fidelity_to_json",
    "from_json",
    "load",
    "load_drifts",
    "load_fidelity",
    "mark_ranges",
    "open_figure",
    "plateau",
    "plot",
    "plot_drift",
    "plot_fidelity",
    "plot_losses",
    "plot_snr",
    "predict",
    "read_drift",
    "render",
    "render_block_snr",
    "render_drift",
    "render_fidelity",
    "render_flops",
    "render_snr",
    "report",
    "save",
    "save_drifts",
    "save_fidelity",
    "save_flops",
    "save_html",
    "scheme_color",
    "snr",
    "tape_flops",
    "to_html",
    "to_json",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(
        __name__,
        {},
        {
            "record": "report",
            "CastSummary": "refscale.stats.CastSummary",
            "KINDS": "refscale.stats.KINDS",
            "Kind": "refscale.stats.Kind",
            "Limits": "refscale.stats.Limits",
            "Lost": "refscale.stats.Lost",
            "Measurement": "refscale.stats.Measurement",
            "REPORT_FORMATS": "refscale.stats.REPORT_FORMATS",
            "Report": "refscale.stats.Report",
            "Summary": "refscale.stats.Summary",
            "TensorStats": "refscale.stats.TensorStats",
            "measure": "refscale.stats.measure",
            "summarize": "refscale.stats.summarize",
        },
    )
