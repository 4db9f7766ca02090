"""Reductions, pooling, resizing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from refscale import ops
from refscale.bridge.evaluation import Evaluation
from refscale.bridge.rules.onnx.registry import aten, integers, node, sides
from refscale.bridge.rules.registry import RULES, Rule
from refscale.engine import Op
from refscale.errors import ProgramError

__all__: list[str] = []


def _reduction(name: str) -> Rule:
    def rule(run: Evaluation, data: Any, keepdims: int, axes: Any = None, noop_with_empty_axes: int = 0) -> Any:
        over = [] if axes is None else integers(axes)
        if not over and noop_with_empty_axes:
            return data
        return aten(name, run, self=data, dim=over, keepdim=bool(keepdims))

    return rule


RULES["onnx.ReduceMean"] = _reduction("mean.dim")
RULES["onnx.ReduceSum"] = _reduction("sum.dim_IntList")


@node("GlobalAveragePool")
def _global_average_pool(run: Evaluation, X: Any) -> Any:
    return aten("mean.dim", run, self=X, dim=list(range(2, X.ndim)), keepdim=True)


@node("GlobalMaxPool")
def _global_max_pool(run: Evaluation, X: Any) -> Any:
    return run.first(run.apply(ops.MaxPool(tuple(X.shape[2:])), run.last(X)))


def _pool(
    run: Evaluation,
    op: Callable[..., Op],
    X: Any,
    kernel: Sequence[int],
    auto_pad: str,
    ceil_mode: int,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
    strides: Sequence[int] | None,
) -> Any:
    n = len(kernel)
    stride, dilation, space = strides or (1,) * n, dilations or (1,) * n, X.shape[2:]
    both = sides(auto_pad, space, kernel, stride, dilation, pads)
    rest = [
        (s + a + b - d * (k - 1) - 1) % step
        for s, (a, b), d, k, step in zip(space, both, dilation, kernel, stride, strict=True)
    ]
    if ceil_mode and any(rest):
        raise ProgramError(f"pooling of {tuple(X.shape)} with ceil_mode=1: expected windows that fit")
    padding = tuple(both) if any(map(any, both)) else None
    return run.first(run.apply(op(tuple(kernel), tuple(stride), padding, tuple(dilation)), run.last(X)))


@node("MaxPool")
def _max_pool(
    run: Evaluation,
    X: Any,
    kernel_shape: Sequence[int],
    auto_pad: str,
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
) -> Any:
    return _pool(run, ops.MaxPool, X, kernel_shape, auto_pad, ceil_mode, dilations, pads, strides)


@node("AveragePool")
def _average_pool(
    run: Evaluation,
    X: Any,
    kernel_shape: Sequence[int],
    auto_pad: str,
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Any:
    def op(kernel: Any, stride: Any, padding: Any, dilation: Any) -> Op:
        return ops.AvgPool(kernel, stride, padding, dilation, bool(count_include_pad))

    return _pool(run, op, X, kernel_shape, auto_pad, ceil_mode, dilations, pads, strides)


_LINEAR = ("half_pixel", "pytorch_half_pixel", "align_corners")
"""Coordinates of ``ops.LinearResize``; "pytorch_half_pixel" differs from "half_pixel" for an output of one element."""


@node("Resize", "Upsample")
def _resize(
    run: Evaluation,
    X: Any,
    mode: str,
    roi: Any = None,
    scales: Any = None,
    sizes: Any = None,
    coordinate_transformation_mode: str = "asymmetric",
    nearest_mode: str = "floor",
    antialias: int = 0,
    axes: Sequence[int] | None = None,
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
) -> Any:
    repeats = (coordinate_transformation_mode, nearest_mode) in {
        ("asymmetric", "floor"),
        ("half_pixel", "round_prefer_floor"),
        ("half_pixel", "round_prefer_ceil"),
        ("pytorch_half_pixel", "round_prefer_floor"),
    }
    by_size = sizes is not None and np.size(sizes) > 0
    along = [a % X.ndim for a in (range(X.ndim) if axes is None else axes)]
    goal = list(X.shape)
    for axis, number in zip(along, np.ravel(sizes if by_size else scales), strict=True):
        goal[axis] = int(number) if by_size else float(number) * X.shape[axis]
    factors = [n / s for n, s in zip(goal, X.shape, strict=True)]
    whole = factors[:2] == [1, 1] and all(n == int(n) for n in goal) and keep_aspect_ratio_policy == "stretch"
    if mode == "linear" and coordinate_transformation_mode in _LINEAR and whole and not (antialias or exclude_outside):
        size = tuple(int(n) for n in goal[2:])
        corners = coordinate_transformation_mode == "align_corners"
        if corners or min(size) > 1 or coordinate_transformation_mode == "half_pixel":
            return run.first(run.apply(ops.LinearResize(size, corners), run.last(X)))
    if not whole or mode != "nearest" or not repeats or any(f != int(f) or f < 1 for f in factors):
        raise ProgramError(
            f"Resize with mode={mode}, {coordinate_transformation_mode}, {nearest_mode}, factors {factors}: "
            "expected each element repeated a whole number of times, or linear interpolation between half pixels or "
            "aligned corners"
        )
    return run.first(run.apply(ops.NearestResize(tuple(int(f) for f in factors[2:])), run.last(X)))
