"""What claims find at the default place, once for all tests: whole models take seconds."""

from __future__ import annotations

from functools import cache

from refscale.claims import CLAIMS, Figure
from refscale.testing import Place

AT = {"8.4": Place(s=4), "8.14": Place(s=4)}
"""Where the claims are checked whose models take longest: on short sequences, and at the default place when slow."""
LONG = {"8.5": 6, "8.6": 5}
"""Claims of many sizes that are checked when slow only, and how many figures of each are sampled."""


@cache
def at_default(id: str) -> tuple[Figure, ...]:
    return tuple(CLAIMS[id].figures())


def found(id: str) -> tuple[Figure, ...]:
    """At the default place, or at that of ``AT``."""
    return _at_short(id) if id in AT else at_default(id)


@cache
def _at_short(id: str) -> tuple[Figure, ...]:
    return tuple(CLAIMS[id].figures(AT[id]))
