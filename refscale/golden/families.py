"""Every family of golden vectors, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from refscale.errors import GoldenError
from refscale.golden import block_products, blocks, cast, choices, dequantize, models, ops, products, unary
from refscale.golden.schema import Vector


@dataclass(frozen=True)
class Family:
    """A family: golden vectors of one kind.

    Attributes:
        name: first part of their ids.
        title: description in one line.
        generate: function that yields the vectors, always the same, in the same order.
    """

    name: str
    title: str
    generate: Callable[[], Iterator[Vector]]


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        f.name: f
        for f in (
            Family("cast", "rounding to every format, in every mode", cast.generate_cast),
            Family("decode", "every code of every format", cast.generate_decode),
            Family("unary", "functions of one number and their derivatives", unary.generate),
            Family("matmul", "matrix products of every pair of formats, also scaled ones", products.generate),
            Family("block-scale", "scales of blocks by every rule, where rules change", blocks.generate_scales),
            Family("block-cast", "block-scaled formats: scales, codes, layouts", blocks.generate_casts),
            Family("block-matmul", "products of block-scaled matrices", block_products.generate),
            Family("block-dequantize", "values of block-scaled codes", dequantize.generate),
            Family("convention", "cases that no standard defines: each convention by its name", choices.generate),
            Family("ops", "each row of the op table, forward and backward, with its factors", ops.generate),
            Family("model", "training steps: feed-forward, attention, BERT, AdamW", models.generate),
        )
    }
)
"""Families by name, from the simplest to the most complex: after a failure in one, later ones are not informative."""


def get_family(name: str) -> Family:
    """Return the family of that name.

    Raises:
        GoldenError: there is no such family.
    """
    if name not in FAMILIES:
        raise GoldenError(f"golden family {name!r}: expected one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def generate(names: Iterable[str] | None = None) -> Iterator[Vector]:
    """Yield the vectors of some families; default: of all."""
    for name in FAMILIES if names is None else names:
        yield from get_family(name).generate()


def complete(vector: Vector) -> Vector:
    """Return a bulk vector with its arrays, generated again; any other vector unchanged.

    Raises:
        GoldenError: this version of the package does not generate a bulk vector of that id.
    """
    if not vector.bulk:
        return vector
    made = _bulk(get_family(vector.family).name)
    if vector.id not in made:
        raise GoldenError(f"golden vector {vector.id!r}: no bulk vector of that id is made by this version of refscale")
    return made[vector.id]


@cache
def _bulk(family: str) -> dict[str, Vector]:
    return {v.id: v for v in FAMILIES[family].generate() if v.bulk}
