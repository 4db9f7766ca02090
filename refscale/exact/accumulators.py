"""What hardware does instead of the exact sum, as models; and how far each may be from it.

===================  =================================================================================================
name                 the sum of K products
===================  =================================================================================================
``exact``            the real number
``float32``          float32, in the order of the index: s ← fl(s + fl(a_k·b_k)), from +0
``float32:P``        each block of P so, then promoted: block sums added in order to a second float32
``truncated:N:B``    a tensor core: B products at a time, with the sum so far, are aligned to the largest exponent among
                     them (of a product: e(a) + e(b)), cut to multiples of 2^(e_max − N), toward zero, and added
                     exactly; the sum is cut to N + 1 significant bits, at most float32's 24
``truncated:N:B:P``  each block of P so, then promoted
``any-order``        float32 in some order and some blocking, fused or not: what a BLAS promises; a bound only
===================  =================================================================================================

An H200 (and so a Hopper) sums FP8 as ``truncated:13:32``, with ``use_fast_accum=False`` of PyTorch as
``truncated:13:32:128``, FP16 and BF16 as ``truncated:25:16``: every bit, on sums of up to 256 terms that are up to 2^30
apart (python -m tests.which_accumulator).

A bound is derived, not measured, and holds for every element: |s − Σ a_k b_k| ≤ bound.  With u = 2^-24,
γ_n = n·u/(1 − n·u) and T = Σ |a_k·b_k|:

* Where no term passes more than n roundings, of relative error u each, their sum errs by at most γ_n·T.  In the order
  of the index it passes K additions and the rounding of its product, n = K + 1; in blocks at most B + ⌈K/B⌉ + 1; in any
  order K + 1.  A product below float32's normal range loses up to 2^-150 more; a sum there is exact.
* Cutting toward zero never lengthens a term, so every partial sum, and with it 2^e_max, is at most T.  A block cuts at
  most B + 1 terms by less than 2^-N·T each, and its sum of S significant bits by less than 2^(1 − S)·T:
  c = ⌈K/B⌉·((B + 1)·2^-N + 2^(1 − S)), or, below the normal range, 2^-149 each in place of the last.  With promotion c
  is that of P products; the n = ⌈K/P⌉ sums err by c times their own T each, and are added with n roundings:
  c + γ_n·(1 + c).

Sources: Higham, *Accuracy and Stability of Numerical Algorithms*, section 4.2; DeepSeek-V3 (arXiv 2412.19437), section
3.3.2, for promotion at 128 and the 14 bits of FP8 tensor cores; Fasi et al. 2021, "Numerical behavior of NVIDIA tensor
cores", for alignment and truncation; sizes and the rest by experiment.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refscale.arguments import integer
from refscale.errors import ArgumentError
from refscale.exact.errorfree import Float64
from refscale.exact.product import as_operands, check_deterministic, check_factor, matmul
from refscale.formats import Cast

Float32 = NDArray[np.float32]

_U = 2.0**-24

ACCUMULATORS = ("exact", "float32", "float32:128", "truncated:13:32", "truncated:13:32:128", "any-order")
"""Names, with the usual sizes where there is a choice."""


@runtime_checkable
class Accumulator(Protocol):
    """How a matrix product is summed."""

    @property
    def name(self) -> str:
        """As ``get_accumulator`` reads it."""

    def matmul(self, a: ArrayLike, b: ArrayLike) -> Float32:
        """Sums of a (…, M, K) and b (…, K, N), float32 (…, M, N), before any factor and cast.

        Raises:
            ArgumentError: a model that says no order, or whose sums are not float32.
        """

    def relative(self, inner: int) -> float:
        """The bound for K = inner products, as a multiple of T."""


@dataclass(frozen=True)
class Exact:
    """The real sum."""

    name: str = "exact"

    def matmul(self, a: ArrayLike, b: ArrayLike) -> Float32:
        """Is no float32."""
        raise ArgumentError("accumulator 'exact' has no float32 sums; exact.matmul rounds to the format of the output")

    def relative(self, inner: int) -> float:
        """0."""
        return 0.0


@dataclass(frozen=True)
class AnyOrder:
    """float32 in an order that is not said."""

    name: str = "any-order"

    def matmul(self, a: ArrayLike, b: ArrayLike) -> Float32:
        """Is not determined."""
        raise ArgumentError("accumulator 'any-order' does not say what its sums are, only how far they may be off")

    def relative(self, inner: int) -> float:
        """γ of K + 1."""
        return _gamma(inner + 1)


@dataclass(frozen=True)
class InOrder:
    """float32 in the order of the index, in blocks; a block of 0 takes all.

    Attributes:
        block: products to a block.

    Raises:
        ArgumentError: a block that is no integer ≥ 0.
    """

    block: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "block", integer("InOrder", "block", self.block, 0))

    @property
    def name(self) -> str:
        """``float32`` or ``float32:B``."""
        return f"float32:{self.block}" if self.block else "float32"

    @np.errstate(all="ignore")
    def matmul(self, a: ArrayLike, b: ArrayLike) -> Float32:
        """Sums in float32 of operands in float32; a product is rounded before it is added (exact for 12 bits each)."""
        x, y = (np.asarray(o, np.float32) for o in as_operands(f"accumulator {self.name}", a, b))
        inner = x.shape[-1]
        size = self.block or max(1, inner)
        shape = (*np.broadcast_shapes(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-1])
        total = np.zeros(shape, np.float32)
        for start in range(0, inner, size):
            part = np.zeros(shape, np.float32)
            for k in range(start, min(start + size, inner)):
                part += x[..., :, k, None] * y[..., None, k, :]
            total = total + part if self.block else part
        return total

    def relative(self, inner: int) -> float:
        """γ of the roundings that a term passes."""
        blocks = math.ceil(inner / self.block) if self.block else 0
        return _gamma(min(inner, self.block or inner) + blocks + 1)


@dataclass(frozen=True)
class Truncated:
    """Aligned to the largest exponent of a block, and cut.

    Attributes:
        bits: N, kept below the largest exponent; 4 to 40.
        block: products to a block, at most 2^10.
        promoted: products after which the sum goes to a second float32; 0 for never.

    Raises:
        ArgumentError: sizes that are no integers, or out of range.
    """

    bits: int = 13
    block: int = 32
    promoted: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", integer("Truncated", "bits", self.bits, 4, 40))
        object.__setattr__(self, "block", integer("Truncated", "block", self.block, 1, 1024))
        object.__setattr__(self, "promoted", integer("Truncated", "promoted", self.promoted, 0))

    @property
    def name(self) -> str:
        """``truncated:N:B`` or ``truncated:N:B:P``."""
        return f"truncated:{self.bits}:{self.block}" + (f":{self.promoted}" if self.promoted else "")

    @property
    def significant(self) -> int:
        """Bits of a sum."""
        return min(self.bits + 1, 24)

    @np.errstate(all="ignore")
    def matmul(self, a: ArrayLike, b: ArrayLike) -> Float32:
        """Sums in float32; in float64 every step is exact but the cutting."""
        x, y = as_operands(f"accumulator {self.name}", a, b)
        inner = x.shape[-1]
        part = self.promoted or max(1, inner)
        sums = [self._sum(x[..., s : s + part], y[..., s : s + part, :]) for s in range(0, max(1, inner), part)]
        return np.asarray(sum(sums[1:], sums[0]), np.float32)

    def _sum(self, x: Float64, y: Float64) -> Float32:
        """Without promotion."""
        inner = x.shape[-1]
        row, column = _exponents(x), _exponents(y)
        total = np.zeros((*np.broadcast_shapes(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-1]))
        for start in range(0, inner, self.block):
            ks = range(start, min(start + self.block, inner))
            exponent = _exponents(total)
            for k in ks:
                np.maximum(exponent, row[..., :, k, None] + column[..., None, k, :], out=exponent)
            grain = np.ldexp(1.0, exponent - self.bits)
            terms = [total, *(x[..., :, k, None] * y[..., None, k, :] for k in ks)]
            cut = _cut(np.sum([np.trunc(t / grain) for t in terms], 0) * grain, self.significant)
            plain = np.sum(terms, 0)  # infinities and NaN
            total = np.where(np.isfinite(plain), cut, plain)
        return total.astype(np.float32)

    def relative(self, inner: int) -> float:
        """What the cuts of all blocks can lose, and the roundings of parts."""
        part = min(inner, self.promoted or inner)
        terms = min(part, self.block) + 1
        cuts = math.ceil(part / self.block) * (terms * 2.0**-self.bits + 2.0 ** (1 - self.significant))
        return cuts + _gamma(math.ceil(inner / self.promoted)) * (1 + cuts) if self.promoted else cuts


def _exponents(x: Float64) -> NDArray[np.int32]:
    """e where 2^e ≤ |x| < 2^(e + 1); of zero, which aligns nothing, less than that of any product."""
    return np.asarray(np.where(x == 0, -500, np.frexp(x)[1] - 1))


def _cut(x: Float64, bits: int) -> Float64:
    """To bits of significand, toward zero, as far as float32 has them; beyond its largest value, that."""
    grain = np.ldexp(1.0, np.maximum(np.frexp(x)[1] - bits, -149))
    largest = float(np.finfo(np.float32).max)
    return np.asarray(np.clip(np.trunc(x / grain) * grain, -largest, largest))


def get_accumulator(name: str | Accumulator) -> Accumulator:
    """The model of that name, see the table above; a model is returned as it is.

    Raises:
        ArgumentError: no such name, or sizes out of range.
    """
    if isinstance(name, Accumulator):
        return name
    kind, *sizes = name.split(":") if isinstance(name, str) else ("",)
    try:
        match kind, [int(s) for s in sizes]:
            case "exact", []:
                return Exact()
            case "any-order", []:
                return AnyOrder()
            case "float32", []:
                return InOrder()
            case "float32", [block] if block:
                return InOrder(block)
            case "truncated", [bits]:
                return Truncated(bits)
            case "truncated", [bits, block]:
                return Truncated(bits, block)
            case "truncated", [bits, block, promoted] if promoted:
                return Truncated(bits, block, promoted)
    except ValueError:  # no integer, or out of range: ArgumentError is one
        pass
    raise ArgumentError(
        f"get_accumulator({name!r}): expected exact, any-order, float32, float32:P, truncated:N:B or "
        "truncated:N:B:P (4 ≤ N ≤ 40, 1 ≤ B ≤ 1024, P ≥ 1)"
    )


@np.errstate(all="ignore")
def bound(a: ArrayLike, b: ArrayLike, accumulator: str | Accumulator) -> Float64:
    """How far the accumulator's sums may be from the exact ones: float64 (…, M, N), inf or NaN where operands are.

    bound = relative(K)·T + K·2^-149,    T = Σ_k |a_ik·b_kj|
    """
    x, y = as_operands("accumulators.bound", a, b)
    inner = x.shape[-1]
    relative = get_accumulator(accumulator).relative(inner)
    total = (np.abs(x) @ np.abs(y)) * (1 + (inner + 4) * 2.0**-52)  # T, and what float64 may have lost of it
    return np.asarray(total * relative + (inner * 2.0**-149 if relative else 0.0))


@np.errstate(all="ignore")
def interval(
    a: ArrayLike, b: ArrayLike, accumulator: str | Accumulator, cast: Cast, factor: float = 1.0
) -> tuple[Float32, Float32]:
    """The least and the greatest value that a right implementation with this accumulator may return.

        low = cast(factor·(s − bound)),    high = cast(factor·(s + bound)),    s the exact sum

    Rounding is monotonic, so what lies between the ends before it lies between them after it.  An implementation may
    round its float32 sum times the factor once more to float32; the bound includes that.

    Args:
        a, b: operands, (…, M, K) and (…, K, N).
        accumulator: the model, or its name.
        cast: to the format of the output, nearest.
        factor: multiplies the sum; 2^-300 ≤ |factor| ≤ 2^300.

    Returns:
        (low, high), float32 (…, M, N); the same for "exact".  An end that overflowed to NaN stands for "anything
        beyond": see ``inside``.

    Raises:
        ArgumentError: no such accumulator, a stochastic cast, or a factor out of range.
    """
    accumulator = get_accumulator(accumulator)
    check_deterministic("accumulators.interval", cast)
    factor = check_factor("accumulators.interval", factor)
    if accumulator.relative(1) == 0:
        y = matmul(a, b, cast, factor)
        return y, y
    x, w = as_operands("accumulators.interval", a, b)
    total = np.asarray(x @ w)
    inexact = (np.abs(x) @ np.abs(w)) * ((x.shape[-1] + 8) * 2.0**-52)
    error = (bound(a, b, accumulator) + inexact) * abs(factor)
    middle = total * factor
    error += (np.abs(middle) + error) * (4 * _U) + 2.0**-148
    return cast(middle - error), cast(middle + error)


def inside(y: NDArray[Any], low: NDArray[Any], high: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether low ≤ y ≤ high; NaN is inside where an end is NaN, and everything finite beyond the other end is, too."""
    above = (y >= low) | np.isnan(low)
    below = (y <= high) | np.isnan(high)
    some = np.isnan(low) | np.isnan(high)
    return np.asarray(np.where(np.isnan(y), some, above & below))


def _gamma(n: int) -> float:
    if n * _U >= 0.5:
        raise ArgumentError(f"accumulators: a float32 sum of {n} terms has no useful bound, expected fewer than 2^23")
    return n * _U / (1 - n * _U)
