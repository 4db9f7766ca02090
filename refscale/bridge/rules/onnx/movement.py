"""Movement: shapes, axes, parts, padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from refscale.bridge.evaluation import Evaluation
from refscale.bridge.rules.onnx.registry import aten, integers, node
from refscale.bridge.rules.registry import reshaped
from refscale.errors import ProgramError

__all__: list[str] = []


@node("Reshape")
def _reshape(run: Evaluation, data: Any, shape: Any, allowzero: int = 0) -> Any:
    goal = integers(shape)
    return reshaped(run, data, goal if allowzero else [n or data.shape[a] for a, n in enumerate(goal)])


@node("Flatten")
def _flatten(run: Evaluation, input: Any, axis: int) -> Any:
    a = axis + input.ndim if axis < 0 else axis
    return reshaped(run, input, (math.prod(input.shape[:a]), math.prod(input.shape[a:])))


@node("Transpose")
def _transpose(run: Evaluation, data: Any, perm: Sequence[int] | None = None) -> Any:
    return run.transpose(data, perm or range(data.ndim)[::-1])


@node("Squeeze")
def _squeeze(run: Evaluation, data: Any, axes: Any = None) -> Any:
    return aten("squeeze.dims", run, self=data, dim=None if axes is None else integers(axes))


@node("Unsqueeze")
def _unsqueeze(run: Evaluation, data: Any, axes: Any) -> Any:
    rank = data.ndim + len(integers(axes))
    at = {a % rank for a in integers(axes)}
    rest = iter(data.shape)
    return reshaped(run, data, [1 if a in at else next(rest) for a in range(rank)])


@node("Expand")
def _expand(run: Evaluation, input: Any, shape: Any) -> Any:
    return aten("expand.default", run, self=input, size=np.broadcast_shapes(input.shape, tuple(integers(shape))))


@node("Concat")
def _concat(run: Evaluation, inputs: Sequence[Any], axis: int) -> Any:
    return inputs[0] if len(inputs) == 1 else aten("cat.default", run, tensors=inputs, dim=axis)


@node("Split")
def _split(run: Evaluation, input: Any, num_outputs: int, axis: int, split: Any = None) -> list[Any]:
    side = input.shape[axis]
    each = -(-side // num_outputs)
    starts = [min(i * each, side) for i in range(num_outputs + 1)]
    sizes = [b - a for a, b in pairwise(starts)] if split is None else integers(split)
    parts: list[Any] = aten("split_with_sizes.default", run, self=input, split_sizes=sizes, dim=axis)
    return parts


@node("Slice")
def _slice(run: Evaluation, data: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    first, last = integers(starts), integers(ends)
    along = list(range(len(first))) if axes is None else integers(axes)
    strides = [1] * len(first) if steps is None else integers(steps)
    for axis, start, end, step in zip(along, first, last, strides, strict=True):
        data = aten("slice.Tensor", run, self=data, dim=axis, start=start, end=end, step=step)
    return data


@node("Gather")
def _gather(run: Evaluation, data: Any, indices: Any, axis: int) -> Any:
    if run.depends(indices):
        raise ProgramError("Gather at indices that depend on parameters: expected constant ones")
    if indices.ndim and data.ndim == 2 and axis in (0, -2):
        if isinstance(indices, np.ndarray):
            indices = np.where(indices < 0, indices + data.shape[0], indices)
        return aten("embedding.default", run, weight=data, indices=indices)
    places = np.asarray(indices)
    if places.ndim == 0:
        return aten("select.int", run, self=data, dim=axis, index=int(places))
    places = np.where(places < 0, places + data.shape[axis], places)
    if places.ndim == 1 and places.size and np.array_equal(places, np.arange(places[0], places[0] + places.size)):
        end = int(places[-1]) + 1
        return aten("slice.Tensor", run, self=data, dim=axis, start=int(places[0]), end=end)
    raise ProgramError(f"Gather of indices {places.shape} along axis {axis} of {data.shape}: expected rows of a table")


@node("Pad")
def _pad(run: Evaluation, data: Any, pads: Any, mode: str, constant_value: Any = None, axes: Any = None) -> Any:
    ends = integers(pads)
    n = len(ends) // 2
    along = range(n) if axes is None else [a % data.ndim for a in integers(axes)]
    widths = [(0, 0)] * data.ndim
    for axis, before, after in zip(along, ends[:n], ends[n:], strict=True):
        widths[axis] = before, after
    value = 0.0 if constant_value is None else float(np.ravel(constant_value)[0])
    last_first = [side for pair in reversed(widths) for side in pair]
    return aten("pad.default", run, self=data, pad=last_first, mode=mode, value=value)
