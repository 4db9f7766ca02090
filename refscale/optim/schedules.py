"""Learning-rate schedules: functions from the step, 0, 1, 2, …, to the multiplier s(step) in [0, 1] of the peak rate.

All begin with a warmup: s(step) = (step + 1)/warmup for step < warmup, so that the first rate is not 0, and the last
step of the warmup has the peak rate.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable
from typing import Any

from refscale.errors import ArgumentError

Schedule = Callable[[int], float]
"""``schedule(step)`` → multiplier; raises ArgumentError for a negative step."""


def constant(warmup: int = 0, steps: int | None = None) -> Schedule:
    """Make the constant schedule: s(step) = 1 after the warmup.

    Args:
        warmup: number of steps, at least 0.
        steps: length of the run; ignored, accepted so that all schedules have this argument.

    Raises:
        ArgumentError: a value is out of range.
    """
    if steps is not None:
        _check_run("constant", steps, warmup)
    return _schedule("constant", warmup, lambda step: 1.0)


def linear(steps: int, warmup: int = 0) -> Schedule:
    """Make a linear decay to 0: s(step) = (steps − step)/(steps − warmup) after the warmup, and 0 from ``steps`` on.

    Args:
        steps: length of the run, at least 1.
        warmup: number of steps, from 0 to ``steps``.

    Raises:
        ArgumentError: a value is out of range.

    Source: Devlin et al., arXiv 1810.04805, appendix A.2.
    """
    _check_run("linear", steps, warmup)
    return _schedule("linear", warmup, lambda step: (steps - step) / (steps - warmup) if step < steps else 0.0)


def cosine(steps: int, warmup: int = 0, final: float = 0.0) -> Schedule:
    """Make a cosine decay to ``final``.

    s(step) = final + (1 − final)·(1 + cos(π·x))/2 with x = (step − warmup)/(steps − warmup) after the warmup, and
    ``final`` from ``steps`` on.

    Args:
        steps: length of the run, at least 1.
        warmup: number of steps, from 0 to ``steps``.
        final: the last multiplier, in [0, 1].

    Raises:
        ArgumentError: a value is out of range.

    Source: Loshchilov & Hutter, arXiv 1608.03983, equation 5.
    """
    _check_run("cosine", steps, warmup)
    if not 0 <= final <= 1:
        raise ArgumentError(f"cosine(final={final}): expected 0 ≤ final ≤ 1")
    final = float(final)

    def after(step: int) -> float:
        if step >= steps:
            return final
        return final + (1 - final) * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2

    return _schedule("cosine", warmup, after)


def exponential(every: int, warmup: int = 0) -> Schedule:
    """Make an exponential decay: s(step) = 2^(−step/every), multiplied by (step + 1)/warmup during the warmup.

    Args:
        every: number of steps in which the rate halves, at least 1; counted from step 0.
        warmup: number of steps, at least 0.

    Raises:
        ArgumentError: a value is out of range.

    Source: the authors' code for the character models, ``AdamW`` in scmm/layers.py: 2^(−step·2^-16), no warmup.
    """
    return _decay("exponential", every, warmup, lambda step: 2.0 ** -(step / every))


def halving(every: int, warmup: int = 0) -> Schedule:
    """Make a step decay: s(step) = 2^−⌊step/every⌋, multiplied by (step + 1)/warmup during the warmup.

    Args:
        every: number of steps between halvings, at least 1; counted from step 0.
        warmup: number of steps, at least 0.

    Raises:
        ArgumentError: a value is out of range.

    Source: a choice, step decay with the factor ½; the continuous form is ``exponential``.
    """
    return _decay("halving", every, warmup, lambda step: 1.0)


def _decay(call: str, every: int, warmup: int, within: Schedule) -> Schedule:
    """The warmup, times ``within`` for steps below ``every``, times ½ for each ``every`` steps before."""
    if every < 1:
        raise ArgumentError(f"{call}(every={every}): expected every ≥ 1")
    ramp = _schedule(call, warmup, lambda step: 1.0)
    return lambda step: ramp(step) * math.ldexp(within(step % every), -(step // every))


def _schedule(call: str, warmup: int, after: Schedule) -> Schedule:
    """The warmup, then ``after``."""
    if warmup < 0:
        raise ArgumentError(f"{call}(warmup={warmup}): expected warmup ≥ 0")

    def schedule(step: int) -> float:
        step = operator.index(step)
        if step < 0:
            raise ArgumentError(f"{call} schedule at step {step}: expected step ≥ 0")
        return (step + 1) / warmup if step < warmup else after(step)

    return schedule


def _check_run(call: str, steps: int, warmup: int) -> None:
    if steps < 1:
        raise ArgumentError(f"{call}(steps={steps}): expected steps ≥ 1")
    if not 0 <= warmup <= steps:
        raise ArgumentError(f"{call}(steps={steps}, warmup={warmup}): expected 0 ≤ warmup ≤ steps")


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "exponential": exponential,
    "halving": halving,
}


def get_schedule(name: str | Schedule, **options: Any) -> Schedule:
    """Return the schedule of a name; a schedule is returned unchanged.

    Args:
        name: a name in ``SCHEDULES``.
        options: arguments of the schedule, by name.

    Raises:
        ArgumentError: the name or an option is unknown or missing, or a value is out of range.
    """
    if callable(name) and not options:
        return name
    if not isinstance(name, str) or name not in SCHEDULES:
        raise ArgumentError(f"get_schedule({name!r}): expected one of {', '.join(SCHEDULES)}")
    make = SCHEDULES[name]
    known = inspect.signature(make).parameters
    for key, value in options.items():
        if key not in known:
            raise ArgumentError(f"get_schedule({name!r}, {key}={value!r}): expected some of {', '.join(known)}")
    for key, parameter in known.items():
        if parameter.default is inspect.Parameter.empty and key not in options:
            raise ArgumentError(f"get_schedule({name!r}): expected {key}=")
    return make(**options)
