"""What claims find at the default place, once for all tests: whole models take seconds."""

from __future__ import annotations

from functools import cache

from refscale.claims import CLAIMS, Figure


@cache
def at_default(id: str) -> tuple[Figure, ...]:
    return tuple(CLAIMS[id].figures())
