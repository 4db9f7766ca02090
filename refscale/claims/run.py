"""Checking claims at places, and their verdicts."""

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
"""Section whose claims are checked at one place only: a model already contains many shapes."""
OTHERS = (Place(1, 1, 1, 1, 1), Place(33, 7, 5, 3, 2))
"""Places beside the default: the smallest, and one of odd sizes."""


@dataclass(frozen=True)
class ClaimResult:
    """The result of one claim at one place.

    Attributes:
        claim: the claim.
        place: the place.
        figures: figures of the check; empty if it raised an error.
        error: message of the error; "" if there was none.
        seconds: duration of the check in seconds.
    """

    claim: Claim
    place: Place
    figures: tuple[Figure, ...]
    error: str
    seconds: float

    @property
    def verdict(self) -> Verdict:
        """Verdict: "holds" if every figure holds, else "fails"."""
        return "holds" if self.figures and not self.error and all(f.holds for f in self.figures) else "fails"

    @property
    def worst(self) -> Figure | None:
        """Figure with the largest strain; None without figures."""
        return max(self.figures, key=lambda f: f.strain) if self.figures else None

    @property
    def strain(self) -> float:
        """Strain of the worst figure; infinite without figures."""
        return self.worst.strain if self.worst else float("inf")

    @property
    def command(self) -> str:
        """Command that reproduces the result."""
        shape = f" --shape {self.place}" if self.claim.sizes else ""
        return f"refscale verify --only {self.claim.id}{shape} --seed {self.place.seed}"


def places(claim: Claim, seed: int = 0) -> list[Place]:
    """Return the default places of a claim: the default sizes, and ``OTHERS`` if it depends on sizes."""
    several = claim.sizes and claim.section != WHOLE_MODELS
    return [replace(p, seed=p.seed + seed) for p in (Place(), *(OTHERS if several else ()))]


def verify(claims: Iterable[Claim], at: Sequence[Place] = (), seed: int = 0) -> Iterator[ClaimResult]:
    """Check claims one after another.

    Args:
        claims: claims to check.
        at: places; if empty, ``places`` of each claim.
        seed: random seed, if no places are given; default: 0.

    Returns:
        A result for each claim and place. A failing assertion and an error of the package are results, too.
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
