"""The grammar of names with options, as the command line, TOML files and configurations spell them.

::

    spelling = NAME | NAME ":" options        adamw:b2=0.95,independent
    options  = option {"," option}            b=1024,m=768
    option   = FIELD "=" VALUE | WORD         independent; 2^15
    number   = decimal | decimal "^" decimal  0.9, 1e-3, 2^-6

A field occurs once. Spaces around names, fields and values are ignored. A value may have any characters except commas,
such as ``tau=fixed(0.5)``. The caller defines whether a WORD is a flag or the value of the first field.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from refscale.errors import ArgumentError


class Option(NamedTuple):
    """One option of a spelling.

    Attributes:
        text: the option as it was written.
        field: the text before the "="; of a word, the word.
        value: the text after the "="; None for a word.
    """

    text: str
    field: str
    value: str | None


def split_name(text: str) -> tuple[str, str | None]:
    """Split a spelling into NAME and the text of its options, which is None without a colon."""
    name, colon, rest = text.partition(":")
    return name.strip(), rest if colon else None


def read_options(text: str | None, call: str, expected: str) -> list[Option]:
    """Read the options of a spelling, in order.

    Args:
        text: options separated by commas; None: no options.
        call: the call and its argument; messages begin with it.
        expected: the expected options, for messages.

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
    """Read a finite number: a decimal, or a power of a positive base, such as ``2^-6``.

    Raises:
        ValueError: the text is not such a number, or float64 overflows.
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
    """Read an integer in a spelling of ``read_number``: ``1024``, ``2^10``, ``1e3``; else raise ValueError."""
    value = read_number(text)
    if value % 1:
        raise ValueError(f"{text!r}, expected a whole number")
    return int(value)
