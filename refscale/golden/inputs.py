"""Inputs of golden vectors, from integers alone: the same bits on every machine and in every version of NumPy."""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from refscale.formats import Cast, Format, decode, get_format, values
from refscale.golden.schema import Codes

Float64 = NDArray[np.float64]


class Words:
    """Random words: the raw output of PCG64, which is the same in every release.

    Args:
        seed: seed of the stream.
    """

    def __init__(self, seed: int) -> None:
        self._source = np.random.PCG64(seed)

    @classmethod
    def named(cls, name: str) -> Words:
        """Return the stream of a name: the first eight bytes of its SHA-256 are the seed."""
        return cls(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))

    def skip(self, count: int) -> None:
        """Skip a number of words."""
        self._source.advance(count)

    def words(self, *shape: int) -> NDArray[np.uint32]:
        """Return uniform uint32: the upper halves of raw words."""
        raw = self._source.random_raw(max(1, math.prod(shape)))
        return (np.asarray(raw, np.uint64) >> 32).astype(np.uint32)[: math.prod(shape)].reshape(shape)

    def below(self, n: int, *shape: int) -> NDArray[np.int64]:
        """Return integers 0 … n − 1, uniform to 2^-32·n."""
        return ((self.words(*shape).astype(np.uint64) * np.uint64(n)) >> 32).astype(np.int64)

    def normal(self, *shape: int) -> Float64:
        """Return nearly N(0, 1) numbers: the sum of twelve uniform 16-bit numbers, less its mean; exact, within ±6."""
        total = (self.words(*shape, 12) >> 16).astype(np.int64).sum(-1)
        return np.asarray((2 * total - 12 * 65535) / 131072.0)


def cast_for(format: str | Format) -> Cast:
    """Return the usual cast of inputs: to nearest, formats of at most 8 bits saturating."""
    format = get_format(format)
    return Cast(format, "nearest_even", "saturate" if format.bits <= 8 else "nonsaturate")


def normal_codes(words: Words, format: str, *shape: int) -> Codes:
    """Return codes of nearly normal numbers."""
    return Codes.of(cast_for(format)(words.normal(*shape)), format)


def all_codes(format: str) -> Codes:
    """Return every code of a format, in order."""
    f = get_format(format)
    return Codes(f.name, np.arange(f.code_count, dtype=f.code_dtype))


def positive_values(format: Format) -> Float64:
    """Return positive finite values in ascending order: all of them up to 8 bits; else the ends of every binade."""
    if format.bits <= 8:
        found = values(format)
        return np.unique(found[np.isfinite(found) & (found > 0)].astype(np.float64))
    half, top = format.mantissa_bits, int(format.code_count // 2)
    ends = [0, 1, 2, (1 << half) - 2, (1 << half) - 1]
    codes = [(e << half) + m for e in range(1 << format.exponent_bits) for m in ends]
    found = decode(np.array([c for c in codes if 0 < c < top], format.code_dtype), format)
    return np.unique(found[np.isfinite(found)].astype(np.float64))


def successor(x: Float64, format: Format) -> Float64:
    """Return the next value after each x ≥ 0; after the largest, the value with the next exponent."""
    return np.asarray(x + format.spacing(np.where(x == 0, format.min_subnormal, x)))


def both_signs(x: Float64) -> Float64:
    """Return x and −x, alternating."""
    return np.stack([x, -x], -1).reshape(-1)


def next_in(source: str, x: Float64, direction: float) -> Float64:
    """Return the neighbor of x in float32 or float64, toward ±inf."""
    dtype = np.float32 if source == "float32" else np.float64
    with np.errstate(over="ignore"):
        return np.asarray(np.nextafter(x.astype(dtype), dtype(direction)), np.float64)
