"""Scale factors: what α and β are, how a constraint ties them, and what a scheme decides.

A scaled op computes ``α·f(x)`` forward and ``β_i·(vjp of f)_i`` backward, with positive constants that depend on
shapes and attributes, never on data (paper, definition of a scaled op).  An op states the factors that give unit
variance; a *constraint* ties those that must be equal for the gradient to stay right; a *scheme* decides whether they
are used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from refscale.errors import ArgumentError

Shape = tuple[int, ...]
Statistic = Literal["std", "rms"]


@dataclass(frozen=True, slots=True)
class Scales:
    """The factors of one scaled op: ``alpha`` forward, ``beta[i]`` for the gradient of input i.

    ``beta[i]`` is None where input i has no gradient (token ids, masks).  Source: paper, definition of a scaled op.
    """

    alpha: float
    beta: tuple[float | None, ...]

    def __post_init__(self) -> None:
        for factor in (self.alpha, *self.beta):
            if factor is not None and not (factor > 0 and math.isfinite(factor)):
                raise ArgumentError(f"Scales(alpha={self.alpha}, beta={self.beta}): factors must be positive, finite")
        # A NumPy scalar here would widen float32 arrays to float64.
        object.__setattr__(self, "alpha", float(self.alpha))
        object.__setattr__(self, "beta", tuple(None if b is None else float(b) for b in self.beta))

    def __str__(self) -> str:
        betas = ", ".join("-" if b is None else f"{b:.6g}" for b in self.beta)
        return f"α={self.alpha:.6g} β=({betas})"


# --- Constraints: one value for α and the constrained β ---------------------------------------------------------------

Constraint = Callable[[float, tuple[float, ...]], float | None]
"""``constraint(α, (β_i of the constrained inputs))`` → the one value they all take, or None to leave them."""


def geometric(alpha: float, betas: tuple[float, ...]) -> float:
    """Geometric mean: the paper's choice (recipe; Table A.2)."""
    return math.exp(sum(math.log(f) for f in (alpha, *betas)) / (1 + len(betas)))


def arithmetic(alpha: float, betas: tuple[float, ...]) -> float:
    """Arithmetic mean: leans to the larger factor."""
    return (alpha + sum(betas)) / (1 + len(betas))


def harmonic(alpha: float, betas: tuple[float, ...]) -> float:
    """Harmonic mean: leans to the smaller factor."""
    return (1 + len(betas)) / (1 / alpha + sum(1 / b for b in betas))


def to_output_scale(alpha: float, betas: tuple[float, ...]) -> float:
    """α for all: unit activations, gradients take what comes (the default of u-μP)."""
    return alpha


def _beta(name: str, position: int, betas: tuple[float, ...], expected: int) -> float:
    if len(betas) != expected:
        raise ArgumentError(f"{name}: got {len(betas)} constrained inputs, expected {expected}")
    return betas[position]


def to_grad_input_scale(alpha: float, betas: tuple[float, ...]) -> float:
    """β of the one constrained input for all: unit gradients."""
    return _beta("to_grad_input_scale", 0, betas, 1)


def to_left_grad_scale(alpha: float, betas: tuple[float, ...]) -> float:
    """β of the left of two constrained inputs for all."""
    return _beta("to_left_grad_scale", 0, betas, 2)


def to_right_grad_scale(alpha: float, betas: tuple[float, ...]) -> float:
    """β of the right of two constrained inputs for all."""
    return _beta("to_right_grad_scale", 1, betas, 2)


def none(alpha: float, betas: tuple[float, ...]) -> None:
    """No constraint: every factor keeps its own value.  Legal on cut-edges only."""
    return


CONSTRAINTS: dict[str, Constraint] = {
    f.__name__: f
    for f in (
        geometric,
        harmonic,
        arithmetic,
        to_output_scale,
        to_grad_input_scale,
        to_left_grad_scale,
        to_right_grad_scale,
        none,
    )
}


def get_constraint(name: str) -> Constraint:
    """The constraint of that name.  Raises ArgumentError for any other."""
    if name not in CONSTRAINTS:
        raise ArgumentError(f"get_constraint({name!r}): expected one of {', '.join(CONSTRAINTS)}")
    return CONSTRAINTS[name]


