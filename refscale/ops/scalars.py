"""Multiplication and division by a number that is part of the function."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from refscale.engine import Array, Example, Op, Sizes, example
from refscale.errors import ArgumentError
from refscale.ops.activations import Elementwise
from refscale.scales import Moments, Shape
from refscale.scales.second_moments import SecondMoments

Kept = tuple[Any, ...]

_SMALLEST = 2.0**-126  # normal in float32, and so is its inverse


class _Scalar(Elementwise):
    """c·x for a number c ≠ 0: σ(c·X) = |c|, and the gradient is c·g, so α = β = 1/|c|."""

    source = "closed form: σ(c·X) = |c|·σ(X)"
    homogeneity = (1,)
    has_mean = False

    def backward(self, g: Array) -> tuple[Array]:  # type: ignore[override]
        return (self.function(g),)

    def moments(self) -> Moments:
        return Moments(*(self._magnitude(),) * 3)

    def predict(self, out: Shape, x: SecondMoments) -> SecondMoments:
        return x.times(self._magnitude())

    def predict_gradients(self, g: SecondMoments, x: SecondMoments) -> tuple[SecondMoments]:
        return (g.times(self._magnitude()),)

    @abstractmethod
    def _magnitude(self) -> float:
        """|c|."""


@dataclass(frozen=True)
class ScalarMultiply(_Scalar):
    """c·x for a number c that is part of the function; c = −1 is the negation.

    σ(c·X) = |c|, and the gradient is c·g: α = β = 1/|c|. Under unit scaling y = ±x: only the sign of c has an effect.
    (``Multiply`` by a constant has α = 1.)

    Attributes:
        factor: the number c, 2^-126 ≤ |c| ≤ 2^126.
    """

    factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_number(self, "factor", self.factor)

    def forward(self, x: Array) -> tuple[Array, Kept]:
        return x * self.factor, ()

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(-1.0), (at.b, at.m)), example(cls(0.375), (at.b, at.m)))

    def _magnitude(self) -> float:
        return abs(self.factor)


@dataclass(frozen=True)
class ScalarDivide(_Scalar):
    """x/c for a number c that is part of the function; rounded once, while x·(1/c) is rounded twice.

    σ(X/c) = 1/|c|, and the gradient is g/c: α = β = |c|.

    Attributes:
        divisor: the number c, 2^-126 ≤ |c| ≤ 2^126.
    """

    divisor: float
    source = "closed form: σ(X/c) = σ(X)/|c|"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_number(self, "divisor", self.divisor)

    def forward(self, x: Array) -> tuple[Array, Kept]:
        return x / self.divisor, ()

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(3.0), (at.b, at.m)),)

    def _magnitude(self) -> float:
        return 1 / abs(self.divisor)


def _check_number(op: Op, attribute: str, value: float) -> None:
    """Make the attribute a Python float whose inverse is finite, or raise an ArgumentError."""
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not _SMALLEST <= abs(number) <= 1 / _SMALLEST:
        raise ArgumentError(f"{type(op).__name__}({attribute}={value!r}): expected a number, 2^-126 ≤ |c| ≤ 2^126")
    object.__setattr__(op, attribute, number)
