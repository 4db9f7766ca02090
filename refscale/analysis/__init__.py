"""Instruments: reports of scales, predictions, signal-to-noise ratios, fidelity, tables and plots.

In reading order (``refscale.stats`` has the figures themselves: an array, a pass, a ``Report``):

1. ``record``: one training step of a model at initialization as a ``Report``.
2. ``text``, ``histogram``, ``plots``, ``files``: reports for a terminal, as plots, as JSON; ``plots_sweep``: sweeps.
3. ``drift``: the scales of a run over its steps.
4. ``flops``: the cost of factors.
5. ``kernels``, ``softmax_kernels``, ``predict``: every scale of a model before it is run.
6. ``snr``: the signal-to-noise ratio of N(0, σ²) in each format; ``snr_blocks``: in block-scaled formats.
7. ``fidelity_report``, ``fidelity_watch``, ``fidelity``: the error of narrow formats in a trained model;
   ``fidelity_text``, ``plots_fidelity`` show it.
8. ``ops_table``, ``formats_table``: every op's factors; every format.

    >>> from refscale.analysis import record
    >>> report = record("bert-tiny", "unit")
    >>> report.summary().outside["weight"]
    0
"""

from typing import TYPE_CHECKING, Any

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
from refscale.analysis.flops import Flops, OpFlops, count_flops, render_flops, save_flops, tape_flops
from refscale.analysis.plots import check_plot, plot, plot_drift, plot_losses, plot_snr
from refscale.analysis.plots_fidelity import plot_fidelity
from refscale.analysis.predict import Prediction, predict
from refscale.analysis.record import record
from refscale.analysis.snr import cast_snr, curves, render_snr, snr
from refscale.analysis.snr_blocks import block_curves, curves_over_scale, render_block_snr
from refscale.analysis.text import render

__all__ = [
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
    "plot",
    "plot_drift",
    "plot_fidelity",
    "plot_losses",
    "plot_snr",
    "predict",
    "read_drift",
    "record",
    "render",
    "render_block_snr",
    "render_drift",
    "render_fidelity",
    "render_flops",
    "render_snr",
    "save",
    "save_drifts",
    "save_fidelity",
    "save_flops",
    "snr",
    "tape_flops",
    "to_json",
]

if not TYPE_CHECKING:  # a module with __getattr__ has every name, for a type checker
    from warnings import warn

    from refscale import stats

    def __getattr__(name: str) -> Any:
        """Names that moved to ``refscale.stats`` after 0.1.0."""
        if name not in stats.__all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        warn(f"refscale.analysis.{name} is refscale.stats.{name}", DeprecationWarning, stacklevel=2)
        return getattr(stats, name)
