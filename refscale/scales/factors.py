"""The factors of an op, and constraints, which replace several factors by one common value."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from refscale.errors import ArgumentError

Shape = tuple[int, ...]
Statistic = Literal["std", "rms"]


@dataclass(frozen=True, slots=True)
class Scales:
    """The factors of one scaled op: ``alpha`` forward, ``beta[i]`` for the gradient of input i.

    ``beta[i]`` is None if input i has no gradient (token ids, masks). Source: paper, definition of a scaled op.
    """

    alpha: float
    beta: tuple[float | None, ...]

    def __post_init__(self) -> None:
        plain = True
        for factor in (self.alpha, *self.beta):
            if factor is None:
                continue
            if not 0 < factor < math.inf:
                raise ArgumentError(f"Scales(alpha={self.alpha}, beta={self.beta}): factors must be positive, finite")
            plain = plain and type(factor) is float
        if not plain:  # a NumPy scalar would widen float32 arrays to float64
            object.__setattr__(self, "alpha", float(self.alpha))
            object.__setattr__(self, "beta", tuple(None if b is None else float(b) for b in self.beta))

    def __str__(self) -> str:
        betas = ", ".join("-" if b is None else f"{b:.6g}" for b in self.beta)
        return f"α={self.alpha:.6g} β=({betas})"


TOLERANCE = 1e-9
"""Relative tolerance of two factors; the error of a product of some thousand rounded factors is below 1e-12."""


def close(a: float, b: float) -> bool:
    """Return whether two factors are equal, rounding aside."""
    return math.isclose(a, b, rel_tol=TOLERANCE)


# --- Constraints: one value for α and the constrained β ---------------------------------------------------------------

Constraint = Callable[[float, tuple[float, ...]], float | None]
"""``constraint(α, (β_i of the constrained inputs))`` returns their common value, or None: no constraint."""


def geometric(alpha: float, betas: tuple[float, ...]) -> float:
    """Return the geometric mean of α and the constrained β: the paper's choice (recipe; Table A.2)."""
    return math.exp(sum(map(math.log, betas), math.log(alpha)) / (1 + len(betas)))


def arithmetic(alpha: float, betas: tuple[float, ...]) -> float:
    """Return the arithmetic mean of α and the constrained β, ≥ the geometric mean."""
    return (alpha + sum(betas)) / (1 + len(betas))


def harmonic(alpha: float, betas: tuple[float, ...]) -> float:
    """Return the harmonic mean of α and the constrained β, ≤ the geometric mean."""
    return (1 + len(betas)) / (1 / alpha + sum(1 / b for b in betas))


def to_output_scale(alpha: float, betas: tuple[float, ...]) -> float:
    """Return α for all constrained factors: the output has unit variance, the gradients have not (u-μP's default)."""
    return alpha


def _beta(name: str, position: int, betas: tuple[float, ...], expected: int) -> float:
    if len(betas) != expected:
        raise ArgumentError(f"{name}: got {len(betas)} constrained inputs, expected {expected}")
    return betas[position]


def to_grad_input_scale(alpha: float, betas: tuple[float, ...]) -> float:
    """Return β of the single constrained input for all: its gradient has unit variance, the output has not."""
    return _beta("to_grad_input_scale", 0, betas, 1)


def to_left_grad_scale(alpha: float, betas: tuple[float, ...]) -> float:
    """Return β of the first of two constrained inputs for all factors: only its gradient has unit variance."""
    return _beta("to_left_grad_scale", 0, betas, 2)


def to_right_grad_scale(alpha: float, betas: tuple[float, ...]) -> float:
    """Return β of the second of two constrained inputs for all factors: only its gradient has unit variance."""
    return _beta("to_right_grad_scale", 1, betas, 2)


def joint(constraint: str | Constraint, rows: float = 1.0, columns: float = 1.0) -> Constraint:
    """Make the constraint of a product that is a part of a larger product.

    It applies the constraint of the larger product to factors for the fan-in and fan-out of the larger product.

    Args:
        constraint: the constraint of the larger product, or its name.
        rows: fan-in of the larger product over that of the part.
        columns: fan-out of the larger product over that of the part.

    Returns:
        The constraint, applied to α·rows^-½ and β·columns^-½. For ``none`` it is ``none``.
    """
    whole = get_constraint(constraint)
    if whole is none:
        return none
    return lambda alpha, betas: whole(alpha * rows**-0.5, tuple(b * columns**-0.5 for b in betas))


def none(alpha: float, betas: tuple[float, ...]) -> None:
    """Return None: no constraint, every factor keeps its own value; legal on cut-edges only."""
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


def get_constraint(constraint: str | Constraint) -> Constraint:
    """Return the constraint of a name; a function is returned unchanged.

    Raises:
        ArgumentError: the name is unknown.
    """
    if isinstance(constraint, str) and constraint in CONSTRAINTS:
        return CONSTRAINTS[constraint]
    if callable(constraint):
        return constraint
    raise ArgumentError(f"get_constraint({constraint!r}): expected one of {', '.join(CONSTRAINTS)}, or a function")


def constrain(scales: Scales, inputs: Sequence[int], constraint: str | Constraint) -> Scales:
    """Replace α and the β of ``inputs`` by one common value.

    Args:
        scales: unconstrained factors of an op.
        inputs: positions of the inputs with non-cut edges; inputs without gradient are ignored.
        constraint: the name of a constraint of this module, or a function of α and the constrained β.

    Returns:
        ``scales`` itself if nothing is constrained, else new factors. Source: paper, Theorem 5.2.
    """
    if not inputs:
        return scales
    beta = scales.beta
    if len(set(inputs)) < len(inputs) or min(inputs) < 0 or max(inputs) >= len(beta):
        raise ArgumentError(
            f"constrain(inputs={tuple(inputs)}): expected different positions of {len(scales.beta)} inputs"
        )
    betas = tuple([b for b in [beta[i] for i in inputs] if b is not None])
    value = get_constraint(constraint)(scales.alpha, betas) if betas else None
    if value is None:
        return scales
    return Scales(value, tuple([value if i in inputs and b is not None else b for i, b in enumerate(beta)]))
