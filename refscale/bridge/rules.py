"""A rule for each ATen op: the same function in refscale's ops.

A rule is called by the argument names of the op's schema.  A tensor that depends on parameters arrives as a
``Tensor``, every other one as an array.  Layouts are torch's: channels are axis 1, a linear weight is (out, in); a rule
moves axes where refscale's op has them elsewhere, and ``Evaluation`` removes moves that cancel.

Rules are plain Python: torch is not imported here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.engine import Op, Tensor, apply
from refscale.errors import ProgramError

__all__ = ["RULES", "Evaluation", "Rule"]

Rule = Callable[..., Any]


class Evaluation:
    """One evaluation of a module by refscale's ops; ``module.TorchEvaluation`` evaluates the same rules in torch.

    A move of axes that undoes an earlier one returns the earlier tensor, so two convolutions in a row share a layout.

    Attributes:
        rng: of dropout; None: dropout is off.
    """

    def __init__(self, rng: np.random.Generator | None = None) -> None:
        self.rng = rng
        self._moves: dict[Any, tuple[Any, tuple[int, ...]]] = {}

    def depends(self, x: object) -> bool:
        """Return whether a value depends on parameters; others are constants."""
        return isinstance(x, Tensor)

    def scope(self, name: str) -> AbstractContextManager[None]:
        """Around the calls of a submodule."""
        return nullcontext()

    def apply(self, op: Op, *inputs: Any) -> Any:
        """The output of a scaled op."""
        return apply(op, *inputs)

    def dropout(self, x: Any, p: float) -> Any:
        """Drop elements with probability p, if this evaluation has a source of noise."""
        return F.dropout(x, p, self.rng)

    def detached(self, x: Any) -> Any:
        """The value of a tensor, as a constant."""
        return x.value if isinstance(x, Tensor) else x

    def filled(self, shape: tuple[int, ...], value: float | bool, like: Any) -> Any:
        """A constant array of one value; numbers have the dtype of ``like``."""
        return np.full(shape, value, np.bool_ if isinstance(value, bool) else like.value.dtype)

    def is_mask(self, x: Any) -> bool:
        """Return whether a constant is boolean."""
        return bool(x.dtype == np.bool_)

    def _permuted(self, x: Any, order: tuple[int, ...]) -> Any:
        return np.transpose(x, order)

    def _key(self, x: Any) -> Any:
        return x.variable

    def transpose(self, x: Any, axes: Sequence[int]) -> Any:
        """Return x with its axes in the given order, a permutation of 0 … n−1."""
        order = tuple(a % len(x.shape) for a in axes)
        if not self.depends(x):
            return self._permuted(x, order)
        source, before = self._moves.get(self._key(x), (x, tuple(range(len(x.shape)))))
        order = tuple(before[a] for a in order)
        if order == tuple(range(len(order))):
            return source
        y = self.apply(ops.Transpose(order), source)
        self._moves[self._key(y)] = source, order
        return y

    def last(self, x: Any) -> Any:
        """Return x (batch, channels, …) with its channels last."""
        return self.transpose(x, (0, *range(2, len(x.shape)), 1))

    def first(self, x: Any) -> Any:
        """Return x (batch, …, channels) with its channels in axis 1."""
        return self.transpose(x, (0, len(x.shape) - 1, *range(1, len(x.shape) - 1)))


RULES: dict[str, Rule] = {}
"""By ATen name, such as "aten.linear.default"."""


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def add(rule: Rule) -> Rule:
        RULES.update({f"aten.{name}": rule for name in names})
        return rule

    return add


def _refuse(reason: str) -> ProgramError:
    return ProgramError(reason)


def _flag(number: object) -> bool:
    """Return whether a number that multiplies is 1."""
    return isinstance(number, int | float) and number == 1


def _number(x: object) -> float | None:
    """The value of a number or of a constant of one element; None for all else."""
    if isinstance(x, bool | int | float):
        return float(x)
    return None if isinstance(x, Tensor) or getattr(x, "shape", None) != () else float(x)  # type: ignore[arg-type]


def _shape(sizes: Sequence[int], elements: int) -> tuple[int, ...]:
    """A shape whose −1 is computed."""
    known = math.prod(s for s in sizes if s != -1)
    return tuple(elements // max(known, 1) if s == -1 else int(s) for s in sizes)


def _reshaped(run: Evaluation, x: Any, shape: Sequence[int]) -> Any:
    shape = _shape(shape, math.prod(x.shape))
    return x if shape == x.shape else run.apply(ops.Reshape(shape), x)


# --- Products ---------------------------------------------------------------------------------------------------------


@_rule("linear.default")
def _linear(run: Evaluation, input: Any, weight: Any, bias: Any = None) -> Any:
    y = run.apply(ops.Matmul(), input, run.transpose(weight, (1, 0)))
    return y if bias is None else run.apply(ops.Bias(), y, bias)


@_rule("matmul.default", "mm.default", "bmm.default")
def _matmul(run: Evaluation, self: Any, other: Any = None, mat2: Any = None) -> Any:
    right = mat2 if other is None else other
    return run.apply(ops.Matmul(), self, right)


@_rule("addmm.default")
def _addmm(run: Evaluation, self: Any, mat1: Any, mat2: Any, beta: float = 1, alpha: float = 1) -> Any:
    if not (_flag(beta) and _flag(alpha)):
        raise _refuse(f"addmm with beta={beta}, alpha={alpha}: expected 1 and 1")
    return run.apply(ops.Bias(), run.apply(ops.Matmul(), mat1, mat2), self)


def _convolution(kind: type[ops.Conv1d | ops.Conv2d | ops.Conv3d]) -> Rule:
    def rule(
        run: Evaluation,
        input: Any,
        weight: Any,
        bias: Any = None,
        stride: Sequence[int] = (1,),
        padding: Sequence[int] | str = (0,),
        dilation: Sequence[int] = (1,),
        groups: int = 1,
    ) -> Any:
        n = weight.ndim - 2
        stride, dilation = _each(stride, n), _each(dilation, n)
        if isinstance(padding, str):
            total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
            pads: list[Any] = [(t // 2, t - t // 2) if padding == "same" else (0, 0) for t in total]
        else:
            pads = list(_each(padding, n))
        settings: list[Any] = [s[0] if n == 1 else tuple(s) for s in (stride, pads, dilation)]
        op: Op = kind(stride=settings[0], padding=settings[1], dilation=settings[2], groups=groups)
        y = run.apply(op, run.last(input), run.transpose(weight, (*range(2, n + 2), 1, 0)))
        return run.first(y if bias is None else run.apply(ops.Bias(), y, bias))

    return rule


def _each(values: int | Sequence[int], n: int) -> tuple[int, ...]:
    """One number for each of n axes, as torch repeats a single one."""
    several = (values,) if isinstance(values, int) else tuple(values)
    return several * n if len(several) == 1 else several


RULES["aten.conv1d.default"] = RULES["aten.conv1d.padding"] = _convolution(ops.Conv1d)
RULES["aten.conv2d.default"] = RULES["aten.conv2d.padding"] = _convolution(ops.Conv2d)
RULES["aten.conv3d.default"] = RULES["aten.conv3d.padding"] = _convolution(ops.Conv3d)


@_rule("conv_transpose1d.default", "conv_transpose2d.input", "conv_transpose3d.input")
def _conv_transpose(
    run: Evaluation,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    output_padding: Sequence[int] = (0,),
    groups: int = 1,
    dilation: Sequence[int] = (1,),
) -> Any:
    if groups != 1:
        raise _refuse(f"transposed convolution with groups={groups}: expected 1")
    n = weight.ndim - 2
    stride, padding, output_padding, dilation = (_each(v, n) for v in (stride, padding, output_padding, dilation))
    op = ops.ConvTranspose(stride=stride, padding=padding, dilation=dilation, output_padding=output_padding)
    y = run.apply(op, run.last(input), run.transpose(weight, (*range(2, n + 2), 0, 1)))
    return run.first(y if bias is None else run.apply(ops.Bias(), y, bias))


@_rule("upsample_nearest1d.vec", "upsample_nearest2d.vec", "upsample_nearest3d.vec")
def _upsample_nearest(
    run: Evaluation, input: Any, output_size: Sequence[int] | None, scale_factors: Sequence[float] | None
) -> Any:
    space = input.shape[2:]
    goal = output_size or [int(s * f) for s, f in zip(space, scale_factors or (), strict=True)]
    if any(g % s for g, s in zip(goal, space, strict=True)):
        raise _refuse(f"upsample_nearest of {tuple(space)} to {tuple(goal)}: expected multiples")
    factor = tuple(g // s for g, s in zip(goal, space, strict=True))
    return run.first(run.apply(ops.NearestResize(factor), run.last(input)))


# --- Sums and products of two -----------------------------------------------------------------------------------------


@_rule("add.Tensor", "add.Scalar")
def _add(run: Evaluation, self: Any, other: Any, alpha: float = 1) -> Any:
    if not _flag(alpha):
        raise _refuse(f"add with alpha={alpha}: expected 1")
    return _sum(run, self, other, ops.Add())


@_rule("sub.Tensor", "sub.Scalar")
def _sub(run: Evaluation, self: Any, other: Any, alpha: float = 1) -> Any:
    if not _flag(alpha):
        raise _refuse(f"sub with alpha={alpha}: expected 1")
    return _sum(run, self, other, ops.Subtract())


def _sum(run: Evaluation, x: Any, y: Any, op: Op) -> Any:
    if _number(x) == 0 and isinstance(op, ops.Add):
        return y
    if _number(y) == 0:
        return x
    return run.apply(op, x, y)


@_rule("mul.Tensor", "mul.Scalar")
def _mul(run: Evaluation, self: Any, other: Any) -> Any:
    for x, y in ((self, other), (other, self)):
        if run.depends(x) and (number := _number(y)) is not None:
            return x if number == 1 else run.apply(ops.ScalarMultiply(number), x)
    return run.apply(ops.Multiply(), self, other)


@_rule("div.Tensor", "div.Scalar")
def _div(run: Evaluation, self: Any, other: Any) -> Any:
    number = _number(other)
    if number is not None:
        return self if number == 1 else run.apply(ops.ScalarDivide(number), self)
    if run.depends(other):
        raise _refuse("div by a tensor that depends on parameters: expected a constant divisor")
    return run.apply(ops.Multiply(), self, 1 / other)


@_rule("neg.default")
def _neg(run: Evaluation, self: Any) -> Any:
    return run.apply(ops.ScalarMultiply(-1.0), self)


@_rule("where.self")
def _where(run: Evaluation, condition: Any, self: Any, other: Any) -> Any:
    if run.depends(condition):
        raise _refuse("where with a condition that depends on parameters: expected a constant mask")
    return run.apply(ops.Where(), condition, self, other)


@_rule("where.ScalarOther", "where.ScalarSelf", "where.Scalar")
def _where_number(run: Evaluation, condition: NDArray[np.bool_], self: Any, other: Any) -> Any:
    like = self if run.depends(self) else other
    sides = [x if run.depends(x) else run.filled((), float(x), like) for x in (self, other)]
    return _where(run, condition, *sides)


@_rule("masked_fill.Scalar")
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


@_rule("gelu.default")
def _gelu(run: Evaluation, self: Any, approximate: str = "none") -> Any:
    return run.apply(ops.Gelu("erf" if approximate == "none" else "tanh"), self)


@_rule("leaky_relu.default")
def _leaky_relu(run: Evaluation, self: Any, negative_slope: float = 0.01) -> Any:
    return run.apply(ops.LeakyRelu(negative_slope), self)


@_rule("hardtanh.default")
def _hardtanh(run: Evaluation, self: Any, min_val: float = -1.0, max_val: float = 1.0) -> Any:
    return run.apply(ops.Clip(float(min_val), float(max_val)), self)


@_rule("clamp.default")
def _clamp(run: Evaluation, self: Any, min: float | None = None, max: float | None = None) -> Any:
    if min is None or max is None:
        raise _refuse(f"clamp with min={min}, max={max}: expected both bounds")
    return run.apply(ops.Clip(float(min), float(max)), self)


@_rule("softmax.int", "_softmax.default")
def _softmax(run: Evaluation, self: Any, dim: int, **unused: object) -> Any:
    return _over(run, self, dim, ops.Softmax())


@_rule("log_softmax.int", "_log_softmax.default")
def _log_softmax(run: Evaluation, self: Any, dim: int, **unused: object) -> Any:
    return _over(run, self, dim, ops.LogSoftmax())


def _over(run: Evaluation, x: Any, dim: int, op: Op) -> Any:
    """An op over the last axis, applied over another one."""
    order = [a for a in range(x.ndim) if a != dim % x.ndim] + [dim % x.ndim]
    y = run.apply(op, run.transpose(x, order))
    return run.transpose(y, np.argsort(order).tolist())


# --- Norms ------------------------------------------------------------------------------------------------------------


@_rule("layer_norm.default")
def _layer_norm(
    run: Evaluation,
    input: Any,
    normalized_shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    **unused: object,
) -> Any:
    if len(normalized_shape) != 1:
        raise _refuse(f"layer_norm over {len(normalized_shape)} axes: expected 1, the last")
    gain, shift = _affine(run, input, weight, bias, input.shape[-1])
    return run.apply(ops.LayerNorm(eps), input, gain, shift)


@_rule("rms_norm.default")
def _rms_norm(
    run: Evaluation, input: Any, normalized_shape: Sequence[int], weight: Any = None, eps: float | None = None
) -> Any:
    if len(normalized_shape) != 1:
        raise _refuse(f"rms_norm over {len(normalized_shape)} axes: expected 1, the last")
    tiny = float(np.finfo(np.float32).eps)
    return run.apply(
        ops.RmsNorm(tiny if eps is None else eps), input, _affine(run, input, weight, None, input.shape[-1])[0]
    )


@_rule("batch_norm.default")
def _batch_norm(
    run: Evaluation,
    input: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    **unused: object,
) -> Any:
    gain, shift = _affine(run, input, weight, bias, input.shape[1])
    if training:
        return run.first(run.apply(ops.BatchNorm(eps), run.last(input), gain, shift))
    op = ops.FrozenBatchNorm(eps)
    return run.first(run.apply(op, run.last(input), gain, shift, running_mean, running_var))


@_rule("group_norm.default")
def _group_norm(
    run: Evaluation,
    input: Any,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    **unused: object,
) -> Any:
    gain, shift = _affine(run, input, weight, bias, input.shape[1])
    return run.first(run.apply(ops.GroupNorm(num_groups, eps), run.last(input), gain, shift))


def _affine(run: Evaluation, x: Any, weight: Any, bias: Any, n: int) -> tuple[Any, Any]:
    """Gain and bias (n,); a missing one is constant: 1 and 0."""
    gain = run.filled((n,), 1.0, x) if weight is None else weight
    return gain, run.filled((n,), 0.0, x) if bias is None else bias


# --- Attention, tables, dropout ---------------------------------------------------------------------------------------


@_rule("scaled_dot_product_attention.default")
def _attention(
    run: Evaluation,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    if enable_gqa:
        raise _refuse("scaled_dot_product_attention with enable_gqa=True: expected keys repeated for each query head")
    scores = run.apply(ops.AttentionScores(), query, key)
    if scale is not None and scale != (damping := query.shape[-1] ** -0.5):
        scores = run.apply(ops.ScalarMultiply(scale / damping), scores)
    if attn_mask is not None and (run.depends(attn_mask) or not run.is_mask(attn_mask)):
        scores, attn_mask = run.apply(ops.Add(), scores, attn_mask), None
    if attn_mask is None and not is_causal:
        weights = run.apply(ops.Softmax(), scores)
    else:
        everything = run.filled((1,) * (len(scores.shape) - 1) + scores.shape[-1:], True, scores)
        weights = run.apply(ops.MaskedSoftmax(is_causal), scores, everything if attn_mask is None else attn_mask)
    return run.apply(ops.AttentionMix(), run.dropout(weights, dropout_p), value)


@_rule("embedding.default")
def _embedding(run: Evaluation, weight: Any, indices: NDArray[Any], padding_idx: int = -1, **unused: object) -> Any:
    rows = run.apply(ops.Embedding(), weight, indices)
    padding = indices == padding_idx
    if padding_idx < 0 or not padding.any():
        return rows
    return run.apply(
        ops.Where(), padding[..., None], run.detached(weight)[padding_idx], rows
    )  # the row of padding has no gradient


@_rule("dropout.default")
def _dropout(run: Evaluation, p: float, train: bool, input: Any = None, self: Any = None) -> Any:
    x = self if input is None else input
    return run.dropout(x, p) if train else x


# --- Movement ---------------------------------------------------------------------------------------------------------


@_rule(
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


@_rule("view.default", "reshape.default", "_unsafe_view.default")
def _view(run: Evaluation, self: Any, size: Sequence[int] = (), shape: Sequence[int] = ()) -> Any:
    return _reshaped(run, self, size or shape)


@_rule("flatten.using_ints")
def _flatten(run: Evaluation, self: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    a, b = start_dim % self.ndim, end_dim % self.ndim
    return _reshaped(run, self, (*self.shape[:a], math.prod(self.shape[a : b + 1]), *self.shape[b + 1 :]))


@_rule("unflatten.int")
def _unflatten(run: Evaluation, self: Any, dim: int, sizes: Sequence[int]) -> Any:
    a = dim % self.ndim
    return _reshaped(run, self, (*self.shape[:a], *_shape(sizes, self.shape[a]), *self.shape[a + 1 :]))


@_rule("unsqueeze.default")
def _unsqueeze(run: Evaluation, self: Any, dim: int) -> Any:
    a = dim % (self.ndim + 1)
    return _reshaped(run, self, (*self.shape[:a], 1, *self.shape[a:]))


@_rule("squeeze.dim", "squeeze.dims", "squeeze.default")
def _squeeze(run: Evaluation, self: Any, dim: int | Sequence[int] | None = None) -> Any:
    every = range(self.ndim) if dim is None else ((dim,) if isinstance(dim, int) else dim)
    gone = {a % self.ndim for a in every if self.shape[a % self.ndim] == 1}
    return _reshaped(run, self, [s for a, s in enumerate(self.shape) if a not in gone])


@_rule("permute.default")
def _permute(run: Evaluation, self: Any, dims: Sequence[int]) -> Any:
    return run.transpose(self, dims)


@_rule("transpose.int")
def _transpose(run: Evaluation, self: Any, dim0: int, dim1: int) -> Any:
    order = list(range(self.ndim))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return run.transpose(self, order)


@_rule("t.default", "numpy_T.default")
def _t(run: Evaluation, self: Any) -> Any:
    return run.transpose(self, range(self.ndim)[::-1])


def _sliced(run: Evaluation, x: Any, axis: int, start: int, stop: int) -> Any:
    return x if (start, stop) == (0, x.shape[axis]) else run.apply(ops.Slice(axis, start, stop), x)


@_rule("select.int")
def _select(run: Evaluation, self: Any, dim: int, index: int) -> Any:
    a = dim % self.ndim
    i = index % self.shape[a]
    return _reshaped(run, _sliced(run, self, a, i, i + 1), (*self.shape[:a], *self.shape[a + 1 :]))


@_rule("slice.Tensor")
def _slice(
    run: Evaluation, self: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Any:
    if step != 1:
        raise _refuse(f"slice with step {step}: expected 1")
    a = dim % self.ndim
    first, last, _ = slice(start, end).indices(self.shape[a])
    return _sliced(run, self, a, first, last)


@_rule("cat.default", "concat.default")
def _cat(run: Evaluation, tensors: Sequence[Any], dim: int = 0) -> Any:
    return run.apply(ops.Concat(dim % tensors[0].ndim), *tensors)


@_rule("stack.default")
def _stack(run: Evaluation, tensors: Sequence[Any], dim: int = 0) -> Any:
    a = dim % (tensors[0].ndim + 1)
    return _cat(run, [_unsqueeze(run, t, a) for t in tensors], a)


@_rule("split.Tensor", "split_with_sizes.default")
def _split(run: Evaluation, self: Any, split_size: int = 0, dim: int = 0, split_sizes: Sequence[int] = ()) -> list[Any]:
    a = dim % self.ndim
    side = self.shape[a]
    sizes = list(split_sizes) or [min(split_size, side - i) for i in range(0, side, split_size)]
    ends = np.cumsum(sizes).tolist()
    return [_sliced(run, self, a, end - size, end) for size, end in zip(sizes, ends, strict=True)]


@_rule("chunk.default")
def _chunk(run: Evaluation, self: Any, chunks: int, dim: int = 0) -> list[Any]:
    parts: list[Any] = _split(run, self, -(-self.shape[dim] // chunks), dim)
    return parts


@_rule("unbind.int")
def _unbind(run: Evaluation, self: Any, dim: int = 0) -> list[Any]:
    return [_select(run, self, dim, i) for i in range(self.shape[dim])]


@_rule("pad.default")
def _pad(run: Evaluation, self: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    pairs = list(zip(pad[::2], pad[1::2], strict=True))[::-1]  # torch lists the last axis first
    widths = ((0, 0),) * (self.ndim - len(pairs)) + tuple(pairs)
    return run.apply(ops.Pad(widths, mode, value or 0.0), self) if any(pad) else self  # type: ignore[arg-type]


@_rule("expand.default")
def _expand(run: Evaluation, self: Any, size: Sequence[int], **unused: object) -> Any:
    own = (1,) * (len(size) - self.ndim) + self.shape
    shape = tuple(o if s == -1 else int(s) for s, o in zip(size, own, strict=True))
    return self if shape == self.shape else run.apply(ops.Expand(shape), self)


# --- Reductions and pooling -------------------------------------------------------------------------------------------


def _reduction(kind: type[ops.Mean | ops.Sum]) -> Rule:
    def rule(
        run: Evaluation, self: Any, dim: Sequence[int] | None = None, keepdim: bool = False, **unused: object
    ) -> Any:
        over = tuple(range(self.ndim)) if dim is None or dim == [] else tuple(np.atleast_1d(np.asarray(dim)).tolist())
        y = run.apply(kind(tuple(a % self.ndim for a in over)), self)
        if not keepdim:
            return y
        return _reshaped(run, y, [1 if a in {o % self.ndim for o in over} else s for a, s in enumerate(self.shape)])

    return rule


RULES["aten.mean.dim"] = RULES["aten.mean.default"] = _reduction(ops.Mean)
RULES["aten.sum.dim_IntList"] = RULES["aten.sum.default"] = _reduction(ops.Sum)


@_rule("adaptive_avg_pool1d.default", "adaptive_avg_pool2d.default")
def _adaptive_avg_pool(run: Evaluation, self: Any, output_size: Sequence[int]) -> Any:
    space, goal = self.shape[2:], _each(output_size, self.ndim - 2)
    if any(s % g for s, g in zip(space, goal, strict=True)):
        raise _refuse(f"adaptive_avg_pool of {space} to {goal}: expected sides that divide")
    kernel = tuple(s // g for s, g in zip(space, goal, strict=True))
    if kernel == space:
        over = tuple(range(2, self.ndim))
        return _reshaped(run, run.apply(ops.Mean(over), self), (*self.shape[:2], *goal))
    return run.first(run.apply(ops.AvgPool(kernel), run.last(self)))


def _pooling(kind: type[ops.MaxPool | ops.AvgPool], n: int) -> Rule:
    def rule(
        run: Evaluation,
        self: Any,
        kernel_size: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        dilation: Sequence[int] = (1,),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        kernel = _each(kernel_size, n)
        pads = _each(padding, n)
        if ceil_mode or set(_each(dilation, n)) != {1} or divisor_override or (any(pads) and not count_include_pad):
            raise _refuse(
                f"pooling with ceil_mode={ceil_mode}, dilation={dilation}, count_include_pad={count_include_pad}, "
                f"divisor_override={divisor_override}: expected False, 1, True and None"
            )
        op = kind(kernel, _each(stride, n) if stride else None, pads if any(pads) else None)
        return run.first(run.apply(op, run.last(self)))

    return rule


for _n in (1, 2):
    RULES[f"aten.max_pool{_n}d.default"] = _pooling(ops.MaxPool, _n)
    RULES[f"aten.avg_pool{_n}d.default"] = _pooling(ops.AvgPool, _n)
