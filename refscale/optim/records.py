"""What an optimizer is: a pair of pure functions, and the few records that pass between them and the training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Protocol

from numpy.typing import NDArray

from refscale.errors import ArgumentError
from refscale.layers import Parameters, Spec, Specs
from refscale.scales import Scheme, get_scheme
from refscale.spellings import read_number, read_options

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
        weight_decay: λ in place of the optimizer's; None: the optimizer's.

    Raises:
        ArgumentError: ``lr_scale`` or ``weight_decay`` is negative or not finite.
    """

    lr_scale: float = 1.0
    decayed: bool = True
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        if self.weight_decay is not None:
            if not 0 <= self.weight_decay < math.inf:
                raise ArgumentError(f"Group(weight_decay={self.weight_decay}): expected 0 ≤ weight_decay < ∞")
            object.__setattr__(self, "weight_decay", float(self.weight_decay))
        if not 0 <= self.lr_scale < math.inf:
            raise ArgumentError(f"Group(lr_scale={self.lr_scale}): expected 0 ≤ lr_scale < ∞")
        # A NumPy scalar here would widen float32 arrays to float64.
        object.__setattr__(self, "lr_scale", float(self.lr_scale))

    def decay(self, weight_decay: float) -> float:
        """λ of this parameter, given the optimizer's."""
        own = weight_decay if self.weight_decay is None else self.weight_decay
        return own if self.decayed else 0.0


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


def groups(specs: Specs, scheme: str | Scheme, decay: str = "") -> dict[str, Group]:
    """What a scheme, a parameter's role and rules of decay make of its learning rate and decay.

    Args:
        specs: of the model.
        scheme: asked for ``lr_scale(role, shape, depth)``; a scheme or its name.
        decay: λ by role or by pattern of names, such as ``embedding=0,bias=0.01,*.norm.gain=0.001``; of the rules that
            fit a parameter, the last one holds.  Patterns are those of ``fnmatch``: ``*``, ``?``, ``[…]``.

    Returns:
        One group for each spec.  Without a rule, weights, embeddings and readouts have the optimizer's λ, biases and
        gains are not decayed.

    Raises:
        ArgumentError: a rule that is none, or fits no parameter.
    """
    scheme, rules = get_scheme(scheme), read_decay(decay)
    for pattern in rules:
        if not any(_fits(pattern, name, spec) for name, spec in specs.items()):
            raise ArgumentError(f"groups(decay={decay!r}): {pattern!r} fits no parameter, expected a role or a pattern")
    found = {}
    for name, spec in specs.items():
        own = [rate for pattern, rate in rules.items() if _fits(pattern, name, spec)]
        rate = own[-1] if own else None
        decayed = spec.role in DECAYED or bool(rate)
        found[name] = Group(scheme.lr_scale(spec.role, spec.shape, spec.depth), decayed, rate)
    return found


def _fits(pattern: str, name: str, spec: Spec) -> bool:
    return spec.role == pattern or fnmatchcase(name, pattern)


def read_decay(text: str) -> dict[str, float]:
    """Rules of decay, as ``groups`` takes them: λ by role or pattern, in order.

    Raises:
        ArgumentError: no PATTERN=NUMBER, a pattern that occurs twice, or λ below 0.
    """
    call, expected = f"read_decay({text!r})", "PATTERN=NUMBER, λ ≥ 0 of a role or of names, such as embedding=0"
    found = {}
    for option in read_options(text or None, call, expected):
        try:
            rate = read_number(option.value or "")
        except ValueError:
            rate = -1.0
        if rate < 0:
            raise ArgumentError(f"{call}: {option.text!r}, expected {expected}")
        found[option.field] = rate
    return found