def constrain(scales: Scales, inputs: Sequence[int], constraint: Constraint) -> Scales:
    """Give α and the β of ``inputs`` one common value.

    Args:
        scales: an op's unconstrained factors.
        inputs: positions of the inputs whose edges are not cut-edges; those without gradient are passed over.
        constraint: one of the functions above, or any of the same form.

    Returns:
        ``scales`` itself if nothing is constrained, else new ones.  Source: paper, Theorem 5.2.
    """
    if len(set(inputs)) != len(inputs) or not all(0 <= i < len(scales.beta) for i in inputs):
        raise ArgumentError(
            f"constrain(inputs={tuple(inputs)}): expected different positions of {len(scales.beta)} inputs"
        )
    tied = tuple(i for i in inputs if scales.beta[i] is not None)
    betas = tuple(b for b in (scales.beta[i] for i in tied) if b is not None)
    value = constraint(scales.alpha, betas) if tied else None
    if value is None:
        return scales
    return Scales(value, tuple(value if i in tied else b for i, b in enumerate(scales.beta)))


# --- Gaussian moments: where activation factors come from -------------------------------------------------------------

_NODES = np.linspace(-20.0, 20.0, 40 * 64 + 1)
_WEIGHTS = np.exp(-0.5 * _NODES**2) / math.sqrt(2 * math.pi) / 64


def gaussian_mean(f: Callable[[np.ndarray[Any, np.dtype[np.float64]]], np.ndarray[Any, Any]]) -> float:
    """E f(X) for X ~ N(0, 1), by the trapezoidal rule with spacing 1/64 on [−20, 20].

    For functions analytic in a strip |Im x| < a the error is about exp(−2π·64·a): none is left in float64 for the
    smooth activations.  Kinks (relu) need their closed form.
    """
    return float(np.sum(_WEIGHTS * f(_NODES)))


@dataclass(frozen=True, slots=True)
class Moments:
    """What N(0, 1) inputs and gradients look like after an activation f.

    ``std`` and ``rms`` of f(X), and ``gradient_rms`` of G·f'(X), with X, G ~ N(0, 1) independent.
    """

    std: float
    rms: float
    gradient_rms: float

    def scales(self, statistic: Statistic) -> Scales:
        """α = 1/σ(f(X)), or 1/RMS(f(X)) by name; β = 1/RMS(G·f'(X)), whose mean is zero."""
        return Scales(1 / (self.std if statistic == "std" else self.rms), (1 / self.gradient_rms,))


def gaussian_moments(f: Callable[[Any], Any], derivative: Callable[[Any], Any]) -> Moments:
    """Moments of a smooth activation, by quadrature.  Source: paper, Table A.2."""
    mean = gaussian_mean(f)
    return Moments(
        std=math.sqrt(gaussian_mean(lambda x: (f(x) - mean) ** 2)),
        rms=math.sqrt(gaussian_mean(lambda x: f(x) ** 2)),
        gradient_rms=math.sqrt(gaussian_mean(lambda x: derivative(x) ** 2)),
    )


# --- Residual rules ---------------------------------------------------------------------------------------------------

ResidualRule = Callable[[int], tuple[float, float]]
"""``rule(l)`` for the l-th residual addition since the stream was last normalized gives the weights (skip, branch)."""


def running_mean(layer: int) -> tuple[float, float]:
    """√(l/(l+1))·x + √(1/(l+1))·f(x): every branch of the stack in equal parts.  Source: paper, residual rules."""
    if layer < 1:
        raise ArgumentError(f"running_mean(layer={layer}): expected layer ≥ 1")
    return math.sqrt(layer / (layer + 1)), math.sqrt(1 / (layer + 1))


@dataclass(frozen=True)
class PlainAdd:
    """x + f(x), whose variance grows with depth; under unit scaling, ``normalized`` stands in for it.

    Attributes:
        normalized: with the running mean, the same function up to a divisor that the next norm removes:
            x₀ + f₁ + … + f_l over √(l+1).  That presumes branches as strong as the stream; ``fixed(τ)`` says how much
            weaker they are in the regular model.
    """

    normalized: ResidualRule = running_mean

    def __call__(self, layer: int) -> tuple[float, float]:
        """Weights 1 and 1.  Source: paper, residual rules (default)."""
        return 1.0, 1.0


default = PlainAdd()


@cache
def fixed(tau: float) -> ResidualRule:
    """√(1−τ)·x + √τ·f(x), 0 < τ < 1: unit variance, every branch alike.  Source: paper, residual rules."""
    if not 0 < tau < 1:
        raise ArgumentError(f"fixed(tau={tau}): expected 0 < tau < 1")

    def rule(layer: int) -> tuple[float, float]:
        return math.sqrt(1 - tau), math.sqrt(tau)

    rule.__name__ = f"fixed({tau:g})"
    return rule


