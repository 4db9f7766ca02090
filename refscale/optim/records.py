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

    Raises:
        ArgumentError: ``lr_scale`` is negative or not finite.
    """

    lr_scale: float = 1.0
    decayed: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.lr_scale < math.inf:
            raise ArgumentError(f"Group(lr_scale={self.lr_scale}): expected 0 ≤ lr_scale < ∞")
        # A NumPy scalar here would widen float32 arrays to float64.
        object.__setattr__(self, "lr_scale", float(self.lr_scale))


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
