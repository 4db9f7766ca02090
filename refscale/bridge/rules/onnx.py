"""Rules of ONNX nodes, by the rules of ATen ops where both compute the same.

A rule is called by the names of the node's inputs in the standard, and by its attributes.  An input that the node
lacks, and an attribute that it lacks and that has no default there, is not passed.  ``since`` in a name, such as
"onnx.Softmax-1", is the version of the standard that defined the op otherwise than today.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from refscale import ops
from refscale.bridge.evaluation import Evaluation
from refscale.bridge.rules.registry import RULES, Rule, number_of, reshaped
from refscale.engine import Op
from refscale.errors import ProgramError

__all__ = ["is_integer"]


def _node(*names: str) -> Callable[[Rule], Rule]:
    """Put a function in the table as the rule of these nodes."""

    def add(rule: Rule) -> Rule:
        RULES.update({f"onnx.{name}": rule for name in names})
        return rule

    return add


def _aten(name: str, run: Evaluation, **arguments: Any) -> Any:
    """By the rule of an ATen op."""
    return RULES[f"aten.{name}"](run, **arguments)


def _integers(x: Any) -> list[int]:
    return [int(n) for n in np.asarray(x).ravel()]


def is_integer(x: Any) -> bool:
    """Return whether a constant holds integers."""
    return bool(np.asarray(x).dtype.kind in "iu")


# --- Sums and products of two -----------------------------------------------------------------------------------------


@_node("Add")
def _add(run: Evaluation, A: Any, B: Any) -> Any:
    for x, bias in ((A, B), (B, A)):
        axis = _bias_axis(run, x, bias)
        if axis is not None:
            flat = reshaped(run, bias, (math.prod(bias.shape),))
            return run.first(run.apply(ops.Bias(), run.last(x), flat)) if axis == 1 else run.apply(ops.Bias(), x, flat)
    return _aten("add.Tensor", run, self=A, other=B)


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


@_node("Sub")
def _sub(run: Evaluation, A: Any, B: Any) -> Any:
    return _aten("sub.Tensor", run, self=A, other=B)


@_node("Mul")
def _mul(run: Evaluation, A: Any, B: Any) -> Any:
    return _aten("mul.Tensor", run, self=A, other=B)


@_node("Div")
def _div(run: Evaluation, A: Any, B: Any) -> Any:
    return _aten("div.Tensor", run, self=A, other=B)


@_node("Neg")
def _neg(run: Evaluation, X: Any) -> Any:
    return _aten("neg.default", run, self=X)


@_node("Where")
def _where(run: Evaluation, condition: Any, X: Any, Y: Any) -> Any:
    return _aten("where.self", run, condition=condition, self=X, other=Y)


@_node("Sum")
def _sum(run: Evaluation, data_0: Sequence[Any]) -> Any:
    first, *others = data_0
    for x in others:
        first = _add(run, first, x)
    return first


@_node("Max")
def _max(run: Evaluation, data_0: Sequence[Any]) -> Any:
    return _extreme(run, ops.Maximum(), data_0)


@_node("Min")
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


@_node("LeakyRelu")
def _leaky_relu(run: Evaluation, X: Any, alpha: float) -> Any:
    return _aten("leaky_relu.default", run, self=X, negative_slope=alpha)


@_node("Gelu")
def _gelu(run: Evaluation, X: Any, approximate: str = "none") -> Any:
    return _aten("gelu.default", run, self=X, approximate=approximate)


@_node("Clip")
def _clip(run: Evaluation, input: Any, min: Any = None, max: Any = None) -> Any:
    low, high = (None if bound is None else number_of(np.asarray(bound).reshape(())) for bound in (min, max))
    return _aten("clamp.default", run, self=input, min=low, max=high)


@_node("Identity")
def _identity(run: Evaluation, input: Any) -> Any:
    return input


@_node("Dropout")
def _dropout(run: Evaluation, data: Any, ratio: Any = 0.5, training_mode: Any = False, seed: int = 0) -> Any:
    if np.any(training_mode):
        raise ProgramError("Dropout with training_mode: expected inference")
    return data


@_node("Cast")
def _cast(run: Evaluation, input: Any, to: int, saturate: int = 1) -> Any:
    if to not in (1, 11):  # float and double, TensorProto.FLOAT and DOUBLE
        raise ProgramError(f"Cast of a tensor that depends on parameters to type {to}: expected float32 or float64")
    return input


@_node("Softmax", "LogSoftmax")
def _softmax(run: Evaluation, input: Any, axis: int) -> Any:
    return _aten("softmax.int", run, self=input, dim=axis)


RULES["onnx.LogSoftmax"] = lambda run, input, axis: _aten("log_softmax.int", run, self=input, dim=axis)


def _of_rows(op: Op) -> Rule:
    """The rule of a function over all axes from ``axis`` on, as before version 13."""

    def rule(run: Evaluation, input: Any, axis: int) -> Any:
        a = axis % input.ndim
        flat = reshaped(run, input, (math.prod(input.shape[:a]), math.prod(input.shape[a:])))
        return reshaped(run, run.apply(op, flat), input.shape)

    return rule


RULES["onnx.Softmax-1"] = _of_rows(ops.Softmax())
RULES["onnx.LogSoftmax-1"] = _of_rows(ops.LogSoftmax())


# --- Products ---------------------------------------------------------------------------------------------------------


@_node("MatMul")
def _matmul(run: Evaluation, A: Any, B: Any) -> Any:
    return _aten("matmul.default", run, self=A, other=B)


@_node("Gemm")
def _gemm(
    run: Evaluation,
    A: Any,
    B: Any,
    C: Any = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Any:
    left = run.transpose(A, (1, 0)) if transA else A
    right = run.transpose(B, (1, 0)) if transB else B
    y = _mul(run, run.apply(ops.Matmul(), left, right), alpha)
    return y if C is None else _add(run, y, _mul(run, C, beta) if run.depends(C) else C * beta)


def _sides(
    kind: str, space: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], pads: Any
) -> list[tuple[int, int]]:
    """Padding before and after each axis."""
    n = len(space)
    if kind == "NOTSET":
        pads = [0] * (2 * n) if pads is None else _integers(pads)
        return list(zip(pads[:n], pads[n:], strict=True))
    found = []
    for s, k, step, d in zip(space, kernel, stride, dilation, strict=True):
        total = 0 if kind == "VALID" else max(0, (-(-s // step) - 1) * step + d * (k - 1) + 1 - s)
        less = total // 2
        found.append((less, total - less) if kind == "SAME_UPPER" else (total - less, less))
    return found


@_node("Conv")
def _conv(
    run: Evaluation,
    X: Any,
    W: Any,
    B: Any = None,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Any:
    n = W.ndim - 2
    stride, dilation = strides or (1,) * n, dilations or (1,) * n
    padding = _sides(auto_pad, X.shape[2:], W.shape[2:], stride, dilation, pads)
    return _aten(
        f"conv{n}d.default",
        run,
        input=X,
        weight=W,
        bias=B,
        stride=tuple(stride),
        padding=padding,
        dilation=tuple(dilation),
        groups=group,
    )


@_node("ConvTranspose")
def _conv_transpose(
    run: Evaluation,
    X: Any,
    W: Any,
    B: Any = None,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Any:
    n = W.ndim - 2
    sides = _sides(auto_pad, (1,) * n, (1,) * n, (1,) * n, (1,) * n, pads)
    if auto_pad not in ("NOTSET", "VALID") or any(a != b for a, b in sides):
        raise ProgramError(f"ConvTranspose with auto_pad={auto_pad}, pads={pads}: expected the same on both sides")
    return _aten(
        f"conv_transpose{n}d.{'default' if n == 1 else 'input'}",
        run,
        input=X,
        weight=W,
        bias=B,
        stride=tuple(strides or (1,) * n),
        padding=tuple(a for a, _ in sides),
        output_padding=tuple(output_padding or (0,) * n),
        groups=group,
        dilation=tuple(dilations or (1,) * n),
    )


# --- Norms ------------------------------------------------------------------------------------------------------------


@_node("LayerNormalization")
def _layer_norm(
    run: Evaluation, X: Any, Scale: Any, B: Any = None, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Any:
    normalized = X.shape[axis % X.ndim :]
    return _aten("layer_norm.default", run, input=X, normalized_shape=normalized, weight=Scale, bias=B, eps=epsilon)


@_node("RMSNormalization")
def _rms_norm(run: Evaluation, X: Any, scale: Any, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Any:
    return _aten("rms_norm.default", run, input=X, normalized_shape=X.shape[axis % X.ndim :], weight=scale, eps=epsilon)


@_node("BatchNormalization")
def _batch_norm(
    run: Evaluation,
    X: Any,
    scale: Any,
    B: Any,
    mean: Any,
    var: Any,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
    spatial: int = 1,
) -> Any:
    if training_mode or not spatial:
        raise ProgramError(f"BatchNormalization with training_mode={training_mode}, spatial={spatial}: expected 0, 1")
    return _aten(
        "batch_norm.default",
        run,
        input=X,
        weight=scale,
        bias=B,
        running_mean=mean,
        running_var=var,
        training=False,
        eps=epsilon,
    )


@_node("InstanceNormalization")
def _instance_norm(run: Evaluation, input: Any, scale: Any, B: Any, epsilon: float = 1e-5) -> Any:
    return _aten("group_norm.default", run, input=input, num_groups=input.shape[1], weight=scale, bias=B, eps=epsilon)


@_node("GroupNormalization")
def _group_norm(
    run: Evaluation, X: Any, scale: Any, bias: Any, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Any:
    if scale.shape != X.shape[1:2]:
        raise ProgramError(f"GroupNormalization with a scale {scale.shape}: expected one for each channel")
    return _aten("group_norm.default", run, input=X, num_groups=num_groups, weight=scale, bias=bias, eps=epsilon)


# --- Reductions and pooling -------------------------------------------------------------------------------------------


def _reduction(name: str) -> Rule:
    def rule(run: Evaluation, data: Any, axes: Any = None, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Any:
        over = [] if axes is None else _integers(axes)
        if not over and noop_with_empty_axes:
            return data
        return _aten(name, run, self=data, dim=over, keepdim=bool(keepdims))

    return rule


RULES["onnx.ReduceMean"] = _reduction("mean.dim")
RULES["onnx.ReduceSum"] = _reduction("sum.dim_IntList")


@_node("GlobalAveragePool")
def _global_average_pool(run: Evaluation, X: Any) -> Any:
    return _aten("mean.dim", run, self=X, dim=list(range(2, X.ndim)), keepdim=True)


@_node("GlobalMaxPool")
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
    sides = _sides(auto_pad, space, kernel, stride, dilation, pads)
    rest = [
        (s + a + b - d * (k - 1) - 1) % step
        for s, (a, b), d, k, step in zip(space, sides, dilation, kernel, stride, strict=True)
    ]
    if ceil_mode and any(rest):
        raise ProgramError(f"pooling of {tuple(X.shape)} with ceil_mode=1: expected windows that fit")
    padding = tuple(sides) if any(map(any, sides)) else None
    return run.first(run.apply(op(tuple(kernel), tuple(stride), padding, tuple(dilation)), run.last(X)))


@_node("MaxPool")
def _max_pool(
    run: Evaluation,
    X: Any,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
) -> Any:
    return _pool(run, ops.MaxPool, X, kernel_shape, auto_pad, ceil_mode, dilations, pads, strides)


@_node("AveragePool")
def _average_pool(
    run: Evaluation,
    X: Any,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
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
"""Places that ``ops.LinearResize`` has; the second differs from the first for one place."""


@_node("Resize", "Upsample")
def _resize(
    run: Evaluation,
    X: Any,
    roi: Any = None,
    scales: Any = None,
    sizes: Any = None,
    mode: str = "nearest",
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


# --- Movement ---------------------------------------------------------------------------------------------------------


@_node("Reshape")
def _reshape(run: Evaluation, data: Any, shape: Any, allowzero: int = 0) -> Any:
    goal = _integers(shape)
    return reshaped(run, data, goal if allowzero else [n or data.shape[a] for a, n in enumerate(goal)])


@_node("Flatten")
def _flatten(run: Evaluation, input: Any, axis: int = 1) -> Any:
    a = axis + input.ndim if axis < 0 else axis
    return reshaped(run, input, (math.prod(input.shape[:a]), math.prod(input.shape[a:])))


@_node("Transpose")
def _transpose(run: Evaluation, data: Any, perm: Sequence[int] | None = None) -> Any:
    return run.transpose(data, perm or range(data.ndim)[::-1])


@_node("Squeeze")
def _squeeze(run: Evaluation, data: Any, axes: Any = None) -> Any:
    return _aten("squeeze.dims", run, self=data, dim=None if axes is None else _integers(axes))


@_node("Unsqueeze")
def _unsqueeze(run: Evaluation, data: Any, axes: Any) -> Any:
    rank = data.ndim + len(_integers(axes))
    at = {a % rank for a in _integers(axes)}
    sides = iter(data.shape)
    return reshaped(run, data, [1 if a in at else next(sides) for a in range(rank)])


@_node("Expand")
def _expand(run: Evaluation, input: Any, shape: Any) -> Any:
    return _aten("expand.default", run, self=input, size=np.broadcast_shapes(input.shape, tuple(_integers(shape))))


@_node("Concat")
def _concat(run: Evaluation, inputs: Sequence[Any], axis: int) -> Any:
    return inputs[0] if len(inputs) == 1 else _aten("cat.default", run, tensors=inputs, dim=axis)


@_node("Split")
def _split(run: Evaluation, input: Any, num_outputs: int, split: Any = None, axis: int = 0) -> list[Any]:
    side = input.shape[axis]
    each = -(-side // num_outputs)
    starts = [min(i * each, side) for i in range(num_outputs + 1)]
    sizes = [b - a for a, b in pairwise(starts)] if split is None else _integers(split)
    parts: list[Any] = _aten("split_with_sizes.default", run, self=input, split_sizes=sizes, dim=axis)
    return parts


@_node("Slice")
def _slice(run: Evaluation, data: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    first, last = _integers(starts), _integers(ends)
    along = list(range(len(first))) if axes is None else _integers(axes)
    strides = [1] * len(first) if steps is None else _integers(steps)
    for axis, start, end, step in zip(along, first, last, strides, strict=True):
        data = _aten("slice.Tensor", run, self=data, dim=axis, start=start, end=end, step=step)
    return data


@_node("Gather")
def _gather(run: Evaluation, data: Any, indices: Any, axis: int = 0) -> Any:
    if run.depends(indices):
        raise ProgramError("Gather at indices that depend on parameters: expected constant ones")
    if indices.ndim and data.ndim == 2 and axis in (0, -2):
        if isinstance(indices, np.ndarray):
            indices = np.where(indices < 0, indices + data.shape[0], indices)
        return _aten("embedding.default", run, weight=data, indices=indices)
    places = np.asarray(indices)
    if places.ndim == 0:
        return _aten("select.int", run, self=data, dim=axis, index=int(places))
    places = np.where(places < 0, places + data.shape[axis], places)
    if places.ndim == 1 and places.size and np.array_equal(places, np.arange(places[0], places[0] + places.size)):
        end = int(places[-1]) + 1
        return _aten("slice.Tensor", run, self=data, dim=axis, start=int(places[0]), end=end)
    raise ProgramError(f"Gather of indices {places.shape} along axis {axis} of {data.shape}: expected rows of a table")


@_node("Pad")
def _pad(
    run: Evaluation, data: Any, pads: Any, constant_value: Any = None, axes: Any = None, mode: str = "constant"
) -> Any:
    ends = _integers(pads)
    n = len(ends) // 2
    along = range(n) if axes is None else [a % data.ndim for a in _integers(axes)]
    widths = [(0, 0)] * data.ndim
    for axis, before, after in zip(along, ends[:n], ends[n:], strict=True):
        widths[axis] = before, after
    value = 0.0 if constant_value is None else float(np.ravel(constant_value)[0])
    op = ops.Pad(tuple(widths), mode, value)  # type: ignore[arg-type]
    return run.apply(op, data) if any(ends) else data


# --- Recurrent layers -------------------------------------------------------------------------------------------------


def _recurrent(name: str, order: Sequence[int], functions: Sequence[str]) -> Rule:
    """The rule of a layer by the ATen op.

    Args:
        name: of the ATen op.
        order: for each gate as torch orders them, its place in ONNX.
        functions: the activations.
    """
    gates = len(order)

    def rule(
        run: Evaluation,
        X: Any,
        W: Any,
        R: Any,
        hidden_size: int,
        B: Any = None,
        sequence_lens: Any = None,
        initial_h: Any = None,
        initial_c: Any = None,
        P: Any = None,
        direction: str = "forward",
        layout: int = 0,
        linear_before_reset: int = 1,
        input_forget: int = 0,
        activations: Sequence[str] | None = None,
        activation_alpha: Sequence[float] | None = None,
        activation_beta: Sequence[float] | None = None,
        clip: float | None = None,
    ) -> list[Any]:
        d, directions = hidden_size, W.shape[0]
        plain = activations is None or list(activations) == list(functions) * directions
        if sequence_lens is not None and set(_integers(sequence_lens)) != {X.shape[0]}:
            raise ProgramError(f"{name}: sequence_lens {_integers(sequence_lens)}, expected the whole length")
        if not plain or P is not None or layout or not linear_before_reset or input_forget or clip is not None:
            raise ProgramError(
                f"{name} with activations={activations}, peepholes={P is not None}, layout={layout}, "
                f"linear_before_reset={linear_before_reset}, input_forget={input_forget}, clip={clip}: "
                f"expected {list(functions)}, no peepholes, 0, 1, 0 and None"
            )
        if direction == "reverse":
            raise ProgramError(f"{name} with direction=reverse: expected forward or bidirectional")

        def part(x: Any, axis: int, start: int, stop: int) -> Any:
            return _aten("slice.Tensor", run, self=x, dim=axis, start=start, end=stop)

        def one(x: Any, k: int, offset: int = 0) -> Any:
            """The gates of direction k, in torch's order."""
            whole = reshaped(run, part(x, 0, k, k + 1), x.shape[1:])
            blocks = [part(whole, 0, offset + i * d, offset + (i + 1) * d) for i in order]
            return _concat(run, blocks, 0)

        params = []
        for k in range(directions):
            params += [one(W, k), one(R, k)]
            params += [] if B is None else [one(B, k), one(B, k, gates * d)]
        zeros = np.zeros((directions, X.shape[1], d), np.float32)
        states = [zeros if h is None else h for h in (initial_h, initial_c)][: 2 if name == "lstm" else 1]
        y, *last = _aten(
            f"{name}.input",
            run,
            input=X,
            hx=states if name == "lstm" else states[0],
            params=params,
            has_biases=B is not None,
            num_layers=1,
            dropout=0.0,
            train=False,
            bidirectional=directions == 2,
            batch_first=False,
        )
        y = reshaped(run, y, (*y.shape[:2], directions, d))
        return [run.transpose(y, (0, 2, 1, 3)), *last]

    return rule


RULES["onnx.LSTM"] = _recurrent("lstm", (0, 2, 3, 1), ("Sigmoid", "Tanh", "Tanh"))
RULES["onnx.GRU"] = _recurrent("gru", (1, 0, 2), ("Sigmoid", "Tanh"))
