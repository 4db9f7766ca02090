"""Sums and products of two tensors, functions of one, softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from refscale import ops
from refscale.bridge.evaluation import Evaluation
from refscale.bridge.rules.onnx.registry import aten, node
from refscale.bridge.rules.registry import RULES, Rule, number_of, reshaped
from refscale.engine import Op
from refscale.errors import ProgramError

__all__ = ["add", "multiply"]

# --- Sums and products of two -----------------------------------------------------------------------------------------


@node("Add")
def add(run: Evaluation, A: Any, B: Any) -> Any:
    """A sum, or the op Bias where one operand is a vector along the last axis or the axis of channels."""
    for x, bias in ((A, B), (B, A)):
        axis = _bias_axis(run, x, bias)
        if axis is not None:
            flat = reshaped(run, bias, (math.prod(bias.shape),))
            return run.first(run.apply(ops.Bias(), run.last(x), flat)) if axis == 1 else run.apply(ops.Bias(), x, flat)
    return aten("add.Tensor", run, self=A, other=B)


def _bias_axis(run: Evaluation, x: Any, bias: Any) -> int | None:
    """The axis of x, −1 or 1, along which a tensor is added to all of x; None: it is not a bias."""
    if not (run.depends(x) and run.depends(bias)) or not 1 <= bias.ndim <= x.ndim or math.prod(bias.shape) < 2:
        return None
    shape = (1,) * (x.ndim - bias.ndim) + tuple(bias.shape)
    for axis in (-1, 1):
        one = [s for a, s in enumerate(shape) if a != axis % x.ndim]
        rest = [s for a, s in enumerate(x.shape) if a != axis % x.ndim]
        if shape[axis] == x.shape[axis] and set(one) <= {1} and math.prod(rest) > 1 and (axis < 0 or x.ndim > 2):
            return axis
    return None


@node("Sub")
def _sub(run: Evaluation, A: Any, B: Any) -> Any:
    return aten("sub.Tensor", run, self=A, other=B)


@node("Mul")
def multiply(run: Evaluation, A: Any, B: Any) -> Any:
    """The element-wise product of two tensors, or of a tensor and a number."""
    return aten("mul.Tensor", run, self=A, other=B)


@node("Div")
def _div(run: Evaluation, A: Any, B: Any) -> Any:
    return aten("div.Tensor", run, self=A, other=B)


@node("Neg")
def _neg(run: Evaluation, X: Any) -> Any:
    return aten("neg.default", run, self=X)


@node("Where")
def _where(run: Evaluation, condition: Any, X: Any, Y: Any) -> Any:
    return aten("where.self", run, condition=condition, self=X, other=Y)


@node("Sum")
def _sum(run: Evaluation, data_0: Sequence[Any]) -> Any:
    first, *others = data_0
    for x in others:
        first = add(run, first, x)
    return first


@node("Max")
def _max(run: Evaluation, data_0: Sequence[Any]) -> Any:
    return _extreme(run, ops.Maximum(), data_0)


@node("Min")
def _min(run: Evaluation, data_0: Sequence[Any]) -> Any:
    return _extreme(run, ops.Minimum(), data_0)


def _extreme(run: Evaluation, op: Op, xs: Sequence[Any]) -> Any:
    first, *others = xs
    for x in others:
        first = run.apply(op, first, x)
    return first


# --- Functions of one tensor ------------------------------------------------------------------------------------------


def _unary(op: Op) -> Rule:
    """The rule of a node whose input is X or, in the standard's older pages, input."""
    return lambda run, X=None, input=None: run.apply(op, input if X is None else X)


for _name, _op in {
    "Relu": ops.Relu(),
    "Tanh": ops.Tanh(),
    "Sigmoid": ops.Sigmoid(),
    "Abs": ops.Abs(),
    "Exp": ops.Exp(),
    "Log": ops.Log(),
    "Sqrt": ops.Sqrt(),
    "Softplus": ops.Softplus(),
    "HardSwish": ops.HardSwish(),
}.items():
    RULES[f"onnx.{_name}"] = _unary(_op)


@node("LeakyRelu")
def _leaky_relu(run: Evaluation, X: Any, alpha: float) -> Any:
    return aten("leaky_relu.default", run, self=X, negative_slope=alpha)


@node("Gelu")
def _gelu(run: Evaluation, X: Any, approximate: str) -> Any:
    return aten("gelu.default", run, self=X, approximate=approximate)


@node("Clip")
def _clip(run: Evaluation, input: Any, min: Any = None, max: Any = None) -> Any:
    low, high = (None if bound is None else number_of(np.asarray(bound).reshape(())) for bound in (min, max))
    return aten("clamp.default", run, self=input, min=low, max=high)


@node("Identity")
def _identity(run: Evaluation, input: Any) -> Any:
    return input


@node("Dropout")
def _dropout(run: Evaluation, data: Any, ratio: Any = 0.5, training_mode: Any = False, seed: int = 0) -> Any:
    if np.any(training_mode):
        raise ProgramError("Dropout with training_mode: expected inference")
    return data


@node("Cast")
def _cast(run: Evaluation, input: Any, to: int, saturate: int = 1) -> Any:
    if to not in (1, 11):  # float and double, TensorProto.FLOAT and DOUBLE
        raise ProgramError(f"Cast of a tensor that depends on parameters to type {to}: expected float32 or float64")
    return input


@node("Softmax")
def _softmax(run: Evaluation, input: Any, axis: int) -> Any:
    return aten("softmax.int", run, self=input, dim=axis)


@node("LogSoftmax")
def _log_softmax(run: Evaluation, input: Any, axis: int) -> Any:
    return aten("log_softmax.int", run, self=input, dim=axis)


def _of_rows(op: Op) -> Rule:
    """The rule of a function over all axes from ``axis`` on, as before version 13."""

    def rule(run: Evaluation, input: Any, axis: int) -> Any:
        a = axis % input.ndim
        flat = reshaped(run, input, (math.prod(input.shape[:a]), math.prod(input.shape[a:])))
        return reshaped(run, run.apply(op, flat), input.shape)

    return rule


RULES["onnx.Softmax-1"] = _of_rows(ops.Softmax())
RULES["onnx.LogSoftmax-1"] = _of_rows(ops.LogSoftmax())
