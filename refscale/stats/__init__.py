"""Statistics of the tensors of a forward and backward pass, as training records them and reports show them.

In reading order:

1. ``measurement``: statistics of an array: σ, exponents, the elements that a cast to a narrow format would change.
2. ``causes``: the cause of a tensor's deviation from unit scale, and the remedy.
3. ``report``: the statistics of one pass, and the number of tensors far from unit scale.
4. ``trace``: a probe for a tape that measures each tensor when it is computed.

``refscale.train`` records them during training; ``refscale.analysis`` predicts, prints and plots them.
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
