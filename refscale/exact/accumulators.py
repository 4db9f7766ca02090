"""Accumulators: models of the sums that hardware computes in place of the exact ones.

===================  =================================================================================================
name                 the sum of K products
===================  =================================================================================================
``exact``            the real number
``float32``          float32, in the order of the index: s ← fl(s + fl(a_k·b_k)), from +0
``float32:P``        blocks of P products as ``float32``, then promoted: block sums added in order to a second float32
``rounded:B``        B products and the sum so far are added exactly and rounded once to float32, to nearest;
                     ``rounded:1`` is a chain of fused multiply-adds
``truncated:N:B``    a tensor core: B products at a time, with the sum so far, are aligned to the largest exponent among
                     them (of a product: e(a) + e(b)), cut to multiples of 2^(e_max − N), toward zero, and added
                     exactly; the sum is cut to N + 1 significant bits, at most float32's 24
``truncated:N:B:P``  blocks of P products as ``truncated:N:B``, then promoted
``GPU:FORMAT``       the matrix unit of a GPU, such as ``h100:bf16``: one of the above, from the table of ``hardware``
``any-order``        float32 in an undefined order and blocking, fused or not, as in a BLAS; it has a bound, but no bits
===================  =================================================================================================

Two options of ``truncated``, after its numbers, describe tiny products:

* ``:floor=E``: e_max is at least E, so that bits below 2^(E − N) are dropped;
* ``:emin=E`` (or ``:emin=E/F``, of a and of b): the exponent of a subnormal operand is that of its format's smallest
  normal number, E, and of a subnormal sum −126: exponents are read from the encodings.

A sum may start from a given c in place of 0: D = A·B + C. Truncated sums overflow to infinity, as in the models of
MATLAB-tensor-core and MMA-Sim. An H200 (and so a Hopper) sums FP8 as ``truncated:13:32``, with PyTorch's
``use_fast_accum=False`` as ``truncated:13:32:128``, FP16 and BF16 as ``truncated:25:16``: every bit, on sums of up to
256 terms that are up to 2^30 apart (python -m tests.which_accumulator).

Sources: DeepSeek-V3 (arXiv 2412.19437), section 3.3.2, for promotion at 128 and the 14 bits of FP8 tensor cores; Fasi
et al. 2021, "Numerical behavior of NVIDIA tensor cores", for alignment and truncation; MATLAB-tensor-core
(north-numerical-computing, issues 2 and 7) for the floor; MMA-Sim (arXiv 2511.10909) for emin; sizes by experiment.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refscale.arguments import integer
from refscale.errors import ArgumentError
from refscale.exact import errorfree
from refscale.exact.errorfree import Float64
from refscale.exact.hardware import find_hardware
from refscale.exact.product import as_operands, start_values

Float32 = NDArray[np.float32]

_U = 2.0**-24
_EMIN = -126
"""Smallest exponent of a normal float32."""
_LOWEST = -402
"""Below the exponent of every product of operands that ``as_operands`` admits."""
_ROOM = 1 << 20
"""Numbers in the largest temporary array of ``Rounded``."""

ACCUMULATORS = ("exact", "float32", "float32:128", "rounded:1", "truncated:13:32", "truncated:13:32:128", "any-order")
"""Names of accumulators, with typical sizes."""


@runtime_checkable
class Accumulator(Protocol):
    """The interface of a model of the sums of a matrix product."""

    @property
    def name(self) -> str:
        """Name of the model, an argument of ``get_accumulator``."""

    def matmul(self, a: ArrayLike, b: ArrayLike, c: ArrayLike | None = None) -> Float32:
        """Compute the sums of a (…, M, K) and b (…, K, N), float32 (…, M, N), before any factor and cast.

        Args:
            a, b: operands, of at most 26 significant bits.
            c: start values, float32 (…, M, N); None: +0.

        Raises:
            ArgumentError: the model does not define an order, or its sums are not float32.
            ShapeError: the shapes do not fit, or c does not broadcast to the shape of the sums.
        """

    def relative(self, inner: int) -> float:
        """Return the error bound for K = ``inner`` products, as a multiple of T = Σ |a_k·b_k|."""


@dataclass(frozen=True)
class Exact:
    """The exact sum, a real number."""

    name: str = "exact"

    def matmul(self, a: ArrayLike, b: ArrayLike, c: ArrayLike | None = None) -> Float32:
        """Raise ArgumentError: an exact sum is not a float32."""
        raise ArgumentError("accumulator 'exact' has no float32 sums; exact.matmul rounds to the format of the output")

    def relative(self, inner: int) -> float:
        """Return 0."""
        return 0.0


@dataclass(frozen=True)
class AnyOrder:
    """A float32 sum in an undefined order."""

    name: str = "any-order"

    def matmul(self, a: ArrayLike, b: ArrayLike, c: ArrayLike | None = None) -> Float32:
        """Raise ArgumentError: the bits of the sum are undefined."""
        raise ArgumentError("accumulator 'any-order' does not define its sums, only a bound of their errors")

    def relative(self, inner: int) -> float:
        """Return γ_n for n = K + 1."""
        return gamma(inner + 1)


@dataclass(frozen=True)
class InOrder:
    """A float32 sum in the order of the index, in blocks.

    Attributes:
        block: products per block; 0: one block of all products.

    Raises:
        ArgumentError: ``block`` is not an integer ≥ 0.
    """

    block: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "block", integer("InOrder", "block", self.block, 0))

    @property
    def name(self) -> str:
        """Name of the model, ``float32`` or ``float32:B``."""
        return f"float32:{self.block}" if self.block else "float32"

    @np.errstate(all="ignore")
    def matmul(self, a: ArrayLike, b: ArrayLike, c: ArrayLike | None = None) -> Float32:
        """Compute sums of float32 operands; a product is rounded before it is added (exact for 12 bits each).

        A start value is added first, or, with blocks, before the first block sum.
        """
        x, y, total = _operands(self.name, a, b, c)
        rows, columns = _by_product(np.asarray(x, np.float32), np.asarray(y, np.float32))
        inner = len(rows)
        for start in range(0, inner, self.block or max(1, inner)):
            part = np.zeros_like(total) if self.block else total
            for k in range(start, min(start + (self.block or inner), inner)):
                part += rows[k] * columns[k]
            total = total + part if self.block else part
        return total

    def relative(self, inner: int) -> float:
        """Return γ_n, n the largest number of roundings of a term."""
        blocks = math.ceil(inner / self.block) if self.block else 0
        return gamma(min(inner, self.block or inner) + blocks + 1)


@dataclass(frozen=True)
class Rounded:
    """A sum that adds the products of a block and the previous sum exactly, and rounds once.

    Attributes:
        block: products per block, 1 to 2^10.

    Raises:
        ArgumentError: ``block`` is not an integer, or out of range.
    """

    block: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "block", integer("Rounded", "block", self.block, 1, 1024))

    @property
    def name(self) -> str:
        """Name of the model, ``rounded:B``."""
        return f"rounded:{self.block}"

    @np.errstate(all="ignore")
    def matmul(self, a: ArrayLike, b: ArrayLike, c: ArrayLike | None = None) -> Float32:
        """Compute sums in float32; each is first rounded to odd in float64, which does not change the result."""
        x, y, total = _operands(self.name, a, b, c)
        if self.block == 1:
            return self._fused(x, y, total)
        lead = total.shape[:-2]
        some = max(1, _ROOM // ((self.block + 1) * total.shape[-1] or 1))
        for index in np.ndindex(lead):
            left = np.broadcast_to(x, (*lead, *x.shape[-2:]))[index]
            right = np.broadcast_to(y, (*lead, *y.shape[-2:]))[index]
            for first in range(0, len(left), some):
                rows = slice(first, first + some)
                total[index][rows] = self._sum(left[rows], right, total[index][rows])
        return total

    def _fused(self, x: Float64, y: Float64, total: Float32) -> Float32:
        """One product at a time."""
        rows, columns = _by_product(x, y)
        for k in range(len(rows)):
            product = rows[k] * columns[k]
            near, error = errorfree.two_sum(total.astype(np.float64), product)
            between = np.isfinite(near) & (error != 0) & (near.view(np.int64) & 1 == 0)
            np.copyto(near, np.nextafter(near, np.where(error > 0, np.inf, -np.inf)), where=between)  # to odd
            total = near.astype(np.float32)
        return total

    def _sum(self, x: Float64, y: Float64, total: Float32) -> Float32:
        """Some rows, a block at a time."""
        for start in range(0, x.shape[-1], self.block):
            ks = slice(start, start + self.block)
            products = x[:, None, ks] * y.T[None, :, ks]
            terms = np.concatenate([total[..., None].astype(np.float64), products], -1)
            plain_sum = terms.sum(-1)  # infinities and NaN
            finite = np.isfinite(plain_sum)
            odd = errorfree.odd(errorfree.sum_rows(np.where(finite[..., None], terms, 0.0)))
            total = np.where(finite, odd, plain_sum).astype(np.float32)
        return total

    def relative(self, inner: int) -> float:
        """Return γ_n, n the number of blocks."""
        return gamma(math.ceil(inner / self.block))


@dataclass(frozen=True)
class Truncated:
    """A sum whose terms are aligned to the largest exponent of a block and truncated, as on tensor cores.

    Attributes:
        bits: N, number of bits kept below the largest exponent, 4 to 40.
        block: products per block, 1 to 2^10.
        promoted: number of products after which the sum is added to a second float32; 0: never.
        floor: smallest alignment exponent, −300 to 127; None: no limit.
        emin: smallest exponents of the formats of a and b, −149 to 127 each, or one for both; None: a subnormal operand
            or sum has the exponent of its value.

    Raises:
        ArgumentError: a size is not an integer, or out of range.
    """

    bits: int = 13
    block: int = 32
    promoted: int = 0
    floor: int | None = None
    emin: tuple[int, int] | int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", integer("Truncated", "bits", self.bits, 4, 40))
        object.__setattr__(self, "block", integer("Truncated", "block", self.block, 1, 1024))
        object.__setattr__(self, "promoted", integer("Truncated", "promoted", self.promoted, 0))
        if self.floor is not None:
            object.__setattr__(self, "floor", integer("Truncated", "floor", self.floor, -300, 127))
        if self.emin is not None:
            both = self.emin if isinstance(self.emin, tuple) else (self.emin, self.emin)
            if len(both) != 2:
                raise ArgumentError(f"Truncated: emin is {self.emin}, expected one integer or two")
            object.__setattr__(self, "emin", tuple(integer("Truncated", "emin", e, -149, 127) for e in both))

    @property
    def name(self) -> str:
        """Name of the model, ``truncated:N:B`` or ``truncated:N:B:P``, then the options."""
        options = [f":{self.promoted}"] if self.promoted else []
        if self.floor is not None:
            options.append(f":floor={self.floor}")
        if isinstance(self.emin, tuple):
            options.append(":emin=" + "/".join(map(str, dict.fromkeys(self.emin))))
        return f"truncated:{self.bits}:{self.block}" + "".join(options)

    @property
    def significant(self) -> int:
        """Number of significant bits of a sum."""
        return min(self.bits + 1, 24)

    @np.errstate(all="ignore")
    def matmul(self, a: ArrayLike, b: ArrayLike, c: ArrayLike | None = None) -> Float32:
        """Compute sums in float32; in float64 every step except truncation is exact.

        A start value is aligned with the first block; with promotion the second float32 starts from it.
        """
        x, y, total = _operands(self.name, a, b, c)
        inner = x.shape[-1]
        if not self.promoted:
            return self._sum(x, y, total)
        for s in range(0, inner, self.promoted):
            part = slice(s, s + self.promoted)
            total = total + self._sum(x[..., part], y[..., part, :], np.zeros_like(total))
        return total

    def _sum(self, x: Float64, y: Float64, start: Float32) -> Float32:
        """Sums without promotion."""
        rows, columns = _by_product(x, y)
        left, right = self.emin if isinstance(self.emin, tuple) else (None, None)
        row_exponents, column_exponents = _exponents(rows, left), _exponents(columns, right)
        lowest = _LOWEST if self.floor is None else self.floor
        total, product = start.astype(np.float64), np.empty(start.shape)
        of_product = np.empty(start.shape, np.int32)
        for first in range(0, len(rows), self.block):
            ks = range(first, min(first + self.block, len(rows)))
            exponent = np.maximum(_exponents(total, None if left is None else _EMIN), lowest)
            for k in ks:
                np.add(row_exponents[k], column_exponents[k], out=of_product)
                np.maximum(exponent, of_product, out=exponent)
            units = np.ldexp(1.0, self.bits - exponent)  # in one
            whole = np.trunc(total * units) + 0.0
            for k in ks:
                np.multiply(rows[k], columns[k], out=product)
                product *= units
                whole += np.trunc(product, out=product)
            total = _cut(whole / units, self.significant)
        return total.astype(np.float32)

    def relative(self, inner: int) -> float:
        """Return the bound of the truncations of all blocks and the roundings of promoted sums."""
        part = min(inner, self.promoted or inner)
        terms = min(part, self.block) + 1
        cuts = math.ceil(part / self.block) * (terms * 2.0**-self.bits + 2.0 ** (1 - self.significant))
        return cuts + gamma(math.ceil(inner / self.promoted)) * (1 + cuts) if self.promoted else cuts


def _operands(name: str, a: ArrayLike, b: ArrayLike, c: ArrayLike | None) -> tuple[Float64, Float64, Float32]:
    """Both operands, and a new array of start values in the shape of the sums."""
    call = f"accumulator {name}"
    x, y = as_operands(call, a, b)
    shape = (*np.broadcast_shapes(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-1])
    if c is None:
        return x, y, np.zeros(shape, np.float32)
    return x, y, start_values(call, c, shape)


def _by_product(x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows (K, …, M, 1) and columns (K, …, 1, N): the k-th of both multiply to the k-th product of every sum."""
    rows = np.ascontiguousarray(np.moveaxis(x, -1, 0))[..., None]
    columns = np.ascontiguousarray(np.moveaxis(y, -2, 0))[..., None, :]
    return rows, columns


