"""Rules that choose learning rates: given the losses so far, each returns the next exponents of two, or none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

Losses = Mapping[float, float | None]
"""Losses by log2 of the learning rate, the median over repetitions; None for a diverged rate."""


class Search(Protocol):
    """A rule that chooses learning rates."""

    def next(self, losses: Losses) -> list[float]:
        """Return the exponents to try next, given those tried so far; empty at the end."""


def best(losses: Losses) -> float:
    """Return the exponent with the lowest loss, of equal losses the smallest; the smallest if all diverged."""
    return min(losses, key=lambda e: (math.inf if losses[e] is None else losses[e], e))


def replay(search: Search, loss: Callable[[float], float | None]) -> tuple[dict[float, float | None], list[float]]:
    """Replay a search with the known losses.

    Args:
        search: the rule.
        loss: function from an exponent to its loss; infinite if it diverged, None if it is unknown.

    Returns:
        The tried exponents with losses, None for diverged ones; and the exponents that the rule waits for, empty at its
        end.
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
    """Increase the rate from a start until the loss exceeds the best one by a threshold.

    Attributes:
        start: first exponent.
        step: difference between exponents.
        threshold: threshold in units of the loss.
        most: largest number of rates; the original rule has no limit.

    Source: the authors' code, ``find_learning_rate`` in scmm/experiments.py: factors of 2, a threshold of 0.1 nats
    (0.144 bits) in run_sweep.py. The default threshold, 0.05, is a choice: finer, for the smaller sweeps here.
    """

    start: float
    step: float = 1.0
    threshold: float = 0.05
    most: int = 16

    def next(self, losses: Losses) -> list[float]:
        """Return the exponent above the last one, unless that was too high."""
        if not losses:
            return [self.start]
        last, least = losses[max(losses)], losses[best(losses)]
        if last is None or least is None or last > least + self.threshold or len(losses) >= self.most:
            return []
        return [max(losses) + self.step]


@dataclass(frozen=True)
class Bracket:
    """Try three exponents around a center; the range is extended while its best point is on its edge.

    Attributes:
        center: exponent at the center.
    """

    center: float

    def next(self, losses: Losses) -> list[float]:
        """Return three exponents at first, then one beyond the edge with the best loss."""
        if not losses:
            return [self.center + k for k in (-1, 0, 1)]
        edge = best(losses)
        if edge == min(losses):
            return [edge - 1]
        return [edge + 1] if edge == max(losses) else []


@dataclass(frozen=True)
class Grid:
    """Try all exponents of a list.

    Attributes:
        exponents: exponents, at least one.
    """

    exponents: tuple[float, ...]

    def next(self, losses: Losses) -> list[float]:
        """Return all exponents at the first call, none afterwards."""
        return [e for e in self.exponents if e not in losses]
