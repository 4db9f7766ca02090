"""Family ``matmul``: matrix products of every pair of formats, and their two gradients.

All pairs have nearly normal operands. The pairs used for training also have operands that reveal a narrow accumulator,
a lost term, a factor in the wrong place, or a scale with the wrong index.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.exact import matmul
from refscale.formats import FORMATS, OVERFLOWS, Cast, get_format
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
"""Formats of sets up to 1.3, whose positions here seed the vectors of their pairs; frozen. Other pairs use names."""
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
"""Result of a long search, so that it need not run again: the draws of ``_factor_before_rounding`` with suitable
operands. Float32 represents nearly every sum of such products, and a represented sum is rounded only once."""


def generate() -> Iterator[Vector]:
    """Yield every pair of operand formats, then the hard cases of the principal ones."""
    for left, right in itertools.product(OPERANDS, OPERANDS):
        yield from _pair(_words(left, right), left, right)
    for i, (left, right) in enumerate(PRINCIPAL):
        for output in ("float32", "float16"):
            yield from _hard(Words(5000 + i), left, right, output)
        yield from _scaled(Words(6000 + i), left, right)
    for i, (left, right) in enumerate(PRINCIPAL):
        yield from _narrow(Words(14000 + i), left, right)
        yield from _sizes(Words(14100 + i), left, right)
    for i, (left, right) in enumerate(PRINCIPAL):
        yield from _started(Words(14200 + i), left, right)
        yield from _scaled_contents(Words(14300 + i), left, right)


def _words(left: str, right: str) -> Words:
    if left in NUMBERED and right in NUMBERED:
        return Words(100 * NUMBERED.index(left) + NUMBERED.index(right))
    return Words.named(f"matmul/{left}.{right}")


def _pair(words: Words, left: str, right: str) -> Iterator[Vector]:
    """Yield forward and both gradients, non-square: x (5, 7), w (7, 3), g (5, 3), where g has the format of w."""
    output = "float32" if "32" in left + right else "bfloat16" if "bfloat16" in (left, right) else "float16"
    x, w, g = normal_codes(words, left, 5, 7), normal_codes(words, right, 7, 3), normal_codes(words, right, 5, 3)
    where = f"matmul/{left}.{right}/{output}"
    yield product(f"{where}/forward", x, w, output, 1.0, ("non-square",), "x (5, 7) · w (7, 3)")
    flags = ("non-square", "gradient-operands")
    transposed_w, transposed_x = (Codes(c.format, c.codes.T) for c in (w, x))
    yield product(f"{where}/grad_x", g, transposed_w, output, 1.0, flags, "g (5, 3) · wᵀ (3, 7)")
    yield product(f"{where}/grad_w", transposed_x, g, output, 1.0, flags, "xᵀ (7, 5) · g (5, 3)")


def product(
    where: str,
    a: Codes,
    b: Codes,
    output: str | Cast,
    factor: float,
    flags: tuple[str, ...],
    comment: str,
    c: Codes | None = None,
) -> Vector:
    """Return the vector of one product, with its expected result.

    Args:
        where: id of the vector.
        a, b: (…, M, K) and (…, K, N).
        output: format of the result, by its usual cast, or a cast.
        factor: factor on the sum.
        flags: flags of the vector.
        comment: comment of the vector.
        c: start values of the sums, float32 (…, M, N); None: 0.
    """
    cast = output if isinstance(output, Cast) else cast_for(output)
    output = cast.format.name
    y = Codes.of(matmul(a.values, b.values, cast, factor, None if c is None else c.values), output)
    attributes = {
        "a_format": a.format,
        "b_format": b.format,
        "format": output,
        "rounding": cast.rounding,
        "overflow": cast.overflow,
        "factor": factor,
    }
    inputs = {"a": a, "b": b} if c is None else {"a": a, "b": b, "c": c}
    return Vector(where, "matmul", attributes, inputs, {"y": y}, flags, comment)


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
        within = abs(float((large @ signs)[0, 0])) <= 65504 if output == "float16" else True
        flags = ("inner-overflow",) if within else ("overflow",)
        yield make("inner-overflow", large, signs, flags, "partial sums beyond 65504")
    yield make("factor", a, b, ("factor", "factor-before-rounding"), "times 64^-½·0.9, not a power of two", 0.1125)
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
    """Return operands, found by search, for which a rounded sum times the factor rounds to another value."""
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


def _narrow(words: Words, left: str, right: str) -> Iterator[Vector]:
    """Yield outputs of 8 and 16 bits, under both overflow rules: a factor before the rounding, and overflows."""
    f, g = get_format(left), get_format(right)
    a, b = normal_codes(words, left, 17, 24), normal_codes(words, right, 24, 9)
    large_a = Codes.of(cast_for(left)(np.full((2, 8), min(f.max, 2.0**15))), left)
    columns = np.full((8, 1), 2.0**15) * np.array([1.0, -1.0, 0.25, 2.0**-20])
    large_b = Codes.of(cast_for(right)(columns), right)
    for output in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float16"):
        for overflow in OVERFLOWS:
            cast, where = Cast(output, "nearest_even", overflow), f"matmul/{left}.{right}/{output}/{overflow}"
            flags: tuple[str, ...] = ("factor", "factor-before-rounding")
            comment = "times 0.7, not a power of two, before the only rounding"
            yield product(f"{where}/factor", a, b, cast, 0.7, flags, comment)
            flags = ("output-saturate",)
            yield product(f"{where}/overflow", large_a, large_b, cast, 1.0, flags, "results beyond the largest value")
    rows = np.full((2, 9), 2.0**8)
    rows[:, -1] = 1.0
    terms = np.repeat([[2.0**7]] * 4 + [[-(2.0**7)]] * 4 + [[3.0]], 2, 1)
    as_a, as_b = Codes.of(cast_for(left)(rows), left), Codes.of(cast_for(right)(terms), right)
    where, flags = f"matmul/{left}.{right}/float16/inner-overflow-within", ("inner-overflow",)
    yield product(where, as_a, as_b, "float16", 1.0, flags, "partial sums beyond 65504, a total of 3")
    tiny = np.ldexp(np.arange(1.0, 9.0), g.emin - g.mantissa_bits)
    subnormal = Codes.of(cast_for(right)(np.stack([tiny, -tiny[::-1]], 1)), right)
    lift = min(2.0 ** -(g.emin - g.mantissa_bits), f.max, 2.0**100)
    lifted = Codes.of(cast_for(left)(np.full((3, 8), 2.0 ** np.floor(np.log2(lift)))), left)
    flags = ("element-special",)
    yield product(f"matmul/{left}.{right}/float32/subnormal", lifted, subnormal, "float32", 1.0, flags, "subnormal b")


def _sizes(words: Words, left: str, right: str) -> Iterator[Vector]:
    """Yield sizes beside the edges of tiles; leading axes; strided operands."""
    where = f"matmul/{left}.{right}/float32"
    cases: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[str, ...], str]] = {
        "17x65x33": ((17, 65), (65, 33), ("tile-edge", "k-tail"), "one more than a tile in every dimension"),
        "31x63x15": ((31, 63), (63, 15), ("tile-edge", "k-tail"), "one less than a tile in every dimension"),
        "2x1025x3": ((2, 1025), (1025, 3), ("tile-edge", "k-tail"), "K = 1025"),
        "batch": ((2, 3, 5, 16), (2, 3, 16, 4), ("batch",), "six matrices on two leading axes"),
        "batch-shared": ((3, 5, 16), (16, 4), ("batch",), "one right operand for three matrices"),
        "strided": ((5, 18), (18, 4), ("strides",), "not contiguous, where a backend receives arrays in memory"),
    }
    for name, (a_shape, b_shape, flags, comment) in cases.items():
        a, b = normal_codes(words, left, *a_shape), normal_codes(words, right, *b_shape)
        yield product(f"{where}/{name}", a, b, "float32", 1.0, flags, comment)


def _started(words: Words, left: str, right: str) -> Iterator[Vector]:
    """Yield sums that start from c, as in the matrix instruction D = C + A·B: c like the products, larger, opposite."""
    a, b = normal_codes(words, left, 3, 33), normal_codes(words, right, 33, 4)
    usual = Codes.of(words.normal(3, 4).astype(np.float32), "float32")
    large = np.ldexp(1.5, np.array([[12, -12, 0, 24], [9, 15, 18, 21], [10, 14, 16, 20]]))
    opposite = -matmul(a.values, b.values, cast_for("float32"))
    opposite[0, 0] = 0
    some = Codes.of(a.values[:2, :3], left), Codes.of(b.values[:3, :3], right)
    special = np.array([[np.inf, -np.inf, np.nan], [0.0, 2.0**-149, -(2.0**-126)]])
    nothing = Codes.of(np.zeros((1, 0)), left), Codes.of(np.zeros((0, 4)), right)
    alone = np.array([[3.0, -0.0, np.inf, 2.0**-149]])
    cases: dict[str, tuple[Codes, Codes, Array, tuple[str, ...], str]] = {
        "usual": (a, b, usual.values, ("accumulator",), "of the size of the products"),
        "large": (a, b, large, ("accumulator", "big-small"), "far above the products, of which few bits remain"),
        "opposite": (a, b, opposite, ("cancellation",), "minus the rounded sum: the error of that rounding remains"),
        "special": (*some, special, ("inf-nan",), "infinities and NaN; zero and the smallest numbers"),
        "alone": (*nothing, alone, ("zero-sum",), "K = 0"),
    }
    for name, (x, w, c, flags, comment) in cases.items():
        start = Codes.of(c.astype(np.float32), "float32")
        where = f"matmul/{left}.{right}/float32/start-{name}"
        yield product(where, x, w, "float32", 1.0, ("start-value", *flags), f"c {comment}", start)


def _scaled(words: Words, left: str, right: str) -> Iterator[Vector]:
    """Yield power-of-two scales, all different: of rows and columns, and of blocks of the inner dimension."""
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
        where = f"matmul/{left}.{right}/{output}/scaled-{name}"
        yield scaled_product(where, (a, a_scale), (b, b_scale), block, cast_for(output), flags, comment)


def _scaled_contents(words: Words, left: str, right: str) -> Iterator[Vector]:
    """Yield scaled products to 8 and 16 bits, from subnormal results to some that are too large; sizes beside tiles."""
    a, b = normal_codes(words, left, 5, 40), normal_codes(words, right, 40, 6)
    rows, columns = np.ldexp(np.float32(1), [-13, -7, 0, 4, 12]), np.ldexp(np.float32(1), [-2, -1, 0, 1, 2, 4])
    flags: tuple[str, ...] = ("scale-row", "scale-column", "output-saturate", "factor-before-rounding")
    comment = "the scales multiply before the only rounding; small results, and some beyond the largest value"
    for output in ("float8_e4m3fn", "float8_e5m2", "float16"):
        for overflow in OVERFLOWS:
            cast = Cast(output, "nearest_even", overflow)
            where = f"matmul/{left}.{right}/{output}/{overflow}/scaled"
            yield scaled_product(where, (a, rows), (b, columns), None, cast, flags, comment)
    a, b = normal_codes(words, left, 17, 65), normal_codes(words, right, 65, 33)
    scales = [np.ldexp(np.float32(1), words.below(9, *shape) - 4) for shape in ((17, 3), (3, 33))]
    flags, comment = ("tile-edge", "k-tail", "scale-block"), "one more than a tile in every dimension, blocks of 32"
    where = f"matmul/{left}.{right}/float32/scaled-17x65x33"
    yield scaled_product(where, (a, scales[0]), (b, scales[1]), 32, cast_for("float32"), flags, comment)


def scaled_product(
    where: str,
    a: tuple[Codes, Array],
    b: tuple[Codes, Array],
    block: int | None,
    cast: Cast,
    flags: tuple[str, ...],
    comment: str,
) -> Vector:
    """Return the vector of one scaled product, with its expected result.

    Args:
        where: id of the vector.
        a, b: (M, K) and (K, N), each with its scales, as ``scaled_operands`` takes them.
        block: length along the inner dimension that shares a scale; None: scales of rows of a and of columns of b.
        cast: cast to the format of the result.
        flags: flags of the vector.
        comment: comment of the vector.
    """
    scaled_a, scaled_b = scaled_operands(a[0].values, b[0].values, a[1], b[1], block)
    output = cast.format.name
    y = Codes.of(matmul(scaled_a, scaled_b, cast), output)
    attributes = {
        "a_format": a[0].format,
        "b_format": b[0].format,
        "block": block,
        "format": output,
        "rounding": cast.rounding,
        "overflow": cast.overflow,
    }
    scales = {"a_scale": Codes.of(a[1], "float32"), "b_scale": Codes.of(b[1], "float32")}
    return Vector(where, "scaled_matmul", attributes, {"a": a[0], "b": b[0], **scales}, {"y": y}, flags, comment)


def scaled_operands(a: Array, b: Array, a_scale: Array, b_scale: Array, block: int | None) -> tuple[Array, Array]:
    """Return operands times their scales, in float64, where powers of two multiply exactly.

    Args:
        a, b: (M, K) and (K, N).
        a_scale, b_scale: (M,) and (N,) without ``block``; (M, K/block) and (K/block, N) with it.
        block: length along the inner dimension that shares a scale; the last may be shorter.
    """
    left, right = a_scale.astype(np.float64), b_scale.astype(np.float64)
    if block is None:
        return a * left[:, None], b * right
    index = np.arange(a.shape[1]) // block
    return a * left[:, index], b * right[index]
