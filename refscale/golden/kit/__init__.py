"""The conformance kit: a backend is run on golden vectors, and each result gets a verdict.

In reading order: ``backend`` (what it is and claims), ``verdicts`` (what a result is worth), ``claimed`` (the bits of a
claimed accumulator), ``bounds`` (how far off it may be), ``runner`` (all vectors; waivers; bisection), ``report`` (what
is printed), ``pipe`` (any language); ``probes`` and ``identify`` (which accumulator a backend has).

    >>> from refscale.formats import Cast
    >>> from refscale.golden import load
    >>> from refscale.golden.kit import Claims, judge
    >>> class Mine:
    ...     name, version, claims = "mine", "1", Claims()
    ...     def cast(self, x, *, format, rounding, overflow, random_bits=None):
    ...         return Cast(format, rounding, overflow)(x, random_bits)
    >>> judge(Mine(), load()["cast/float16/up/saturate/float32/inside"]).verdict
    'same bits'
"""

from refscale.golden.kit.backend import METHODS, Backend, Claims, load_backend
from refscale.golden.kit.identify import Identified, identify
from refscale.golden.kit.report import summary, to_json
from refscale.golden.kit.runner import Culprit, Waiver, bisect, load_waivers, run, select
from refscale.golden.kit.verdicts import VERDICTS, Mismatch, Result, Verdict, judge

__all__ = [
    "METHODS",
    "VERDICTS",
    "Backend",
    "Claims",
    "Culprit",
    "Identified",
    "Mismatch",
    "Result",
    "Verdict",
    "Waiver",
    "bisect",
    "identify",
    "judge",
    "load_backend",
    "load_waivers",
    "run",
    "select",
    "summary",
    "to_json",
]
