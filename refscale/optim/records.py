"""What an optimizer is: a pair of pure functions, and the few records that pass between them and the training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from refscale.errors import ArgumentError
from refscale.layers import Parameters, Specs
from refscale.scales import Scheme, get_scheme

State = dict[str, NDArray[Any]]
"""``{"step": int64 scalar, "m/<parameter>": array, …}``: flat, so that a checkpoint is an npz file."""

DECAYED = ("weight", "embedding", "readout")
"""Roles whose parameters are decayed: all but biases and gains, as BERT's optimizer has it."""


@dataclass(frozen=True, slots=True)
class Group:
    """What is particular to one parameter.

    Attributes:
        lr_scale: multiplies its learning rate; finite, at least 0.
        decayed: whether weight decay applies to it (and, in LAMB, the trust ratio).
        decay_scale: multiplies λ where it is multiplied by the learning rate; finite, at least 0.

    Raises:
        ArgumentError: ``lr_scale`` or ``decay_scale`` is negative or not finite.
    """

    lr_scale: float = 1.0
    decayed: bool = True
    decay_scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("lr_scale", "decay_scale"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ArgumentError(f"Group({name}={value}): expected 0 ≤ {name} < ∞")
            object.__setattr__(self, name, float(value))  # a NumPy scalar would widen float32 arrays to float64


@dataclass(frozen=True, slots=True)
class Rate:
    """The learning rate of one step: ``peak · multiplier``, and ``· lr_scale`` for each parameter.

    Attributes:
        peak: learning rate at the schedule's highest point; finite, at least 0.
        multiplier: s(t) of the schedule, in [0, 1].  Apart from ``peak``, because independent decay follows it alone.

    Raises:
        ArgumentError: a value is outside its range.
    """

    peak: float
    multiplier: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.peak < math.inf:
            raise ArgumentError(f"Rate(peak={self.peak}): expected 0 ≤ peak < ∞")
        if not 0 <= self.multiplier <= 1:
            raise ArgumentError(f"Rate(multiplier={self.multiplier}): expected 0 ≤ multiplier ≤ 1")
        object.__setattr__(self, "peak", float(self.peak))
        object.__setattr__(self, "multiplier", float(self.multiplier))

    def of(self, group: Group) -> float:
        """Learning rate of a parameter: peak · multiplier · lr_scale."""
        return self.peak * self.multiplier * group.lr_scale


class Update(Protocol):
    """``update(gradients, state, parameters, rate, groups)`` → (new parameters, new state).

    Args:
        gradients: one for each parameter, of its shape and dtype.  One that is not finite makes its parameter so, or
            raises.
        state: what ``init`` or the update before returned, or a checkpoint holds.
        parameters: float32 or float64 arrays by name.
        rate: learning rate of this step.
        groups: one for each parameter; None: ``Group()`` for all.

    Returns:
        Fresh arrays, read-only; nothing passed in is written to.

    Raises:
        ShapeError: names or shapes of gradients, state, parameters and groups do not agree.
        CarrierError: a dtype is not that of the parameter, or not float32 or float64.
        ArgumentError: eps, rounded to a parameter's dtype, is 0 or infinite.
        DivergedError: a moment or a step overflows, as the square of a gradient of 1e20 in float32, or is invalid.
    """

    def __call__(
        self,
        gradients: Parameters,
        state: State,
        parameters: Parameters,
        rate: Rate,
        groups: Mapping[str, Group] | None = None,
        /,
    ) -> tuple[dict[str, NDArray[Any]], State]:
        """One step."""


@dataclass(frozen=True, slots=True)
class Optimizer:
    """A pair of pure functions.

    Attributes:
        name: as in ``OPTIMIZERS``.
        init: parameters → state before the first step: step 0, moments 0; read-only arrays.
        update: one step, see ``Update``.
    """

    name: str
    init: Callable[[Parameters], State]
    update: Update


def groups(specs: Specs, scheme: str | Scheme) -> dict[str, Group]:
    """What a scheme and a parameter's role make of its learning rate and decay.

    Args:
        specs: of the model.
        scheme: asked for ``lr_scale(role, shape, depth)``; a scheme or its name.

    Returns:
        One group for each spec; weights, embeddings and readouts are decayed, biases and gains are not.
    """
    scheme = get_scheme(scheme)
    return {
        name: Group(scheme.lr_scale(spec.role, spec.shape, spec.depth), spec.role in DECAYED)
        for name, spec in specs.items()
    }


def regular_groups(
    specs: Specs, divisors: Mapping[str, float], optimizer: str, factors: Mapping[str, float]
) -> dict[str, Group]:
    """Rates with which an adapted model's step is the step of the regular model that it computes.

    A regular parameter p is σ·p' with the divisor σ, and the computed gradient of p' is c·σ·∂L/∂p.  So p moves by the
    step of the regular model if the rate of p' is multiplied by

        1/(σ²·c)  for SGD, whose step is proportional to the gradient;
        1/σ       for AdamW, whose step is not, but for eps.

    Weight decay is then multiplied by the inverse: its part of p that a step removes stays the same.

    Args:
        specs: of the model.
        divisors: σ by name, see ``published.Adapted``.
        optimizer: "sgd" or "adamw".
        factors: c by name, of the gradients over the true ones; for SGD only.  They depend on the shapes of a batch.

    Returns:
        One group for each spec.

    Raises:
        ArgumentError: another optimizer.

    Source: paper, Proposition 5.1: factors move into initialization and learning rate.
    """
    if optimizer not in ("sgd", "adamw"):
        raise ArgumentError(f"regular_groups(optimizer={optimizer!r}): expected 'sgd' or 'adamw'")
    found = {}
    for name, spec in specs.items():
        sigma = divisors[name]
        scale = 1 / sigma if optimizer == "adamw" else 1 / (sigma**2 * factors[name])
        found[name] = Group(scale, spec.role in DECAYED, 1 / scale)
    return found
