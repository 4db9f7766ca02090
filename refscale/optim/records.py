"""What an optimizer is: a pair of pure functions, and the few records that pass between them and the training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
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
        decay_scale: multiplies λ where it is multiplied by the learning rate; finite, at least 0.

    Raises:
        ArgumentError: ``lr_scale``, ``weight_decay`` or ``decay_scale`` is negative or not finite.
    """

    lr_scale: float = 1.0
    decayed: bool = True
    weight_decay: float | None = None
    decay_scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("lr_scale", "weight_decay", "decay_scale"):
            value = getattr(self, name)
            if value is None:
                continue
            if not 0 <= value < math.inf:
                raise ArgumentError(f"Group({name}={value}): expected 0 ≤ {name} < ∞")
            object.__setattr__(self, name, float(value))  # a NumPy scalar would widen float32 arrays to float64

    def decay(self, weight_decay: float) -> float:
        """λ of this parameter, given the optimizer's."""
        own = weight_decay if self.weight_decay is None else self.weight_decay
        return own if self.decayed else 0.0


@dataclass(frozen=True, slots=True)
class Rate:
    """The learning rate of one step: ``peak · multiplier``, and ``· lr_scale`` for each parameter.

    Attributes:
        peak: learning rate at the schedule's highest point; finite, at least 0.
        multiplier: s(t) of the schedule, in [0, 1]. Apart from ``peak``, because independent decay follows it alone.

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
        gradients: one for each parameter, of its shape and dtype. One that is not finite makes its parameter so, or
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
            fit a parameter, the last one holds. Patterns are those of ``fnmatch``: ``*``, ``?``, ``[…]``.

    Returns:
        One group for each spec. Without a rule, weights, embeddings and readouts have the optimizer's λ, biases and
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


def at_regular_rates(
    found: Mapping[str, Group], divisors: Mapping[str, float], optimizer: str, factors: Mapping[str, float]
) -> dict[str, Group]:
    """Groups with which an adapted model's step is the step of the regular model that it computes.

    A regular parameter p is σ·p' with the divisor σ, and the computed gradient of p' is c·σ·∂L/∂p. So p moves by the
    step of the regular model if the rate of p' is multiplied by

        1/(σ²·c)  for SGD, whose step is proportional to the gradient;
        1/σ       for AdamW, whose step is not, but for eps.

    The decay is multiplied by the inverse: the part of p that a step removes stays the same.

    Args:
        found: groups by name, whose ``lr_scale`` and ``decay_scale`` are replaced.
        divisors: σ by name, see ``published.Adapted``.
        optimizer: "sgd" or "adamw".
        factors: c by name, of the gradients over the true ones; for SGD only. They depend on the shapes of a batch.

    Raises:
        ArgumentError: another optimizer.

    Source: paper, Proposition 5.1: factors move into initialization and learning rate.
    """
    if optimizer not in ("sgd", "adamw"):
        raise ArgumentError(f"at_regular_rates(optimizer={optimizer!r}): expected 'sgd' or 'adamw'")
    scales = {
        name: 1 / divisors[name] if optimizer == "adamw" else 1 / (divisors[name] ** 2 * factors[name])
        for name in found
    }
    return {name: replace(g, lr_scale=scales[name], decay_scale=1 / scales[name]) for name, g in found.items()}
