"""Every scale of a model before it is run: σ of activations and gradients, from factors and shapes alone.

``predict`` walks a recorded graph with the second moments of ``kernels`` in place of values: forward through every op,
then backward.  No value is read, so it knows what the method knows when it chooses factors, and more: what constraints
leave ((m/n)^±¼ of a projection), what a non-linearity makes of an input that is not N(0, 1), what the rows of a
gradient share, so that b^-½ is too large a factor for their sum.

What it assumes, and where that fails:

* weights are independent normal numbers of the given σ, biases 0, gains 1: true before the first step only;
* ids and labels are uniform and independent, masks let everything through: real text repeats words (Zipf), so that
  embedding gradients are larger, and rows more alike, than predicted;
* an incoming gradient is independent of the values it meets, and two uses of a tensor send back independent gradients:
  true of random weights that differ, not of one weight used twice, of a norm's gain before a readout, whose softmax
  knows what it multiplies, or of a key's bias, a shift that the softmax ignores;
* a rotation by place leaves it as it is how alike two tokens are, and scores by distance are looked at where a causal
  mask lets them be seen: over all places, zeros included, their σ is √½ of that;
* a state of a recurrence is independent of its candidate and gate, which it made: true but for the gradients of its
  weight;
* any two tokens of a sequence are as alike as any other two: where they fall into blocks (two segments, repeated
  words), values, keys and queries are alike in the same pairs, and the gradients of queries and keys are larger;
* sums of many terms are normal: not for widths below about 8, nor for gradients behind a softmax.

Source: mean-field theory of signal propagation (Poole et al. 2016, arXiv 1606.05340; Schoenholz et al. 2017,
arXiv 1611.01232).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from refscale import ops
from refscale.analysis.kernels import Array, Kernel, constant, contracted, independent, of_axes, through, without_mean
from refscale.analysis.softmax_kernels import cross_entropy_gradient, softmax_gradient, softmax_kernel
from refscale.analysis.window_kernels import convolution_gradients, convolved
from refscale.engine import Node, Op, Tensor, Variable, settle
from refscale.errors import ArgumentError
from refscale.ops.activations import sigmoid_derivative
from refscale.ops.shapes import axes_of
from refscale.scales import Shape
from refscale.special import sigmoid

UNARY = (ops.Relu, ops.LeakyRelu, ops.Gelu, ops.Silu, ops.Tanh, ops.Sigmoid, ops.Softplus)


@dataclass(frozen=True)
class Prediction:
    """What the tensors of a recorded graph will look like.

    Attributes:
        values: second moments of every tensor.
        gradients: of the gradient of every tensor that the output depends on.
    """

    values: Mapping[Variable, Kernel]
    gradients: Mapping[Variable, Kernel]


def predict(
    output: Tensor, std: float | Mapping[str, float] = 1.0, agreement: Mapping[str, float] | None = None
) -> Prediction:
    """Second moments of every tensor that a recorded graph computes, and of every gradient.

    Args:
        output: where the graph ends; a scalar loss, or anything else, whose gradient is then taken to be N(0, 1).
        std: σ of the leaves, one for all or by name (1 for those not named); gains are 1 and biases 0 whatever it says.
        agreement: by name of an embedding's table, the chance that two tokens have the same id; 1 over its rows for
            those not named.

    Returns:
        Kernels by variable: ``prediction.values[t.variable].std``.

    Raises:
        ArgumentError: the graph has an op without a rule (conv2d, pooling, log, square root, exponential, log
            softmax).
    """
    if output.variable.requires_grad and output.variable.node:
        settle(output, check=False)
    values: dict[Variable, Kernel] = {}
    nodes = output.tape.nodes[: output.variable.node.index + 1] if output.variable.node else []
    for node in nodes:
        for i, variable in enumerate(node.inputs):
            if variable not in values:
                values[variable] = _leaf(node, i, variable, std)
        values[node.output] = _forward(node, [values[v] for v in node.inputs], agreement).times(node.scales.alpha)
    seed = independent(output.shape, 1.0)
    gradients: dict[Variable, Kernel] = {output.variable: seed}
    for node in reversed(nodes):
        g = gradients.get(node.output)
        if g is None:
            continue
        pieces = _backward(node, g, [values[v] for v in node.inputs], agreement)
        for variable, piece, beta in zip(node.inputs, pieces, node.scales.beta, strict=True):
            if piece is None or beta is None or not variable.requires_grad:
                continue
            scaled = piece.times(beta)
            known = gradients.get(variable)
            gradients[variable] = scaled if known is None else known.plus(scaled)
    return Prediction(values, gradients)


def _leaf(node: Node, position: int, variable: Variable, std: float | Mapping[str, float]) -> Kernel:
    """A leaf, by its first use."""
    name = node.op.inputs[min(position, len(node.op.inputs) - 1)]
    if name == "gain":
        return constant(variable.shape, 1.0)
    if name == "bias":
        return constant(variable.shape, 0.0)
    if isinstance(node.op, ops.Bias) and not variable.requires_grad:  # a bias that stands for itself
        return constant(variable.shape, 0.0)
    if isinstance(node.op, ops.Rotary) and position > 0:
        return independent(variable.shape, 0.5**0.5)
    sigma = std if isinstance(std, int | float) else std.get(variable.name, 1.0)
    return independent(variable.shape, sigma)


def _unknown(op: Op) -> ArgumentError:
    return ArgumentError(f"predict: there is no rule for {op.name}")


def _forward(node: Node, xs: list[Kernel], agreement: Mapping[str, float] | None) -> Kernel:
    """Second moments of the unscaled output."""
    op, shape = node.op, node.output.shape
    match op:
        case ops.Matmul() | ops.Readout() | ops.AttentionMix():
            return contracted(*xs)
        case ops.AttentionScores():
            return contracted(xs[0], _swapped(xs[1])).times(op.damping(node.inputs[0].shape))
        case ops.Add() | ops.Subtract() | ops.WeightedAdd() | ops.Bias():
            parts = [x.repeated(shape).times(w) for x, w in zip(xs, _weights(op, len(xs)), strict=True)]
            return Kernel(shape, np.sum([p.k for p in parts], axis=0))
        case ops.Multiply():
            return Kernel(shape, xs[0].repeated(shape).k * xs[1].repeated(shape).k)
        case ops.SiluGlu():
            return Kernel(shape, xs[0].k * through(xs[1], lambda z: _value(ops.Silu(), z)).k)
        case ops.Highway():
            carry, gate = _gates(op, xs[2])
            return Kernel(shape, xs[0].k * carry.k + xs[1].k * gate.k)
        case ops.Conv1d():
            return convolved(op, node, *xs)
        case ops.Dropout():
            return _dropped_out(xs[0], op.p)
        case ops.Scaled() | ops.Fork() | ops.Rotary() | ops.RelativeShift():
            return xs[0]
        case ops.Softmax() | ops.MaskedSoftmax():
            return softmax_kernel(op, xs[0])
        case ops.LayerNorm() | ops.RmsNorm():
            return _normalized(op, xs[0])
        case ops.Sum() | ops.Mean():
            return _reduced(op, xs[0], node).reshaped(shape)
        case ops.Reshape():
            return xs[0].reshaped(shape)
        case ops.Transpose():
            return xs[0].transposed(op.axes)
        case ops.Slice():
            return Kernel(shape, xs[0].k)
        case ops.Concat():
            return Kernel(shape, np.sum([_filling(x, op.axis, shape).k for x in xs], axis=0))
        case ops.Gather():
            return _gathered(xs[0], shape)
        case ops.Embedding():
            return _embedded(xs[0], shape, _agreement(node, agreement))
        case ops.SoftmaxCrossEntropy() | ops.MseLoss() | ops.LossSum():
            return constant(shape, 0.0)
        case _ if isinstance(op, UNARY):
            return through(xs[0], lambda z: _value(op, z))
    raise _unknown(op)


def _backward(node: Node, g: Kernel, xs: list[Kernel], agreement: Mapping[str, float] | None) -> list[Kernel | None]:
    """Second moments of the unscaled gradient of every input."""
    op = node.op
    match op:
        case ops.Matmul() | ops.Readout() | ops.AttentionMix():
            x, w = xs
            dx = contracted(g, _swapped(w))
            dw = contracted(_swapped(x), g)
            return [dx.unbroadcast(x.shape), dw.unbroadcast(w.shape)]
        case ops.AttentionScores():
            g = g.times(op.damping(node.inputs[0].shape))
            dq, dk = contracted(g, xs[1]), contracted(_swapped(g), xs[0])
            return [dq.unbroadcast(xs[0].shape), dk.unbroadcast(xs[1].shape)]
        case ops.Add() | ops.Subtract() | ops.WeightedAdd() | ops.Bias():
            return [g.times(w).unbroadcast(x.shape) for x, w in zip(xs, _weights(op, len(xs)), strict=True)]
        case ops.Multiply():
            pair = [x.repeated(g.shape) for x in reversed(xs)]
            return [Kernel(g.shape, g.k * y.k).unbroadcast(x.shape) for x, y in zip(xs, pair, strict=True)]
        case ops.SiluGlu():
            value = through(xs[1], lambda z: _value(ops.Silu(), z))
            slope = through(xs[1], lambda z: _slope(ops.Silu(), z))
            return [Kernel(g.shape, g.k * value.k), Kernel(g.shape, g.k * xs[0].k * slope.k)]
        case ops.Highway():
            carry, gate = _gates(op, xs[2])
            slope = through(xs[2], lambda z: sigmoid_derivative(z + op.bias))
            change = xs[0].plus(xs[1])
            return [Kernel(g.shape, g.k * k) for k in (carry.k, gate.k, change.k * slope.k)]
        case ops.Conv1d():
            return list(convolution_gradients(op, node, g, *xs))
        case ops.Dropout():
            return [_dropped_out(g, op.p), None]
        case ops.Scaled() | ops.Fork() | ops.RelativeShift():
            return [g]
        case ops.Rotary():
            return [g, None, None]
        case ops.Softmax() | ops.MaskedSoftmax():
            return [softmax_gradient(op, g, xs[0]), *[None] * (len(xs) - 1)]
        case ops.LayerNorm() | ops.RmsNorm():
            normal = _normalized(op, xs[0])
            parameters = [Kernel(g.shape, g.k * normal.k), g]
            return [_norm_gradient(op, g, xs[0]), *(p.unbroadcast(x.shape) for p, x in zip(parameters, xs[1:]))]  # noqa: B905
        case ops.Sum() | ops.Mean():
            whole = g.reshaped(_reduced(op, xs[0], node).shape).repeated(xs[0].shape)
            return [whole.times(_share(op, xs[0], node))]
        case ops.Reshape():
            return [g.reshaped(xs[0].shape)]
        case ops.Transpose():
            return [g.transposed(np.argsort(op.axes).tolist())]
        case ops.Slice():
            return [_filling(g, op.axis, xs[0].shape)]
        case ops.Concat():
            return [Kernel(x.shape, g.k) for x in xs]
        case ops.Gather():
            return [_gathered_gradient(g, xs[0].shape), None]
        case ops.Embedding():
            return [_embedded_gradient(g, xs[0].shape, _agreement(node, agreement)), None]
        case ops.SoftmaxCrossEntropy():
            return [cross_entropy_gradient(op, xs[0]).times(g.rms), None]
        case ops.MseLoss():
            n = math.prod(xs[0].shape)
            both = xs[0].plus(xs[1]).times(2 / n * g.rms)
            return [both, both]
        case ops.LossSum():
            return [g] * len(xs)
        case _ if isinstance(op, UNARY):
            return [Kernel(g.shape, g.k * through(xs[0], lambda z: _slope(op, z)).k)]
    raise _unknown(op)


# --- Rules that take more than a line ---------------------------------------------------------------------------------


def _value(op: Op, z: Array) -> Array:
    return np.asarray(op.forward(z)[0])


def _slope(op: Op, z: Array) -> Array:
    _, kept = op.forward(z)
    return np.asarray(op.backward(np.ones_like(z), *kept)[0])


def _gates(op: ops.Highway, update: Kernel) -> tuple[Kernel, Kernel]:
    """Of 1 − s and of s."""
    return through(update, lambda z: sigmoid(-z - op.bias)), through(update, lambda z: sigmoid(z + op.bias))


def _swapped(x: Kernel) -> Kernel:
    ndim = len(x.shape)
    return x.transposed((*range(ndim - 2), ndim - 1, ndim - 2))


def _weights(op: Op, count: int) -> tuple[float, ...]:
    return op.weights if isinstance(op, ops.WeightedAdd) else (1.0,) * count


def _dropped_out(x: Kernel, p: float) -> Kernel:
    """Each element is kept by itself: only its square grows, to 1/(1 − p)."""
    k = x.k.copy()
    k[(1,) * k.ndim] /= 1 - p
    return Kernel(x.shape, k)


def _spread(op: Op, x: Kernel) -> tuple[Array, float]:
    """What a norm divides: the rows' second moments without what it removes, and the mean square of one row."""
    n = x.shape[-1]
    centered = isinstance(op, ops.LayerNorm)
    v = x.k[..., 1] - (x.k[..., 1] + (n - 1) * x.k[..., 0]) / n if centered else x.k[..., 1]
    eps = op.eps if isinstance(op, ops.LayerNorm | ops.RmsNorm) else 0.0
    return np.asarray(v), float(v[(1,) * v.ndim]) + eps


