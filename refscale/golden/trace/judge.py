"""Comparison of a trace with bounded results, call by call.

``call_bounds`` replays the steps of a call on its recorded inputs. A recorded result must be in the interval that its
bound allows, and representable in its storage format.

If the trace is complete, so that every call that reads a recorded array is recorded, gradients are compared between
calls, too: the gradient of an output is the sum of those of its uses, added in any order, with sums stored or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.errors import GoldenError, RefscaleError, counted, shown
from refscale.exact import FLOAT32, Bounded, ErrorModel, as_bounded, inside
from refscale.formats import Cast
from refscale.golden.call_bounds import call_results, interval_of, summed
from refscale.golden.inputs import cast_for
from refscale.golden.trace.schema import ANY_ORDER, PARTS, Trace, TracedCall, is_number

Array = NDArray[Any]

RESULT_SCHEMA = "refscale.trace-result/1"
"""Version of the structure of ``to_content``, described by ``trace_result.schema.json``."""


@dataclass(frozen=True)
class Deviation:
    """The element of one array that is farthest outside its interval.

    Attributes:
        array: name, such as "output y" or "gradient x".
        index: index of the element.
        actual: recorded value.
        low, high: the interval; NaN if only NaN is right.
        ulps: distance from the interval, in ulp of the storage format; inf if either is not finite.
        outside: number of elements outside, of ``elements``.
        elements: size of the array.
    """

    array: str
    index: tuple[int, ...]
    actual: float
    low: float
    high: float
    ulps: float
    outside: int
    elements: int


@dataclass(frozen=True)
class CallResult:
    """The verdict on one call.

    Attributes:
        name: name of the call.
        ops: names of its ops.
        compared: names of compared arrays.
        missing: gradients of the call that the trace lacks.
        backward: whether the trace has a backward pass of the call.
        deviations: deviation of each array outside its interval; empty if the call is within its bound.
        problem: reason why the call cannot be checked, or None.
    """

    name: str
    ops: tuple[str, ...]
    compared: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    backward: bool = False
    deviations: tuple[Deviation, ...] = ()
    problem: str | None = None

    @property
    def passed(self) -> bool:
        """Whether everything recorded was compared and is within its bound."""
        return self.problem is None and not self.deviations


@dataclass(frozen=True)
class TraceResult:
    """The verdict on a trace.

    Attributes:
        calls: verdict on each call, in order.
    """

    calls: tuple[CallResult, ...]

    @property
    def passed(self) -> bool:
        """Whether every call passed."""
        return all(c.passed for c in self.calls)

    @property
    def first(self) -> CallResult | None:
        """First call that did not pass, or None."""
        return next((c for c in self.calls if not c.passed), None)


def judge(trace: Trace) -> TraceResult:
    """Compare every call of a trace with the specification.

    Raises:
        GoldenError: an array cannot be read.
    """
    return Judge(trace).result()


class Judge:
    """A checker of the calls of a trace, in any order.

    Args:
        trace: trace of a step.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._model = FLOAT32 if trace.accumulate == ANY_ORDER else ErrorModel.of(trace.accumulate)

    def result(self) -> TraceResult:
        """Return the verdict on all calls."""
        return TraceResult(tuple(self.call(i) for i in range(len(self.trace.calls))))

    def call(self, index: int) -> CallResult:
        """Return the verdict on one call.

        Raises:
            GoldenError: an array cannot be read.
        """
        call = self.trace.calls[index]
        result = _judge(self.trace, call, self._model)
        return _with_sums(self.trace, self._readers, index, result) if self.trace.complete else result

    @cached_property
    def _readers(self) -> _Readers:
        return _Readers.of(self.trace)


