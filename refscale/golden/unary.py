"""Family ``unary``: functions of one number and their derivatives, at every float16."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.exact import FUNCTIONS, evaluate
from refscale.formats import decode
from refscale.golden.inputs import all_codes, cast_for
from refscale.golden.schema import Codes, Vector

OUTPUTS = (
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
)


def generate() -> Iterator[Vector]:
    """Every function, value and derivative, to each output format: all float16 by hash, and samples for each flag."""
    everything = all_codes("float16")
    for name in FUNCTIONS:
        for derivative in (False, True):
            for format in OUTPUTS:
                yield _vector("all", name, derivative, format, everything, (), "every float16", bulk=True)
                for group, (flags, comment, codes) in _groups(name, derivative, format).items():
                    if codes.size:
                        more = (*flags, "derivative") if derivative else flags
                        yield _vector(group, name, derivative, format, Codes("float16", codes), more, comment)


def _vector(
    group: str,
    name: str,
    derivative: bool,
    format: str,
    x: Codes,
    flags: tuple[str, ...],
    comment: str,
    bulk: bool = False,
) -> Vector:
    cast = cast_for(format)
    y = Codes.of(evaluate(name, x.values, cast, derivative), format)
    attributes = {
        "function": name,
        "derivative": derivative,
        "format": format,
        "rounding": cast.rounding,
        "overflow": cast.overflow,
    }
    what = f"{name}.derivative" if derivative else name
    return Vector(f"unary/{what}/{format}/{group}", "unary", attributes, {"x": x}, {"y": y}, flags, comment, bulk)


def _groups(name: str, derivative: bool, format: str) -> dict[str, tuple[tuple[str, ...], str, NDArray[Any]]]:
    """Some float16 inputs of each kind, by code."""
    codes = all_codes("float16").codes
    x = decode(codes, "float16").astype(np.float64)
    curve = FUNCTIONS[name].derivative if derivative else FUNCTIONS[name].value
    near = curve(x)
    y = np.abs(near)
    finite = np.isfinite(x) & np.isfinite(y)
    cast = cast_for(format)
    right = evaluate(name, x, cast, derivative)
    other = {"gelu": "gelu_tanh", "gelu_tanh": "gelu"}.get(name)
    groups = {
        "usual": ((), "every 97th float16", codes[finite][::97]),
        "tail": (("function-tail",), "results that are small", codes[finite & (y < 2.0**-6) & (y > 2.0**-24)][::53]),
        "ends": (
            ("function-overflow",),
            "zeros, infinities, NaN, the largest and the smallest float16",
            np.array([0, 0x8000, 0x7C00, 0xFC00, 0x7E00, 0x7BFF, 0xFBFF, 1, 0x8001], np.uint16),
        ),
    }
    # Where f(x) = x·(1 ∓ ε), float64 says x, which may be rounded to the wrong side of a tie.
    with np.errstate(invalid="ignore"):
        beside = finite & (x > 0) & (np.abs(near - x) <= x * 2.0**-40) & (cast(x) != right)
    groups["ties"] = (("function-tie",), "the exact result lies just beside a tie", codes[beside][:64])
    if other:
        form = finite & (evaluate(other, x, cast, derivative) != right)
        groups["form"] = (("function-form",), f"where {other} is rounded to another value", codes[form][:64])
    return groups
