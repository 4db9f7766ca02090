"""Replay a trace call by call, with bounds, and compare.

The steps of a call run on bounded arrays (``exact.bounded``): recorded inputs have the bound 0, results that of the op,
and inner results of a fused kernel carry theirs into the next step.  Casts are monotone: a result that lies between
y − e and y + e is rounded to between the two, and that is the interval in which the recorded array must be.

If the trace is complete, so that every call that reads a recorded array is recorded, gradients are compared between
calls, too: that of an output is the sum of those of its uses, added in any order, with sums stored or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.errors import GoldenError, RefscaleError, counted, shown
from refscale.exact import FLOAT32, Bounded, ErrorModel, as_bounded, bounded, ends, inside
from refscale.formats import Cast
from refscale.golden.inputs import cast_for
from refscale.golden.trace.schema import ANY_ORDER, Trace, TracedCall, TracedStep, is_number
from refscale.precision import Rounder

Array = NDArray[Any]


@dataclass(frozen=True)
class Deviation:
    """The element of one array that is farthest outside its interval.

    Attributes:
        array: "output y", "gradient x".
        index: its place.
        actual: the recorded value.
        low, high: the interval; NaN where only NaN is right.
        ulps: distance from the interval, in ulp of the format where it is stored; inf where one of the two is not
            finite.
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
        name: of the call.
        ops: names of its ops.
        compared: arrays that were compared.
        missing: gradients that the call has and the trace does not.
        backward: whether the trace has a backward pass of the call.
        deviations: of each array outside its interval; empty if the call is within its bound.
        problem: why the call cannot be judged, or None.
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
        """Return whether everything recorded was compared and is within its bound."""
        return self.problem is None and not self.deviations


@dataclass(frozen=True)
class TraceResult:
    """The verdict on a trace.

    Attributes:
        calls: a verdict for each call, in order.
    """

    calls: tuple[CallResult, ...]

    @property
    def passed(self) -> bool:
        """Return whether every call passed."""
        return all(c.passed for c in self.calls)

    @property
    def first(self) -> CallResult | None:
        """The first call that did not pass, or None."""
        return next((c for c in self.calls if not c.passed), None)


def judge(trace: Trace) -> TraceResult:
    """Compare every call of a trace with the specification.

    Raises:
        GoldenError: an array cannot be read.
    """
    model = FLOAT32 if trace.accumulate == ANY_ORDER else ErrorModel.of(trace.accumulate)
    results = [_judge(trace, call, model) for call in trace.calls]
    if trace.complete:
        results = list(_with_sums(trace, results))
    return TraceResult(tuple(results))


def _judge(trace: Trace, call: TracedCall, model: ErrorModel) -> CallResult:
    ops = tuple(step.op.name for step in call.steps)
    arrays = {part: {n: trace.array(f) for n, f in getattr(call, part).items()} for part in _PARTS}
    try:
        with np.errstate(all="ignore"):
            expected = _Replay(call, model).run(arrays["inputs"], arrays["gradient"])
    except RefscaleError as error:
        return CallResult(call.name, ops, problem=str(error))
    recorded = {f"output {n}": x for n, x in arrays["outputs"].items()}
    recorded |= {f"gradient {n}": x for n, x in arrays["gradients"].items()}
    missing = tuple(name for name in expected if name.startswith("gradient ") and name not in recorded)
    found: list[Deviation] = []
    for name, x in recorded.items():
        if name not in expected:
            return CallResult(call.name, ops, problem=f"{name} is recorded, but {'·'.join(ops)} has no such gradient")
        y, cast = expected[name]
        if x.shape != y.shape or not is_number(x):
            problem = f"{name} is {x.dtype}{list(x.shape)}, expected floats of shape {list(y.shape)}"
            return CallResult(call.name, ops, problem=problem)
        deviation = _compare(name, x.astype(np.float64), y, cast)
        if deviation is not None:
            found.append(deviation)
    return CallResult(call.name, ops, tuple(recorded), missing, bool(arrays["gradient"]), tuple(found))


_PARTS = ("inputs", "outputs", "gradient", "gradients")


