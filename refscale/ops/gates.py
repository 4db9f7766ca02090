"""Gated units: products and mixtures of inputs with a function of a gate."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from refscale.engine import Array, Example, Op, Sizes, example
from refscale.errors import ArgumentError, ShapeError
from refscale.ops.activations import ACTIVATIONS, Elementwise, Silu, gate_moments, sigmoid_derivative
from refscale.ops.kernels import elements
from refscale.scales import Scales, Shape
from refscale.scales.second_moments import SecondMoments, through
from refscale.special import sigmoid

Kept = tuple[Any, ...]


class _Gated(Op):
    """x·f(gate) for an elementwise f; x and gate of one shape."""

    inputs = ("x", "gate")
    homogeneity = (1, "own")
    source = "quadrature; arXiv 2002.05202"
    multiplies = (0,)

    @abstractmethod
    def gate_function(self) -> Elementwise:
        """f."""

    def forward(self, x: Array, gate: Array) -> tuple[Array, Kept]:
        self.check(x.shape, gate.shape)
        value, kept = self.gate_function().forward(gate)
        return x * value, (x, value, *kept)

    def backward(self, g: Array, x: Array, value: Array, *kept: Array) -> tuple[Array, Array]:
        return g * value, self.gate_function().backward(g * x, *kept)[0]

    def scale(self, x: Shape, gate: Shape) -> Scales:
        m = self.gate_function().moments()
        return Scales(1 / m.rms, (1 / m.rms, 1 / m.gradient_rms))

    def predict(self, out: Shape, x: SecondMoments, gate: SecondMoments) -> SecondMoments:
        return SecondMoments(out, x.k * through(gate, self.gate_function().function).k)

    def predict_gradients(self, g: SecondMoments, x: SecondMoments, gate: SecondMoments) -> tuple[SecondMoments, ...]:
        f = self.gate_function()
        value, slope = through(gate, f.function), through(gate, f.derivative)
        return SecondMoments(g.shape, g.k * value.k), SecondMoments(g.shape, g.k * x.k * slope.k)

    def check(self, x: Shape, gate: Shape) -> None:
        """Raise ShapeError unless all have the same shape."""
        if x != gate:
            raise ShapeError(f"{self.name}: x {x} and gate {gate} must have one shape")


class SiluGlu(_Gated):
    """x·silu(gate), the gated linear unit of SwiGLU: ``glu`` with silu, and a fused form.

    The scale of a product of independent variables depends on their RMS, not their σ: α = β_x = 1/RMS(silu(X)),
    β_gate = 1/RMS(silu′(X)).
    """

    fast_forward, fast_backward = elements.silu_glu, elements.silu_glu_backward

    def gate_function(self) -> Elementwise:
        """Return the op silu."""
        return Silu()

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), (at.b, at.m), (at.b, at.m)),)


@dataclass(frozen=True)
class Glu(_Gated):
    """x·f(gate), a gated linear unit with any activation f: sigmoid (the original), gelu (GEGLU), relu (ReGLU), ….

    The scale of a product of independent variables depends on their RMS, not their σ: α = β_x = 1/RMS(f(X)),
    β_gate = 1/RMS(f′(X)).

    Attributes:
        activation: f, as a name in ``ACTIVATIONS`` or an elementwise op.
    """

    activation: str | Elementwise = "sigmoid"

    def __post_init__(self) -> None:
        super().__post_init__()
        known = isinstance(self.activation, str) and self.activation in ACTIVATIONS
        if not known and not isinstance(self.activation, Elementwise):
            raise ArgumentError(
                f"Glu(activation={self.activation!r}): expected one of {', '.join(ACTIVATIONS)}, or an elementwise op"
            )

    def gate_function(self) -> Elementwise:
        """Return the op of the activation."""
        return ACTIVATIONS[self.activation] if isinstance(self.activation, str) else self.activation

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return tuple(example(cls(f), (at.b, at.m), (at.b, at.m)) for f in ("sigmoid", "gelu"))


@dataclass(frozen=True)
class Highway(Op):
    """(1 − s)·h + s·c with the gate s = sigmoid(update + bias): the cell of a recurrent highway network.

    The new state is a weighted mean of the old state h and the candidate c, for any gate; α = 1 preserves this. (The
    factor for independent h and c would multiply the state at every step, and let it grow without bound over a sequence
    while the gate is closed.) β_h = 1/RMS(1 − s), β_c = 1/RMS(s), β_update = 1/(√2·RMS(s′)), for inputs N(0, 1).

    Attributes:
        bias: bias of the gate; −1 makes the state persist.
    """

    bias: float = 0.0
    inputs = ("h", "candidate", "update")
    homogeneity = ("together", "together", "own")
    source = "quadrature; Zilly et al. 2017 (arXiv 1607.03474), mean of two equal values"
    fast_forward, fast_backward = elements.highway, elements.highway_backward

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.bias):
            raise ArgumentError(f"Highway(bias={self.bias}): expected a finite number")

    def forward(self, h: Array, candidate: Array, update: Array) -> tuple[Array, Kept]:
        self.check(h.shape, candidate.shape, update.shape)
        change, shifted = candidate - h, update + self.bias
        return h + sigmoid(shifted) * change, (change, shifted)

    def backward(self, g: Array, change: Array, shifted: Array) -> tuple[Array, Array, Array]:
        return g * sigmoid(-shifted), g * sigmoid(shifted), g * change * sigmoid_derivative(shifted)

    def scale(self, h: Shape, candidate: Shape, update: Shape) -> Scales:
        self.check(h, candidate, update)
        carry, gate = gate_moments(-self.bias), gate_moments(self.bias)
        return Scales(1.0, (1 / carry.rms, 1 / gate.rms, 1 / (math.sqrt(2) * gate.gradient_rms)))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(-1.0), *[(at.b, at.m)] * 3),)

    def predict(self, out: Shape, h: SecondMoments, candidate: SecondMoments, update: SecondMoments) -> SecondMoments:
        carry, gate = self._gates(update)
        return SecondMoments(out, h.k * carry.k + candidate.k * gate.k)

    def predict_gradients(
        self, g: SecondMoments, h: SecondMoments, candidate: SecondMoments, update: SecondMoments
    ) -> tuple[SecondMoments, ...]:
        carry, gate = self._gates(update)
        slope = through(update, lambda z: sigmoid_derivative(z + self.bias))
        change = h.plus(candidate)
        return tuple(SecondMoments(g.shape, g.k * k) for k in (carry.k, gate.k, change.k * slope.k))

    def _gates(self, update: SecondMoments) -> tuple[SecondMoments, SecondMoments]:
        """Second moments of 1 − s and of s."""
        carry, gate = (lambda z: sigmoid(-z - self.bias)), (lambda z: sigmoid(z + self.bias))
        return through(update, carry), through(update, gate)

    def check(self, h: Shape, candidate: Shape, update: Shape) -> None:
        """Raise ShapeError unless all have the same shape."""
        if not h == candidate == update:
            raise ShapeError(f"highway: h {h}, candidate {candidate} and update {update} must have one shape")