def _judge(trace: Trace, call: TracedCall, model: ErrorModel) -> CallResult:
    ops = tuple(step.op.name for step in call.steps)
    arrays = {part: {n: trace.array(f) for n, f in getattr(call, part).items()} for part in PARTS}
    try:
        _check_inputs(call, arrays["inputs"])
        found = call_results(call.steps, arrays["inputs"], arrays["gradient"], call.policy, model)
    except RefscaleError as error:
        return CallResult(call.name, ops, problem=str(error))
    expected = {f"output {n}": (found.values[n], found.cast_of(n)) for n in call.outputs}
    expected |= {f"gradient {n}": (g, found.store) for n, g in found.gradients.items()}
    recorded = {f"output {n}": x for n, x in arrays["outputs"].items()}
    recorded |= {f"gradient {n}": x for n, x in arrays["gradients"].items()}
    missing = tuple(name for name in expected if name.startswith("gradient ") and name not in recorded)
    deviations: list[Deviation] = []
    for name, x in recorded.items():
        if name not in expected:
            return CallResult(call.name, ops, problem=f"{name} is recorded, but {'·'.join(ops)} has no such gradient")
        y, cast = expected[name]
        if x.shape != y.shape or not is_number(x):
            problem = f"{name} is {x.dtype}{list(x.shape)}, expected floats of shape {list(y.shape)}"
            return CallResult(call.name, ops, problem=problem)
        deviation = _compare(name, x.astype(np.float64), y, cast)
        if deviation is not None:
            deviations.append(deviation)
    return CallResult(call.name, ops, tuple(recorded), missing, bool(arrays["gradient"]), tuple(deviations))


def _check_inputs(call: TracedCall, inputs: Mapping[str, Array]) -> None:
    """Raise GoldenError unless every number is representable where it is stored; losses are stored in float32."""
    store = call.policy.store
    for name, x in inputs.items():
        if store is None or not is_number(x) or all(s.op.reports for s in call.steps if name in s.inputs):
            continue
        other = (store(x) != x) & ~np.isnan(x)
        if other.any():
            raise GoldenError(f"input {name} contains {x[other][0]!r}, which {store.format} cannot represent")


@dataclass(frozen=True)
class _Readers:
    """Producers and readers of each array of a trace, by the digest of its content.

    Attributes:
        made: number of outputs with this content.
        first: number of the first call that reads it.
        gradients: files of its gradient from each call that reads it; None if it is not recorded.
    """

    made: Mapping[str, int]
    first: Mapping[str, int]
    gradients: Mapping[str, Sequence[str | None]]

    @classmethod
    def of(cls, trace: Trace) -> _Readers:
        """Return the producers and readers of all arrays of a trace."""
        made = Counter(_digest(trace.array(f)) for call in trace.calls for f in call.outputs.values())
        first: dict[str, int] = {}
        gradients: dict[str, list[str | None]] = {}
        for i, call in enumerate(trace.calls):
            for name, file in call.inputs.items():
                content = _digest(trace.array(file))
                gradients.setdefault(content, []).append(call.gradients.get(name))
                first.setdefault(content, i)
        return cls(made, first, gradients)


def _with_sums(trace: Trace, readers: _Readers, index: int, result: CallResult) -> CallResult:
    """Compare the gradient of each output of a call with the sum of the gradients from the calls that read it.

    Outputs and inputs are matched by their content. An output is left out if an equal array is also an output or is
    read before it is computed, or if a call that reads it has no recorded gradient for it.
    """
    call = trace.calls[index]
    found, compared = list(result.deviations), list(result.compared)
    for name, file in call.gradient.items():
        output = _digest(trace.array(call.outputs[name]))
        files = readers.gradients.get(output, [])
        if not files or None in files or readers.made[output] > 1 or readers.first[output] <= index:
            continue
        pieces = [as_bounded(trace.array(f).astype(np.float64)) for f in files if f is not None]
        total = summed(pieces, call.policy.store or cast_for("float32"))
        label = f"gradient {name}, the sum over {counted(len(pieces), 'call')},"
        compared.append(label)
        deviation = _compare(label, trace.array(file).astype(np.float64), total, None)
        found += [deviation] if deviation is not None else []
    return replace(result, deviations=tuple(found), compared=tuple(compared))


