"""Correctly rounded matrix products: the real number, times a factor, rounded once.

    y_ij = round(factor · Σ_k a_ik · b_kj)

A start value c_ij is one more product, c_ij · 1.

One float64 product c suffices for nearly all elements. Either it is exact, because every partial sum is an integer
below 2^53 in units of the smallest product; or its error, in any order of summation, is at most

    |c_ij − Σ_k a_ik b_kj|  ≤  (K + 4) · 2^-53 · ‖a_i‖ · ‖b_j‖

and an element whose distance from all ties and values of the format is larger is rounded correctly. The few others are
summed without error, from their products. If they are many (cancellation), all elements are: the operands are divided
into slices so short that products of slices are exact. The result does not depend on the method.

Sources: Higham, *Accuracy and Stability of Numerical Algorithms*, section 3.1 (the bound); Ozaki, Ogita, Oishi and Rump
2012, "Error-free transformations of matrix multiplication by using fast routines" (the slices).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refscale.arguments import number
from refscale.arrays import plain
from refscale.errors import ArgumentError, CarrierError, ShapeError
from refscale.exact import errorfree
from refscale.exact.errorfree import Float64
from refscale.formats import Cast

Float32 = NDArray[np.float32]

_BLOCK = 1 << 16  # outputs per pass: buffers that stay in cache
_GATHER = 1 << 20  # products per pass, where single outputs are summed anew
_MANY = 0.02  # share of doubtful outputs from which on slicing all is faster
_LEAST = 2.0**-200  # so that float64 holds every error of every product
_LEAST_FACTOR = 2.0**-300  # and of every product times the factor; the product of two float32 is within the range


@np.errstate(all="ignore")  # infinities and NaN, signaling ones too, have their rules
def matmul(a: ArrayLike, b: ArrayLike, cast: Cast, factor: float = 1.0, c: ArrayLike | None = None) -> Float32:
    """Compute a matrix product, each output the real number rounded once.

        y_ij = cast(factor · (c_ij + Σ_k a_ik · b_kj))

    Args:
        a: (…, M, K), float16, bfloat16, float32 or float64, finite or not; float64 of magnitude 0 or 2^-200 to 2^200.
        b: (…, K, N); leading axes broadcast.
        cast: a deterministic cast to any format, with either overflow rule.
        factor: factor of the sum, applied before rounding, 2^-300 ≤ |factor| ≤ 2^300.
        c: start values of the sums, float16, bfloat16 or float32 (…, M, N); None: 0.

    Returns:
        float32 (…, M, N). A sum that is exactly zero, or has no terms, is +0. Infinities and NaN follow IEEE 754
        product by product: inf · 0 and inf − inf are NaN.

    Raises:
        ShapeError: the shapes do not fit.
        CarrierError: an operand is not an array of such floats.
        ArgumentError: the cast is stochastic, or a value or factor is outside its range.
        FormatError: a result is NaN, and the format has none.
    """
    check_deterministic("exact.matmul", cast)
    a64, b64 = as_operands("exact.matmul", a, b)
    factor = check_factor("exact.matmul", factor)
    y = np.empty(_shape(a64, b64), np.float32)
    start = None if c is None else start_values("exact.matmul", c, y.shape)
    for index in np.ndindex(y.shape[:-2]):
        left, right = _matrices(a64, b64, index, y.shape[:-2])
        if start is None:
            _multiply(left, right, cast, factor, y[index])
        else:
            _multiply_from(start[index], left, right, cast, factor, y[index])
    return y


@np.errstate(all="ignore")
def matmul_float64(a: ArrayLike, b: ArrayLike, factor: float = 1.0) -> Float64:
    """Compute a matrix product rounded once to nearest float64, for further computation; see ``matmul``."""
    a64, b64 = as_operands("exact.matmul_float64", a, b)
    factor = check_factor("exact.matmul_float64", factor)
    y = np.empty(_shape(a64, b64))
    for index in np.ndindex(y.shape[:-2]):
        left, right = _matrices(a64, b64, index, y.shape[:-2])
        left, right, special = _without_specials(left, right, factor)
        if _is_exact(left, right):
            y[index] = (left @ right) * factor
        else:
            y[index] = errorfree.nearest(_parts(left, right, factor))
        if special is not None:
            np.copyto(y[index], special, where=special != 0)
    y += 0.0  # −0 + 0 = +0
    return y


def as_operands(call: str, a: ArrayLike, b: ArrayLike) -> tuple[Float64, Float64]:
    """Check two operands, and return them as float64; errors name ``call``."""
    a, b = plain(call, "a", a), plain(call, "b", b)
    for name, x in (("a", a), ("b", b)):
        if x.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
            raise CarrierError(f"{call}: {name} is {x.dtype}, expected float16, bfloat16, float32 or float64")
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise ShapeError(f"{call}: a {a.shape} and b {b.shape}, expected (…, M, K) and (…, K, N)")
    try:
        np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        raise ShapeError(f"{call}: leading axes of a {a.shape} and b {b.shape} do not broadcast") from None
    for name, x in (("a", a), ("b", b)):
        if x.dtype == np.float64:
            magnitude = np.abs(x[np.isfinite(x) & (x != 0)])
            if magnitude.size and not _LEAST <= magnitude.min() <= magnitude.max() <= 1 / _LEAST:
                raise ArgumentError(
                    f"{call}: {name} contains magnitudes from {magnitude.min()} to {magnitude.max()}, expected 0 or "
                    "2^-200 to 2^200"
                )
    return np.asarray(a, np.float64), np.asarray(b, np.float64)


def start_values(call: str, c: ArrayLike, shape: tuple[int, ...]) -> Float32:
    """Check start values of sums, and broadcast them to the shape of the sums; errors name ``call``.

    Raises:
        CarrierError: the dtype is not float16, bfloat16 or float32.
        ShapeError: the shape does not broadcast to that of the sums.
    """
    start = plain(call, "c", c)
    if start.dtype.name not in ("float16", "bfloat16", "float32"):
        raise CarrierError(f"{call}: c is {start.dtype}, expected float16, bfloat16 or float32")
    try:
        return np.array(np.broadcast_to(start, shape), np.float32)
    except ValueError:
        raise ShapeError(f"{call}: c {start.shape}, expected the shape of the sums, {shape}") from None


def check_factor(call: str, factor: float) -> float:
    """Check a factor, 2^-300 ≤ |factor| ≤ 2^300, and return it as a float."""
    factor = number(call, "factor", factor)
    if not _LEAST_FACTOR <= abs(factor) <= 1 / _LEAST_FACTOR:
        raise ArgumentError(f"{call}: factor is {factor}, expected a magnitude of 2^-300 to 2^300")
    return factor


def check_deterministic(call: str, cast: Cast) -> None:
    """Raise an error unless ``cast`` is a deterministic Cast."""
    if not isinstance(cast, Cast):
        raise ArgumentError(f"{call}: cast is {cast!r}, expected a Cast")
    if cast.rounding == "stochastic":
        raise ArgumentError(f"{call}(cast={cast}): expected a deterministic rounding")


def _shape(a: Float64, b: Float64) -> tuple[int, ...]:
    return (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])


def _matrices(a: Float64, b: Float64, index: tuple[int, ...], batch: tuple[int, ...]) -> tuple[Float64, Float64]:
    """The pair of matrices at one place of the leading axes."""
    left = np.broadcast_to(a, (*batch, *a.shape[-2:]))[index]
    right = np.broadcast_to(b, (*batch, *b.shape[-2:]))[index]
    return left, right


def _multiply(a: Float64, b: Float64, cast: Cast, factor: float, y: Float32) -> None:
    """One product of matrices, into y."""
    a, b, special = _without_specials(a, b, factor)
    doubtful = _round_if_certain(a @ b, cast, factor, _errors(a, b, factor), y)
    if doubtful.size > _MANY * y.size:
        y[...] = cast(errorfree.odd(_parts(a, b, factor)) + 0.0)  # a negative factor leaves −0
    elif doubtful.size:
        _sum_doubtful(a, b, cast, factor, doubtful, y)
    if special is not None:
        where = special != 0
        y[where] = cast(special[where])


def _multiply_from(c: Float32, a: Float64, b: Float64, cast: Cast, factor: float, y: Float32) -> None:
    """One product of matrices from start values, into y: for each row of a, 1·c is one more product."""
    for i in range(len(a)):
        row, columns = np.append(a[i], 1.0)[None], np.concatenate([b, c[i, None]])
        _multiply(row, columns, cast, factor, y[i, None])


# --- elements that the float64 product decides -----------------------------------------------------------------------


def _errors(a: Float64, b: Float64, factor: float) -> tuple[Float64, Float64] | None:
    """(u, v) with |factor| · |fl(a @ b) − a·b| ≤ u_i·v_j; None if the product is exact."""
    if _is_exact(a, b):
        return None
    # The norms err by about K·2^-53 themselves, and the bound is multiplied out in float64.
    inner = a.shape[1]
    slack = (inner + 4) * 2.0**-53 * (1 + (inner + 8) * 2.0**-51)
    row = np.sqrt(np.einsum("ik,ik->i", a, a)) * (slack * abs(factor))
    return row, np.sqrt(np.einsum("kj,kj->j", b, b))


def _is_exact(a: Float64, b: Float64) -> bool:
    """Return whether every partial sum, in every order, is a float64: K·max|a|·max|b| ≤ 2^53·grain(a)·grain(b)."""
    smaller, larger = sorted((a, b), key=lambda x: x.size)
    room = 2.0**53 / max(1, a.shape[1])
    return _steps(larger, room / _steps(smaller, room)) < math.inf


def _steps(x: Float64, most: float) -> float:
    """max|x|/g, for the largest power of two g that divides every element; 1 if x is 0, inf if more than ``most``."""
    top = max(float(x.max(initial=0.0)), -float(x.min(initial=0.0)))
    if top == 0 or most < 1:
        return 1.0 if most >= 1 else math.inf
    size, exponent = math.frexp(top)
    bits = min(62, math.frexp(most)[1])
    per_unit, together = math.ldexp(1.0, bits - exponent), 0  # every element is below 2^bits units
    flat = x.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        units = flat[start : start + _BLOCK] * per_unit
        whole = units.astype(np.int32 if bits < 32 else np.int64)
        if (whole != units).any():
            return math.inf
        together |= int(np.bitwise_or.reduce(whole))
    steps = math.ldexp(size, bits) / (together & -together)
    return steps if steps <= most else math.inf


def _round_if_certain(
    c: Float64, cast: Cast, factor: float, errors: tuple[Float64, Float64] | None, y: Float32
) -> NDArray[np.intp]:
    """Round factor·c into y; the flat positions of outputs that c's error leaves in doubt.

    An element is decided if both ends of its interval are rounded to the same bits.
    """
    relative = 0.0 if _is_power_of_two(factor) else 2.0**-52
    # A narrow format can be decided in float32, nearly always, at half the cost.
    coarse = errors is not None and cast.format.mantissa_bits <= 12 and all(map(_is_moderate, errors))
    doubtful: list[NDArray[np.intp]] = []
    size = max(1, _BLOCK // max(1, c.shape[1]))
    for start in range(0, len(c), size):
        part, out = c[start : start + size], y[start : start + size]
        if factor != 1:
            part *= factor
        if not coarse:
            part += 0.0  # −0, which BLAS may leave where all products are, + 0 = +0
        if errors is None and not relative:
            cast(part, out=out)
            continue
        row, column = errors or (np.zeros(len(c)), np.zeros(c.shape[1]))
        row = row[start : start + size]
        found = _ends_differ(*_ends32(part, row, column), cast, out) if coarse else np.arange(part.size)
        if found.size:
            i, j = np.divmod(found, c.shape[1])
            near = part[i, j] + 0.0 if coarse else part.reshape(-1)
            error = row[i] * column[j] if coarse else np.outer(row, column).reshape(-1)
            if relative:
                error += np.abs(near) * relative
            rounded = np.empty(near.shape, np.float32) if coarse else out.reshape(-1)
            still = _ends_differ(near - error, np.add(near, error, out=error), cast, rounded)
            if coarse:
                out[i, j] = rounded
            doubtful.append(found[still] + start * c.shape[1])
    return np.concatenate(doubtful) if doubtful else np.empty(0, np.intp)


def _is_moderate(x: Float64) -> bool:
    """Return whether float32 can hold every element, and products of two."""
    return bool(((x == 0) | ((x > 2.0**-60) & (x < 2.0**60))).all())


def _ends32(near: Float64, row: Float64, column: Float64) -> tuple[Float32, Float32]:
    """Both ends of the interval about ``near``, in float32, and wider by more than what that rounds away."""
    middle = near.astype(np.float32)  # infinite beyond float32, where an end stays in doubt
    error = np.abs(middle)
    error *= np.float32(2.0**-22)
    error += np.multiply.outer(row.astype(np.float32), column.astype(np.float32))
    error += np.float32(2.0**-126)
    return middle - error, np.add(middle, error, out=error)


def _ends_differ(low: NDArray[Any], high: NDArray[Any], cast: Cast, out: Float32) -> NDArray[np.intp]:
    """Round the upper ends into ``out``; the flat positions where the lower ends have other bits.

    Or where both overflow, on either side of zero, to the one NaN of a format without infinity; or where an end is no
    number any more, which directed roundings treat as no large number.
    """
    cast(high, out=out)
    differ = cast(low).view(np.uint32) != out.view(np.uint32)
    if not cast.format.has_inf and cast.overflow == "nonsaturate":
        differ |= np.isnan(out) & (low < 0) & (high > 0)
    if not (-math.inf < low.min(initial=0) and high.max(initial=0) < math.inf):
        differ |= ~(np.isfinite(low) & np.isfinite(high))
    return np.flatnonzero(differ)


# --- without error ----------------------------------------------------------------------------------------------------


def _sum_doubtful(a: Float64, b: Float64, cast: Cast, factor: float, doubtful: NDArray[np.intp], y: Float32) -> None:
    """Single outputs, each from its own K products."""
    some = max(1, _GATHER // a.shape[1])
    for start in range(0, doubtful.size, some):
        i, j = np.divmod(doubtful[start : start + some], y.shape[1])
        products, errors = errorfree.two_product(a[i], np.take(b, j, axis=1).T)
        if errors.any():  # operands of more than 26 bits
            products = np.concatenate([products, errors], axis=1)
        y[i, j] = cast(errorfree.odd(_times(errorfree.sum_rows(products), factor)) + 0.0)


def _parts(a: Float64, b: Float64, factor: float) -> list[Float64]:
    """All outputs times the factor, each as a sum of float64, from products of slices that are exact."""
    bits = int(53 - math.ceil(math.log2(max(1, a.shape[1])))) // 2
    rows, columns = _slices(a, bits), _slices(b.T, bits)
    return _times(errorfree.distill([left @ right.T for left in rows for right in columns]), factor)


def _slices(x: Float64, bits: int) -> list[Float64]:
    """Matrices that add up to x, each with rows of integers below 2^bits in units of its own."""
    rest = x.copy()
    found: list[Float64] = []
    while True:
        largest = np.abs(rest).max(-1, keepdims=True, initial=0.0)
        if not largest.any():
            return found or [rest]
        sigma = errorfree.power_above(largest) * 2.0 ** (53 - bits)
        upper = rest + sigma
        upper -= sigma
        found.append(upper)
        rest -= upper


def _is_power_of_two(factor: float) -> bool:
    return math.frexp(factor)[0] in (0.5, -0.5)


def _times(parts: list[Float64], factor: float) -> list[Float64]:
    """The parts of a sum, times a factor, without error."""
    if _is_power_of_two(factor):
        return [part * factor for part in parts]
    return [piece for part in parts for piece in errorfree.two_product(part, factor)]


# --- infinities and NaN -----------------------------------------------------------------------------------------------


def _without_specials(a: Float64, b: Float64, factor: float) -> tuple[Float64, Float64, Float64 | None]:
    """The finite elements of both, others 0; and the outputs that are ±inf or NaN, others 0 (None if none is)."""
    if np.isfinite(a).all() and np.isfinite(b).all():
        return a, b, None
    finite_a, finite_b = np.where(np.isfinite(a), a, 0.0), np.where(np.isfinite(b), b, 0.0)

    def pairs(left: NDArray[np.bool_], right: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return whether any k has left_ik and right_kj; a product of counts, which is exact."""
        return np.asarray(left.astype(np.float64) @ right.astype(np.float64) > 0)

    positive = negative = np.zeros((len(a), b.shape[1]), np.bool_)
    for sign in (1.0, -1.0):
        infinite_a, infinite_b = a == sign * np.inf, b == sign * np.inf
        positive = positive | pairs(infinite_a, sign * b > 0) | pairs(sign * a > 0, infinite_b)
        negative = negative | pairs(infinite_a, sign * b < 0) | pairs(sign * a < 0, infinite_b)
    every_a, every_b = np.ones_like(a, np.bool_), np.ones_like(b, np.bool_)
    invalid = pairs(np.isnan(a), every_b) | pairs(every_a, np.isnan(b))
    invalid |= pairs(np.isinf(a), b == 0) | pairs(a == 0, np.isinf(b)) | (positive & negative)
    special = np.where(positive, np.inf, np.where(negative, -np.inf, 0.0)) * math.copysign(1.0, factor)
    return finite_a, finite_b, np.where(invalid, np.nan, special)
