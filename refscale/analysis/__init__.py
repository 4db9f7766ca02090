"""What the numbers did: recorded scales, reports, signal-to-noise ratios, figures.

In reading order:

1. ``stats``: an array in figures: σ, exponents, what a cast to a narrow format would lose.
2. ``report``: what a report is, and comes to: how many tensors are far from unit scale.
3. ``trace``, ``first_step``: one training step of a BERT, every tensor in figures: a ``Report``.
4. ``text``, ``histogram``, ``plots``, ``files``: reports for a terminal, as figures, as JSON; ``plots_sweep``: those of
   sweeps.
5. ``drift``: how scales move while a model trains.
6. ``flops``: what factors cost.
7. ``predict``: every scale of a model before it is run, by the rules that the ops declare.
8. ``snr``: how well a format carries Gaussian numbers, by their scale; ``snr_blocks``: block-scaled formats.
9. ``fidelity_report``, ``fidelity_watch``, ``fidelity``: what narrow formats do to a trained model; ``fidelity_text``,
   ``plots_fidelity`` show it.
10. ``ops_table``, ``formats_table``: every op's factors, every format, in figures.

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
from refscale.analysis.report import CastSummary, Report, Summary, summarize
from refscale.analysis.snr import cast_snr, curves, plateau, render_snr, snr
from refscale.analysis.snr_blocks import block_curves, curves_over_scale, render_block_snr
from refscale.analysis.stats import KINDS, REPORT_FORMATS, Kind, Limits, Lost, Measurement, TensorStats, measure
from refscale.analysis.text import render
from refscale.names import lazily

__all__ = [
    "COLORS",
    "KINDS",
    "REPORT_FORMATS",
    "SCHEME_COLORS",
    "SMALL",
    "CastLosses",
    "CastSummary",
    "Drift",
    "Errors",
    "FidelityReport",
    "Flops",
    "Kind",
    "Limits",
    "Lost",
    "Measurement",
    "OpFlops",
    "OperandStats",
    "Prediction",
    "Report",
    "StorageStats",
    "Summary",
    "TensorStats",
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
    "measure",
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
    "summarize",
    "tape_flops",
    "to_json",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__, {}, {"record": "report"})