def _digest(x: Array) -> str:
    return sha256(f"{x.dtype}{x.shape}".encode() + x.tobytes()).hexdigest()


def _compare(name: str, x: Array, y: Bounded, store: Cast | None) -> Deviation | None:
    """Compare an array with its interval; ``store``: format that must represent it, or None."""
    cast = store or cast_for("float32")
    low, high = (end.astype(np.float64) for end in interval_of(y, cast))
    outside = ~inside(x, low, high)
    if store is not None:
        outside |= (cast(x) != x) & ~np.isnan(x)
    if not outside.any():
        return None
    with np.errstate(invalid="ignore"):
        nearest = np.where(low > high, np.nan, np.clip(x, low, high))
        ulps = np.where(x == nearest, 0.0, np.abs(x - nearest) / cast.format.spacing(nearest))
    ulps = np.where(outside, np.where(np.isfinite(ulps), ulps, np.inf), -1.0)
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(ulps)), x.shape))
    nothing = low[place] > high[place]
    return Deviation(
        name,
        place,
        float(x[place]),
        np.nan if nothing else float(low[place]),
        np.nan if nothing else float(high[place]),
        float(ulps[place]),
        int(np.count_nonzero(outside)),
        x.size,
    )


# --- Words ------------------------------------------------------------------------------------------------------------


def in_words(result: TraceResult) -> str:
    """Return the verdict as text: a line for each call that did not pass, and the coverage at the end."""
    lines = [line for call in result.calls for line in call_in_words(call)]
    return "\n".join([*lines, total_in_words([call_content(call) for call in result.calls])])


def call_in_words(call: CallResult) -> Iterator[str]:
    """Yield a line for each deviation of a call, and for its problem."""
    if call.problem is not None:
        yield f"FAIL  {shown(call.name)} ({', '.join(call.ops)}): {shown(call.problem)}"
    for d in call.deviations:
        place = f"[{', '.join(map(str, d.index))}]"
        yield (
            f"FAIL  {shown(call.name)} ({', '.join(call.ops)}): {shown(d.array)}{place} is {d.actual:.9g}, "
            f"expected {d.low:.9g} … {d.high:.9g}: {d.ulps:.4g} ulp outside; {d.outside} of {d.elements} elements"
        )


def total_in_words(calls: Sequence[Mapping[str, Any]]) -> str:
    """Return the last line of a verdict, with its coverage.

    Args:
        calls: verdicts as ``call_content`` returns them, in order.
    """
    arrays, missing = (sum(len(c[key]) for c in calls) for key in ("compared", "missing"))
    forward = sum(not c["backward"] for c in calls)
    scope = f"{counted(len(calls), 'call')}, {forward} without backward pass, {counted(arrays, 'array')} compared"
    if missing:
        scope += f", {counted(missing, 'gradient')} not recorded"
    failed = [c["name"] for c in calls if not c["passed"]]
    if not failed:
        return f"every recorded result of this step equals the specification within its bound ({scope})"
    return f"{counted(len(failed), 'call')} of {len(calls)} deviate, the first is {shown(failed[0])} ({scope})"


def to_content(result: TraceResult) -> dict[str, Any]:
    """Return the verdict as JSON content, described by ``trace_result.schema.json``."""
    return document([call_content(call) for call in result.calls])


def document(calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a verdict as JSON content, from the verdicts on its calls."""
    first = next((c["name"] for c in calls if not c["passed"]), None)
    return {"schema": RESULT_SCHEMA, "passed": first is None, "first": first, "calls": list(calls)}


def call_content(call: CallResult) -> dict[str, Any]:
    """Return the verdict on a call as JSON content."""
    return {
        "name": call.name,
        "ops": list(call.ops),
        "passed": call.passed,
        "compared": list(call.compared),
        "missing": list(call.missing),
        "backward": call.backward,
        "problem": call.problem,
        "deviations": [{**vars(d), "index": list(d.index)} for d in call.deviations],
    }
