"""The error of narrow formats in a trained model.

In reading order:

1. ``report``: the errors of a model in several policies, and their JSON.
2. ``watch``: statistics of every operand and stored tensor of one pass.
3. ``subjects``: the compared models: a published BERT, or a program.
4. ``run``: a model in float64 and in each policy, compared.
5. ``text``, ``plots``: a report as text, as a figure.
"""

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
from refscale.analysis.fidelity.run import POLICIES, compare, fidelity, passes
from refscale.analysis.fidelity.text import render_fidelity
from refscale.analysis.fidelity.watch import Watch

__all__ = [
    "POLICIES",
    "CastLosses",
    "Errors",
    "FidelityReport",
    "OperandStats",
    "StorageStats",
    "Watch",
    "compare",
    "fidelity",
    "fidelity_from_json",
    "fidelity_to_json",
    "load_fidelity",
    "passes",
    "plot_fidelity",
    "render_fidelity",
    "save_fidelity",
]
