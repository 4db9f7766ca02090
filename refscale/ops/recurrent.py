"""Cells of recurrent networks: the states of an LSTM and of a GRU, made of gates.

A new state is a sum of the old state and a candidate, weighted by gates. α = 1 leaves a state unchanged while it
persists: another factor would multiply it at every step, and the state would grow without bound over a sequence. Gates
and candidates get gradients of unit RMS if states, pre-activations and incoming gradients are independent N(0, 1).
The scale of a product of independent variables depends on the RMS of the gate, not on its standard deviation.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from refscale.engine import Array, Example, Op, Sizes, example
from refscale.errors import ShapeError
from refscale.ops.activations import Sigmoid, Tanh, sigmoid_derivative, tanh_derivative
from refscale.ops.kernels import cells
from refscale.scales import Scales, Shape
from refscale.scales.second_moments import SecondMoments, through
from refscale.special import sigmoid

Kept = tuple[Any, ...]

_GATE, _VALUE = Sigmoid().moments(), Tanh().moments()


def _parts(x: Array, count: int) -> list[Array]:
    """Equal parts of the last axis."""
    d = x.shape[-1] // count
    return [x[..., i * d : (i + 1) * d] for i in range(count)]


def _part(x: SecondMoments, count: int) -> SecondMoments:
    """The moments of one of several equal parts of the last axis, which are the same for each part."""
    return SecondMoments((*x.shape[:-1], x.shape[-1] // count), x.k)


def _joined(count: int, *parts: SecondMoments) -> SecondMoments:
    """The moments of uncorrelated parts side by side; the rest of the ``count`` parts is 0."""
    *lead, d = parts[0].shape
    found = [part.filling(-1, (*lead, count * d)).k for part in parts]
    return SecondMoments((*lead, count * d), np.sum(found, axis=0))


def _times(*parts: SecondMoments) -> SecondMoments:
    """The moments of a product of independent tensors of one shape."""
    return SecondMoments(parts[0].shape, np.prod([part.k for part in parts], axis=0))


def _check_gates(name: str, state: Shape, gates: Shape, count: int, what: str) -> None:
    if not state or gates != (*state[:-1], count * state[-1]):
        raise ShapeError(f"{name}: {what} {state} and gates {gates}, expected (…, d) and (…, {count}·d)")


class LstmState(Op):
    """c′ = σ(f)·c + σ(i)·tanh(g), the state of an LSTM's cell; gates (…, 4·d) are i, f, g and o, side by side.

    α = 1: the state persists unchanged if f is open and i is closed. β_c = 1/RMS(σ). The gradient of the gates has the
    parts g·tanh·σ′ (i), g·c·σ′ (f), g·σ·tanh′ (g), 0 (o): β_gates is 2 over the root of the sum of their mean squares.
    """

    inputs = ("c", "gates")
    homogeneity = ("own", "own")
    source = "quadrature; Hochreiter and Schmidhuber 1997, Gers et al. 2000; a state that is kept"
    fast_forward, fast_backward = cells.lstm_state, cells.lstm_state_backward

    def forward(self, c: Array, gates: Array) -> tuple[Array, Kept]:
        self.check(c.shape, gates.shape)
        i, f, g, _ = _parts(gates, 4)
        return sigmoid(f) * c + sigmoid(i) * np.tanh(g), (c, gates)

    def backward(self, grad: Array, c: Array, gates: Array) -> tuple[Array, Array]:
        i, f, g, o = _parts(gates, 4)
        parts = [
            grad * np.tanh(g) * sigmoid_derivative(i),
            grad * c * sigmoid_derivative(f),
            grad * sigmoid(i) * tanh_derivative(g),
            np.zeros_like(o),
        ]
        return grad * sigmoid(f), np.concatenate(parts, -1)

    def scale(self, c: Shape, gates: Shape) -> Scales:
        self.check(c, gates)
        squares = (_VALUE.rms * _GATE.gradient_rms, _GATE.gradient_rms, _GATE.rms * _VALUE.gradient_rms)
        return Scales(1.0, (1 / _GATE.rms, 2 / math.hypot(*squares)))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), (at.b, at.n), (at.b, 4 * at.n)),)

    def predict(self, out: Shape, c: SecondMoments, gates: SecondMoments) -> SecondMoments:
        part = _part(gates, 4)
        gate, value = through(part, sigmoid), through(part, np.tanh)
        return _times(gate, c).plus(_times(gate, value))

    def predict_gradients(self, g: SecondMoments, c: SecondMoments, gates: SecondMoments) -> tuple[SecondMoments, ...]:
        part = _part(gates, 4)
        gate, value = through(part, sigmoid), through(part, np.tanh)
        gate_slope, value_slope = through(part, sigmoid_derivative), through(part, tanh_derivative)
        into = _joined(4, _times(g, value, gate_slope), _times(g, c, gate_slope), _times(g, gate, value_slope))
        return _times(g, gate), into

    def check(self, c: Shape, gates: Shape) -> None:
        """Raise ShapeError unless the shapes fit."""
        _check_gates(self.name, c, gates, 4, "c")


class LstmOutput(Op):
    """h = σ(o)·tanh(c), the output of an LSTM's cell; gates (…, 4·d) are i, f, g and o, side by side.

    α = 1/(RMS(σ)·RMS(tanh)): unlike c, h is not carried unchanged to the next step. β_c = 1/(RMS(σ)·RMS(tanh′)). A
    quarter of the gradient of the gates, that of o, is g·tanh·σ′; the rest is 0: β_gates = 2/(RMS(tanh)·RMS(σ′)).
    """

    inputs = ("c", "gates")
    homogeneity = ("own", "own")
    source = "quadrature; Hochreiter and Schmidhuber 1997"
    fast_forward, fast_backward = cells.lstm_output, cells.lstm_output_backward

    def forward(self, c: Array, gates: Array) -> tuple[Array, Kept]:
        self.check(c.shape, gates.shape)
        return sigmoid(_parts(gates, 4)[3]) * np.tanh(c), (c, gates)

    def backward(self, grad: Array, c: Array, gates: Array) -> tuple[Array, Array]:
        i, f, g, o = _parts(gates, 4)
        for_o = grad * np.tanh(c) * sigmoid_derivative(o)
        return grad * sigmoid(o) * tanh_derivative(c), np.concatenate([*map(np.zeros_like, (i, f, g)), for_o], -1)

    def scale(self, c: Shape, gates: Shape) -> Scales:
        self.check(c, gates)
        alpha, for_c = 1 / (_GATE.rms * _VALUE.rms), 1 / (_GATE.rms * _VALUE.gradient_rms)
        return Scales(alpha, (for_c, 2 / (_VALUE.rms * _GATE.gradient_rms)))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), (at.b, at.n), (at.b, 4 * at.n)),)

    def predict(self, out: Shape, c: SecondMoments, gates: SecondMoments) -> SecondMoments:
        return _times(through(_part(gates, 4), sigmoid), through(c, np.tanh))

    def predict_gradients(self, g: SecondMoments, c: SecondMoments, gates: SecondMoments) -> tuple[SecondMoments, ...]:
        part = _part(gates, 4)
        for_o = _times(g, through(c, np.tanh), through(part, sigmoid_derivative))
        return _times(g, through(part, sigmoid), through(c, tanh_derivative)), _joined(4, for_o)

    def check(self, c: Shape, gates: Shape) -> None:
        """Raise ShapeError unless the shapes fit."""
        _check_gates(self.name, c, gates, 4, "c")


@cache
def _candidate_moments() -> tuple[float, float, float, float]:
    """Moments of u = x + σ(r)·a, for independent N(0, 1): E tanh², E tanh′², E (σ(r)·tanh′)², E (a·σ′(r)·tanh′)².

    Given r, with s = σ(r), u is N(0, 1 + s²), and E(a²|u) = 1/(1 + s²) + (s·u/(1 + s²))²: two sums, by the trapezoidal
    rule with spacing 1/16 on [−12, 12], whose error for these functions is below e^-100.
    """
    z = np.linspace(-12.0, 12.0, 385)
    weights = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi) / 16
    s = sigmoid(z)[:, None]
    variance = 1 + s**2
    u = np.sqrt(variance) * z
    slopes = tanh_derivative(u) ** 2
    given = 1 / variance + (s * u / variance) ** 2
    moments = (np.tanh(u) ** 2, slopes, s**2 * slopes, sigmoid_derivative(z)[:, None] ** 2 * slopes * given)
    value, slope, carried, reset = (float(weights @ m @ weights) for m in moments)
    return value, slope, carried, reset


class GruState(Op):
    """h′ = n + σ(z)·(h − n) with n = tanh(candidate + σ(r)·recurrent): the state of a GRU; gates (…, 2·d) are r and z.

    α = 1: the state persists unchanged if z is open. β_h = 1/RMS(σ). The others are 1/RMS of the gradients
    g·(1 − σ(z))·tanh′ (candidate), this times σ(r) (recurrent), this times recurrent·σ′(r) (gate r), and
    g·(h − n)·σ′(z) (gate z), with n for independent N(0, 1).
    """

    inputs = ("h", "gates", "candidate", "recurrent")
    homogeneity = ("own", "own", "own", "own")
    source = "quadrature; Cho et al. 2014 (arXiv 1406.1078), as in cuDNN and PyTorch; a state that is kept"
    fast_forward, fast_backward = cells.gru_state, cells.gru_state_backward

    def forward(self, h: Array, gates: Array, candidate: Array, recurrent: Array) -> tuple[Array, Kept]:
        self.check(h.shape, gates.shape, candidate.shape, recurrent.shape)
        r, z = _parts(gates, 2)
        u = candidate + sigmoid(r) * recurrent
        n = np.tanh(u)
        return n + sigmoid(z) * (h - n), (h - n, u, gates, recurrent)

    def backward(self, g: Array, change: Array, u: Array, gates: Array, recurrent: Array) -> tuple[Array, ...]:
        r, z = _parts(gates, 2)
        for_u = g * sigmoid(-z) * tanh_derivative(u)
        for_gates = np.concatenate([for_u * recurrent * sigmoid_derivative(r), g * change * sigmoid_derivative(z)], -1)
        return g * sigmoid(z), for_gates, for_u, for_u * sigmoid(r)

    def scale(self, h: Shape, gates: Shape, candidate: Shape, recurrent: Shape) -> Scales:
        self.check(h, gates, candidate, recurrent)
        value, slope, carried, reset = _candidate_moments()
        for_r, for_z = _GATE.rms * math.sqrt(reset), math.sqrt(1 + value) * _GATE.gradient_rms
        for_gates = math.sqrt(2) / math.hypot(for_r, for_z)
        for_u = 1 / (_GATE.rms * math.sqrt(slope)), 1 / (_GATE.rms * math.sqrt(carried))
        return Scales(1.0, (1 / _GATE.rms, for_gates, *for_u))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        state = (at.b, at.n)
        return (example(cls(), state, (at.b, 2 * at.n), state, state),)

    def predict(
        self, out: Shape, h: SecondMoments, gates: SecondMoments, candidate: SecondMoments, recurrent: SecondMoments
    ) -> SecondMoments:
        gate = through(_part(gates, 2), sigmoid)
        return _times(gate, h).plus(_times(gate, through(self._argument(gate, candidate, recurrent), np.tanh)))

    def predict_gradients(
        self,
        g: SecondMoments,
        h: SecondMoments,
        gates: SecondMoments,
        candidate: SecondMoments,
        recurrent: SecondMoments,
    ) -> tuple[SecondMoments, ...]:
        part = _part(gates, 2)
        gate, gate_slope = through(part, sigmoid), through(part, sigmoid_derivative)
        u = self._argument(gate, candidate, recurrent)
        for_u = _times(g, gate, through(u, tanh_derivative))
        change = h.plus(through(u, np.tanh))
        for_gates = _joined(2, _times(for_u, recurrent, gate_slope), _times(g, change, gate_slope))
        return _times(g, gate), for_gates, for_u, _times(for_u, gate)

    def _argument(self, gate: SecondMoments, candidate: SecondMoments, recurrent: SecondMoments) -> SecondMoments:
        """The moments of the argument of tanh, which is assumed to be normal."""
        return candidate.plus(_times(gate, recurrent))

    def check(self, h: Shape, gates: Shape, candidate: Shape, recurrent: Shape) -> None:
        """Raise ShapeError unless the shapes fit."""
        _check_gates(self.name, h, gates, 2, "h")
        if not h == candidate == recurrent:
            raise ShapeError(f"{self.name}: h {h}, candidate {candidate} and recurrent {recurrent} must have one shape")
