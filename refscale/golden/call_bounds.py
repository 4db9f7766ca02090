"""Bounds on the results of a call: of one op, or of the steps of a fused kernel.

The steps run on bounded arrays (``exact.bounded``): inputs have the bound 0, results that of the op, and inner results
of a fused kernel pass theirs to the next step. Casts are monotone: a result between y − e and y + e rounds to a value
between the two rounded ends. Conversions to block-scaled formats have bounds of their own (``block_bounds``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.blocks import Recipe
from refscale.blocks.operand import TransformedCasts
from refscale.engine import Op
from refscale.errors import GoldenError
from refscale.exact import FLOAT32, Bounded, ErrorModel, as_bounded, bounded, ends
from refscale.formats import Cast
from refscale.golden.block_bounds import BlockOperand
from refscale.golden.inputs import cast_for
from refscale.golden.replay import input_names
from refscale.precision import Precision, Rounder
from refscale.scales import Scales

Array = NDArray[Any]
Interval = tuple[Array, Array]
"""(low, high): the smallest and the largest result that a bound allows, element by element."""

OUTPUT = "out"
"""Name of the output of a call of one step."""


@dataclass(frozen=True)
class CallStep:
    """One op of a call.

    Attributes:
        op: the op with its attributes.
        scales: its factors.
        inputs: names of its inputs: inputs of the call, or outputs of earlier steps.
        output: name of its output.
        stored: whether the output is rounded to the store format before the next step reads it.
    """

    op: Op
    scales: Scales
    inputs: tuple[str, ...]
    output: str
    stored: bool = False


@dataclass(frozen=True)
class CallResults:
    """The real results of a call with their bounds, each with the cast that stores it.

    Attributes:
        values: values of inputs and of the output of every step, by name; before the last cast.
        gradients: gradients of inputs, by name; empty without a backward pass.
        store: format of values and gradients.
        losses: names of values that are stored in float32, because they are losses.
    """

    values: Mapping[str, Any]
    gradients: Mapping[str, Bounded]
    store: Cast
    losses: frozenset[str]

    def cast_of(self, name: str) -> Cast:
        """Return the cast that stores a value."""
        return cast_for("float32") if name in self.losses else self.store


@np.errstate(all="ignore")  # non-finite numbers have no bound and are compared as they are
def call_results(
    steps: Sequence[CallStep],
    inputs: Mapping[str, Array],
    gradient: Mapping[str, Array],
    precision: Precision,
    model: ErrorModel = FLOAT32,
) -> CallResults:
    """Run the steps of a call, forward and backward.

    Args:
        steps: steps in order.
        inputs: arrays by name, as stored: before operands are cast.
        gradient: gradients of outputs, as stored, by name; empty: forward only.
        precision: policy of the casts; its accumulator is not used.
        model: errors of the arithmetic.

    Raises:
        GoldenError: ``precision`` transforms operands without blocks, or multiplies them by a factor, for which no
            bound exists, or differs by place; or a gradient has another shape than its output.
    """
    rounder = Rounder(replace(precision, accumulate=None), np.dtype(np.float32))
    for step in steps:
        if isinstance(rounder.recipe(step.op), TransformedCasts):
            raise GoldenError(f"{step.op.name}: {precision.name} transforms its operands, which has no bound")
    if precision.rules:
        raise GoldenError(f"{precision.name}: it differs by place, expected the policy of this call")
    if precision.operand_factor != 1:
        raise GoldenError(f"{precision.name}: operand_factor={precision.operand_factor:g} has no bound")
    store = precision.store or cast_for("float32")
    losses = frozenset(step.output for step in steps if step.op.reports)
    values: dict[str, Any] = {name: as_bounded(x, model) for name, x in inputs.items()}
    operands: list[list[Any]] = []
    for step in steps:
        narrow = precision.operand if rounder.narrows(step.op) else None
        given = [_cast(values[name], narrow) for name in step.inputs]
        operands.append([_operand(rounder, step.op, x, i) for i, x in enumerate(given)])
        y, _ = step.op.bound(step.scales, None, *operands[-1], model=model)
        values[step.output] = _cast(y, store) if step.stored and step.output not in losses else y
    for name, g in gradient.items():
        if g.shape != values[name].shape:
            raise GoldenError(f"gradient of {name} is {list(g.shape)}, expected {list(values[name].shape)}")
    pending: dict[str, Any] = {name: as_bounded(g, model) for name, g in gradient.items()}
    for step, arrays in zip(reversed(steps), reversed(operands), strict=True):
        if step.output not in pending:
            continue
        narrow = precision.operand_gradient if rounder.narrows(step.op) else None
        g = _operand(rounder, step.op, _cast(pending.pop(step.output), narrow))
        _, pieces = step.op.bound(step.scales, g, *arrays, model=model)
        for name, piece in zip(step.inputs, pieces, strict=True):
            if piece is not None:
                pending[name] = pending[name] + piece if name in pending else piece
    return CallResults(values, {name: pending[name] for name in inputs if name in pending}, store, losses)


def _operand(rounder: Rounder, op: Op, x: Any, index: int | None = None) -> Any:
    """Return input ``index`` of an op, or the gradient of its output, as a block operand if the policy converts it."""
    recipe = rounder.recipe(op)
    if not isinstance(recipe, Recipe) or not isinstance(x, Bounded):
        return x
    weight = index in op.weight_inputs and x.ndim == 2
    return BlockOperand.of(x, recipe, "gradient" if index is None else "weight" if weight else "activation")


def _cast(x: Any, cast: Cast | None) -> Any:
    """Return a bounded array after a cast; indices and masks are unchanged."""
    return x if cast is None or not isinstance(x, Bounded) else rounded(x, cast)


def rounded(x: Bounded, cast: Cast) -> Bounded:
    """Return a bounded array after a cast: its rounded value, and the distance to the rounded ends of its interval."""
    value = x.view(np.ndarray)
    y = cast(value).astype(np.float64)
    low, high = (cast(end).astype(np.float64) for end in (value - x.error, value + x.error))
    with np.errstate(invalid="ignore"):
        error = np.fmax(high - y, y - low)
    return bounded(y, np.where(np.isfinite(y), error, 0.0), x.model)


def summed(pieces: Sequence[Bounded], store: Cast) -> Bounded:
    """Return the sum of stored gradients of one tensor, added in any order; each partial sum is stored, too."""
    value, size = (np.sum([f(p.view(np.ndarray)) for p in pieces], 0) for f in (np.asarray, np.abs))
    error = np.sum([p.error for p in pieces], 0)
    each = store.format.eps * (size + error) + float(store.format.spacing(0.0))
    return bounded(value, error + (len(pieces) - 1) * each)


def interval_of(y: Bounded, cast: Cast) -> Interval:
    """Return the smallest and the largest stored result that a bound allows."""
    return ends(y.view(np.ndarray), y.error, cast)


def one_call(
    op: Op,
    arrays: Sequence[Array],
    gradient: Array | None,
    scales: Scales,
    precision: Precision,
    model: ErrorModel = FLOAT32,
) -> CallResults:
    """Compute the exact results of a call of one op with their bounds; inputs by ``input_names``, output ``OUTPUT``.

    Args:
        op: the op.
        arrays: inputs, before operands are cast; floats are rounded to the store format, as in ``replay``.
        gradient: gradient of the output, as stored; None: forward only.
        scales: factors of the op.
        precision: policy of the casts; its accumulator is not used.
        model: errors of the arithmetic.

    Raises:
        GoldenError: as in ``call_results``.
    """
    names = input_names(op, len(arrays))
    store = precision.store or cast_for("float32")
    given = [np.asarray(a) for a in arrays]
    stored = {n: store(a) if a.dtype.kind == "f" else a for n, a in zip(names, given, strict=True)}
    step = CallStep(op, scales, names, OUTPUT)
    return call_results((step,), stored, {} if gradient is None else {OUTPUT: gradient}, precision, model)


def intervals(
    op: Op,
    arrays: Sequence[Array],
    gradient: Array | None,
    scales: Scales,
    precision: Precision,
    model: ErrorModel = FLOAT32,
) -> dict[str, Interval]:
    """Return the interval that the op's bound allows for each result of a call, in the format where it is stored.

    The arguments are those of ``one_call``.

    Returns:
        Intervals by name, with the names of ``Replayed.outputs``.
    """
    found = one_call(op, arrays, gradient, scales, precision, model)
    bounds = {"y": interval_of(found.values[OUTPUT], found.cast_of(OUTPUT))}
    return bounds | {f"grad_{name}": interval_of(g, found.store) for name, g in found.gradients.items()}
