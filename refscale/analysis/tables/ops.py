"""The op table in numbers: the factors of every op at given sizes (paper, Table A.2).

``b`` is the batch, ``m`` the width, ``n`` another width (hidden layer, output channels), ``s`` the length of a
sequence, of a softmax or of a vocabulary.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from refscale import ops
from refscale.engine import Example, Op, Sizes
from refscale.errors import ArgumentError
from refscale.scales import Scales, Shape, Statistic, constrain, geometric, to_output_scale
from refscale.spellings import read_options, read_whole

DEFAULTS: Mapping[str, int] = MappingProxyType({"b": 1024, "m": 768, "n": 3072, "s": 512})


@dataclass(frozen=True)
class OpRow:
    """One op at one set of shapes.

    Attributes:
        op: name of the op, as in reports.
        attributes: attributes that differ from their defaults, as written in code.
        shapes: shapes of the inputs.
        statistic: statistic that α normalizes, "std" or "rms"; "" if both have the same factors.
        alpha: factor of the output.
        beta: factor of each input's gradient, None without one.
        constrained: common value of α and the β of the first input by the recipe: their geometric mean, for additions
            α; None for losses, whose value is not rescaled, and for identities that only apply factors.
        source: source of the factors.
    """

    op: str
    attributes: str
    shapes: tuple[Shape, ...]
    statistic: str
    alpha: float
    beta: tuple[float | None, ...]
    constrained: float | None
    source: str


def parse_shape(text: str) -> dict[str, int]:
    """Parse sizes: ``"b=1024,m=768"`` → {"b": 1024, "m": 768}.

    Args:
        text: ``name=number`` separated by commas; names as in ``DEFAULTS``; "" for none.

    Returns:
        The given sizes, for ``rows``.

    Raises:
        ArgumentError: any other text.
    """
    sizes: dict[str, int] = {}
    call, expected = f"parse_shape({text!r})", "sizes such as 'b=1024,m=768'"
    for option in read_options(text if text.strip() else None, call, expected):
        try:
            sizes[option.field] = read_whole(option.value or "")
        except ValueError as error:
            raise ArgumentError(f"{call}: {option.text!r}, expected {expected}") from error
    _checked(f"parse_shape({text!r})", sizes)
    return sizes


def rows(shape: Mapping[str, int] = DEFAULTS) -> list[OpRow]:
    """Return the op table at given sizes.

    Args:
        shape: sizes by name, b, m, n and s, each ≥ 1; missing ones are those of ``DEFAULTS``.

    Returns:
        At least one row for every op, in the order of the pages; two if standard deviation and RMS differ.

    Raises:
        ArgumentError: an unknown name, or a size that is not a positive integer.
    """
    return [row for e in examples(shape) for row in _rows_of(e.op, e.shapes)]


def examples(shape: Mapping[str, int] = DEFAULTS) -> list[Example]:
    """Return the examples that the op classes declare, at given sizes; ``rows`` lists them.

    Raises:
        ArgumentError: as in ``rows``.
    """
    return ops.examples(Sizes(**_checked("rows", shape)))


def render(rows: Iterable[OpRow]) -> str:
    """Return the rows as aligned text with headings: two lines each, the factors, then attributes, shapes, source.

    "-" marks a missing factor. Lines have at most 100 columns.
    """
    head = ("op", "statistic", "α", "β", "constrained")
    rows = list(rows)
    cells = [_cells(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    lines = [head, *cells]
    factors = [" ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join(
        [factors[0], *(line for pair in zip(factors[1:], map(_second, rows), strict=True) for line in pair)]
    )


def _rows_of(op: Op, shapes: tuple[Shape, ...]) -> list[OpRow]:
    if not op.has_mean:
        return [_row(op, shapes, "", op.scale(*shapes))]
    statistics: tuple[Statistic, ...] = ("std", "rms")
    return [_row(op, shapes, s, op.scale(*shapes, statistic=s)) for s in statistics]


def _row(op: Op, shapes: tuple[Shape, ...], statistic: str, scales: Scales) -> OpRow:
    mean = to_output_scale if op.adds else geometric  # as the recipe
    value = None if op.reports or op.carries_factors else constrain(scales, (0,), mean).alpha
    return OpRow(
        op=op.name,
        attributes=_attributes(op),
        shapes=shapes,
        statistic=statistic,
        alpha=scales.alpha,
        beta=scales.beta,
        constrained=value,
        source=op.source,
    )


def _attributes(op: Op) -> str:
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(op) if dataclasses.is_dataclass(op) else ()
    given = {f.name: getattr(op, f.name) for f in fields if getattr(op, f.name) != f.default}
    return ", ".join(f"{name}={value!r}" for name, value in given.items())


def _cells(row: OpRow) -> tuple[str, ...]:
    beta = ", ".join(map(_number, row.beta))
    return row.op, row.statistic, _number(row.alpha), beta, _number(row.constrained)


def _second(row: OpRow) -> str:
    shapes = " ".join(str(shape).replace(" ", "") for shape in row.shapes)
    attributes = f"{row.attributes}; " if row.attributes else ""
    return textwrap.fill(f"{attributes}{shapes}: {row.source}", 100, initial_indent="    ", subsequent_indent="    ")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _checked(call: str, sizes: Mapping[str, int]) -> dict[str, int]:
    for name, size in sizes.items():
        if name not in DEFAULTS:
            raise ArgumentError(f"{call}: unknown size {name!r}, expected one of {', '.join(DEFAULTS)}")
        if not isinstance(size, int) or size < 1:
            raise ArgumentError(f"{call}: {name} is {size!r}, expected an integer ≥ 1")
    return {**DEFAULTS, **sizes}
