"""The scheme of an adapted program, and the divisors of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import nan
from typing import Any

from numpy.typing import NDArray

from refscale.adapt.solution import Solved
from refscale.arrays import freeze
from refscale.errors import FactorError
from refscale.graph import Step
from refscale.layers import Parameters
from refscale.scales import Call, ResidualRule, ScaledOp, Scales, Unit


@dataclass(frozen=True, eq=False)
class AdaptedScheme(Unit):
    """Unit scaling with the constants of one trained program, call by call.

    α is a constant of each call, as the function must not change. β equals α where the two are tied. Elsewhere it is
    that of unit scaling, computed from the shapes of the call, and so fits any batch.

    Attributes:
        steps: the recorded calls.
        solved: op, α and tied inputs of each call.
    """

    name: str = "adapted"
    steps: tuple[Step, ...] = ()
    solved: tuple[Solved, ...] = ()

    def op(self, call: Call) -> ScaledOp:
        """Return the adapted op: a norm with another eps, or a sum with other weights; else the op of the call.

        Raises:
            FactorError: the program differs from the adapted one.
        """
        return self._solved(call).op or call.op

    def scales(self, call: Call) -> Scales:
        """Return the factors of the adapted op.

        Raises:
            FactorError: the program differs from the adapted one.
        """
        solved = self._solved(call)
        free = self.unconstrained(replace(call, op=solved.op or call.op))
        beta = tuple([solved.alpha if i in solved.tied and b is not None else b for i, b in enumerate(free.beta)])
        return Scales(solved.alpha, beta)

    def _solved(self, call: Call) -> Solved:
        """The adapted call with this number."""
        step = self.steps[call.index] if call.index < len(self.steps) else None
        if step is None or not step.matches(call):
            expected = "the end of the program" if step is None else f"{step.op} of {step.shapes}"
            raise FactorError(f"adapted: call {call.index} is {call.op} of {call.shapes}, expected {expected}")
        return self.solved[call.index]

    def residual_weights(self, rule: ResidualRule, layer: int, depth: int) -> tuple[float, float]:
        """Return the weights of the residual rule, as in the trained program."""
        return rule(layer)


@dataclass(frozen=True, eq=False)
class Adapted:
    """The scheme of an adapted model, and the divisors of its parameters.

    Attributes:
        scheme: unit scaling with the constants of this model.
        divisors: regular parameter over unit-scaled parameter, by name; 1 for an unchanged one.
        difference: from the regular program in float64, the larger of ``Parity.loss`` and ``Parity.gradient``; NaN if
            they were not compared.
    """

    scheme: Unit
    divisors: Mapping[str, float]
    difference: float = nan

    def unit(self, regular: Parameters) -> dict[str, NDArray[Any]]:
        """Divide regular parameters by the divisors; return those of the unit-scaled model, read-only, same dtypes."""
        return {name: freeze((x / self.divisors[name]).astype(x.dtype)) for name, x in regular.items()}

    def regular(self, unit: Parameters) -> dict[str, NDArray[Any]]:
        """Multiply unit-scaled parameters by the divisors; rounded twice: ``regular(unit(p))`` is within 2 ulp of p."""
        return {name: freeze((x * self.divisors[name]).astype(x.dtype)) for name, x in unit.items()}
