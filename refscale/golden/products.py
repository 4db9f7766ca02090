"""Family ``matmul``: matrix products of every pair of formats, and their two gradients.

All pairs get nearly normal operands; the pairs that are used for training also get the operands that betray a narrow
accumulator, a lost term, a factor in the wrong place, or a scale with the wrong index.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.exact import matmul
from refscale.formats import FORMATS, get_format
from refscale.golden.inputs import Words, cast_for, normal_codes
from refscale.golden.schema import Codes, Vector

Array = NDArray[Any]

OPERANDS = tuple(name for name in FORMATS if name != "float8_e8m0fnu")
NUMBERED = (
    "float32",
    "tf32",
    "bfloat16",
    "float16",
    "float8_e5m2",
    "float8_e4m3fn",
    "float8_e5m2fnuz",
    "float8_e4m3fnuz",
    "float8_e4m3b11fnuz",
    "float8_e4m3",
    "float8_e3m4",
    "float6_e2m3fn",
    "float6_e3m2fn",
    "float4_e2m1fn",
    "int8_q6",
)
"""Formats of sets up to 1.3, whose positions here seed the vectors of their pairs; frozen.  Other pairs go by name."""
PRINCIPAL = (
    ("float8_e4m3fn", "float8_e4m3fn"),
    ("float8_e4m3fn", "float8_e5m2"),
    ("float8_e5m2", "float8_e5m2"),
    ("float8_e4m3fnuz", "float8_e4m3fnuz"),
    ("float8_e4m3fnuz", "float8_e5m2fnuz"),
    ("float16", "float16"),
    ("bfloat16", "bfloat16"),
    ("float32", "float32"),
)

_HITS: Mapping[tuple[str, str, str], Iterable[int]] = {
    ("float8_e4m3fn", "float8_e4m3fn", "float32"): (487, 546, 805, 1929, 2174, 2522, 3514, 4476)
}
"""What a long search found, so that it need not be made again: the draws of ``_factor_before_rounding`` that hold
operands.  Float32 holds nearly every sum of such products, and a sum that it holds is rounded but once."""


def generate() -> Iterator[Vector]:
    """Every pair of operand formats, then the hard cases of the principal ones."""
    for left, right in itertools.product(OPERANDS, OPERANDS):
        yield from _pair(_words(left, right), left, right)
    for i, (left, right) in enumerate(PRINCIPAL):
        for output in ("float32", "float16"):
            yield from _hard(Words(5000 + i), left, right, output)
        yield from _scaled(Words(6000 + i), left, right)


def _words(left: str, right: str) -> Words:
    if left in NUMBERED and right in NUMBERED:
        return Words(100 * NUMBERED.index(left) + NUMBERED.index(right))
    return Words.named(f"matmul/{left}.{right}")


def _pair(words: Words, left: str, right: str) -> Iterator[Vector]:
    """Forward and both gradients, non-square: x (5, 7), w (7, 3), g (5, 3), where g has the format of w."""
    output = "float32" if "32" in left + right else "bfloat16" if "bfloat16" in (left, right) else "float16"
    x, w, g = normal_codes(words, left, 5, 7), normal_codes(words, right, 7, 3), normal_codes(words, right, 5, 3)
    where = f"matmul/{left}.{right}/{output}"
    yield product(f"{where}/forward", x, w, output, 1.0, ("non-square",), "x (5, 7) · w (7, 3)")
    flags = ("non-square", "gradient-operands")
    transposed_w, transposed_x = (Codes(c.format, c.codes.T) for c in (w, x))
    yield product(f"{where}/grad_x", g, transposed_w, output, 1.0, flags, "g (5, 3) · wᵀ (3, 7)")
    yield product(f"{where}/grad_w", transposed_x, g, output, 1.0, flags, "xᵀ (7, 5) · g (5, 3)")


def product(where: str, a: Codes, b: Codes, output: str, factor: float, flags: tuple[str, ...], comment: str) -> Vector:
    """The vector of one product, its expected result made here."""
    cast = cast_for(output)
    y = Codes.of(matmul(a.values, b.values, cast, factor), output)
    attributes = {
        "a_format": a.format,
        "b_format": b.format,
        "format": output,
        "rounding": cast.rounding,
        "overflow": cast.overflow,
        "factor": factor,
    }
    return Vector(where, "matmul", attributes, {"a": a, "b": b}, {"y": y}, flags, comment)


def _hard(words: Words, left: str, right: str, output: str) -> Iterator[Vector]:
    where = f"matmul/{left}.{right}/{output}"
    f, g = get_format(left), get_format(right)

    def make(name: str, a: Array, b: Array, flags: tuple[str, ...], comment: str, factor: float = 1.0) -> Vector:
        as_a, as_b = Codes.of(cast_for(f)(a), left), Codes.of(cast_for(g)(b), right)
        return product(f"{where}/{name}", as_a, as_b, output, factor, flags, comment)

    a, b = words.normal(4, 64), words.normal(64, 6)
    yield make("usual", a, b, ("accumulator",), "K = 64")
    order = np.argsort(words.words(64))
    yield make("permuted", a[:, order], b[order], ("k-order",), "the products of 'usual' in another order")
    cancelling = np.concatenate([a, -a[:, ::-1]], 1)
    yield make(
        "cancellation",
        np.concatenate([16 * cancelling, words.normal(4, 4) / 16], 1),
        np.concatenate([b, b[::-1], words.normal(4, 6) / 16]),
        ("cancellation", "accumulator"),
        "128 products that cancel, and four small ones that remain",
    )
    big = min(f.max, 2.0**15)
    yield make(
        "big-small",
        np.concatenate([np.full((2, 1), big), np.full((2, 32), f.eps), np.full((2, 1), -big)], 1),
        np.concatenate([np.ones((1, 3)), np.full((32, 3), g.eps), np.ones((1, 3))]),
        ("big-small", "accumulator"),
        "small products between a large one and its opposite",
    )
    for k in (1, 17, 33):
        yield make(f"k-{k}", words.normal(3, k), words.normal(k, 2), ("k-tail",), f"K = {k}")
    if output == "float16":
        large = np.full((2, 8), min(f.max, 448.0))
        signs = np.where(np.arange(8) < 4, 1.0, -1.0)[:, None] * np.full((8, 2), min(g.max, 448.0))
        signs[7] /= 2
        flags = ("inner-overflow",)
        yield make("inner-overflow", large, signs, flags, "partial sums beyond 65504, a total within")
    yield make("factor", a, b, ("factor", "factor-before-rounding"), "times 64^-½·0.9, no power of two", 0.1125)
    yield _factor_before_rounding(words, where, left, right, output)
    specials = words.normal(6, 5)
    others = words.normal(5, 4)
    others[0, 1] = 0
    if f.has_inf:
        specials[0, 0], specials[1, 0], specials[1, 1], specials[2, 2] = np.inf, np.inf, -np.inf, -np.inf
        others[:2, 2] = 1.0
    if f.has_nan:
        specials[3, 0] = np.nan
    yield make("inf-nan", specials, others, ("inf-nan",), "inf · 0, inf − inf, NaN")
    yield make("empty", np.zeros((2, 0)), np.zeros((0, 3)), ("zero-sum",), "K = 0")
    zero = np.array([[1.0, -1.0], [0.0, -0.0]]), np.array([[2.0, -0.0], [2.0, -0.0]])
    yield make("zero-sum", *zero, ("zero-sum",), "sums that are exactly zero")


def _factor_before_rounding(words: Words, where: str, left: str, right: str, output: str) -> Vector:
    """Operands, found by search, for which a rounded sum times the factor is rounded to another value."""
    cast, factor = cast_for(output), 0.7
    found: list[tuple[Array, Array]] = []
    rows, columns = [], []
    after = 0
    for draw in _HITS.get((left, right, output), itertools.count()):
        words.skip((draw - after) * 12 * (512 * 24 + 24 * 8))  # a normal number is twelve words
        after = draw + 1
        a = cast_for(left)(words.normal(512, 24) * 3)
        b = cast_for(right)(words.normal(24, 8))
        once = matmul(a, b, cast, factor)
        twice = cast(matmul(a, b, cast).astype(np.float64) * factor)
        for i, j in zip(*np.nonzero(once != twice), strict=True):
            found.append((a[i], b[:, j]))
        if len(found) >= 8:
            break
    for a, b in found[:8]:
        rows.append(a)
        columns.append(b)
    codes_a, codes_b = Codes.of(np.stack(rows), left), Codes.of(np.stack(columns, 1), right)
    comment = "on the diagonal, rounding before the factor gives another value"
    return product(f"{where}/factor-once", codes_a, codes_b, output, factor, ("factor-before-rounding",), comment)


def _scaled(words: Words, left: str, right: str) -> Iterator[Vector]:
    """Power-of-two scales, all different: of rows and columns, and of blocks of the inner dimension."""
    output = "float32"
    a, b = normal_codes(words, left, 6, 64), normal_codes(words, right, 64, 5)

    def powers(*shape: int) -> Array:
        return np.ldexp(1.0, (words.below(21, *shape) - 10)).astype(np.float32)

    distinct = np.ldexp(np.float32(1), np.arange(-3, 3)), np.ldexp(np.float32(1), np.arange(-2, 3)[::-1])
    one = np.ones(6, np.float32), np.ones(5, np.float32)
    cases = {
        "rows": (None, distinct[0], one[1], ("scale-row",), "one scale per row of a"),
        "columns": (None, one[0], distinct[1], ("scale-column",), "one scale per column of b"),
        "both": (None, *distinct, ("scale-row", "scale-column"), "one scale per row of a and per column of b"),
        "blocks": (16, powers(6, 4), powers(4, 5), ("scale-block",), "one scale per 16 of the inner dimension"),
        "mx": (32, powers(6, 2), powers(2, 5), ("scale-block",), "one scale per 32 of the inner dimension, as OCP MX"),
    }
    for name, (block, a_scale, b_scale, flags, comment) in cases.items():
        cast = cast_for(output)
        scaled_a, scaled_b = scaled_operands(a.values, b.values, a_scale, b_scale, block)
        y = Codes.of(matmul(scaled_a, scaled_b, cast), output)
        attributes = {
            "a_format": left,
            "b_format": right,
            "block": block,
            "format": output,
            "rounding": cast.rounding,
            "overflow": cast.overflow,
        }
        inputs = {
            "a": a,
            "b": b,
            "a_scale": Codes.of(a_scale, "float32"),
            "b_scale": Codes.of(b_scale, "float32"),
        }
        where = f"matmul/{left}.{right}/{output}/scaled-{name}"
        yield Vector(where, "scaled_matmul", attributes, inputs, {"y": y}, flags, comment)


def scaled_operands(a: Array, b: Array, a_scale: Array, b_scale: Array, block: int | None) -> tuple[Array, Array]:
    """Operands times their scales, in float64, where powers of two multiply exactly.

    Args:
        a, b: (M, K) and (K, N).
        a_scale, b_scale: (M,) and (N,) without ``block``; (M, K/block) and (K/block, N) with it.
        block: how many of the inner dimension share a scale; the last may be shorter.
    """
    left, right = a_scale.astype(np.float64), b_scale.astype(np.float64)
    if block is None:
        return a * left[:, None], b * right
    index = np.arange(a.shape[1]) // block
    return a * left[:, index], b * right[index]
