"""The conformance kit: it runs a backend on golden vectors and returns a verdict on each result.

In reading order: ``backend`` (methods and claims), ``verdicts`` (comparison of a result), ``claimed`` (the bits of a
claimed accumulator), ``bounds`` (the allowed deviation), ``runner`` (all vectors; restarts, waivers, requirements,
bisection), ``report`` (text and JSON), ``program`` and ``pipe`` (backends in any language); ``probes`` and ``identify``
(the accumulator of a backend).

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
from refscale.golden.kit.identify import Identified, identified_in_words, identify
from refscale.golden.kit.pipe import PipeBackend
from refscale.golden.kit.report import bisection_in_words, summary, to_json
from refscale.golden.kit.runner import Bisection, Culprit, Session, Waiver, bisect, load_waivers, run, select, unmet
from refscale.golden.kit.verdicts import VERDICTS, Element, Mismatch, Result, Verdict, judge

__all__ = [
    "METHODS",
    "VERDICTS",
    "Backend",
    "Bisection",
    "Claims",
    "Culprit",
    "Element",
    "Identified",
    "Mismatch",
    "PipeBackend",
    "Result",
    "Session",
    "Verdict",
    "Waiver",
    "bisect",
    "bisection_in_words",
    "identified_in_words",
    "identify",
    "judge",
    "load_backend",
    "load_waivers",
    "run",
    "select",
    "summary",
    "to_json",
    "unmet",
]
