"""The table of rules, and what rules share.

A rule is called by the argument names of the op's schema.  A tensor that depends on parameters arrives as a
``Tensor``, every other one as an array.  Layouts are torch's: channels are axis 1, a linear weight is (out, in); a rule
moves axes where refscale's op has them elsewhere, and ``Evaluation`` removes moves that cancel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, SupportsFloat

import numpy as np

from refscale import ops
from refscale.bridge.evaluation import Evaluation
from refscale.engine import Op, Tensor

__all__ = ["RULES", "Rule", "for_each_axis", "is_one", "number_of", "over_axis", "reshaped", "rule_of", "shape_of"]

Rule = Callable[..., Any]

RULES: dict[str, Rule] = {}
"""By target of a step, such as "aten.linear.default" or "onnx.Gemm"."""


def rule_of(*names: str) -> Callable[[Rule], Rule]:
    """Put a function in the table as the rule of these ops."""

    def add(rule: Rule) -> Rule:
        RULES.update({f"aten.{name}": rule for name in names})
        return rule

    return add


def is_one(number: object) -> bool:
    """Return whether a number that multiplies is 1."""
    return isinstance(number, int | float) and number == 1


def number_of(x: Any) -> float | None:
    """The value of a number or of a constant of one element; None for all else."""
    if isinstance(x, bool | int | float):
        return float(x)
    if not isinstance(x, Tensor) and getattr(x, "shape", None) == () and isinstance(x, SupportsFloat):
        return float(x)
    return None


def shape_of(sizes: Sequence[int], elements: int) -> tuple[int, ...]:
    """A shape whose −1 is computed."""
    known = math.prod(s for s in sizes if s != -1)
    return tuple(elements // max(known, 1) if s == -1 else int(s) for s in sizes)


def reshaped(run: Evaluation, x: Any, shape: Sequence[int]) -> Any:
    """A tensor in another shape, which may have a −1; itself if it has that shape."""
    shape = shape_of(shape, math.prod(x.shape))
    return x if shape == x.shape else run.apply(ops.Reshape(shape), x)


def over_axis(run: Evaluation, op: Op, x: Any, axis: int, *others: Any) -> Any:
    """The output of an op over the last axis, applied to x and other inputs over another axis of x."""
    a = axis % x.ndim
    order = [*range(a), *range(a + 1, x.ndim), a]
    y = run.apply(op, run.transpose(x, order), *others)
    return run.transpose(y, np.argsort(order).tolist())


def for_each_axis(values: int | Sequence[int], n: int) -> tuple[int, ...]:
    """One number for each of n axes, as torch repeats a single one."""
    several = (values,) if isinstance(values, int) else tuple(values)
    return several * n if len(several) == 1 else several
