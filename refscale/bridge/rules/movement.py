"""Movement: shapes, axes, parts, padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from refscale import ops
from refscale.bridge.evaluation import Evaluation
from refscale.bridge.rules.registry import reshaped, rule_of, shape_of
from refscale.errors import ProgramError

__all__: list[str] = []


@rule_of(
    "contiguous.default",
    "clone.default",
    "alias.default",
    "detach_.default",
    "to.dtype",
    "to.dtype_layout",
    "to.device",
    "type_as.default",
    "_to_copy.default",
    "lift_fresh_copy.default",
)
def _identity(run: Evaluation, self: Any = None, input: Any = None, **unused: object) -> Any:
    return input if self is None else self


@rule_of("view.default", "reshape.default", "_unsafe_view.default")
def _view(run: Evaluation, self: Any, size: Sequence[int] = (), shape: Sequence[int] = ()) -> Any:
    return reshaped(run, self, size or shape)


@rule_of("flatten.using_ints")
def _flatten(run: Evaluation, self: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    a, b = start_dim % self.ndim, end_dim % self.ndim
    return reshaped(run, self, (*self.shape[:a], math.prod(self.shape[a : b + 1]), *self.shape[b + 1 :]))


@rule_of("unflatten.int")
def _unflatten(run: Evaluation, self: Any, dim: int, sizes: Sequence[int]) -> Any:
    a = dim % self.ndim
    return reshaped(run, self, (*self.shape[:a], *shape_of(sizes, self.shape[a]), *self.shape[a + 1 :]))


@rule_of("unsqueeze.default")
def _unsqueeze(run: Evaluation, self: Any, dim: int) -> Any:
    a = dim % (self.ndim + 1)
    return reshaped(run, self, (*self.shape[:a], 1, *self.shape[a:]))


@rule_of("squeeze.dim", "squeeze.dims", "squeeze.default")
def _squeeze(run: Evaluation, self: Any, dim: int | Sequence[int] | None = None) -> Any:
    every = range(self.ndim) if dim is None else ((dim,) if isinstance(dim, int) else dim)
    gone = {a % self.ndim for a in every if self.shape[a % self.ndim] == 1}
    return reshaped(run, self, [s for a, s in enumerate(self.shape) if a not in gone])


@rule_of("permute.default")
def _permute(run: Evaluation, self: Any, dims: Sequence[int]) -> Any:
    return run.transpose(self, dims)


@rule_of("transpose.int")
def _transpose(run: Evaluation, self: Any, dim0: int, dim1: int) -> Any:
    order = list(range(self.ndim))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return run.transpose(self, order)


@rule_of("t.default", "numpy_T.default")
def _t(run: Evaluation, self: Any) -> Any:
    return run.transpose(self, range(self.ndim)[::-1])


def _sliced(run: Evaluation, x: Any, axis: int, start: int, stop: int) -> Any:
    return x if (start, stop) == (0, x.shape[axis]) else run.apply(ops.Slice(axis, start, stop), x)


@rule_of("select.int")
def _select(run: Evaluation, self: Any, dim: int, index: int) -> Any:
    a = dim % self.ndim
    i = index % self.shape[a]
    return reshaped(run, _sliced(run, self, a, i, i + 1), (*self.shape[:a], *self.shape[a + 1 :]))


@rule_of("slice.Tensor")
def _slice(
    run: Evaluation, self: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Any:
    if step != 1:
        raise ProgramError(f"slice with step {step}: expected 1")
    a = dim % self.ndim
    first, last, _ = slice(start, end).indices(self.shape[a])
    return _sliced(run, self, a, first, last)


@rule_of("cat.default", "concat.default")
def _cat(run: Evaluation, tensors: Sequence[Any], dim: int = 0) -> Any:
    return run.apply(ops.Concat(dim % tensors[0].ndim), *tensors)


@rule_of("stack.default")
def _stack(run: Evaluation, tensors: Sequence[Any], dim: int = 0) -> Any:
    a = dim % (tensors[0].ndim + 1)
    return _cat(run, [_unsqueeze(run, t, a) for t in tensors], a)


@rule_of("split.Tensor", "split_with_sizes.default")
def _split(run: Evaluation, self: Any, split_size: int = 0, dim: int = 0, split_sizes: Sequence[int] = ()) -> list[Any]:
    a = dim % self.ndim
    side = self.shape[a]
    sizes = list(split_sizes) or [min(split_size, side - i) for i in range(0, side, split_size)]
    ends = np.cumsum(sizes).tolist()
    return [_sliced(run, self, a, end - size, end) for size, end in zip(sizes, ends, strict=True)]


@rule_of("chunk.default")
def _chunk(run: Evaluation, self: Any, chunks: int, dim: int = 0) -> list[Any]:
    parts: list[Any] = _split(run, self, -(-self.shape[dim] // chunks), dim)
    return parts


@rule_of("unbind.int")
def _unbind(run: Evaluation, self: Any, dim: int = 0) -> list[Any]:
    return [_select(run, self, dim, i) for i in range(self.shape[dim])]


@rule_of("pad.default")
def _pad(run: Evaluation, self: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    pairs = list(zip(pad[::2], pad[1::2], strict=True))[::-1]  # torch lists the last axis first
    widths = ((0, 0),) * (self.ndim - len(pairs)) + tuple(pairs)
    return run.apply(ops.Pad(widths, mode, value or 0.0), self) if any(pad) else self  # type: ignore[arg-type]


@rule_of("expand.default")
def _expand(run: Evaluation, self: Any, size: Sequence[int], **unused: object) -> Any:
    own = (1,) * (len(size) - self.ndim) + self.shape
    shape = tuple(o if s == -1 else int(s) for s, o in zip(size, own, strict=True))
    return self if shape == self.shape else run.apply(ops.Expand(shape), self)
