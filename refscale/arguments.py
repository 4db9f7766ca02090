"""Checks of single arguments: each returns the value as a Python int, float or bool, or raises an error.

The error names the call, the argument and the value.
"""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import Any

import numpy as np

from refscale.errors import ArgumentError


def whole_number(value: object, least: float = -math.inf) -> int | None:
    """Return an integer ≥ ``least`` as a Python int; None for any other value.

    NumPy integers are accepted; booleans, and floats such as 2.0, are not.
    """
    try:
        found = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None
    return found if found >= least and not isinstance(value, bool | np.bool_) else None


def integer(call: str, name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> int:
    """Return a Python or NumPy integer from ``least`` to ``most`` as an int.

    Raises:
        ArgumentError: the value has another type, such as bool, or is out of range.
    """
    found = whole_number(value, least)
    if found is None or found > most:
        limits = "" if least == -math.inf else f" ≥ {least}" if most == math.inf else f" from {least} to {most}"
        raise ArgumentError(f"{call}: {name} is {_shown(value)}, expected an integer{limits}")
    return found


def number(call: str, name: str, value: Any) -> float:
    """Return a real number, a NumPy scalar or an array without axes as a float; infinities and NaN are accepted.

    Raises:
        ArgumentError: the value has another type.
    """
    scalar = value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value
    if not isinstance(scalar, Real):
        raise ArgumentError(f"{call}: {name} is {_shown(value)}, expected a number")
    return float(scalar)


def flag(call: str, name: str, value: Any) -> bool:
    """Return a Python or NumPy boolean as a bool.

    Raises:
        ArgumentError: the value has another type, such as an int.
    """
    if not isinstance(value, bool | np.bool_):
        raise ArgumentError(f"{call}: {name} is {_shown(value)}, expected True or False")
    return bool(value)


def _shown(value: Any) -> str:
    """A value in a message, on one line."""
    many = isinstance(value, np.ndarray) and value.ndim > 0
    return f"an array of shape {value.shape}" if many else repr(value)
