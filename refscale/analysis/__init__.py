"""Instruments: reports of scales, predictions, signal-to-noise ratios, fidelity, tables and plots.

In reading order (``refscale.stats`` has the figures themselves: an array, a pass, a ``Report``):

1. ``first_step``: one training step of a model at initialization as a ``Report``.
2. ``text``, ``histogram``, ``plots``, ``files``: reports for a terminal, as plots, as JSON; ``plots_sweep``: sweeps.
3. ``drift``: the scales of a run over its steps.
4. ``flops``: the cost of factors.
5. ``predict``: every scale of a model before it is run, by the rules that the ops declare.
6. ``snr``: the signal-to-noise ratio of N(0, σ²) in each format; ``snr_blocks``: in block-scaled formats.
7. ``fidelity_report``, ``fidelity_watch``, ``fidelity``: the error of narrow formats in a trained model;
   ``fidelity_text``, ``plots_fidelity`` show it.
8. ``ops_table``, ``formats_table``: every op's factors; every format.

    >>> import refscale as rs
    >>> rs.report("bert-tiny", "unit").summary().outside["weight"]
    0
"""

from typing import TYPE_CHECKING

from refscale.analysis.drift import Drift, load_drifts, read_drift, render_drift, save_drifts
from refscale.analysis.fidelity import fidelity
from refscale.analysis.fidelity_report import (
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
from refscale.analysis.fidelity_text import render_fidelity
from refscale.analysis.files import from_json, load, save, to_json
from refscale.analysis.first_step import report
from refscale.analysis.flops import Flops, OpFlops, count_flops, render_flops, save_flops, tape_flops
from refscale.analysis.plots import (
    COLORS,
    SCHEME_COLORS,
    SMALL,
    check_plot,
    mark_ranges,
    open_figure,
    plot,
    plot_drift,
    plot_losses,
    plot_snr,
    scheme_color,
)
from refscale.analysis.plots_fidelity import plot_fidelity
from refscale.analysis.predict import Prediction, predict
from refscale.analysis.snr import cast_snr, curves, plateau, render_snr, snr
from refscale.analysis.snr_blocks import block_curves, curves_over_scale, render_block_snr
from refscale.analysis.text import render
from refscale.names import lazily

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
    "scheme_color",
    "snr",
    "tape_flops",
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
