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

_X = decode(all_codes("float16").codes, "float16").astype(np.float64)


def generate() -> Iterator[Vector]:
    """Yield every function, value and derivative, to each output format: all float16 by hash, samples for each flag."""
    codes = all_codes("float16").codes
    for name, function in FUNCTIONS.items():
        for derivative in (False, True):
            near = (function.derivative if derivative else function.value)(_X)
            for format in OUTPUTS:
                right = evaluate(name, _X, cast_for(format), derivative)
                yield _vector("all", name, derivative, format, codes, right, (), "every float16", bulk=True)
                for group, (flags, comment, some) in _groups(name, derivative, format, near, right).items():
                    if some.size:
                        more = (*flags, "derivative") if derivative else flags
                        yield _vector(group, name, derivative, format, some, right[some], more, comment)


def _vector(
    group: str,
    name: str,
    derivative: bool,
    format: str,
    x: NDArray[Any],
    y: NDArray[Any],
    flags: tuple[str, ...],
    comment: str,
    bulk: bool = False,
) -> Vector:
    cast = cast_for(format)
    attributes = {
        "function": name,
        "derivative": derivative,
        "format": format,
        "rounding": cast.rounding,
        "overflow": cast.overflow,
    }
    what = f"{name}.derivative" if derivative else name
    inputs, outputs = {"x": Codes("float16", x)}, {"y": Codes.of(y, format)}
    return Vector(f"unary/{what}/{format}/{group}", "unary", attributes, inputs, outputs, flags, comment, bulk)


def _groups(
    name: str, derivative: bool, format: str, near: NDArray[np.float64], right: NDArray[np.float32]
) -> dict[str, tuple[tuple[str, ...], str, NDArray[Any]]]:
    """Return some float16 inputs of each kind, by code, given all results in float64 and as expected."""
    codes = all_codes("float16").codes
    x, y = _X, np.abs(near)
    finite = np.isfinite(x) & np.isfinite(y)
    cast = cast_for(format)
    other = {"gelu": "gelu_tanh", "gelu_tanh": "gelu"}.get(name)
    groups = {
        "usual": ((), "every 97th float16", codes[finite][::97]),
        "tail": (("function-tail",), "small results", codes[finite & (y < 2.0**-6) & (y > 2.0**-24)][::53]),
        "ends": (
            ("function-overflow",),
            "zeros, infinities, NaN, the largest and the smallest float16",
            np.array([0, 0x8000, 0x7C00, 0xFC00, 0x7E00, 0x7BFF, 0xFBFF, 1, 0x8001], np.uint16),
        ),
    }
    # If f(x) = x·(1 ∓ ε), float64 returns x, which may round to the wrong side of a tie.
    with np.errstate(invalid="ignore"):
        beside = finite & (x > 0) & (np.abs(near - x) <= x * 2.0**-40) & (cast(x) != right)
    groups["ties"] = (("function-tie",), "the exact result lies just beside a tie", codes[beside][:64])
    if other:
        form = finite & (evaluate(other, x, cast, derivative) != right)
        groups["form"] = (("function-form",), f"where {other} rounds to another value", codes[form][:64])
    return groups
