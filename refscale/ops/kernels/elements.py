"""Kernels of elementwise ops: sums, biases, dropout, activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from refscale import special
from refscale.engine import Array, Op
from refscale.ops.kernels import blocks
from refscale.ops.kernels.blocks import Betas, Kept
from refscale.ops.sums import unbroadcast
from refscale.scales import Shape
from refscale.special.logistic import sigmoid_pair, tanh_pair


def _weighted_sum(factors: Sequence[float], xs: Sequence[Array], shape: Shape) -> Array:
    """Σ factor_i · x_i, broadcast to a shape, in blocks: no term is stored whole."""
    if len(xs) == 2 and abs(factors[1]) == factors[0]:
        return _scaled_sum(np.add if factors[1] > 0 else np.subtract, factors[0], xs[0], xs[1], shape)
    total = np.empty(shape, xs[0].dtype)
    np.multiply(xs[0], factors[0], out=total)
    flat, buffer = total.reshape(-1), np.empty(min(total.size, blocks.BLOCK), total.dtype)
    for factor, x in zip(factors[1:], xs[1:], strict=True):
        if x.shape != shape or not x.flags.c_contiguous:
            total += x if factor == 1 else x * factor
            continue
        terms = x.reshape(-1)
        for block in blocks.of_rows(flat.size, 1):
            part = flat[block]
            part += np.multiply(terms[block], factor, out=buffer[: part.size])
    return total


def _scaled_sum(operation: np.ufunc, factor: float, x: Array, y: Array, shape: Shape) -> Array:
    """factor·(x ± y): multiplied last, as an operand's rounding would be large beside a small difference."""
    total = np.empty(shape, x.dtype)
    if factor == 1 or not (x.shape == y.shape and x.flags.c_contiguous and y.flags.c_contiguous):
        operation(x, y, out=total)
        if factor != 1:
            total *= factor
        return total
    flat, left, right = total.reshape(-1), x.reshape(-1), y.reshape(-1)
    for block in blocks.of_rows(flat.size, 1):
        part = operation(left[block], right[block], out=flat[block])
        part *= factor
    return total


def _repeated(g: Array, shape: Shape, factor: float | None) -> Array | None:
    """factor · the gradient of an input of ``shape`` that was broadcast: summed first, then multiplied."""
    if factor is None:
        return None
    summed = unbroadcast(g, shape)
    if factor == 1:
        return summed
    return summed * factor if summed is g else np.multiply(summed, factor, out=summed)


def add(op: Any, alpha: float, *xs: Array) -> tuple[Array, Kept]:
    """Forward of ``Add``, ``Subtract`` and ``WeightedAdd``: α is multiplied into their weights."""
    shapes = tuple([x.shape for x in xs])
    shape = op.broadcast(*shapes)
    return _weighted_sum([alpha * w for w in op.weights], xs, shape), shapes


def add_backward(op: Any, betas: Betas, g: Array, *shapes: Shape) -> tuple[Array | None, ...]:
    """β_i·weight_i·g, as one factor; g itself if the factor is 1 and the input was not repeated."""
    factors = [None if b is None else b * w for b, w in zip(betas, op.weights, strict=True)]
    return tuple([_repeated(g, shape, f) for shape, f in zip(shapes, factors, strict=True)])


def add_bias(op: Any, alpha: float, x: Array, bias: Array) -> tuple[Array, Kept]:
    """α·(x + bias)."""
    op.check(x.shape, bias.shape)
    y = x + bias
    if alpha != 1:
        y *= alpha
    return y, (bias.shape,)


def add_bias_backward(op: Op, betas: Betas, g: Array, shape: Shape) -> tuple[Array | None, ...]:
    """β_x·g, which is g itself if β_x = 1, and β_bias times the sum of g over rows."""
    return _repeated(g, g.shape, betas[0]), _repeated(g, shape, betas[1])


def drop(op: Any, alpha: float, x: Array, keep: Array) -> tuple[Array, Kept]:
    """α/(1−p)·x where ``keep`` is True, else 0."""
    op.check(x, keep)
    return np.where(keep, x * (alpha / (1 - op.p)), 0).astype(x.dtype, copy=False), (keep,)


