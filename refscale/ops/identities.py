"""Identities that carry factors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from refscale.engine import Array, Example, Op, Sizes, example
from refscale.errors import ArgumentError
from refscale.scales import Scales, Shape
from refscale.scales.second_moments import SecondMoments

Kept = tuple[Any, ...]


class _Identity(Op):
    """The identity; the engine multiplies by the factors."""

    inputs = ("x",)
    homogeneity = (1,)
    carries_factors = True
    moves = True

    def forward(self, x: Array) -> tuple[Array, Kept]:
        return x, ()

    def backward(self, g: Array) -> tuple[Array]:
        return (g,)

    def predict(self, out: Shape, x: SecondMoments) -> SecondMoments:
        return x

    def predict_gradients(self, g: SecondMoments, x: SecondMoments) -> tuple[SecondMoments]:
        return (g,)


@dataclass(frozen=True)
class Scaled(_Identity):
    """Identity with chosen factors: α·x forward, β·g backward. Under the regular scheme, the identity.

    Attributes:
        alpha, beta: positive factors.
    """

    alpha: float = 1.0
    beta: float = 1.0
    source = "authors' code, examples/listings.py (scaled)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(f > 0 and math.isfinite(f) for f in (self.alpha, self.beta)):
            raise ArgumentError(f"Scaled(alpha={self.alpha}, beta={self.beta}): expected positive finite factors")

    def scale(self, x: Shape) -> Scales:
        return Scales(self.alpha, (self.beta,))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(1.0, 0.5), (at.b, at.m)),)


@dataclass(frozen=True)
class Fork(_Identity):
    """Identity at the start of one of several uses of a tensor: its β equalizes the constants c of their gradients.

    x forward, β·g backward. If the gradients from the uses of a tensor are different multiples of the true ones, their
    sum is wrong; ``backward`` then replaces the β of forks so that all agree.

    Attributes:
        beta: the factor used if all uses agree already; n^-½ gives a sum of n gradients unit variance.
    """

    beta: float = 1.0
    source = "c(x_i) = c(y)·β_i/α, solved for β"
    settles = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.beta > 0 and math.isfinite(self.beta)):
            raise ArgumentError(f"Fork(beta={self.beta}): expected a positive finite factor")

    def scale(self, x: Shape) -> Scales:
        return Scales(1.0, (self.beta,))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(2**-0.5), (at.b, at.m)),)
