"""The tensors of a forward and backward pass in figures: what training records and what reports are made of.

In reading order:

1. ``measurement``: an array in figures: σ, exponents, the elements that a cast to a narrow format would change.
2. ``causes``: why a tensor leaves unit scale, and the remedy.
3. ``report``: the figures of one pass, and how many tensors are far from unit scale.
4. ``trace``: a probe for a tape that measures each tensor as it is computed.

``refscale.train`` records them while it trains; ``refscale.analysis`` predicts, prints and plots them.
"""

from refscale.stats.causes import CAUSES, Cause, causes
from refscale.stats.measurement import (
    KINDS,
    REPORT_FORMATS,
    Kind,
    Limits,
    Lost,
    Measurement,
    TensorStats,
    TensorUse,
    measure,
)
from refscale.stats.report import CastSummary, Report, Summary, is_outside, summarize
from refscale.stats.trace import PredictedScales, TensorProbe, summarize_casts

__all__ = [
    "CAUSES",
    "KINDS",
    "REPORT_FORMATS",
    "CastSummary",
    "Cause",
    "Kind",
    "Limits",
    "Lost",
    "Measurement",
    "PredictedScales",
    "Report",
    "Summary",
    "TensorProbe",
    "TensorStats",
    "TensorUse",
    "causes",
    "is_outside",
    "measure",
    "summarize",
    "summarize_casts",
]
