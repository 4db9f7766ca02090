"""The function of each op in torch.

A function takes the op and its inputs, and returns the op's output before its factor α, differentiable.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from refscale import ops
from refscale.engine import Op
from refscale.errors import ProgramError
from refscale.functional.resampling import LINEAR_MODES

__all__ = ["FUNCTIONS", "function_of"]

Function = Callable[..., Any]


def function_of(op: Op) -> Function:
    """The torch function of an op.

    Raises:
        ProgramError: there is none.
    """
    found = FUNCTIONS.get(type(op))
    if found is None:
        raise ProgramError(f"to_torch: {op} has no torch function, expected one of {', '.join(sorted(_NAMES))}")
    return found


def _scores(op: ops.AttentionScores, q: Any, k: Any) -> Any:
    return q @ k.transpose(-1, -2) * op.damping(tuple(q.shape))


def _masked_softmax(op: ops.MaskedSoftmax, x: Any, mask: Any) -> Any:
    import torch

    if op.hides_by_place:
        mask = mask & torch.as_tensor(op.places(*x.shape[-2:]), device=x.device)
    some = mask.any(-1, keepdim=True)
    y = torch.softmax(torch.where(mask | ~some, x, -math.inf), -1)
    return torch.where(mask, y, 0.0)


def _layer_norm(op: ops.LayerNorm, x: Any, gain: Any, bias: Any) -> Any:
    import torch

    return torch.nn.functional.layer_norm(x, x.shape[-1:], gain, bias, op.eps)


def _rms_norm(op: ops.RmsNorm, x: Any, gain: Any) -> Any:
    return x * (x.square().mean(-1, keepdim=True) + op.eps).rsqrt() * gain


def _batch_norm(op: ops.BatchNorm, x: Any, gain: Any, bias: Any) -> Any:
    import torch

    rows = x.reshape(-1, x.shape[-1])
    return torch.nn.functional.batch_norm(rows, None, None, gain, bias, True, 0.0, op.eps).reshape(x.shape)


def _frozen_batch_norm(op: ops.FrozenBatchNorm, x: Any, gain: Any, bias: Any, mean: Any, variance: Any) -> Any:
    return (x - mean) * (variance + op.eps).rsqrt() * gain + bias


def _group_norm(op: ops.GroupNorm, x: Any, gain: Any, bias: Any) -> Any:
    import torch

    y = torch.nn.functional.group_norm(x.movedim(-1, 1), op.groups, gain, bias, op.eps)
    return y.movedim(1, -1)


def _padded(x: Any, padding: Any, value: float = 0.0) -> Any:
    """x (batch, *space, channels), channels second, with its sides extended."""
    import torch

    sides = [p if isinstance(p, tuple) else (p, p) for p in (padding if isinstance(padding, tuple) else (padding,))]
    return torch.nn.functional.pad(x.movedim(-1, 1), [n for side in sides[::-1] for n in side], value=value)


def _convolution(op: Any, x: Any, weight: Any) -> Any:
    import torch

    n = weight.ndim - 2
    padding = op.padding if n > 1 else (op.padding,)
    kernel = weight.permute(-1, -2, *range(n))
    function = getattr(torch.nn.functional, f"conv{n}d")
    y = function(_padded(x, padding), kernel, None, op.stride, 0, op.dilation, op.groups)
    return y.movedim(1, -1)


def _conv_transpose(op: ops.ConvTranspose, x: Any, weight: Any) -> Any:
    import torch

    n = weight.ndim - 2
    function = getattr(torch.nn.functional, f"conv_transpose{n}d")
    kernel = weight.permute(-2, -1, *range(n))
    settings = op.stride, op.padding, op.output_padding, op.groups, op.dilation
    return function(x.movedim(-1, 1), kernel, None, *settings).movedim(1, -1)


def _nearest_resize(op: ops.NearestResize, x: Any) -> Any:
    n = x.ndim - 2
    for axis, factor in enumerate((op.factor,) * n if isinstance(op.factor, int) else op.factor, 1):
        x = x.repeat_interleave(factor, axis)
    return x


def _linear_resize(op: ops.LinearResize, x: Any) -> Any:
    import torch

    mode = LINEAR_MODES[x.ndim - 3]
    y = torch.nn.functional.interpolate(x.movedim(-1, 1), op.size, mode=mode, align_corners=op.align_corners)
    return y.movedim(1, -1)


def _pad(op: ops.Pad, x: Any) -> Any:
    import torch

    if op.mode == "constant":
        return torch.nn.functional.pad(x, [n for pair in op.widths[::-1] for n in pair], value=op.value)
    for axis, pair in enumerate(op.widths):
        n = np.arange(x.shape[axis])
        places = np.pad(n, pair, mode="reflect") if op.mode == "reflect" else np.pad(n, pair, mode="edge")
        x = x.index_select(axis, torch.as_tensor(places, device=x.device))
    return x


def _pool(name: str, value: float) -> Function:
    def pool(op: Any, x: Any) -> Any:
        import torch

        n = x.ndim - 2
        kernel = op.kernel if isinstance(op.kernel, tuple) else (op.kernel,) * n
        padding = (0,) * n if op.padding is None else op.padding
        padding = padding if isinstance(padding, tuple) else (padding,) * n
        function = getattr(torch.nn.functional, f"{name}{n}d")
        return function(_padded(x, padding, value), kernel, op.stride or kernel).movedim(1, -1)

    return pool


def _custom(op: ops.CustomElementwise, x: Any) -> Any:
    on = getattr(op.f, "on", None)
    if on is None:
        raise ProgramError(f"to_torch: {op} is a function of NumPy, expected one that was brought from torch")
    return on(x)


def _activation(name: str) -> Function:
    def activation(op: Op, x: Any) -> Any:
        import torch

        return getattr(torch.nn.functional, name)(x)

    return activation


def _gelu(op: ops.Gelu, x: Any) -> Any:
    import torch

    return torch.nn.functional.gelu(x, approximate="none" if op.form == "erf" else "tanh")


def _cross_entropy(op: ops.SoftmaxCrossEntropy, logits: Any, targets: Any) -> Any:
    import torch

    ignored = -100 if op.ignore_index is None else op.ignore_index
    rows = logits.reshape(-1, logits.shape[-1])
    return torch.nn.functional.cross_entropy(rows, targets.reshape(-1), ignore_index=ignored, reduction=op.reduction)


def _lstm_state(op: ops.LstmState, c: Any, gates: Any) -> Any:
    i, f, g, _ = gates.chunk(4, -1)
    return f.sigmoid() * c + i.sigmoid() * g.tanh()


def _gru_state(op: ops.GruState, h: Any, gates: Any, candidate: Any, recurrent: Any) -> Any:
    r, z = (gate.sigmoid() for gate in gates.chunk(2, -1))
    n = (candidate + r * recurrent).tanh()
    return n + z * (h - n)


def _where(op: ops.Where, mask: Any, x: Any, y: Any) -> Any:
    import torch

    return torch.where(mask, x, y)


def _concat(op: ops.Concat, *xs: Any) -> Any:
    import torch

    return torch.cat(xs, op.axis)


FUNCTIONS: dict[type[Op], Function] = {
    ops.Matmul: lambda op, x, w: x @ w,
    ops.Bias: lambda op, x, bias: x + bias,
    ops.Add: lambda op, x, y: x + y,
    ops.Subtract: lambda op, x, y: x - y,
    ops.Multiply: lambda op, x, y: x * y,
    ops.ScalarMultiply: lambda op, x: x * op.factor,
    ops.ScalarDivide: lambda op, x: x / op.divisor,
    ops.AttentionScores: _scores,
    ops.AttentionMix: lambda op, weights, v: weights @ v,
    ops.Conv1d: _convolution,
    ops.Conv2d: _convolution,
    ops.Conv3d: _convolution,
    ops.ConvTranspose: _conv_transpose,
    ops.NearestResize: _nearest_resize,
    ops.LinearResize: _linear_resize,
    ops.MaxPool: _pool("max_pool", -math.inf),
    ops.AvgPool: _pool("avg_pool", 0.0),
    ops.Relu: lambda op, x: x.relu(),
    ops.LeakyRelu: lambda op, x: x.where(x > 0, x * op.slope),
    ops.Gelu: _gelu,
    ops.Silu: _activation("silu"),
    ops.Swish: lambda op, x: x * (x * op.beta).sigmoid(),
    ops.Tanh: lambda op, x: x.tanh(),
    ops.Sigmoid: lambda op, x: x.sigmoid(),
    ops.Softplus: _activation("softplus"),
    ops.HardSigmoid: lambda op, x: (x + 3).clamp(0, 6) / 6,  # torch's derivative is a sixth rounded to float32
    ops.HardSwish: lambda op, x: x * (x + 3).clamp(0, 6) / 6,
    ops.Square: lambda op, x: x * x,
    ops.Abs: lambda op, x: x.abs(),
    ops.Exp: lambda op, x: x.exp(),
    ops.Clip: lambda op, x: x.clamp(op.low, op.high),
    ops.CustomElementwise: _custom,
    ops.Softmax: lambda op, x: x.softmax(-1),
    ops.MaskedSoftmax: _masked_softmax,
    ops.LogSoftmax: lambda op, x: x.log_softmax(-1),
    ops.LayerNorm: _layer_norm,
    ops.RmsNorm: _rms_norm,
    ops.BatchNorm: _batch_norm,
    ops.FrozenBatchNorm: _frozen_batch_norm,
    ops.GroupNorm: _group_norm,
    ops.Embedding: lambda op, table, ids: table[ids],
    ops.Dropout: lambda op, x, keep: x * keep / (1 - op.p),
    ops.Where: _where,
    ops.WeightedAdd: lambda op, *xs: sum(w * x for w, x in zip(op.weights, xs, strict=True)),
    ops.LstmState: _lstm_state,
    ops.LstmOutput: lambda op, c, gates: gates.chunk(4, -1)[3].sigmoid() * c.tanh(),
    ops.GruState: _gru_state,
    ops.Reshape: lambda op, x: x.reshape(op.shape),
    ops.Transpose: lambda op, x: x.permute(op.axes),
    ops.Slice: lambda op, x: x.narrow(op.axis, op.start, op.stop - op.start),
    ops.Concat: _concat,
    ops.Pad: _pad,
    ops.Expand: lambda op, x: x.expand(op.shape),
    ops.SoftmaxCrossEntropy: _cross_entropy,
    ops.Mean: lambda op, x: x.mean(op.axes if op.axes is not None else tuple(range(x.ndim))),
    ops.Sum: lambda op, x: x.sum(op.axes if op.axes is not None else tuple(range(x.ndim))),
}
"""By class of op."""

_NAMES = [kind.__name__ for kind in FUNCTIONS]