def drop_backward(op: Any, betas: Betas, g: Array, keep: Array) -> tuple[Array | None, None]:
    """β/(1−p)·g where ``keep`` is True, else 0."""
    if betas[0] is None:
        return None, None
    return np.where(keep, g * (betas[0] / (1 - op.p)), 0).astype(g.dtype, copy=False), None


# --- Activations ------------------------------------------------------------------------------------------------------


def activation(pair: Callable[[Array, float], tuple[Array, Array]]) -> Callable[..., tuple[Array, Kept]]:
    """Make the forward kernel of a function that returns f(x) and f′(x): α·f(x), keeping f′(x)."""

    def forward(op: Op, alpha: float, x: Array) -> tuple[Array, Kept]:
        value, derivative = pair(x, alpha)
        return value, (derivative,)

    return forward


gelu_erf, gelu_tanh, silu = map(activation, (special.gelu_erf, special.gelu_tanh, special.silu))
sigmoid, tanh = map(activation, (sigmoid_pair, tanh_pair))


def gelu(op: Any, alpha: float, x: Array) -> tuple[Array, Kept]:
    """α·gelu in the op's form; keeps the derivative."""
    return (gelu_erf if op.form == "erf" else gelu_tanh)(op, alpha, x)


def activation_backward(op: Op, betas: Betas, g: Array, derivative: Array) -> tuple[Array | None]:
    """β·g·f′(x), written over f′(x)."""
    (beta,) = betas
    if beta is None:
        return (None,)
    _multiply(derivative, g, beta)
    return (derivative,)


def softplus(op: Op, alpha: float, x: Array) -> tuple[Array, Kept]:
    """α·softplus; keeps x."""
    return special.softplus(x, alpha), (x,)


def softplus_backward(op: Op, betas: Betas, g: Array, x: Array) -> tuple[Array | None]:
    """β·g·sigmoid(x)."""
    return (None,) if betas[0] is None else activation_backward(op, betas, g, special.sigmoid(x))


def silu_glu(op: Any, alpha: float, x: Array, gate: Array) -> tuple[Array, Kept]:
    """α·x·silu(gate); keeps x, and silu with its derivative."""
    op.check(x.shape, gate.shape)
    value, derivative = special.silu(gate)
    y = x * value
    if alpha != 1:
        y *= alpha
    return y, (x, value, derivative)


def silu_glu_backward(op: Op, betas: Betas, g: Array, x: Array, value: Array, derivative: Array) -> tuple[Any, ...]:
    """β_x·g·silu and β_gate·g·x·silu′, written over the kept arrays."""
    for_x, for_gate = betas
    if for_x is not None:
        _multiply(value, g, for_x)
    if for_gate is not None:
        _multiply(derivative, g, for_gate)
        derivative *= x
    return None if for_x is None else value, None if for_gate is None else derivative


def highway(op: Any, alpha: float, h: Array, candidate: Array, update: Array) -> tuple[Array, Kept]:
    """α·(h + gate·(candidate − h)); keeps the difference, the gate s, 1 − s and the derivative of the gate."""
    op.check(h.shape, candidate.shape, update.shape)
    change, shifted = candidate - h, update + op.bias
    gate, slope = sigmoid_pair(shifted)
    y = gate * change
    y += h
    if alpha != 1:
        y *= alpha
    return y, (change, gate, special.sigmoid(-shifted), slope)


def highway_backward(
    op: Op, betas: Betas, g: Array, change: Array, gate: Array, carry: Array, slope: Array
) -> tuple[Any, ...]:
    """β_h·g·(1 − s), β_c·g·s and β_u·g·(c − h)·s′, written over the kept arrays."""
    slope *= change
    parts = [(y, beta) for y, beta in zip((carry, gate, slope), betas, strict=True)]
    for y, beta in parts:
        if beta is not None:
            _multiply(y, g, beta)
    return tuple([None if beta is None else y for y, beta in parts])


def _multiply(y: Array, g: Array, factor: float) -> None:
    """y·g·factor in place of y, which is contiguous."""
    if factor == 1 or y.size <= blocks.BLOCK:
        np.multiply(y, g, y)
        if factor != 1:
            np.multiply(y, factor, y)
        return
    if g.flags.c_contiguous:
        y, g = y.reshape(-1), g.reshape(-1)
    for block in blocks.of_rows(len(y), y.size // len(y)):
        part = y[block]
        np.multiply(part, g[block], part)
        np.multiply(part, factor, part)
