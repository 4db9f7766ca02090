"""The grammar of names with options, as the command line, TOML files and configurations spell them.

::

    spelling = NAME | NAME ":" options        adamw:b2=0.95,independent
    options  = option {"," option}            b=1024,m=768
    option   = FIELD "=" VALUE | WORD         independent; 2^15
    number   = decimal | decimal "^" decimal  0.9, 1e-3, 2^-6

A field occurs once. Spaces around names, fields and values are ignored. A value has no comma; it may hold anything
else, such as ``tau=fixed(0.5)``. What a WORD means, a flag or the value of the first field, the caller defines.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from refscale.errors import ArgumentError


class Option(NamedTuple):
    """One option.

    Attributes:
        text: as it is spelled.
        field: before the "="; the word itself, if there is none.
        value: after the "="; None for a word.
    """

    text: str
    field: str
    value: str | None


def split_name(text: str) -> tuple[str, str | None]:
    """NAME, and the text of the options; None without a colon."""
    name, colon, rest = text.partition(":")
    return name.strip(), rest if colon else None


def read_options(text: str | None, call: str, expected: str) -> list[Option]:
    """The options in a text, in order; none for None.

    Args:
        text: options separated by commas.
        call: the call and its argument; the error begins with it.
        expected: what is expected where the text has something else.

    Raises:
        ArgumentError: an option without a field or without a value, or a field that occurs twice.
    """
    found: list[Option] = []
    for part in () if text is None else text.split(","):
        field, equals, value = (piece.strip() for piece in part.partition("="))
        if not field or (equals and not value):
            raise ArgumentError(f"{call}: {part.strip()!r}, expected {expected}")
        if any(field == other.field for other in found):
            raise ArgumentError(f"{call}: {field} occurs twice, expected {expected}")
        found.append(Option(part.strip(), field, value if equals else None))
    return found


def read_number(text: str) -> float:
    """A finite number: decimal, or a power such as ``2^-6``, of a positive base.

    Raises:
        ValueError: another text, or a number beyond float64.
    """
    base, caret, exponent = text.partition("^")
    value = float(base)
    if caret:
        try:
            value = value ** float(exponent) if value > 0 else math.nan
        except OverflowError:
            value = math.inf
    if not math.isfinite(value):
        raise ValueError(f"{text!r}, expected a finite number")
    return value


def read_whole(text: str) -> int:
    """A whole number, as ``read_number`` reads it: ``1024``, ``2^10``, ``1e3``. Raises ValueError."""
    value = read_number(text)
    if value % 1:
        raise ValueError(f"{text!r}, expected a whole number")
    return int(value)
