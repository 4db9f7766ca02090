"""sigmoid, softplus, silu, and gelu in its tanh form, from exp(−|x|) ≤ 1, which does not overflow."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from refscale.special.blocks import Array, Carrier, blocked


def _logistic(carrier: Carrier, x: Array, sigma: Array, decay: Array, total: Array) -> None:
    """decay = exp(−|x|), total = 1 + decay, sigma = 1/total where x ≥ 0 and decay/total elsewhere."""
    np.abs(x, out=decay)
    np.negative(decay, out=decay)
    carrier.elementary.exp(decay, out=decay)
    np.add(decay, 1, out=total)
    np.greater_equal(x, 0, out=sigma)
    np.maximum(sigma, decay, out=sigma)
    sigma /= total


def _sigmoid(carrier: Carrier, x: Array, results: tuple[Array, ...], buffers: tuple[Array, ...]) -> None:
    (y,), (decay, total) = results, buffers
    _logistic(carrier, x, y, decay, total)


def sigmoid(x: ArrayLike, factor: float = 1.0) -> Array:
    """Compute the logistic function, without overflow for any x.

        σ(x) = 1/(1 + exp(−x)) = exp(x)/(1 + exp(x))

    Args:
        x: float32 or float64, any shape, any value.
        factor: factor of the value, default 1.

    Returns:
        Array of the same shape and dtype, in [0, 1]; σ(−∞) = 0, σ(∞) = 1. Error at most 3.7 ulp in float32 and
        1.8 in float64.

    Raises:
        CarrierError: the dtype is not float32 or float64.

    Source:
        Definition; the second form for x < 0, so that the exponential never exceeds 1.
    """
    return blocked("sigmoid", _sigmoid, x, 1, 2, factor)[0]


def _softplus(carrier: Carrier, x: Array, results: tuple[Array, ...], buffers: tuple[Array, ...]) -> None:
    (y,), (decay,) = results, buffers
    np.abs(x, out=decay)
    np.negative(decay, out=decay)
    carrier.elementary.exp(decay, out=decay)
    carrier.elementary.log1p(decay, out=decay)
    np.maximum(x, 0, out=y)
    y += decay


def softplus(x: ArrayLike, factor: float = 1.0) -> Array:
    """Compute log(1 + exp(x)), without overflow for any x; its derivative is ``sigmoid``.

        softplus(x) = log(1 + exp(x)) = max(x, 0) + log1p(exp(−|x|))

    Args:
        x: float32 or float64, any shape, any value.
        factor: factor of the value, default 1.

    Returns:
        Array of the same shape and dtype, ≥ 0; 0 at −∞. Error at most 3.4 ulp in float32 and 1.3 in float64.

    Raises:
        CarrierError: the dtype is not float32 or float64.

    Source:
        Dugas et al. 2001, "Incorporating second-order functional knowledge for better option pricing".
    """
    return blocked("softplus", _softplus, x, 1, 1, factor)[0]


def _silu(carrier: Carrier, x: Array, results: tuple[Array, ...], buffers: tuple[Array, ...]) -> None:
    (value, derivative), (sigma, decay, total) = results, buffers
    _logistic(carrier, x, sigma, decay, total)
    # σ′ = σ(x)·σ(−x) = decay/total²: no 1 − σ, which cancels for large x.
    np.clip(x, -carrier.silu_end, carrier.silu_end, out=derivative)  # ∞·0 would be NaN
    derivative *= decay
    derivative /= total
    derivative /= total
    derivative += sigma
    np.clip(x, -carrier.silu_end, np.inf, out=value)
    value *= sigma


def silu(x: ArrayLike, factor: float = 1.0) -> tuple[Array, Array]:
    """Sigmoid linear unit (swish) and its derivative, in one pass.

        silu(x) = x·σ(x),    silu′(x) = σ(x) + x·σ(x)·σ(−x)

    Args:
        x: float32 or float64, any shape, any value.
        factor: factor of the value, default 1.

    Returns:
        (value, derivative), arrays of the same shape and dtype; silu(−0) = −0, and silu(−∞) = −0. Error of the value
        at most 4.6 ulp in float32 and 2.5 in float64; where exp(x) is subnormal (below −87 in float32, −708 in
        float64), |x|/2 spacings of the subnormals. Error of the derivative 7.5 ulp in float32 and 4.1 in float64,
        except 5 ulp of ⅛ between −3 and −0.4, where it passes through 0.

    Raises:
        CarrierError: the dtype is not float32 or float64.

    Source:
        Hendrycks and Gimpel 2016 (arXiv 1606.08415), section 2.
    """
    value, derivative = blocked("silu", _silu, x, 2, 3, factor)
    return value, derivative


_LINEAR = 2 * math.sqrt(2 / math.pi)
_CUBIC = _LINEAR * 0.044715


def _gelu_tanh(carrier: Carrier, x: Array, results: tuple[Array, ...], buffers: tuple[Array, ...]) -> None:
    (value, derivative), (clipped, square, sigma, decay, total) = results, buffers
    np.clip(x, -carrier.tanh_end, carrier.tanh_end, out=clipped)
    np.multiply(clipped, clipped, out=square)
    np.multiply(square, _CUBIC, out=value)
    value += _LINEAR
    value *= clipped  # 2u
    _logistic(carrier, value, sigma, decay, total)
    np.multiply(square, 3 * _CUBIC, out=derivative)
    derivative += _LINEAR
    derivative *= clipped
    derivative *= decay
    derivative /= total
    derivative /= total
    derivative += sigma
    np.clip(x, -carrier.tanh_end, np.inf, out=value)  # −∞·0 would be NaN
    value *= sigma


def gelu_tanh(x: ArrayLike, factor: float = 1.0) -> tuple[Array, Array]:
    """The tanh approximation of gelu and its derivative, in one pass.

        gelu(x) ≈ ½x·(1 + tanh u) = x·σ(2u),    u = √(2/π)·(x + 0.044715·x³)
        gelu′(x) ≈ σ(2u) + x·(2u)′·σ(2u)·σ(−2u)

    Args:
        x: float32 or float64, any shape, any value.
        factor: factor of the value, default 1.

    Returns:
        (value, derivative), arrays of the same shape and dtype; −0 and −∞ give −0. Error of the value at most 3.8 ulp
        in float32 and 2.6 in float64 for x ≥ −1; for smaller x up to 3·|2u| ulp, from the rounding of the exponent.
        Error of the derivative 5.9 ulp of max(|gelu′|, ⅛).

    Raises:
        CarrierError: the dtype is not float32 or float64.

    Source:
        Hendrycks and Gimpel 2016 (arXiv 1606.08415), section 2; ½(1 + tanh u) = σ(2u) does not cancel for u < 0.
    """
    value, derivative = blocked("gelu_tanh", _gelu_tanh, x, 2, 5, factor)
    return value, derivative


def _sigmoid_pair(carrier: Carrier, x: Array, results: tuple[Array, ...], buffers: tuple[Array, ...]) -> None:
    (y, derivative), (decay, total) = results, buffers
    _logistic(carrier, x, y, decay, total)
    np.divide(1, total, out=derivative)
    decay /= total
    derivative *= decay


def sigmoid_pair(x: ArrayLike, factor: float = 1.0) -> tuple[Array, Array]:
    """Compute ``sigmoid`` and its derivative σ(x)·σ(−x) in one pass, with the same bits as separately."""
    value, derivative = blocked("sigmoid", _sigmoid_pair, x, 2, 2, factor)
    return value, derivative


def _tanh_pair(carrier: Carrier, x: Array, results: tuple[Array, ...], buffers: tuple[Array, ...]) -> None:
    (value, derivative), (total,) = results, buffers
    np.tanh(x, out=value)
    np.abs(x, out=derivative)
    derivative *= -2
    np.exp(derivative, out=derivative)
    np.add(derivative, 1, out=total)
    total *= total
    derivative *= 4
    derivative /= total


def tanh_pair(x: ArrayLike, factor: float = 1.0) -> tuple[Array, Array]:
    """Compute tanh and its derivative 4e/(1 + e)² with e = exp(−2|x|), in one pass."""
    value, derivative = blocked("tanh", _tanh_pair, x, 2, 1, factor)
    return value, derivative
