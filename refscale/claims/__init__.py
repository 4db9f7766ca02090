"""The claims as an executable specification: numbered statements, each with a source and a function that checks it.

``refscale verify`` checks them on your machine and at your sizes; ``CLAIMS.md`` beside this file lists them.

In reading order:

1. ``claim``: the classes ``Claim`` and ``Figure``. A figure is exact, derived, or sampled at a stated false-alarm rate.
2. ``catalog``: the sections, and every claim by its id.
3. The sections, a module each: ``formats``, ``vjp``, ``factors_of_products`` and ``factors_of_functions`` (on inputs
   made by ``one_op``), ``constraints``, ``graphs``, ``residuals``, ``initialization``, ``models`` (measured by
   ``measure``), ``precision``, ``snr``, ``training``, ``assumptions``, ``blocks``.
4. ``run``: checks claims at places; ``report``: tables, the list, JSON.

    >>> from refscale.claims import CLAIMS, verify
    >>> print(CLAIMS["3.9"].title[:47])
    x (…, b, m) times w (m, n): α = m^-½, β_x = n^-
    >>> from refscale.testing.places import Place
    >>> [result.verdict for result in verify([CLAIMS["3.9"]], [Place(b=1000, m=700, n=300)])]
    ['holds']
"""

from typing import TYPE_CHECKING

from refscale.claims.catalog import CLAIMS, SECTIONS, Section, select
from refscale.claims.claim import Claim, Figure, at_most, between, claim, near, none_wrong, same, sampled
from refscale.claims.one_op import by_density, lattice, std_by_density
from refscale.claims.run import ClaimResult, places, verify
from refscale.names import lazily

__all__ = [
    "CLAIMS",
    "SECTIONS",
    "Claim",
    "ClaimResult",
    "Figure",
    "Section",
    "at_most",
    "between",
    "by_density",
    "claim",
    "lattice",
    "near",
    "none_wrong",
    "places",
    "same",
    "sampled",
    "select",
    "std_by_density",
    "verify",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__, {}, {"Result": "ClaimResult"})
