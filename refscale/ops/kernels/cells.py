"""Kernels of the cells of recurrent networks: one pass of each elementary function over all gates that need it.

The arrays of a step of a sequence are small, so that the number of calls matters. The readable forms compute the gates
one after the other, and recompute them in backward. The kernels compute σ and σ′, tanh and tanh′ together, once, and
keep the arrays that backward multiplies.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refscale.engine import Array, Op
from refscale.ops.kernels.blocks import Betas, Kept
from refscale.special import sigmoid
from refscale.special.logistic import sigmoid_pair, tanh_pair


def _scaled(y: Array, factor: float) -> Array:
    if factor != 1:
        y *= factor
    return y


def lstm_state(op: Any, alpha: float, c: Array, gates: Array) -> tuple[Array, Kept]:
    """α·c′; keeps c, σ and σ′ of i and f, tanh and tanh′ of g."""
    op.check(c.shape, gates.shape)
    d = c.shape[-1]
    gate, slope = sigmoid_pair(gates[..., : 2 * d])
    value, value_slope = tanh_pair(gates[..., 2 * d : 3 * d])
    y = gate[..., d:] * c
    y += gate[..., :d] * value
    return _scaled(y, alpha), (c, gate, slope, value, value_slope)


def lstm_state_backward(
    op: Op, betas: Betas, g: Array, c: Array, gate: Array, slope: Array, value: Array, value_slope: Array
) -> tuple[Array | None, ...]:
    """β_c·g·σ(f), and β_gates·g times the kept arrays, at the positions of the four gates."""
    for_c, for_gates = betas
    d = c.shape[-1]
    parts = None
    if for_gates is not None:
        parts = np.zeros((*c.shape[:-1], 4 * d), g.dtype)
        scaled = g if for_gates == 1 else g * for_gates
        np.multiply(value, slope[..., :d], parts[..., :d])
        np.multiply(c, slope[..., d:], parts[..., d : 2 * d])
        np.multiply(gate[..., :d], value_slope, parts[..., 2 * d : 3 * d])
        for i in range(3):
            parts[..., i * d : (i + 1) * d] *= scaled
    return None if for_c is None else _scaled(g * gate[..., d:], for_c), parts


def lstm_output(op: Any, alpha: float, c: Array, gates: Array) -> tuple[Array, Kept]:
    """α·h; keeps σ and σ′ of o, tanh and tanh′ of c."""
    op.check(c.shape, gates.shape)
    gate, slope = sigmoid_pair(gates[..., 3 * c.shape[-1] :])
    value, value_slope = tanh_pair(c)
    return _scaled(gate * value, alpha), (gate, slope, value, value_slope)


def lstm_output_backward(
    op: Op, betas: Betas, g: Array, gate: Array, slope: Array, value: Array, value_slope: Array
) -> tuple[Array | None, ...]:
    """β_c·g·σ(o)·tanh′(c), and β_gates·g·tanh(c)·σ′(o) at the position of o."""
    for_c, for_gates = betas
    d, parts = value.shape[-1], None
    if for_gates is not None:
        parts = np.zeros((*value.shape[:-1], 4 * d), g.dtype)
        slope *= value
        slope *= g
        np.multiply(slope, for_gates, parts[..., 3 * d :])
    if for_c is None:
        return None, parts
    value_slope *= gate
    value_slope *= g
    return _scaled(value_slope, for_c), parts


def gru_state(op: Any, alpha: float, h: Array, gates: Array, candidate: Array, recurrent: Array) -> tuple[Array, Kept]:
    """α·h′; keeps σ and σ′ of r and z, 1 − σ(z), h − n, tanh′ and recurrent."""
    op.check(h.shape, gates.shape, candidate.shape, recurrent.shape)
    d = h.shape[-1]
    gate, slope = sigmoid_pair(gates)
    argument = gate[..., :d] * recurrent
    argument += candidate
    value, value_slope = tanh_pair(argument)
    change = h - value
    y = gate[..., d:] * change
    y += value
    return _scaled(y, alpha), (gate, slope, sigmoid(-gates[..., d:]), change, value_slope, recurrent)


def gru_state_backward(
    op: Op,
    betas: Betas,
    g: Array,
    gate: Array,
    slope: Array,
    renewed: Array,
    change: Array,
    value_slope: Array,
    recurrent: Array,
) -> tuple[Array | None, ...]:
    """β times the gradients of h, g·σ(z), of the gates, of the candidate, and of recurrent, σ(r) times the former."""
    for_h, for_gates, for_candidate, for_recurrent = betas
    d = change.shape[-1]
    value_slope *= renewed
    value_slope *= g  # the gradient of the argument of tanh
    if for_gates is not None:
        slope[..., :d] *= recurrent
        slope[..., :d] *= value_slope
        slope[..., d:] *= change
        slope[..., d:] *= g
        _scaled(slope, for_gates)
    return (
        None if for_h is None else _scaled(g * gate[..., d:], for_h),
        None if for_gates is None else slope,
        None if for_candidate is None else value_slope * for_candidate,
        None if for_recurrent is None else _scaled(value_slope * gate[..., :d], for_recurrent),
    )
