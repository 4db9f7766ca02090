"""erf, the Gaussian tail, and gelu."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from refscale.arrays import plain
from refscale.special.blocks import Array, Carrier, blocked, constant, quotient, reflect
from refscale.special.fits import TAIL32_NEAR


def _bell(carrier: Carrier, a: Array, out: Array, head: Array, rest: Array) -> None:
    """exp(−a²/2), relatively accurate.

    Rounding a² by ½ ulp moves the result by up to a²/2 ulp. So its rounding error, a² − fl(a²), is found by splitting
    a = h + l with h² exact, and put back to first order (it is at most 2⁻¹⁷, its square far below a rounding):

        a² − fl(a²) = (h² − fl(a²)) + l·(a + h)
    """
    np.bitwise_and(a.view(carrier.bits), carrier.head, out=head.view(carrier.bits))
    np.subtract(a, head, out=rest)
    np.add(a, head, out=out)
    rest *= out
    np.multiply(a, a, out=out)
    head *= head
    head -= out
    rest += head
    rest *= -0.5
    out *= -0.5
    carrier.elementary.exp(out, out=out)
    rest *= out
    out += rest


def _tail(carrier: Carrier, x: Array, a: Array, bell: Array, ratio: Array, head: Array, rest: Array) -> None:
    """a = min(|x|, end), bell = exp(−a²/2) and ratio = R(a); ``head`` and ``rest`` are buffers."""
    np.abs(x, out=a)
    np.clip(a, 0, carrier.tail_end, out=a)
    _bell(carrier, a, bell, head, rest)
    quotient(carrier.tail, a, ratio, head)


def _erf(carrier: Carrier, x: Array, results: tuple[Array, ...], buffers: tuple[Array, ...]) -> None:
    (y,), (clipped, square, buffer) = results, buffers
    np.clip(x, -carrier.erf_end, carrier.erf_end, out=clipped)
    np.multiply(clipped, clipped, out=square)
    quotient(carrier.erf, square, y, buffer)
    y *= clipped
    np.clip(y, -1, 1, out=y)


def erf(x: ArrayLike) -> Array:
    """Error function.

        erf(x) = 2/√π ∫₀ˣ exp(−t²) dt = x·P(x²)/Q(x²)

    Args:
        x: float32 or float64, any shape, any value.

    Returns:
        Array of the same shape and dtype, in [−1, 1]; erf(±0) = ±0, erf(±∞) = ±1. Error at most 6.7 ulp in float32
        and 8.2 in float64.

    Raises:
        CarrierError: the dtype is not float32 or float64.

    Source:
        Definition: NIST Handbook of Mathematical Functions, 7.2.1. Fits: ``tests/fit_special.py``.
    """
    return blocked("erf", _erf, x, 1, 3)[0]


def _gaussian_tail(carrier: Carrier, x: Array, results: tuple[Array, ...], buffers: tuple[Array, ...]) -> None:
    (y,), (a, bell, ratio, head, step) = results, buffers
    _tail(carrier, x, a, bell, ratio, head, step)
    np.less(x, 0, out=step)
    ratio *= bell
    reflect(step, ratio, y, head)


def gaussian_tail(a: ArrayLike) -> Array:
    """Compute the probability that a standard normal variable exceeds ``a``, relatively accurate in the tail.

        1 − Φ(a) = ½·erfc(a/√2) = exp(−a²/2)·R(a),    1 − Φ(−a) = 1 − (1 − Φ(a))

    Args:
        a: float32 or float64, any shape; also negative.

    Returns:
        Array of the same shape and dtype, in [0, 1]; ½ at 0, 0 at ∞, 1 at −∞. Error at most 7.8 ulp in float32 and
        6.6 in float64 for normal results, and one spacing for subnormal ones.

    Raises:
        CarrierError: the dtype is not float32 or float64.

    Source:
        Abramowitz and Stegun, 26.2.3 and 26.2.12 (R is Mills' ratio over √(2π)). Fits: ``tests/fit_special.py``.
    """
    return blocked("gaussian_tail", _gaussian_tail, a, 1, 5)[0]


def _gelu_erf(carrier: Carrier, x: Array, results: tuple[Array, ...], buffers: tuple[Array, ...]) -> None:
    (value, derivative), (a, bell, ratio, head, slope) = results, buffers
    _tail(carrier, x, a, bell, ratio, head, slope)
    # For x < 0, Φ(x) + x·φ(x) = exp(−a²/2)·(R(a) − a/√(2π)); for x > 0, 1 minus that.
    np.multiply(a, -1 / math.sqrt(2 * math.pi), out=slope)
    slope += ratio
    slope *= bell
    # The bell last: where it is subnormal, a product with it has lost digits that a factor a would magnify.
    ratio *= a
    ratio *= bell
    step = np.greater_equal(x, 0, out=bell)
    reflect(step, slope, derivative, head)
    np.clip(x, -carrier.tail_end, np.inf, out=value)  # −∞·0 would be NaN
    value *= step
    value -= ratio


_NEAR = -math.sqrt(8)
"""For larger x the rounding of x² changes exp(−x²/2) by at most two ulp: the error of a² < 8 is at most 2^-22."""


def _gelu_erf_near(carrier: Carrier, x: Array, results: tuple[Array, ...], buffers: tuple[Array, ...]) -> None:
    """x·Φ(x) and Φ(x) + x·φ(x) with Φ(x) = |step − tail|, in float32 and for x ≥ ``_NEAR``."""
    (value, derivative), (clipped, bell, phi, step) = results, buffers
    np.clip(x, _NEAR, carrier.tail_end, out=clipped)
    np.multiply(clipped, clipped, out=bell)
    bell *= constant(-0.5, x.dtype)
    np.exp(bell, out=bell)
    np.abs(clipped, out=value)
    quotient(TAIL32_NEAR, value, phi, step)
    phi *= bell
    # 1.0 where the sign bit is 0: from the bits, which is faster than a comparison that is converted.
    bits = step.view(np.uint32)
    np.right_shift(x.view(np.uint32), _SIGN_TO_ONE, out=bits)
    bits -= _ONE
    bits &= _BITS_OF_ONE
    np.subtract(step, phi, out=phi)
    np.abs(phi, out=phi)
    np.multiply(x, phi, out=value)
    bell *= constant(1 / math.sqrt(2 * math.pi), x.dtype)
    bell *= clipped
    np.add(phi, bell, out=derivative)


_SIGN_TO_ONE, _ONE, _BITS_OF_ONE = (np.array(n, np.uint32) for n in (31, 1, 0x3F800000))


def gelu_erf(x: ArrayLike, factor: float = 1.0) -> tuple[Array, Array]:
    """Gaussian error linear unit and its derivative, in one pass.

        gelu(x) = x·Φ(x) = max(x, 0) − |x|·(1 − Φ(|x|)),    gelu′(x) = Φ(x) + x·φ(x)

    Args:
        x: float32 or float64, any shape, any value.
        factor: factor of the value, default 1.

    Returns:
        (value, derivative), arrays of the same shape and dtype; gelu(−0) = −0, and gelu(−∞) = −0. Error of the value
        at most 8.1 ulp in float32 and 7.1 in float64, including the negative tail; of the derivative 7.9 and 7.6,
        except 6.4 ulp of ⅛ between −1.5 and −0.4, where it passes through 0.

    Raises:
        CarrierError: the dtype is not float32 or float64.

    Source:
        Hendrycks and Gimpel 2016 (arXiv 1606.08415), section 2. Fits: ``tests/fit_special.py``.
    """
    flat = plain("gelu_erf", "argument", x).reshape(-1)
    if flat.dtype != np.float32 or hasattr(x, "elementary"):
        value, derivative = blocked("gelu_erf", _gelu_erf, x, 2, 5, factor)
        return value, derivative
    value, derivative = blocked("gelu_erf", _gelu_erf_near, x, 2, 4, factor)
    far = np.flatnonzero(flat < constant(_NEAR, flat.dtype))  # of a normal variable, 1 in 430
    if far.size:
        parts = blocked("gelu_erf", _gelu_erf, flat[far], 2, 5, factor)
        value.reshape(-1)[far], derivative.reshape(-1)[far] = parts
    return value, derivative
