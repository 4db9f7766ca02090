"""Sums and products of two tensors, functions of one, softmax."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale import ops
from refscale.bridge.evaluation import Evaluation
from refscale.bridge.rules.registry import RULES, Rule, is_one, number_of, over_axis, rule_of
from refscale.engine import Op
from refscale.errors import ProgramError

__all__: list[str] = []

_LARGEST = float(np.finfo(np.float32).max)
"""In place of a bound that is missing."""

# --- Sums and products of two -----------------------------------------------------------------------------------------


@rule_of("add.Tensor", "add.Scalar")
def _add(run: Evaluation, self: Any, other: Any, alpha: float = 1) -> Any:
    if not is_one(alpha):
        raise ProgramError(f"add with alpha={alpha}: expected 1")
    return _sum(run, self, other, ops.Add())


@rule_of("sub.Tensor", "sub.Scalar")
def _sub(run: Evaluation, self: Any, other: Any, alpha: float = 1) -> Any:
    if not is_one(alpha):
        raise ProgramError(f"sub with alpha={alpha}: expected 1")
    return _sum(run, self, other, ops.Subtract())


def _sum(run: Evaluation, x: Any, y: Any, op: Op) -> Any:
    if number_of(x) == 0 and isinstance(op, ops.Add):
        return y
    if number_of(y) == 0:
        return x
    return run.apply(op, *_floating(run, x, y))


def _floating(run: Evaluation, x: Any, y: Any) -> list[Any]:
    """Two operands; a constant of integers is converted to the type of the other, if that has another."""
    like = x if run.depends(x) else y

    def whole(z: Any) -> bool:
        return isinstance(kind := getattr(z, "dtype", None), np.dtype) and kind.kind in "iu"

    def floating(z: Any) -> Any:
        if isinstance(z, int):
            return run.filled((), float(z), like)
        return z.astype(run.filled((), 0.0, like).dtype) if whole(z) else z

    return [x, y] if whole(like) else [floating(x), floating(y)]


@rule_of("mul.Tensor", "mul.Scalar")
def _mul(run: Evaluation, self: Any, other: Any) -> Any:
    for x, y in ((self, other), (other, self)):
        if run.depends(x) and (number := number_of(y)) is not None:
            return x if number == 1 else run.apply(ops.ScalarMultiply(number), x)
    return run.apply(ops.Multiply(), *_floating(run, self, other))


@rule_of("div.Tensor", "div.Scalar")
def _div(run: Evaluation, self: Any, other: Any) -> Any:
    number = number_of(other)
    if number is not None:
        return self if number == 1 else run.apply(ops.ScalarDivide(number), self)
    if run.depends(other):
        raise ProgramError("div by a tensor that depends on parameters: expected a constant divisor")
    return run.apply(ops.Multiply(), self, 1 / other)


@rule_of("neg.default")
def _neg(run: Evaluation, self: Any) -> Any:
    return run.apply(ops.ScalarMultiply(-1.0), self)


@rule_of("where.self")
def _where(run: Evaluation, condition: Any, self: Any, other: Any) -> Any:
    if run.depends(condition):
        raise ProgramError("where with a condition that depends on parameters: expected a constant mask")
    return run.apply(ops.Where(), condition, self, other)


@rule_of("where.ScalarOther", "where.ScalarSelf", "where.Scalar")
def _where_number(run: Evaluation, condition: NDArray[np.bool_], self: Any, other: Any) -> Any:
    like = self if run.depends(self) else other
    sides = [x if run.depends(x) else run.filled((), float(x), like) for x in (self, other)]
    return _where(run, condition, *sides)


@rule_of("masked_fill.Scalar")
def _masked_fill(run: Evaluation, self: Any, mask: NDArray[np.bool_], value: float) -> Any:
    return run.apply(ops.Where(), mask, run.filled((), float(value), self), self)


# --- Functions of one tensor ------------------------------------------------------------------------------------------


def _unary(op: Op) -> Rule:
    return lambda run, self, **unused: run.apply(op, self)


for _name, _op in {
    "relu": ops.Relu(),
    "silu": ops.Silu(),
    "tanh": ops.Tanh(),
    "sigmoid": ops.Sigmoid(),
    "hardswish": ops.HardSwish(),
    "hardsigmoid": ops.HardSigmoid(),
    "abs": ops.Abs(),
    "exp": ops.Exp(),
    "relu6": ops.Clip(0.0, 6.0),
}.items():
    RULES[f"aten.{_name}.default"] = _unary(_op)


@rule_of("gelu.default")
def _gelu(run: Evaluation, self: Any, approximate: str = "none") -> Any:
    return run.apply(ops.Gelu("erf" if approximate == "none" else "tanh"), self)


@rule_of("leaky_relu.default")
def _leaky_relu(run: Evaluation, self: Any, negative_slope: float = 0.01) -> Any:
    return run.apply(ops.LeakyRelu(negative_slope), self)


@rule_of("hardtanh.default")
def _hardtanh(run: Evaluation, self: Any, min_val: float = -1.0, max_val: float = 1.0) -> Any:
    return run.apply(ops.Clip(float(min_val), float(max_val)), self)


@rule_of("clamp.default", "clamp_min.default", "clamp_max.default")
def _clamp(run: Evaluation, self: Any, min: float | None = None, max: float | None = None) -> Any:
    low, high = (-_LARGEST if min is None else float(min)), (_LARGEST if max is None else float(max))
    return self if (low, high) == (-_LARGEST, _LARGEST) else run.apply(ops.Clip(low, high), self)


@rule_of("softmax.int", "_softmax.default")
def _softmax(run: Evaluation, self: Any, dim: int, **unused: object) -> Any:
    return over_axis(run, ops.Softmax(), self, dim)


@rule_of("log_softmax.int", "_log_softmax.default")
def _log_softmax(run: Evaluation, self: Any, dim: int, **unused: object) -> Any:
    return over_axis(run, ops.LogSoftmax(), self, dim)