def _normalized(op: Op, x: Kernel) -> Kernel:
    v, square = _spread(op, x)
    if square <= 0:
        return constant(x.shape, 0.0)
    if isinstance(op, ops.LayerNorm):
        return without_mean(v / square, x.shape)
    return Kernel(x.shape, x.k / square)


def _norm_gradient(op: Op, g: Kernel, x: Kernel) -> Kernel:
    """(g − mean g − y·mean(g·y))/s: two directions of n are lost, and E 1/s² is (n − 1)/(n − 3) of 1/E s²."""
    n = x.shape[-1]
    _, square = _spread(op, x)
    few = (n - 1) / (n - 3) if n > 3 else 1.0
    factor = (1 - 1 / n) * few / square
    if isinstance(op, ops.LayerNorm):
        return without_mean(_spread(op, g)[0] * factor, x.shape)
    return Kernel(x.shape, g.k * factor)


def _reduced(op: Op, x: Kernel, node: Node) -> Kernel:
    assert isinstance(op, ops.Sum | ops.Mean)
    found = x
    for axis in axes_of(op.name, op.axes, x.shape):
        found = found.summed(axis)
    return found.times(_share(op, x, node))


def _share(op: Op, x: Kernel, node: Node) -> float:
    """1/n of a mean over n elements, 1 of a sum."""
    return math.prod(node.output.shape) / math.prod(x.shape) if isinstance(op, ops.Mean) else 1.0


