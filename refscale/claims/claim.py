"""Claims and their figures: each figure has a measured value, an expected value and an allowed distance."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, SupportsFloat

from refscale.errors import ArgumentError
from refscale.testing import z_of
from refscale.testing.places import Place

FALSE_ALARM = 1e-13
"""False-alarm rate of one sampled figure. With below 10^4 figures, correct code fails in at most one run of 10^9."""

DEFAULT = Place()
"""Place of a claim if no sizes are given."""

Kind = Literal["exact", "derived", "sampled"]


@dataclass(frozen=True)
class Figure:
    """One measured number, its expected value, and the allowed distance between them.

    Attributes:
        what: name of the measured quantity.
        measured, expected: the two values.
        allowed: largest allowed absolute distance; 0: they must be equal.
        kind: "exact": no distance; "derived": a bound that follows from the construction; "sampled": a number of
            standard errors, at the false-alarm rate ``FALSE_ALARM``.
    """

    what: str
    measured: float
    expected: float
    allowed: float
    kind: Kind

    @property
    def holds(self) -> bool:
        """Whether the distance is at most the allowed one; False for NaN."""
        return abs(self.measured - self.expected) <= self.allowed

    @property
    def strain(self) -> float:
        """Distance divided by the allowed distance; the figure fails above 1."""
        distance = abs(self.measured - self.expected)
        if math.isnan(distance):
            return math.inf
        if not self.allowed:
            return math.inf if distance else 0.0
        return distance / self.allowed

    def __str__(self) -> str:
        allowed = f" ± {self.allowed:.2g}" if self.allowed else ""
        return f"{self.what}: {self.measured:.7g}, expected {self.expected:.7g}{allowed}"


def same(what: str, measured: float, expected: float) -> Figure:
    """Return a figure with an exact expected value."""
    return Figure(what, float(measured), float(expected), 0.0, "exact")


def none_wrong(what: str, wrong: SupportsFloat) -> Figure:
    """Return a figure that counts errors, expected 0: a number, or a condition that must be false."""
    return same(what, float(wrong), 0.0)


def near(what: str, measured: float, expected: float, relative: float) -> Figure:
    """Return a figure with an expected value and a relative tolerance."""
    return Figure(what, float(measured), float(expected), relative * abs(expected), "derived")


def between(what: str, measured: float, low: float, high: float) -> Figure:
    """Return a figure that must lie in an interval; the expected value is its center."""
    return Figure(what, float(measured), (low + high) / 2, (high - low) / 2, "derived")


def at_most(what: str, measured: float, limit: float) -> Figure:
    """Return a figure ≥ 0 with an upper limit; the expected value is 0."""
    return Figure(what, float(measured), 0.0, limit, "derived")


def sampled(what: str, measured: float, expected: float, standard_error: float, relative: float = 0.0) -> Figure:
    """Return a sampled figure, which may be a fixed number of standard errors from its expected value.

    Args:
        what: name of the measured quantity.
        measured: the estimate.
        expected: its expectation.
        standard_error: its derived standard deviation, absolute.
        relative: relative error of the expectation itself, if it comes from an approximate model; default: 0.
    """
    allowed = z_of(FALSE_ALARM) * standard_error + relative * abs(expected)
    return Figure(what, float(measured), float(expected), allowed, "sampled")


Figures = Iterable[Figure]
Check = Callable[[Place], Figures]

_NAME = re.compile(r"claim_(\d+)_(\d+)_(\w+)")


@dataclass(frozen=True)
class Claim:
    """One numbered statement and the function that checks it.

    Attributes:
        section, number, name: parsed from the function's name, such as ``claim_3_01_matmul``.
        statement: docstring of the function.
        source: table, equation or standard that states it, or the computation that yields it.
        sizes: sizes of a ``Place`` that the claim depends on, such as "bmn"; "" if none.
        slow: whether the claim is skipped by default.
        check: the function.
    """

    section: int
    number: int
    name: str
    statement: str
    source: str
    sizes: str
    slow: bool
    check: Check

    @property
    def id(self) -> str:
        """Section and number, such as "3.1"."""
        return f"{self.section}.{self.number}"

    @property
    def title(self) -> str:
        """First paragraph of the statement, on one line."""
        return " ".join(self.statement.partition("\n\n")[0].split())

    def figures(self, place: Place = DEFAULT) -> list[Figure]:
        """Run the check at a place and return its figures, at least one.

        Raises:
            AssertionError: an assertion inside the check fails.
        """
        found = list(self.check(place))
        if not found:
            raise ArgumentError(f"claim {self.id}: the check returned no figure at {place}, expected at least one")
        return found

    def hold(self, place: Place = DEFAULT) -> None:
        """Raise AssertionError with the failing figures unless all of them hold."""
        wrong = [f for f in self.figures(place) if not f.holds]
        if wrong:
            lines = "\n".join(f"  {f}" for f in wrong[:5])
            raise AssertionError(f"claim {self.id} ({self.name}) at {place}: {len(wrong)} wrong\n{lines}")


def claim(source: str, sizes: str = "", *, slow: bool = False) -> Callable[[Check], Claim]:
    """Return a decorator that makes a claim of ``claim_SECTION_NUMBER_name(place)``; its docstring is the statement."""

    def made(check: Check) -> Claim:
        match = _NAME.fullmatch(check.__name__)
        statement = inspect.getdoc(check)
        if match is None or not statement:
            raise ArgumentError(f"claim {check.__name__}: expected a name like claim_3_01_matmul, and a docstring")
        section, number, name = match.groups()
        return Claim(
            section=int(section),
            number=int(number),
            name=name,
            statement=statement,
            source=source,
            sizes=sizes,
            slow=slow,
            check=check,
        )

    return made


def claims_of(module: object) -> Iterator[Claim]:
    """Yield the claims of a module, ordered by number."""
    yield from (value for value in tuple(vars(module).values()) if isinstance(value, Claim))
