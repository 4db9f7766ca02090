"""The interface of optimizers: a pair of pure functions, and the records of their arguments."""

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
"""Roles whose parameters are decayed: all except biases and gains, as in BERT's optimizer."""


@dataclass(frozen=True, slots=True)
class Group:
    """The settings of an optimizer for one parameter.

    Attributes:
        lr_scale: factor of the learning rate, finite, ≥ 0.
        decayed: True if weight decay (and, in LAMB, the trust ratio) applies to the parameter.
        weight_decay: λ of the parameter; None: that of the optimizer.
        decay_scale: further factor of λ if the rule multiplies λ by the learning rate, finite, ≥ 0.

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
        """Return λ of this parameter, given that of the optimizer."""
        own = weight_decay if self.weight_decay is None else self.weight_decay
        return own if self.decayed else 0.0


@dataclass(frozen=True, slots=True)
class Rate:
    """The learning rate of one step: ``peak · multiplier``, and ``· lr_scale`` for each parameter.

    Attributes:
        peak: peak learning rate of the schedule, finite, ≥ 0.
        multiplier: s(t) of the schedule, in [0, 1]; separate from ``peak``, because independent decay is multiplied by
            it only.

    Raises:
        ArgumentError: a value is out of range.
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
        """Return the learning rate of a parameter: peak · multiplier · lr_scale."""
        return self.peak * self.multiplier * group.lr_scale


class Update(Protocol):
    """Signature of one step: ``update(gradients, state, parameters, rate, groups)`` → (new parameters, new state).

    Args:
        gradients: one for each parameter, of its shape and dtype. A gradient that is not finite gives a parameter that
            is not finite, or an error.
        state: the result of ``init`` or of the previous update, or the state in a checkpoint.
        parameters: float32 or float64 arrays by name.
        rate: learning rate of this step.
        groups: one for each parameter; None: ``Group()`` for all.

    Returns:
        New read-only arrays; the arguments are not changed.

    Raises:
        ShapeError: names or shapes of gradients, state, parameters and groups do not agree.
        CarrierError: a dtype differs from that of the parameter, or is not float32 or float64.
        ArgumentError: eps, rounded to a parameter's dtype, is 0 or infinite.
        DivergedError: a moment or a step overflows (such as the square of a gradient of 1e20 in float32) or is NaN.
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
    """An optimizer: a pair of pure functions, ``init`` and ``update``.

    Attributes:
        name: a name in ``OPTIMIZERS``.
        init: function from parameters to the state before the first step: step 0, moments 0; read-only arrays.
        update: function that computes one step, see ``Update``.
    """

    name: str
    init: Callable[[Parameters], State]
    update: Update


def groups(specs: Specs, scheme: str | Scheme, decay: str = "") -> dict[str, Group]:
    """Make the settings of each parameter from the scheme, its role, and rules of decay.

    Args:
        specs: specs of the model.
        scheme: the scheme that defines ``lr_scale(role, shape, depth)``, or its name.
        decay: λ by role or by pattern of names, such as ``embedding=0,bias=0.01,*.norm.gain=0.001``; the last rule that
            matches a parameter applies. Patterns are those of ``fnmatch``: ``*``, ``?``, ``[…]``.

    Returns:
        One group for each spec. Without a rule, weights, embeddings and readouts have the optimizer's λ; biases and
        gains are not decayed.

    Raises:
        ArgumentError: a rule is malformed, or does not match any parameter.
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
    """Read rules of decay, the argument ``decay`` of ``groups``: λ by role or pattern, in order.

    Raises:
        ArgumentError: a rule is not PATTERN=NUMBER, a pattern occurs twice, or λ < 0.
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
    """Make groups with which a step of an adapted model is that of the regular model.

    A regular parameter p is σ·p′ with the divisor σ, and the computed gradient of p′ is c·σ·∂L/∂p. The step of p is
    that of the regular model if the learning rate of p′ is multiplied by

        1/(σ²·c)  for SGD, whose step is proportional to the gradient;
        1/σ       for AdamW, whose step does not depend on the gradient's scale, except through eps.

    The decay is multiplied by the inverse, so that a step removes the same fraction of p.

    Args:
        found: groups by name; the result has other values of ``lr_scale`` and ``decay_scale``.
        divisors: σ by name, see ``adapt.Adapted``.
        optimizer: "sgd" or "adamw".
        factors: c by name, computed over true gradient, for SGD only; c depends on the shapes of a batch.

    Raises:
        ArgumentError: ``optimizer`` has another value.

    Source: paper, Proposition 5.1: factors move into initialization and learning rate.
    """
    if optimizer not in ("sgd", "adamw"):
        raise ArgumentError(f"at_regular_rates(optimizer={optimizer!r}): expected 'sgd' or 'adamw'")
    scales = {
        name: 1 / divisors[name] if optimizer == "adamw" else 1 / (divisors[name] ** 2 * factors[name])
        for name in found
    }
    return {name: replace(g, lr_scale=scales[name], decay_scale=1 / scales[name]) for name, g in found.items()}
