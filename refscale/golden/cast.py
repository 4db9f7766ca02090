"""Families ``cast`` and ``decode``: every rounding into a format, and every code of a format.

Each group of inputs targets one kind of bug, so that a backend with that bug fails this group and, if possible, no
other. To nearest even, each group is a separate vector; for the other roundings groups are joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.formats import FORMATS, OVERFLOWS, ROUNDINGS, Cast, Format, decode
from refscale.golden.conventions import of_cast
from refscale.golden.inputs import Words, all_codes, both_signs, cast_for, next_in, positive_values, successor
from refscale.golden.schema import Codes, Vector

Float64 = NDArray[np.float64]
Groups = dict[str, tuple[tuple[str, ...], str, Codes]]

SOURCES = ("float32", "float64")


def generate_cast() -> Iterator[Vector]:
    """Yield casts from float32 and float64 in groups, and from every float16 and bfloat16."""
    for format in FORMATS.values():
        for source in SOURCES:
            groups = _groups(format, source)
            joined = _joined(groups, source)
            for rounding in ROUNDINGS:
                for overflow in OVERFLOWS:
                    cast = Cast(format, rounding, overflow)
                    for name, (flags, comment, x) in (groups if rounding == "nearest_even" else joined).items():
                        words = _words_for(x, cast) if rounding == "stochastic" else None
                        more = ("stochastic-words",) if words else ()
                        yield rounded(f"cast/{cast}/{source}/{name}", cast, x, flags + more, comment, words)
        for source in ("float16", "bfloat16"):
            x = all_codes(source)
            if not format.has_nan:
                x = Codes(source, x.codes[~np.isnan(x.values)])
            for rounding in ROUNDINGS[:-1]:
                for overflow in OVERFLOWS:
                    comment = f"every {source}, in the order of codes" + ("" if format.has_nan else ", but NaN")
                    flags = ("rounding-mode", "overflow")
                    cast = Cast(format, rounding, overflow)
                    yield rounded(f"cast/{cast}/{source}/all", cast, x, flags, comment, bulk=True)
    yield from _short_sources()
    yield from _lengths()


def _short_sources() -> Iterator[Vector]:
    """Yield casts from float16 and bfloat16, by the same groups as from float32."""
    for format in FORMATS.values():
        for source in ("float16", "bfloat16"):
            if source == format.name:
                continue
            groups = _joined(_short_groups(_groups(format, "float32"), format, source), source)
            for overflow in OVERFLOWS:
                for name, (flags, comment, x) in groups.items():
                    more = ("source-16", *(flag for flag in flags if flag != "rounding-mode"))
                    cast = Cast(format, "nearest_even", overflow)
                    yield rounded(f"cast/{cast}/{source}/{name}", cast, x, more, comment)


def _short_groups(groups: Groups, format: Format, source: str) -> Groups:
    """Return the inputs that a source of 16 bits represents, and its neighbors of ties."""
    found: Groups = {}
    for name, (flags, comment, x) in groups.items():
        if name == "nan":
            found[name] = (flags, comment, _nans(source))
            continue
        wide = x.values.astype(np.float64)
        near = Cast(source, "nearest_even", "nonsaturate")(wide).astype(np.float64)
        neighbor = name.endswith("ties") & (np.abs(near) <= format.max)
        held = np.unique(near[(near == wide) | neighbor].view(np.int64)).view(np.float64)  # -0 beside +0
        if held.size:
            found[name] = (flags, comment, Codes.of(held.astype(np.float32), source))
    return found


def _lengths() -> Iterator[Vector]:
    """Yield arrays of odd lengths, of leading axes, and strided; every element has its own value."""
    shapes = {
        **{f"length-{n}": (n,) for n in (1, 2, 3, 5, 7, 9, 15, 17, 31, 33, 63, 65, 127, 129, 255, 257)},
        "rows": (3, 5, 7),
        "scalar": (),
    }
    words = Words(8000)
    for format in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float4_e2m1fn", "float16", "bfloat16"):
        for source in ("float32", "bfloat16"):
            for name, shape in shapes.items():
                x = Codes.of(cast_for(source)(words.normal(*shape)), source)
                cast, flags = cast_for(format), ("tail", *(("batch",) if name == "rows" else ()))
                yield rounded(f"cast/{cast}/{source}/{name}", cast, x, flags, f"an array of shape {shape}")
            x = Codes.of(cast_for(source)(words.normal(9, 6)), source)
            comment = "not contiguous, where a backend receives arrays in memory"
            cast = cast_for(format)
            yield rounded(f"cast/{cast}/{source}/strided", cast, x, ("strides",), comment)


def generate_decode() -> Iterator[Vector]:
    """Yield every code of every format of at most 16 bits, and some of float32 and tf32."""
    for format in FORMATS.values():
        if format.bits <= 16:
            codes = all_codes(format.name).codes
        else:
            codes = Words(7).words(512).astype(format.code_dtype) & format.code_dtype.type(format.code_count - 1)
        exponent = (codes >> format.mantissa_bits) & ((1 << format.exponent_bits) - 1)
        special = ~np.isfinite(decode(codes, format))
        top = exponent == (1 << format.exponent_bits) - 1
        parts = {
            "subnormal": (exponent == 0, ("decode-subnormal", "negative-zero")),
            "special": (special, ("decode-special", "nan-code")),
            "top": (top & ~special, ("decode-top", "fn-fnuz", "ieee-fn")),
            "normal": ((exponent != 0) & ~top, ("bias", "sign")),
        }
        for name, (where, flags) in parts.items():
            if where.any():
                x = Codes(format.name, codes[where])
                y = Codes.of(x.values, "float32")
                bulk = x.codes.size > 4096
                attributes = {"format": format.name}
                flags = _applicable(format, flags) or ("bias",)
                if not ((x.values == 0) & np.signbit(x.values)).any():
                    flags = tuple(flag for flag in flags if flag != "negative-zero")
                yield Vector(f"decode/{format}/{name}", "decode", attributes, {"codes": x}, {"y": y}, flags, bulk=bulk)


_FN_FNUZ = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e4m3b11fnuz")

_APPLIES: Mapping[str, Callable[[Format], bool]] = {
    "fn-fnuz": lambda f: f.name in _FN_FNUZ,
    "ieee-fn": lambda f: f.name in ("float8_e4m3fn", "float8_e4m3"),
    "double-rounding": lambda f: f.name != "float32",
    "negative-zero": lambda f: f.signed,
    "nan-sign": lambda f: f.has_signed_nan,
    "sign": lambda f: f.signed,
    "tie-even": lambda f: f.mantissa_bits > 0,
    "carry": lambda f: f.exponent_bits > 1,
    "subnormal-flush": lambda f: f.has_zero,
    "decode-subnormal": lambda f: f.has_zero,
}
"""Flags of bugs that are impossible in some formats."""


def _applicable(format: Format, flags: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(flag for flag in flags if flag not in _APPLIES or _APPLIES[flag](format))


def rounded(
    where: str,
    cast: Cast,
    x: Codes,
    flags: tuple[str, ...],
    comment: str,
    words: Codes | None = None,
    bulk: bool = False,
) -> Vector:
    """Return the vector of one cast, with its expected result."""
    with np.errstate(all="ignore"):
        y = Codes.of(cast(x.native, None if words is None else words.codes), cast.format.name)
    attributes = {"format": cast.format.name, "rounding": cast.rounding, "overflow": cast.overflow}
    inputs = {"x": x} if words is None else {"x": x, "random_bits": words}
    conventions, flags = of_cast(x, cast.format.name, cast.overflow), _applicable(cast.format, flags)
    return Vector(where, "cast", attributes, inputs, {"y": y}, flags, comment, bulk, conventions)


def _groups(format: Format, source: str) -> Groups:
    """Return groups of inputs by the bug that they target."""
    low = positive_values(format)
    ties = (np.concatenate([[0.0], low]) + successor(np.concatenate([[0.0], low]), format)) / 2
    ties = ties[_fits(ties, source)]
    inner, first = ties[ties < format.max], format.min_normal
    half, top = format.min_subnormal / 2, format.max
    threshold = top + (successor(np.array([top]), format)[0] - top) / 2
    powers = np.ldexp(1.0, np.arange(max(format.emin, -120), min(format.emax, 120) + 1))
    above = np.array([threshold, threshold * (1 + 2.0**-20), 2 * top, 1.5 * 2.0**120])
    tiny = np.array([half, 2.0**-100, 2.0**-140])
    raw: dict[str, tuple[tuple[str, ...], str, Float64]] = {
        "values": (("bias", "sign", "fn-fnuz", "ieee-fn"), "values of the format, which do not change", low),
        "ties": (("tie-even", "tie-zero"), "midpoints of neighbors", inner[inner > first]),
        "below-ties": (("double-rounding", "truncation"), "one ulp below midpoints", _step(source, inner, first, 0.0)),
        "above-ties": (
            ("double-rounding", "truncation"),
            "one ulp above midpoints",
            _step(source, inner, first, np.inf),
        ),
        "carry": (("carry",), "just below powers of two", next_in(source, powers[powers > first], 0.0)),
        "subnormals": (
            ("subnormal-flush", "subnormal-rounding"),
            "values and midpoints below the smallest normal",
            np.concatenate([low[low < first], inner[inner < first]]),
        ),
        "underflow": (
            ("underflow", "negative-zero"),
            "half the smallest value, one ulp to each side, and less",
            np.concatenate([tiny, next_in(source, tiny[:1], 0.0), next_in(source, tiny[:1], np.inf)]),
        ),
        "top": (
            ("top-binade",),
            "the largest value, and inputs that round to it",
            np.array([top, top + (threshold - top) / 2, next_in(source, np.array([threshold]), 0.0)[0]]),
        ),
        "overflow": (("overflow", "ieee-fn"), "the overflow threshold and beyond", above),
        "infinity": (("infinity", "overflow"), "infinities", np.array([np.inf])),
        "zero": (("negative-zero",), "zeros", np.array([0.0])),
    }
    groups = {
        name: (flags, comment, Codes.of(_as(source, both_signs(x[_fits(x, source)])), source))
        for name, (flags, comment, x) in raw.items()
    }
    if format.has_nan:
        groups["nan"] = (("nan-code", "nan-sign"), "NaN of both signs, several payloads", _nans(source))
    return {name: group for name, group in groups.items() if group[2].codes.size}


def _step(source: str, ties: Float64, first: float, direction: float) -> Float64:
    return next_in(source, ties[ties > first], direction)


def _fits(x: Float64, source: str) -> NDArray[np.bool_]:
    """Return whether the source represents each number."""
    if source == "float64":
        return np.ones(x.shape, np.bool_)
    with np.errstate(over="ignore"):
        return np.asarray((x.astype(np.float32) == x) & ((x == 0) | (np.abs(x) >= 2.0**-149)))


def _as(source: str, x: Float64) -> NDArray[Any]:
    return x.astype(np.float32) if source == "float32" else x


def _nans(source: str) -> Codes:
    if source == "float16":
        return Codes(source, np.array([0x7E00, 0xFE00, 0x7E12, 0xFFFF], np.uint16))
    if source == "bfloat16":
        return Codes(source, np.array([0x7FC0, 0xFFC0, 0x7FD2, 0xFFFF], np.uint16))
    if source == "float32":
        return Codes(source, np.array([0x7FC00000, 0xFFC00000, 0x7FC01234, 0xFFFFFFFF], np.uint32))
    quiet = [0x7FF8000000000000, 0xFFF8000000000000, 0x7FF8000000001234, 0xFFFFFFFFFFFFFFFF]
    return Codes(source, np.array(quiet, np.uint64))


def _joined(groups: Groups, source: str) -> Groups:
    """Return two vectors instead of many, for the roundings other than to nearest even."""
    edges = ("overflow", "infinity", "zero", "nan", "top")
    inside = [x.codes for name, (_, _, x) in groups.items() if name not in edges]
    outside = [x.codes for name, (_, _, x) in groups.items() if name in edges]
    return {
        "inside": (
            ("rounding-mode", "truncation", "subnormal-rounding", "carry"),
            "values, midpoints and their neighbors, subnormals",
            Codes(source, np.concatenate(inside)),
        ),
        "edges": (
            ("rounding-mode", "overflow", "infinity"),
            "from the largest value on; zeros; NaN",
            Codes(source, np.concatenate(outside)),
        ),
    }


def _words_for(x: Codes, cast: Cast) -> Codes:
    """Return random words about the threshold of each element: 2^32 − ⌊2^32·rest⌋ rounds outward, one less inward."""
    value = np.abs(x.values.astype(np.float64))
    with np.errstate(all="ignore"):
        rest = np.where(np.isfinite(value), value / cast.format.spacing(np.where(np.isfinite(value), value, 1.0)), 0.0)
        rest -= np.floor(rest)
        threshold = (2**32 - np.floor(rest * 2.0**32)).astype(np.uint64)
    choice = np.arange(value.size) % 4
    extremes = np.where(choice == 2, 0, np.where(choice == 3, 2**32 - 1, 0)).astype(np.uint64)
    words = np.where(choice == 0, threshold, np.where(choice == 1, threshold - np.uint64(1), extremes))
    return Codes("uint32", np.minimum(words, np.uint64(2**32 - 1)).astype(np.uint32))
