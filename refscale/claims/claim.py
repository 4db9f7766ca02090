"""What a claim is, and what it finds: figures, each with what was expected and how far off it may be."""

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
"""Of one sampled figure.  A run has fewer than ten thousand, so that correct code fails in one run of 1e9 at most."""

DEFAULT = Place()
"""Where a claim is checked if nothing is said."""

Kind = Literal["exact", "derived", "sampled"]


@dataclass(frozen=True)
class Figure:
    """One number: measured, expected, and the distance allowed between them.

    Attributes:
        what: what was measured.
        measured, expected: the two.
        allowed: how far apart they may be; 0: not at all.
        kind: "exact": no distance; "derived": a bound that follows from the construction; "sampled": so many standard
            errors, at the false-alarm rate ``FALSE_ALARM``.
    """

    what: str
    measured: float
    expected: float
    allowed: float
    kind: Kind

    @property
    def holds(self) -> bool:
        """Whether it is near enough; NaN never is."""
        return abs(self.measured - self.expected) <= self.allowed

    @property
    def strain(self) -> float:
        """The distance as a part of what is allowed: above 1 it fails."""
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
    """A number that is known exactly."""
    return Figure(what, float(measured), float(expected), 0.0, "exact")


def none_wrong(what: str, wrong: SupportsFloat) -> Figure:
    """A count of what is wrong, which must be 0: a number, or a condition that must not hold."""
    return same(what, float(wrong), 0.0)


def near(what: str, measured: float, expected: float, relative: float) -> Figure:
    """A number that is known up to a relative error."""
    return Figure(what, float(measured), float(expected), relative * abs(expected), "derived")


def between(what: str, measured: float, low: float, high: float) -> Figure:
    """A number that lies in an interval; what is expected is its middle."""
    return Figure(what, float(measured), (low + high) / 2, (high - low) / 2, "derived")


def at_most(what: str, measured: float, limit: float) -> Figure:
    """A number that is not negative, and the nearer to 0 the better."""
    return Figure(what, float(measured), 0.0, limit, "derived")


def sampled(what: str, measured: float, expected: float, standard_error: float, relative: float = 0.0) -> Figure:
    """An estimate, within so many standard errors of what is expected.

    Args:
        what: what was measured.
        measured: the estimate.
        expected: its expectation.
        standard_error: its standard deviation, absolute and derived.
        relative: of the expectation itself, where it is a model with a known error.
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
        section, number, name: from the function's name, ``claim_3_01_matmul``.
        statement: the function's docstring.
        source: where it is stated: table, equation, standard, or the computation that yields it.
        sizes: which of the sizes of a ``Place`` it is about, such as "bmn"; "" if it has none.
        slow: left out unless asked for.
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
        """Such as "3.1"."""
        return f"{self.section}.{self.number}"

    @property
    def title(self) -> str:
        """The first sentence of the statement's first paragraph."""
        return " ".join(self.statement.partition("\n\n")[0].split())

    def figures(self, place: Place = DEFAULT) -> list[Figure]:
        """What the check finds at a place, at least one figure.

        Raises:
            AssertionError: what the check asserts on the way does not hold.
        """
        found = list(self.check(place))
        if not found:
            raise ArgumentError(f"claim {self.id}: it has checked nothing at {place}")
        return found

    def hold(self, place: Place = DEFAULT) -> None:
        """Raise AssertionError, naming every figure that is wrong, unless all hold."""
        wrong = [f for f in self.figures(place) if not f.holds]
        if wrong:
            lines = "\n".join(f"  {f}" for f in wrong[:5])
            raise AssertionError(f"claim {self.id} ({self.name}) at {place}: {len(wrong)} wrong\n{lines}")


def claim(source: str, sizes: str = "", *, slow: bool = False) -> Callable[[Check], Claim]:
    """Make a claim of a function ``claim_SECTION_NUMBER_name(place)`` whose docstring is the statement."""

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
    """The claims that a module states, in order."""
    yield from (value for value in tuple(vars(module).values()) if isinstance(value, Claim))
