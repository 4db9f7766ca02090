"""Every claim by its id, in sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType, ModuleType

from refscale.claims import (
    assumptions,
    blocks,
    constraints,
    factors_of_functions,
    factors_of_products,
    factors_of_sequences,
    formats,
    graphs,
    initialization,
    language,
    models,
    precision,
    pretrained,
    residuals,
    snr,
    training,
    vjp,
)
from refscale.claims.claim import Claim, claims_of
from refscale.errors import ArgumentError


@dataclass(frozen=True)
class Section:
    """A numbered group of claims with a common subject.

    Attributes:
        number: first part of their ids.
        title: subject of the section.
        modules: modules that define the claims.
    """

    number: int
    title: str
    modules: tuple[ModuleType, ...]

    @property
    def claims(self) -> tuple[Claim, ...]:
        """All claims of the section, ordered by number."""
        return tuple(sorted((c for module in self.modules for c in claims_of(module)), key=lambda c: c.number))


SECTIONS: tuple[Section, ...] = (
    Section(1, "Formats and rounding", (formats,)),
    Section(2, "Backward passes", (vjp,)),
    Section(3, "The factors of every op", (factors_of_products, factors_of_functions, factors_of_sequences)),
    Section(4, "Constraints", (constraints,)),
    Section(5, "Cut-edges and gradient factors", (graphs,)),
    Section(6, "Weighted additions and residual rules", (residuals,)),
    Section(7, "Initialization and learning rates", (initialization,)),
    Section(8, "Whole models", (models, pretrained, language)),
    Section(9, "Precision policies", (precision,)),
    Section(10, "Signal-to-noise ratio", (snr,)),
    Section(11, "Training", (training,)),
    Section(12, "Where the assumptions fail", (assumptions,)),
    Section(13, "Block-scaled formats", (blocks,)),
)

CLAIMS: Mapping[str, Claim] = MappingProxyType({c.id: c for s in SECTIONS for c in s.claims})
"""Every claim by its id, in order."""


def select(patterns: Sequence[str] = (), *, slow: bool = False) -> list[Claim]:
    """Select claims by id, name or section.

    Args:
        patterns: ids ("3.9"), sections ("3"), names ("matmul"), or wildcard patterns ("3.1*", "soft*"); empty: all.
        slow: whether slow claims are included; a full id always includes its claim. Default: False.

    Returns:
        The claims, in the order of the list.

    Raises:
        ArgumentError: a pattern matches no claim.
    """
    chosen = set()
    for pattern in patterns:
        found = {
            c.id
            for c in CLAIMS.values()
            if any(fnmatchcase(text, pattern) for text in (c.id, str(c.section), c.name)) and (slow or not c.slow)
        }
        found |= {pattern} & CLAIMS.keys()
        if not found:
            raise ArgumentError(f"claim {pattern!r}: expected an id such as 3.9, a section, or a name; see --list")
        chosen |= found
    return [c for c in CLAIMS.values() if (c.id in chosen if patterns else slow or not c.slow)]