def _exponents(x: Float64, least: int | None = None) -> NDArray[np.int32]:
    """e where 2^e ≤ |x| < 2^(e + 1), at least ``least``; of zero and non-finite numbers less than of any product."""
    exponent = np.frexp(x)[1] - 1
    if least is not None:
        exponent = np.maximum(exponent, least)
    return np.asarray(np.where((x == 0) | ~np.isfinite(x), 2 * _LOWEST - 200, exponent), np.int32)


def _cut(x: Float64, bits: int) -> Float64:
    """Truncate to a number of significant bits, at most those of float32; beyond its largest value, to infinity."""
    grain = np.ldexp(1.0, np.maximum(np.frexp(x)[1] - bits, -149))
    cut = np.trunc(x / grain) * grain
    return np.asarray(np.where(np.abs(cut) >= 2.0**128, np.copysign(np.inf, cut), cut))


def get_accumulator(name: str | Accumulator) -> Accumulator:
    """Return the model of a name in the table of this module; a model is returned unchanged.

    Raises:
        ArgumentError: the name is unknown, or a size is out of range.
    """
    if isinstance(name, Accumulator):
        return name
    text = name if isinstance(name, str) else ""
    if hardware := find_hardware(text):
        return get_accumulator(hardware.model)
    kind, *words = text.split(":")
    try:
        options = _options(words)
        match kind, [int(w) for w in words if "=" not in w]:
            case "exact", [] if not options:
                return Exact()
            case "any-order", [] if not options:
                return AnyOrder()
            case "float32", [] if not options:
                return InOrder()
            case "float32", [block] if block and not options:
                return InOrder(block)
            case "rounded", [block] if not options:
                return Rounded(block)
            case "truncated", [bits]:
                return Truncated(bits, **options)
            case "truncated", [bits, block]:
                return Truncated(bits, block, **options)
            case "truncated", [bits, block, promoted] if promoted:
                return Truncated(bits, block, promoted, **options)
    except ValueError:  # no integer, or out of range: ArgumentError is one
        pass
    raise ArgumentError(
        f"get_accumulator({name!r}): expected exact, any-order, float32, float32:P, rounded:B, truncated:N:B or "
        "truncated:N:B:P (4 ≤ N ≤ 40, 1 ≤ B ≤ 1024, P ≥ 1), then :floor=E and :emin=E, or GPU:FORMAT, such as h100:bf16"
    )


def _options(words: list[str]) -> dict[str, Any]:
    """``floor=E`` and ``emin=E`` or ``emin=E/F``, last and once each.

    Raises:
        ValueError: anything else with an equals sign.
    """
    first = next((i for i, w in enumerate(words) if "=" in w), len(words))
    found: dict[str, Any] = {}
    for word in words[first:]:
        option = re.fullmatch(r"(floor)=(-?[0-9]+)|(emin)=(-?[0-9]+)(?:/(-?[0-9]+))?", word)
        if option is None or (option[1] or option[3]) in found:
            raise ValueError(word)
        if option[1]:
            found["floor"] = int(option[2])
        else:
            found["emin"] = int(option[4]), int(option[5] or option[4])
    return found


def gamma(n: int) -> float:
    """Compute γ_n = n·u/(1 − n·u), u = 2^-24.

    Raises:
        ArgumentError: n·u ≥ ½, too many terms for a useful bound.
    """
    if n * _U >= 0.5:
        raise ArgumentError(f"accumulators: a float32 sum of {n} terms has no useful bound, expected fewer than 2^23")
    return n * _U / (1 - n * _U)