def _filling(x: Kernel, axis: int, shape: Shape) -> Kernel:
    """A part of an axis, the rest 0: k of n elements, k·(k − 1) of n·(n − 1) pairs."""
    n, k = shape[axis], x.shape[axis]
    shares = np.array([k * (k - 1) / max(1, n * (n - 1)), k / n])
    return Kernel(shape, x.k * shares.reshape([2 if a == axis % len(shape) else 1 for a in range(len(shape))]))


def _gathered(x: Kernel, shape: Shape) -> Kernel:
    """Different rows of one sequence; of two sequences, the same place by chance."""
    n = x.shape[-2]
    k = x.k.copy()
    for bits in np.ndindex(*(2,) * (k.ndim - 2)):
        if all(bits):
            continue
        mixed = k[bits][1] / n + k[bits][0] * (n - 1) / n
        k[bits] = np.stack([mixed, mixed])
    return Kernel(shape, k)


def _gathered_gradient(g: Kernel, shape: Shape) -> Kernel:
    n, k = shape[-2], g.shape[-2]
    out = g.k.copy()
    for bits in np.ndindex(*(2,) * (out.ndim - 2)):
        if all(bits):
            out[bits] = np.stack([g.k[bits][0] * k * (k - 1) / max(1, n * (n - 1)), g.k[bits][1] * k / n])
        else:
            mixed = (g.k[bits][1] / k + g.k[bits][0] * (k - 1) / k) * (k / n) ** 2
            out[bits] = np.stack([mixed, mixed])
    return Kernel(shape, out)


def _agreement(node: Node, agreement: Mapping[str, float] | None) -> float:
    table = node.inputs[0]
    return (agreement or {}).get(table.name, 1 / table.shape[0])


def _embedded(table: Kernel, shape: Shape, agreement: float) -> Kernel:
    """Rows of a table by ids that agree by chance."""
    lead = len(shape) - 1
    k = np.empty((2,) * len(shape))
    k[...] = table.k[1] * agreement + table.k[0] * (1 - agreement)
    k[(1,) * lead] = table.k[1]
    return of_axes(shape, k)


def _embedded_gradient(g: Kernel, table: Shape, agreement: float) -> Kernel:
    """A row of the table sums the gradients of the tokens that are it."""
    v, tokens = table[0], math.prod(g.shape[:-1])
    same = g.k[(1,) * (g.k.ndim - 1)]
    total = g
    for axis in range(len(g.shape) - 1):
        total = total.summed(axis)
    pairs = total.k[(1,) * (g.k.ndim - 1)] - tokens * same
    mixed = (1 - agreement) / max(1, v * (v - 1))  # the chance that two tokens are two given rows
    return Kernel(table, np.stack([pairs * mixed, (tokens * same + pairs * agreement) / v]))