def _with_sums(trace: Trace, results: Sequence[CallResult]) -> Iterator[CallResult]:
    """Compare the gradient of each output with the sum of those that the calls which read it send back.

    Outputs and inputs are matched by their content.  An output is left out if another one is equal to it, or if a call
    that reads it has no recorded gradient for it.
    """
    made = Counter(_digest(trace.array(f)) for call in trace.calls for f in call.outputs.values())
    uses: dict[str, list[str | None]] = {}
    for call in trace.calls:
        for name, file in call.inputs.items():
            uses.setdefault(_digest(trace.array(file)), []).append(call.gradients.get(name))
    for call, result in zip(trace.calls, results, strict=True):
        found, compared = list(result.deviations), list(result.compared)
        for name, file in call.gradient.items():
            output = _digest(trace.array(call.outputs[name]))
            files = uses.get(output, [])
            if not files or None in files or made[output] > 1:
                continue
            pieces = [trace.array(f).astype(np.float64) for f in files if f is not None]
            store = call.policy.store or cast_for("float32")
            size = np.sum(np.abs(pieces), 0)
            error = (len(pieces) - 1) * (store.format.eps * size + float(store.format.spacing(0.0)))
            label = f"gradient {name}, the sum over {counted(len(pieces), 'call')},"
            compared.append(label)
            deviation = _compare(label, trace.array(file).astype(np.float64), bounded(np.sum(pieces, 0), error), None)
            found += [deviation] if deviation is not None else []
        yield replace(result, deviations=tuple(found), compared=tuple(compared))


def _digest(x: Array) -> str:
    return sha256(f"{x.dtype}{x.shape}".encode() + x.tobytes()).hexdigest()


def _compare(name: str, x: Array, y: Bounded, store: Cast | None) -> Deviation | None:
    """Compare an array with its interval; ``store``: the format that it must be representable in, or None."""
    cast = store or cast_for("float32")
    low, high = (end.astype(np.float64) for end in ends(y.view(np.ndarray), y.error, cast))
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


@dataclass(frozen=True)
class _Label:
    """What the rounder sees of an array."""

    shape: tuple[int, ...]
    reports: bool


class _Replay:
    """The steps of one call, on bounded arrays."""

    def __init__(self, call: TracedCall, model: ErrorModel) -> None:
        self.call, self.model, self.policy = call, model, call.policy
        self.rounder = Rounder(call.policy, np.dtype(np.float32))
        self.carrier = cast_for("float32")
        self.store = call.policy.store or self.carrier
        self.losses = {step.output for step in call.steps if step.op.reports}
        for step in call.steps:
            if self.rounder.has_arithmetic(step.op):
                raise GoldenError(f"{step.op.name}: the policy {self.policy.name} converts its operands to blocks")

    def run(self, inputs: Mapping[str, Array], gradient: Mapping[str, Array]) -> dict[str, tuple[Bounded, Cast]]:
        """Each result with the cast that stores it: "output NAME", "gradient NAME"."""
        values: dict[str, Any] = {n: self._entered(n, x) for n, x in inputs.items()}
        operands = [self._forward(step, values) for step in self.call.steps]
        results = {f"output {n}": (values[n], self._cast_of(n)) for n in self.call.outputs}
        if gradient:
            for n, g in gradient.items():
                if g.shape != values[n].shape:
                    raise GoldenError(f"gradient of {n} is {list(g.shape)}, expected {list(values[n].shape)}")
            pending = {n: as_bounded(g.astype(np.float64), self.model) for n, g in gradient.items()}
            for step, arrays in zip(reversed(self.call.steps), reversed(operands), strict=True):
                self._backward(step, arrays, pending)
            results |= {f"gradient {n}": (pending[n], self.store) for n in inputs if n in pending}
        return results

    def _entered(self, name: str, x: Array) -> Any:
        """An input as a bounded array; it must be representable where it is stored."""
        if is_number(x) and not all(step.op.reports for step in self.call.steps if name in step.inputs):
            other = (self.store(x) != x) & ~np.isnan(x)
            if other.any():
                raise GoldenError(f"input {name} holds {x[other][0]!r}, which {self.store.format} cannot represent")
        return as_bounded(x, self.model) if is_number(x) else x

    def _cast_of(self, name: str) -> Cast:
        return self.carrier if name in self.losses else self.store

    def _forward(self, step: TracedStep, values: dict[str, Any]) -> list[Any]:
        arrays = [self._operand(step, values[n]) for n in step.inputs]
        y, _ = step.op.bound(step.scales, None, *arrays, model=self.model)
        values[step.output] = rounded(y, self._cast_of(step.output)) if step.stored else y
        return arrays

    def _operand(self, step: TracedStep, x: Any) -> Any:
        narrow = self.policy.operand if self.rounder.narrows(step.op) else None
        return rounded(x, narrow) if narrow is not None and isinstance(x, Bounded) else x

    def _backward(self, step: TracedStep, arrays: list[Any], pending: dict[str, Any]) -> None:
        if step.output not in pending:
            return
        g = pending.pop(step.output)
        narrow = self.policy.operand_gradient if self.rounder.narrows(step.op) else None
        if narrow is not None:
            g = rounded(g, narrow)
        _, pieces = step.op.bound(step.scales, g, *arrays, model=self.model)
        for name, piece in zip(step.inputs, pieces, strict=True):
            if piece is not None:
                pending[name] = pending[name] + piece if name in pending else piece


