"""Comparison of a regular program and the adapted one: every tensor and every gradient, in float64."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.adapt.scheme import Adapted
from refscale.adapt.solution import Solution
from refscale.engine import Tape, Variable, backward
from refscale.graph import gradient_factors
from refscale.layers import Parameters
from refscale.programs import Program, checked_loss, leaves
from refscale.scales import Scheme, regular

TOLERANCE = 1e-12
"""Tolerance of losses, and of gradients over the RMS of all; float64 has 2^-53 = 1.1e-16."""

ROUNDING, MOST = 64.0, 1e-8
"""Tolerance where rounding alone changes the program: 64 times that change, at most 1e-8."""


@dataclass(frozen=True)
class Parity:
    """The differences of an adapted program from the regular one.

    Attributes:
        loss: largest difference of the objective and its parts, over their largest magnitude.
        gradient: largest RMS of a difference of gradients of one parameter, over the RMS of all gradients.
        tensor: name of the first tensor, in the order of the forward pass, whose RMS difference, after
            multiplying by its scale, exceeds 1e-12 of its RMS; empty if none does.
        parameter: the parameter whose gradient differs most.
        rounding: effect of rounding: the larger of the differences of loss and gradient if each parameter of the
            regular program changes by 2^-52 of its value; 0 if the two programs differ by at most 1e-12.
    """

    loss: float
    gradient: float
    tensor: str
    parameter: str
    rounding: float = 0.0

    @property
    def tolerance(self) -> float:
        """1e-12, or 64 times the change by rounding, at most 1e-8."""
        return max(TOLERANCE, min(ROUNDING * self.rounding, MOST))

    @property
    def holds(self) -> bool:
        """Return whether loss and gradients agree within the tolerance."""
        return max(self.loss, self.gradient) <= self.tolerance


def parity(program: Program, parameters: Parameters, batch: Any, adapted: Adapted, solution: Solution) -> Parity:
    """Run both programs on one batch.

    Args:
        program: the regular program.
        parameters: trained parameters.
        batch: a batch of the program.
        adapted: scheme and divisors.
        solution: solution of the graph that was recorded for the same batch.

    Raises:
        FactorError: the adapted factors are not legal.
    """
    wide = {name: np.asarray(x, np.float64) for name, x in parameters.items()}
    expected = _run(program, wide, batch, regular)
    found = _run(program, {name: x / adapted.divisors[name] for name, x in wide.items()}, batch, adapted.scheme)
    scales = [solution.scales[v] for v in solution.scales if v.node is not None]
    differing = (
        name
        for (name, x), (_, y), s in zip(expected.values, found.values, scales, strict=True)
        if _rms(s * y - x) > TOLERANCE * _rms(x)
    )
    loss, gradient, worst = _difference(found, adapted.divisors, expected)
    rounding = 0.0
    if max(loss, gradient) > TOLERANCE:
        rng = np.random.default_rng(0)
        nudged = {name: x * (1 + 2.0**-52 * rng.choice([-1.0, 1.0], x.shape)) for name, x in wide.items()}
        own = _run(program, nudged, batch, regular)
        rounding = max(_difference(own, dict.fromkeys(wide, 1.0), expected)[:2])
    return Parity(loss, gradient, next(differing, ""), worst, rounding)


@dataclass(frozen=True, eq=False)
class _Run:
    """Tensors, true gradients and losses of one run."""

    values: list[tuple[str, NDArray[Any]]]
    gradients: Mapping[str, NDArray[Any]]
    losses: Mapping[str, float]


def _difference(found: _Run, divisors: Mapping[str, float], expected: _Run) -> tuple[float, float, str]:
    """Differences of losses and gradients, and the parameter whose gradient differs most."""
    size = max(map(abs, expected.losses.values()))
    loss = max(abs(found.losses[name] - x) for name, x in expected.losses.items()) / (size or 1.0)
    total = np.sqrt(sum(float(np.sum(np.square(g))) for g in expected.gradients.values()))
    total /= np.sqrt(sum(g.size for g in expected.gradients.values()))
    errors = {
        name: _rms(found.gradients[name] / divisors[name] - g) / (total or 1.0)
        for name, g in expected.gradients.items()
    }
    worst = max(errors, key=errors.__getitem__)
    return loss, errors[worst], worst


def _run(program: Program, parameters: Parameters, batch: Any, scheme: Scheme) -> _Run:
    values: list[tuple[str, NDArray[Any]]] = []

    def probe(direction: str, variable: Variable, array: NDArray[Any]) -> None:
        if direction == "forward" and variable.node is not None:
            values.append((variable.name, array))

    tape = Tape(scheme, dtype=np.float64, probe=probe, fast=False)
    p = leaves(tape, program, parameters)
    loss = checked_loss(program, p, batch)
    backward(loss.total)
    c = gradient_factors(loss.total)
    gradients = {name: g / c[p[name].variable] for name in program.specs if (g := p[name].grad) is not None}
    return _Run(values, gradients, dict(_losses(loss)))


def _losses(loss: Any) -> Iterator[tuple[str, float]]:
    yield "total", float(loss.total.value)
    for name, part in loss.parts.items():
        yield name, float(part.value)


def _rms(x: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(x)))) if x.size else 0.0
