"""Block-scaled formats: definitions of scales, elements and products, and the conversion of each operand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from refscale import ops
from refscale.blocks import (
    ARITHMETICS,
    BLOCK_FORMATS,
    RECIPES,
    BlockCast,
    block_matmul,
    get_block_cast,
    quantize_blocks,
    split_blocks,
)
from refscale.blocks.operand import transform
from refscale.claims.claim import Figures, at_most, claim, none_wrong, same
from refscale.claims.precision import BF16
from refscale.engine import Array, Tape, apply, backward
from refscale.formats import Cast, round_exact
from refscale.precision import get_precision
from refscale.testing.places import Place

POWERS = ("floor", "ceil", "rceil", "even", "nearest")
MX = tuple(name for name, cast in BLOCK_FORMATS.items() if cast.rule != "amax")
LIMITS = {  # emax, largest value, mantissa bits: OCP MX 1.0, section 5.3
    "mxfp8_e4m3": (8, 448.0, 3),
    "mxfp8_e5m2": (15, 57344.0, 2),
    "mxfp6_e3m2": (4, 28.0, 2),
    "mxfp6_e2m3": (2, 7.5, 3),
    "mxfp4": (2, 6.0, 1),
    "mxint8": (0, 127 / 64, 6),
}


def _spread(rng: np.random.Generator, *shape: int) -> Array:
    """Return normal numbers over so many binades that the assignment to blocks matters."""
    return np.asarray(rng.standard_normal(shape) * 2.0 ** rng.integers(-10, 10, shape), np.float32)


def _is_right(rule: str, k: int, amax: float, emax: int, top: float, m: int) -> bool:
    """Return whether 2^k is the scale that the rule defines, by comparisons of exact numbers."""
    a = Fraction(amax)

    def two(e: int) -> Fraction:
        return Fraction(2) ** e

    match rule:
        case "floor":
            return two(k + emax) <= a < two(k + emax + 1)
        case "ceil":
            return two(k + emax - 1) < a <= two(k + emax)
        case "rceil":
            return two(k - 1) * Fraction(top) < a <= two(k) * Fraction(top)
        case "even":
            last = 1 - two(-(m + 2))  # larger shares of a power of two round up to it
            return two(k + emax) * last <= a < two(k + emax + 1) * last
    return two(2 * k - 1) < (a / Fraction(top)) ** 2 <= two(2 * k + 1)


def _near_steps(name: str, rng: np.random.Generator) -> Iterator[float]:
    """Yield magnitudes where a rule may change, with their neighbors, and some others."""
    emax, top, m = LIMITS[name]
    marks = [2.0**emax, top, 2.0 ** (emax + 1) * (1 - 2.0 ** -(m + 2)), top * math.sqrt(2), top / math.sqrt(2)]
    for mark in marks:
        x = np.float32(math.ldexp(mark, int(rng.integers(-60, 60))))
        yield from (float(v) for v in (np.nextafter(x, np.float32(0)), x, np.nextafter(x, np.float32(np.inf))))
    yield from np.ldexp(1 + rng.random(8), rng.integers(-90, 90, 8)).astype(np.float32).tolist()


@claim("OCP MX 1.0, 6.3; torchao; cuBLAS; arXiv 2506.08027; refscale.blocks.rounding")
def claim_13_01_scale_rules(place: Place) -> Figures:
    """Each scale rule returns the power of two that it defines, also one ulp beside each step, in every MX format."""
    rng = place.rng()
    for name in MX:
        amax = np.array(list(_near_steps(name, rng)), np.float32)
        x = np.zeros((len(amax), 32), np.float32)
        x[np.arange(len(amax)), np.arange(len(amax)) % 32] = amax
        for rule in POWERS:
            scales = split_blocks(x, get_block_cast(name, rule=rule)).scales[:, 0]
            ks = (np.frexp(scales)[1] - 1).tolist()
            wrong = sum(not _is_right(rule, k, float(a), *LIMITS[name]) for k, a in zip(ks, amax, strict=True))
            yield none_wrong(f"{name}, {rule}: wrong scales", wrong)


@claim("OCP MX 1.0, 5.4, 6.3; refscale.blocks.rounding")
def claim_13_02_ends(place: Place) -> Figures:
    """A block of zeros has the smallest scale, scales are clipped to 2^-127 … 2^127, non-finite elements give NaN.

    If infinities saturate, they do not make the scale NaN.
    """
    for name in MX:
        for rule in POWERS:
            cast = get_block_cast(name, rule=rule, block=2)
            ends = np.array([[0, 0], [2.0**-149, 0], [np.nan, 1], [1, -np.inf]], np.float32)
            s = split_blocks(ends, cast).scales[:, 0]
            yield same(f"{name}, {rule}: zeros", s[0], 2.0**-127)
            yield same(f"{name}, {rule}: the smallest float32", s[1], 2.0**-127)
            yield none_wrong(f"{name}, {rule}: not finite, not NaN", not np.isnan(s[2:]).all())
            wide = quantize_blocks(ends, cast)
            yield none_wrong(f"{name}, {rule}: a block half NaN", not np.isnan(wide[2:]).all())
        top = split_blocks(ends, get_block_cast(cast, nonfinite="saturate"))
        yield none_wrong(f"{name}: inf does not saturate", top.elements[3, 1] != -cast.element.max)
        huge = split_blocks(np.full((1, 2), 2.0**300), get_block_cast("mxint8", block=2))
        yield same("the largest scale", huge.scales[0, 0], 2.0**127)


def _tiles(x: Array, cast: BlockCast) -> Iterator[tuple[slice, slice]]:
    """Yield the blocks of a matrix, along the rows or in squares."""
    r, c = (1, *cast.block) if len(cast.block) == 1 else cast.block
    for i in range(0, x.shape[0], r):
        for j in range(0, x.shape[1], c):
            yield slice(i, i + r), slice(j, j + c)


@claim("OCP MX 1.0, 6.3; NVIDIA, arXiv 2509.25149; DeepSeek-V3, arXiv 2412.19437; refscale.blocks.rounding", "bm")
def claim_13_03_elements(place: Place) -> Figures:
    """Each element is its number over the scale of its block, rounded once; a short last block has its own scale.

    If scales are not powers of two, the float32 operations run in the order that the format defines.
    """
    p = place.at_most(b=40, m=300)
    x = _spread(place.rng(), p.b, p.m)
    for name, cast in BLOCK_FORMATS.items():
        narrow = Cast(cast.element, "nearest_even", "saturate")
        for arithmetic in ARITHMETICS if cast.rule == "amax" else ("exact",):
            parts = split_blocks(x, get_block_cast(cast, arithmetic=arithmetic))
            elements = np.zeros_like(x)
            scales = []
            t, e = _tensor_scale(x, cast, arithmetic)
            for where in _tiles(x, cast):
                amax = np.abs(x[where]).max()
                s = np.float32(2.0 ** (math.frexp(float(amax))[1] - 1 - cast.element.emax))
                if cast.rule == "amax":
                    s = _scale(amax, cast, arithmetic, t, e)
                scales.append(s)
                elements[where] = narrow(_quotient(x[where], s, t, arithmetic))
            yield none_wrong(f"{name}, {arithmetic}: scales", np.count_nonzero(parts.scales.ravel() != scales))
            yield none_wrong(f"{name}, {arithmetic}: elements", np.count_nonzero(parts.elements != elements))
            yield same(f"{name}, {arithmetic}: T", parts.tensor_scale, float(t))


def _tensor_scale(x: Array, cast: BlockCast, arithmetic: str) -> tuple[np.float32, np.float32]:
    one = np.float32(1)
    if not cast.tensor_scale:
        return one, one
    amax, reach = np.abs(x).max(), np.float32(cast.element.max * cast.scale.max)
    return (one / (reach / amax), reach / amax) if arithmetic == "reciprocal" else (amax / reach, one)


def _scale(amax: np.float32, cast: BlockCast, arithmetic: str, t: np.float32, e: np.float32) -> np.float32:
    top = np.float32(cast.element.max)
    steps: dict[str, np.floating[Any]] = {
        "exact": np.float64(amax) / (np.float64(top) * np.float64(t)),
        "divide": amax / top / t,
        "reciprocal": amax / top * e,
    }
    real = np.asarray(steps[arithmetic])
    return np.float32(Cast(cast.scale, "nearest_even", "saturate")(real)[()])


def _quotient(x: Array, s: np.float32, t: np.float32, arithmetic: str) -> Array:
    if s * t == 0:
        return np.zeros_like(x)
    if arithmetic == "reciprocal":
        return np.asarray(x * (np.float32(1) / (s * t)))
    return np.asarray(x.astype(np.float64) / (np.float64(s) * np.float64(t)) if arithmetic == "exact" else x / (s * t))


@claim("refscale.blocks.cast", "bmn")
def claim_13_04_axes(place: Place) -> Figures:
    """Blocks along any axis equal the blocks of the transposed array; square blocks are the same in both directions."""
    p = place.at_most(b=20, m=200, n=40)
    x = _spread(place.rng(), p.b, p.m, p.n)
    for name, cast in BLOCK_FORMATS.items():
        if len(cast.block) == 2:
            turned = quantize_blocks(x.swapaxes(1, 2), get_block_cast(cast, block=cast.block[::-1]))
            yield none_wrong(f"{name}: squares", not np.array_equal(quantize_blocks(x, cast).swapaxes(1, 2), turned))
            continue
        for axis in range(3):
            turned = np.moveaxis(quantize_blocks(np.moveaxis(x, axis, -1).copy(), cast), -1, axis)
            found = quantize_blocks(x, get_block_cast(cast, axis=axis))
            yield none_wrong(f"{name}, axis {axis}: elements", np.count_nonzero(found != turned))


@claim("the real number, rounded once; refscale.blocks.product")
def claim_13_05_products(place: Place) -> Figures:
    """A product of block-scaled matrices is the exact sum, rounded once; by block, block sums are added in order."""
    rng = place.rng()
    output = Cast("float32", "nearest_even", "nonsaturate")
    for left, right in (("mxfp8_e4m3", "mxfp4"), ("nvfp4", "nvfp4_16x16"), ("fp8_1x128", "mxint8")):
        a = split_blocks(_spread(rng, 2, 150), left)
        second = BLOCK_FORMATS[right]
        b = split_blocks(_spread(rng, 150, 2), second if len(second.block) == 2 else get_block_cast(right, axis=-2))
        x, w = (_exact(v.elements) * _exact(v.scale_of_each(np.float64)) for v in (a, b))
        t = Fraction(a.tensor_scale) * Fraction(b.tensor_scale)
        real = np.array([[_round(t * sum(row * column)) for column in w.T] for row in x], np.float32)
        wrong = np.count_nonzero(block_matmul(a, b, output) != real)
        yield none_wrong(f"{left} · {right}: not the real sum, rounded once", wrong)
    a, b = (split_blocks(_spread(rng, 4, 150), "mxfp8_e4m3") for _ in range(2))
    b = split_blocks(b.wide().T, get_block_cast("mxfp8_e4m3", axis=-2))
    total = np.zeros((4, 4), np.float32)
    for k in range(0, 150, 32):
        part = a.elements[:, k : k + 32].astype(np.float64) @ b.elements[k : k + 32].astype(np.float64)  # exact
        total = total + part.astype(np.float32) * (a.scales[:, k // 32, None] * b.scales[k // 32])
    yield none_wrong("block by block", np.count_nonzero(block_matmul(a, b, output, "blocks:exact") != total))


def _exact(x: Array) -> Array:
    return np.asarray(np.vectorize(Fraction, otypes=[object])(x.astype(np.float64)))


def _round(x: Fraction) -> float:
    return round_exact(x, "float32", rounding="nearest_even", overflow="nonsaturate")


@claim("arXiv 2506.08027, 2310.10537, 2509.25149, 2412.19437; refscale.blocks.operand", "bmn")
def claim_13_06_which_operand_how(place: Place) -> Figures:
    """Each of a step's three products converts both operands along the axis that it sums over; bfloat16 is stored.

    Some recipes convert weights in squares, the same in both directions, round gradients stochastically, and apply the
    Hadamard transform to both operands of the weight gradient.
    """
    p = place.at_most(b=70, m=70, n=70)
    rng = place.rng()
    x, w, g = (BF16(_spread(rng, *s)) for s in ((p.b, p.m), (p.m, p.n), (p.b, p.n)))
    for name, recipe in RECIPES.items():
        precision = get_precision(name)
        yield none_wrong(f"{name}: stored", precision.store != BF16)
        tape = Tape(precision=precision, rng=np.random.default_rng(place.seed))
        a, b = tape.tensor(x), tape.tensor(w)
        y = apply(ops.Matmul(), a, b)
        backward(y, g)
        words = np.random.default_rng(place.seed)

        def narrow(v: Array, cast: BlockCast, axis: int, words: np.random.Generator = words) -> Array:
            cast = cast if len(cast.block) == 2 else get_block_cast(cast, axis=axis)
            bits = words.integers(0, 2**32, v.shape, np.uint32) if cast.rounding == "stochastic" else None
            return quantize_blocks(v, cast, bits)

        forward = narrow(x, recipe.activation, 1) @ narrow(w, recipe.weight, 0)
        dx = narrow(g, recipe.gradient, 1) @ narrow(w, recipe.weight, 1).T
        left, right = (v if not recipe.hadamard else transform(v, recipe.hadamard, 0) for v in (x, g))
        dw = narrow(left, recipe.activation, 0).T @ narrow(right, recipe.gradient, 0)
        for what, found, expected in (("y", y.value, forward), ("dx", a.grad, dx), ("dw", b.grad, dw)):
            yield none_wrong(f"{name}: {what}", found is None or not np.array_equal(found, BF16(expected)))
        yield same(f"{name}: conversions", sum(c.blocks > 0 for c in tape.casts), 6)
    stated = {
        "mxfp8": ("mxfp8_e4m3", "mxfp8_e4m3", "rceil", 0),
        "mxfp6": ("mxfp6_e3m2", "mxfp6_e3m2", "floor", 0),
        "mxfp4": ("mxfp4", "mxfp4", "floor", 0),
        "nvfp4": ("nvfp4", "nvfp4_16x16", "amax", 16),
        "fp8-tiles": ("fp8_1x128", "fp8_128x128", "amax", 0),
    }
    yield none_wrong("recipes that are not stated", len(RECIPES.keys() ^ stated.keys()))
    for name, (operand, weight, rule, hadamard) in stated.items():
        recipe = RECIPES[name]
        parts = get_block_cast(operand, rule=rule), get_block_cast(weight, rule=rule)
        rounding = "stochastic" if hadamard else "nearest_even"
        wrong = (recipe.activation, recipe.weight) != parts or recipe.hadamard != hadamard
        wrong |= recipe.gradient != get_block_cast(parts[0], rounding=rounding)
        yield none_wrong(f"{name}: another recipe", wrong)


@claim("Sylvester's construction; arXiv 2509.25149", "m")
def claim_13_07_transform(place: Place) -> Figures:
    """The random Hadamard transform preserves products along its axis and spreads a single number over its block."""
    rng = place.rng()
    x, w = rng.standard_normal((5, place.m)), rng.standard_normal((place.m, 3))
    product = transform(x, 16, -1) @ transform(w, 16, -2)
    yield at_most("change of a product", float(np.abs(product - x @ w).max()), 1e-11 * place.m)
    one = np.zeros(16)
    one[rng.integers(16)] = 4.0
    yield same("largest part of a single number", float(np.abs(transform(one, 16, 0)).max()), 1.0)
    yield same("smallest part of a single number", float(np.abs(transform(one, 16, 0)).min()), 1.0)