def rounded(x: Bounded, cast: Cast) -> Bounded:
    """A bounded array after a cast: its value rounded, and the distance to where the ends of its interval go."""
    value = x.view(np.ndarray)
    y = cast(value).astype(np.float64)
    low, high = (cast(end).astype(np.float64) for end in (value - x.error, value + x.error))
    with np.errstate(invalid="ignore"):
        error = np.fmax(high - y, y - low)
    return bounded(y, np.where(np.isfinite(y), error, 0.0), x.model)


# --- Words ------------------------------------------------------------------------------------------------------------


def in_words(result: TraceResult) -> str:
    """The verdict: a line for each call that did not pass, and what it follows from at the end."""
    return "\n".join(_lines(result))


def _lines(result: TraceResult) -> Iterator[str]:
    for call in result.calls:
        if call.problem is not None:
            yield f"FAIL  {shown(call.name)} ({', '.join(call.ops)}): {shown(call.problem)}"
        for d in call.deviations:
            place = f"[{', '.join(map(str, d.index))}]"
            yield (
                f"FAIL  {shown(call.name)} ({', '.join(call.ops)}): {shown(d.array)}{place} is {d.actual:.9g}, "
                f"expected {d.low:.9g} … {d.high:.9g}: {d.ulps:.4g} ulp outside; {d.outside} of {d.elements} elements"
            )
    arrays = sum(len(c.compared) for c in result.calls)
    missing = sum(len(c.missing) for c in result.calls)
    forward = sum(not c.backward for c in result.calls)
    scope = (
        f"{counted(len(result.calls), 'call')}, {forward} without backward pass, {counted(arrays, 'array')} compared"
    )
    if missing:
        scope += f", {counted(missing, 'gradient')} not recorded"
    if result.passed:
        yield f"every recorded result of this step equals the specification within its bound ({scope})"
    else:
        first = result.first
        assert first is not None
        failed = sum(not c.passed for c in result.calls)
        yield f"{counted(failed, 'call')} of {len(result.calls)} deviate, the first is {shown(first.name)} ({scope})"


def to_content(result: TraceResult) -> dict[str, Any]:
    """The verdict as JSON content."""
    return {
        "schema": "refscale.trace-result/1",
        "passed": result.passed,
        "first": None if result.first is None else result.first.name,
        "calls": [
            {
                "name": c.name,
                "ops": list(c.ops),
                "passed": c.passed,
                "compared": list(c.compared),
                "missing": list(c.missing),
                "backward": c.backward,
                "problem": c.problem,
                "deviations": [{**vars(d), "index": list(d.index)} for d in c.deviations],
            }
            for c in result.calls
        ],
    }
