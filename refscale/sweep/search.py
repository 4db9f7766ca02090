"""Which learning rates are tried: rules that see the losses so far, and name the next exponents of two, or none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

Losses = Mapping[float, float | None]
"""By log2 of the learning rate, the median over repetitions; None where that diverged."""


class Search(Protocol):
    """A rule."""

    def next(self, losses: Losses) -> list[float]:
        """The exponents to try next, given those that were tried; empty at the end."""


def best(losses: Losses) -> float:
    """The exponent with the lowest loss, of equal ones the smallest; the smallest if all diverged."""
    return min(losses, key=lambda e: (math.inf if losses[e] is None else losses[e], e))


def replay(search: Search, loss: Callable[[float], float | None]) -> tuple[dict[float, float | None], list[float]]:
    """A search as far as losses are known.

    Args:
        search: the rule.
        loss: at an exponent; infinite where it diverged, None where it is not known yet.

    Returns:
        What was tried, None where it diverged; and the exponents that the rule waits for, empty at its end.
    """
    tried: dict[float, float | None] = {}
    while wanted := search.next(tried):
        found = {e: loss(e) for e in wanted}
        if any(x is None for x in found.values()):
            return tried, wanted
        tried |= {e: x if x is not None and math.isfinite(x) else None for e, x in found.items()}
    return tried, []


@dataclass(frozen=True)
class Walk:
    """Upward from a start, until the loss is worse than the best by more than a threshold.

    Attributes:
        start: the first exponent.
        step: from one to the next.
        threshold: in units of the loss.
        most: maximum number of rates; the rule has no such limit, and a search needs an end.

    Source: the authors' code, ``find_learning_rate`` in scmm/experiments.py: factors of 2, a threshold of 0.1 nats
    (0.144 bits) in run_sweep.py.  The default threshold, 0.05, is a choice: finer, for the smaller sweeps here.
    """

    start: float
    step: float = 1.0
    threshold: float = 0.05
    most: int = 16

    def next(self, losses: Losses) -> list[float]:
        """One above the last, unless that was too high."""
        if not losses:
            return [self.start]
        last, least = losses[max(losses)], losses[best(losses)]
        if last is None or least is None or last > least + self.threshold or len(losses) >= self.most:
            return []
        return [max(losses) + self.step]


@dataclass(frozen=True)
class Bracket:
    """Three around a center, then beyond an edge for as long as that is the best.

    Attributes:
        center: an exponent.
    """

    center: float

    def next(self, losses: Losses) -> list[float]:
        """Three at first, then one beyond the edge that is best."""
        if not losses:
            return [self.center + k for k in (-1, 0, 1)]
        edge = best(losses)
        if edge == min(losses):
            return [edge - 1]
        return [edge + 1] if edge == max(losses) else []


@dataclass(frozen=True)
class Grid:
    """All of a list.

    Attributes:
        exponents: at least one.
    """

    exponents: tuple[float, ...]

    def next(self, losses: Losses) -> list[float]:
        """All, once."""
        return [e for e in self.exponents if e not in losses]