@cache
def ratio(tau: float) -> ResidualRule:
    """(x + τ·f(x))/√(1+τ²), τ > 0.  Source: u-μP (arXiv 2407.17465), section on residuals."""
    if not tau > 0:
        raise ArgumentError(f"ratio(tau={tau}): expected tau > 0")

    def rule(layer: int) -> tuple[float, float]:
        return 1 / math.sqrt(1 + tau**2), tau / math.sqrt(1 + tau**2)

    rule.__name__ = f"ratio({tau:g})"
    return rule


# --- Schemes ----------------------------------------------------------------------------------------------------------


class ScaleRule(Protocol):
    """What a scheme asks of an op; every op of the engine has it."""

    has_mean: ClassVar[bool]
    constants: ClassVar[tuple[int, ...]]
    scale: ClassVar[Callable[..., Scales]]


@dataclass(frozen=True)
class Call:
    """One use of an op, as a scheme sees it: shapes and position, no data.

    Attributes:
        op: the op with its attributes.
        shapes: the shape of every input.
        constraint: how α and the β of the constrained inputs are tied.
        constrained: positions of the constrained inputs.
        index: number of the call on its tape, from 0.
    """

    op: ScaleRule
    shapes: tuple[Shape, ...]
    constraint: Constraint = none
    constrained: tuple[int, ...] = ()
    index: int = 0


class Scheme(Protocol):
    """All that depends on the scheme: factors, initial standard deviation, residual weights."""

    @property
    def name(self) -> str:
        """Name shown in reports."""

    def scales(self, call: Call) -> Scales:
        """Factors of one call."""

    def initial_std(self, regular: float) -> float:
        """Standard deviation of an initial weight whose customary one is ``regular`` (BERT: 0.02)."""

    def residual_weights(self, rule: ResidualRule, layer: int) -> tuple[float, float]:
        """(skip, branch) weights of the ``layer``-th addition since the stream was last normalized."""


@dataclass(frozen=True)
class Regular:
    """No scaling: every factor is 1, weights start small.  The paper's base line."""

    name: str = "regular"

    def scales(self, call: Call) -> Scales:
        """Factors of one call: all 1."""
        return Scales(1.0, tuple(None if i in call.op.constants else 1.0 for i in range(len(call.shapes))))

    def initial_std(self, regular: float) -> float:
        """The customary one."""
        return regular

    def residual_weights(self, rule: ResidualRule, layer: int) -> tuple[float, float]:
        """What the rule says."""
        return rule(layer)


@dataclass(frozen=True)
class Unit:
    """Unit scaling: each op's own factors, tied by the call's constraint; weights start at standard deviation 1.

    Attributes:
        statistic: "std" (the paper: mean removed) or "rms", for ops whose output has a mean (relu, gelu, sigmoid, …).
    """

    name: str = "unit"
    statistic: Statistic = "std"

    def scales(self, call: Call) -> Scales:
        """Factors of one call, constrained."""
        scales = self.unconstrained(call)
        return constrain(scales, call.constrained, call.constraint)

    def unconstrained(self, call: Call) -> Scales:
        """Factors of one call as if every edge were a cut-edge.  Source: paper, scaling for unit variance."""
        if call.op.has_mean:
            return call.op.scale(*call.shapes, statistic=self.statistic)
        return call.op.scale(*call.shapes)

    def initial_std(self, regular: float) -> float:
        """Always 1.  Source: paper, recipe, step 1."""
        return 1.0

    def residual_weights(self, rule: ResidualRule, layer: int) -> tuple[float, float]:
        """What the rule says; for a plain add, what stands in for it."""
        return rule.normalized(layer) if isinstance(rule, PlainAdd) else rule(layer)


regular = Regular()
unit = Unit()
SCHEMES: dict[str, Scheme] = {"regular": regular, "unit": unit, "unit-rms": Unit("unit-rms", "rms")}


def get_scheme(name: str) -> Scheme:
    """The scheme of that name.  Raises ArgumentError for any other."""
    if name not in SCHEMES:
        raise ArgumentError(f"get_scheme({name!r}): expected one of {', '.join(SCHEMES)}")
    return SCHEMES[name]
