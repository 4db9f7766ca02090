"""Claims at places: run them, and say which hold."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from refscale.claims.claim import Claim, Figure
from refscale.errors import RefscaleError
from refscale.testing.places import Place

Verdict = Literal["holds", "fails"]

WHOLE_MODELS = 8
"""The section whose claims are checked at one place: a model is many shapes already."""
OTHERS = (Place(1, 1, 1, 1, 1), Place(33, 7, 5, 3, 2))
"""Beside the default place: the least, and one that nothing divides."""


@dataclass(frozen=True)
class ClaimResult:
    """What a claim came to at one place.

    Attributes:
        claim: which.
        place: where.
        figures: what it found; empty if it broke off.
        error: why it broke off, else "".
        seconds: how long it took.
    """

    claim: Claim
    place: Place
    figures: tuple[Figure, ...]
    error: str
    seconds: float

    @property
    def verdict(self) -> Verdict:
        """Whether every figure holds."""
        return "holds" if self.figures and not self.error and all(f.holds for f in self.figures) else "fails"

    @property
    def worst(self) -> Figure | None:
        """The figure that is nearest to failing, or farthest beyond."""
        return max(self.figures, key=lambda f: f.strain) if self.figures else None

    @property
    def strain(self) -> float:
        """That of the worst figure; infinite if there is none."""
        return self.worst.strain if self.worst else float("inf")

    @property
    def command(self) -> str:
        """What reproduces it."""
        shape = f" --shape {self.place}" if self.claim.sizes else ""
        return f"refscale verify --only {self.claim.id}{shape} --seed {self.place.seed}"


def places(claim: Claim, seed: int = 0) -> list[Place]:
    """Where a claim is checked unless sizes are given: the default place, and ``OTHERS`` if it is about sizes."""
    several = claim.sizes and claim.section != WHOLE_MODELS
    return [replace(p, seed=p.seed + seed) for p in (Place(), *(OTHERS if several else ()))]


def verify(claims: Iterable[Claim], at: Sequence[Place] = (), seed: int = 0) -> Iterator[ClaimResult]:
    """Check claims one after another.

    Args:
        claims: which.
        at: where; ``places`` of each claim if none is given.
        seed: of everything random, where no places are given.

    Returns:
        A result for each claim and place.  An assertion that fails on the way, or an error of the package, is a result,
        too.
    """
    for claim in claims:
        for place in at or places(claim, seed):
            yield _checked(claim, place)


def _checked(claim: Claim, place: Place) -> ClaimResult:
    started = time.perf_counter()
    figures: tuple[Figure, ...] = ()
    error = ""
    try:
        figures = tuple(claim.figures(place))
    except (AssertionError, RefscaleError) as problem:
        error = str(problem) or type(problem).__name__
    return ClaimResult(claim, place, figures, error, time.perf_counter() - started)
