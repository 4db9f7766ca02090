"""Correctly rounded functions of one number.

    y = round(f(x)),    y = round(f′(x)),    the real number, rounded once

A float64 evaluation from basic operations suffices for nearly all x. Its error is a few ulp, which gives an interval
around the real number; if both ends are rounded to the same bits, these are the result. Two cases need more:

1. f(x) = x·(1 ∓ ε) with ε below 2^-53, as gelu for large x. The float64 result is x, which may be a tie or, in a
   directed rounding, a value of the format. But the side of the real number is known: f(x) < x. Such strict bounds
   (tanh between 0 and 1, softplus above x, …) limit the interval: a result equal to a bound is moved by one ulp.
2. An interval that contains a tie: 1 in 10^6 for float32 results, never observed for narrower ones. Such an element is
   evaluated to 800 digits, in decimal arithmetic, which is the same on every machine.

Every deterministic rounding is therefore correct, for any format and input. The tests compare all 24 functions at all
float16 inputs, in every format, with 240-bit arithmetic.

Source: Ziv 1991, "Fast evaluation of elementary mathematical functions with correctly rounded last bit".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refscale import special
from refscale.arguments import flag
from refscale.arrays import plain
from refscale.errors import ArgumentError, CarrierError
from refscale.exact import digits
from refscale.exact.errorfree import Float64
from refscale.exact.product import check_deterministic
from refscale.formats import Cast
from refscale.special import elementary
from refscale.special.elementary import BASIC, Elementary

Evaluation = Callable[[Float64], Float64]
Bounds = Callable[[Float64], tuple[Float64, Float64]]

_ULP = 2.0**-52
_ERROR = 32  # ulp that a float64 evaluation may err by; the tests find 8 at most
_NOTHING = 2.0**-1000  # far below half of any format's smallest value
_FAR = 40.0  # x·(1 ∓ ε) from here on: ε < exp(−40) < 2^-57


def _everywhere_inexact(x: Float64) -> NDArray[np.bool_]:
    return np.zeros(x.shape, np.bool_)


def _relative(x: Float64, y: Float64) -> Float64:
    return _ERROR * _ULP * np.abs(y)


@dataclass(frozen=True)
class Curve:
    """A float64 evaluation of a function, with bounds of its real values.

    Calling it with a float64 array returns f(x) to a few ulp, on the correct side of every bound.

    Attributes:
        near: float64 evaluation from basic operations.
        digits: evaluation to 800 digits.
        bounds: (low, high) with low < f(x) < high, strictly, if f(x) is finite and not ``exact``.
        exact: function of x: True where ``near`` is the real number, or at a pole.
        error: bound of |near(x) − f(x)| as a function of x and y = near(x).
    """

    near: Evaluation
    digits: Callable[[Decimal], Decimal]
    bounds: Bounds
    exact: Callable[[Float64], NDArray[np.bool_]] = _everywhere_inexact
    error: Callable[[Float64, Float64], Float64] = _relative

    def __call__(self, x: Float64) -> Float64:
        """f(x), within its bounds."""
        return self._enclose(x)[0]

    def interval(self, x: Float64) -> tuple[Float64, Float64]:
        """Return the closed interval (low, high) around the real f(x); both ends are f(x) where it is exact."""
        y, low, high = self._enclose(x)
        with np.errstate(all="ignore"):
            error = self.error(x, y) + _NOTHING
            return np.fmax(low, y - error), np.fmin(high, y + error)  # y = ±inf is exact, while inf − inf is NaN

    def _enclose(self, x: Float64) -> tuple[Float64, Float64, Float64]:
        """f(x) and its bounds, no longer strict."""
        with np.errstate(all="ignore"):
            y = self.near(x)
            y = np.where(np.isnan(y), np.nan, y)  # its sign differs between processors
            known = ~np.isfinite(x) | np.isnan(y) | self.exact(x)
            low, high = self.bounds(x)
            low = np.where(known, y, np.nextafter(low, np.inf))
            high = np.where(known, y, np.nextafter(high, -np.inf))
            return np.where(known, y, np.clip(y, low, high)), low, high


@dataclass(frozen=True)
class Function:
    """A function of one number.

    Attributes:
        name: name of the function, an argument of ``evaluate``.
        value, derivative: f and f′, float64 → float64.
        domain: its domain, and its values at the edges of the domain.
    """

    name: str
    value: Curve
    derivative: Curve
    domain: str


# --- evaluations ------------------------------------------------------------------------------------------------------


class _Basic(np.ndarray[Any, np.dtype[Any]]):
    """An array of which ``special`` makes its functions from basic operations."""

    elementary: ClassVar[Elementary] = BASIC


def _value(function: Callable[..., Any]) -> Evaluation:
    """A function of ``special``, from basic operations; of (value, derivative) the first."""

    def evaluate(x: Float64) -> Float64:
        y = function(x.view(_Basic))
        return np.asarray(y[0] if isinstance(y, tuple) else y)

    return evaluate


def _slope(function: Callable[..., Any]) -> Evaluation:
    """The derivative that ``function`` gives; those of gelu and silu vanish from below at −∞."""

    def evaluate(x: Float64) -> Float64:
        y = np.asarray(function(x.view(_Basic))[1])
        return np.where((y == 0) & (x < 0), -0.0, y)

    return evaluate


def _tanh_slope(x: Float64) -> Float64:
    """4e/(1 + e)² with e = exp(−2|x|): 1 − tanh² would cancel."""
    e = elementary.exp(-2 * np.abs(x))
    return np.asarray(4 * e / ((1 + e) * (1 + e)))


def _sigmoid_slope(x: Float64) -> Float64:
    """e/(1 + e)² with e = exp(−|x|): σ·(1 − σ) would cancel."""
    e = elementary.exp(-np.abs(x))
    return np.asarray(e / ((1 + e) * (1 + e)))


def _erf_slope(x: Float64) -> Float64:
    """2/√π·exp(−h²)·exp(−(|x| − h)(|x| + h)), h the upper half of |x|: h² is exact, and a rounded x² would not do."""
    a = np.clip(np.abs(x), 0.0, 40.0)
    h = (a.view(np.uint64) & np.uint64(0xFFFFFFFFF8000000)).view(np.float64)
    return np.asarray(
        float.fromhex("0x1.20dd750429b6dp+0") * elementary.exp(-h * h) * elementary.exp((h - a) * (a + h))
    )


def _log_slope(x: Float64) -> Float64:
    return np.where(x < 0, np.nan, 1 / np.abs(x))


# --- where they are exact ---------------------------------------------------------------------------------------------


def _at(point: float) -> Callable[[Float64], NDArray[np.bool_]]:
    return lambda x: np.asarray(x == point)


def _at_powers_of(base: int) -> Callable[[Float64], NDArray[np.bool_]]:
    """Zero, and powers of 2 or 4 between 2^-500 and 2^500: of other numbers, no power to −½, −1, … is dyadic."""

    def exact(x: Float64) -> NDArray[np.bool_]:
        bits = np.abs(x).view(np.int64)
        exponent = (bits >> 52) - 1023
        whole = (bits & ((1 << 52) - 1) == 0) & (exponent % (base.bit_length() - 1) == 0)
        return np.asarray((x == 0) | (whole & (np.abs(exponent) <= 500)))

    return exact


def _at_squares(x: Float64) -> NDArray[np.bool_]:
    """Zero, and squares of numbers of at most 26 bits, for which r² = x holds exactly."""
    r = np.sqrt(x)
    return np.asarray((r * r == x) & (r.view(np.int64) & ((1 << 27) - 1) == 0))


# --- bounds -----------------------------------------------------------------------------------------------------------


def _within(low: float, high: float) -> Bounds:
    return lambda x: (np.full(x.shape, low), np.full(x.shape, high))


def _away_from_tiny(x: Float64) -> Float64:
    """|x| as a bound, but 1 where it or half of it may be subnormal."""
    a = np.abs(x)
    return np.where(a < _NOTHING, 1.0, a)


def _odd(reach: Callable[[Float64], Float64]) -> Bounds:
    """Between 0 and ±reach, the sign being that of x."""

    def bounds(x: Float64) -> tuple[Float64, Float64]:
        end = reach(x)
        return np.where(x > 0, 0.0, -end), np.where(x > 0, end, 0.0)

    return bounds


def _exp_bounds(x: Float64) -> tuple[Float64, Float64]:
    return np.where(x > 0, 1.0, 0.0), np.where(x > 0, np.inf, 1.0)


def _log_bounds(x: Float64) -> tuple[Float64, Float64]:
    """log x < x − 1, a difference without rounding where the two are near."""
    return np.full(x.shape, -np.inf), x - 1


def _ramp_bounds(x: Float64) -> tuple[Float64, Float64]:
    """x·Φ(x) and its like: above x/2; below x for x > 0, and within an ulp of it for large x; below 0 for x < 0."""
    a = _away_from_tiny(x)
    low = np.where(x > 0, np.where(np.abs(x) < _NOTHING, 0.0, a / 2), -a / 2)
    far = np.nextafter(np.nextafter(x, -np.inf), -np.inf)
    return np.where(x > _FAR, far, low), np.where(x > 0, a, 0.0)


def _softplus_bounds(x: Float64) -> tuple[Float64, Float64]:
    far = np.nextafter(np.nextafter(x, np.inf), np.inf)
    return np.maximum(x, 0.0), np.where(x > _FAR, far, np.inf)


def _line_bounds(slope: float, high: float) -> Bounds:
    """Between ½ and ½ + slope·x, but below ``high`` for x > 0 and above 1 − high for x < 0."""

    def bounds(x: Float64) -> tuple[Float64, Float64]:
        line = 0.5 + slope * x
        line = np.where(line - 0.5 == slope * x, line, np.copysign(np.inf, x))
        return np.where(x > 0, 0.5, np.maximum(line, 1 - high)), np.where(x > 0, np.minimum(line, high), 0.5)

    return bounds


def _slope_bounds(x: Float64) -> tuple[Float64, Float64]:
    """Derivatives of x·Φ(x) and its like: above 1 from 2 on, below 0 to −2, ½ at 0; each is f′(−x) = 1 − f′(x)."""
    low = np.where(x > 2, 1.0, np.where(x > 0, 0.5, -np.inf))
    return low, np.where(x > 0, np.inf, np.where(x < -2, 0.0, 0.5))


def _silu_slope_bounds(x: Float64) -> tuple[Float64, Float64]:
    """Also on this side of ½ + x/2, which for small x is all that float64 sees."""
    low, high = _slope_bounds(x)
    line_low, line_high = _line_bounds(0.5, np.inf)(x)
    return np.maximum(low, line_low), np.minimum(high, line_high)


# --- errors beyond a few ulp ------------------------------------------------------------------------------------------


def _slope_error(x: Float64, y: Float64) -> Float64:
    """Error bound of a derivative that passes through 0: there its terms are below ¼, with errors in ulps of ¼."""
    return _ERROR * _ULP * np.maximum(np.abs(y), np.where((x > -4) & (x < 0), 0.25, 0.0))


def _gelu_tanh_error(x: Float64, y: Float64) -> Float64:
    """exp(2u) multiplies the relative error of u, 6 roundings of half an ulp, by |2u|."""
    a = np.minimum(np.abs(x), 22.0)
    return _slope_error(x, y) * (1 + (1.6 * a + 0.0714 * a * a * a) / 8)


# --- the table --------------------------------------------------------------------------------------------------------

_POSITIVE, _NEGATIVE = _within(0.0, np.inf), _within(-np.inf, 0.0)
_EXP = Curve(elementary.exp, digits.exp, _exp_bounds, _at(0))
_SIGMOID = Curve(_value(special.sigmoid), digits.sigmoid, _line_bounds(0.25, 1.0), _at(0))
_RECIPROCAL = Curve(lambda x: 1 / x, digits.reciprocal, _odd(lambda x: np.full(x.shape, np.inf)), _at_powers_of(2))

_ALL = (
    Function("exp", _EXP, _EXP, "all; exp(−inf) = 0"),
    Function(
        "log",
        Curve(elementary.log, digits.log, _log_bounds, lambda x: np.asarray((x == 0) | (x == 1))),
        Curve(_log_slope, digits.reciprocal, _POSITIVE, _at_powers_of(2)),
        "x ≥ 0; log(±0) = −inf, its derivative inf; NaN below",
    ),
    Function(
        "tanh",
        Curve(elementary.tanh, digits.tanh, _odd(lambda x: np.minimum(_away_from_tiny(x), 1.0)), _at(0)),
        Curve(_tanh_slope, digits.tanh_slope, _within(0.0, 1.0), _at(0)),
        "all; ±0 is kept, tanh(±inf) = ±1",
    ),
    Function(
        "sigmoid",
        _SIGMOID,
        Curve(_sigmoid_slope, digits.sigmoid_slope, _within(0.0, 0.25), _at(0)),
        "all; 0 at −inf, 1 at inf",
    ),
    Function(
        "erf",
        Curve(_value(special.erf), digits.erf, _odd(lambda x: np.ones(x.shape)), _at(0)),
        Curve(_erf_slope, digits.erf_slope, _POSITIVE),
        "all; ±0 is kept, erf(±inf) = ±1",
    ),
    Function(
        "gelu",
        Curve(_value(special.gelu_erf), digits.gelu, _ramp_bounds, _at(0)),
        Curve(_slope(special.gelu_erf), digits.gelu_slope, _slope_bounds, _at(0), _slope_error),
        "all, x·Φ(x); ±0 is kept; −0 at −inf, where the derivative is −0",
    ),
    Function(
        "gelu_tanh",
        Curve(_value(special.gelu_tanh), digits.gelu_tanh, _ramp_bounds, _at(0), _gelu_tanh_error),
        Curve(_slope(special.gelu_tanh), digits.gelu_tanh_slope, _slope_bounds, _at(0), _gelu_tanh_error),
        "all, x·σ(2√(2/π)·(x + 0.044715·x³)); as gelu",
    ),
    Function(
        "silu",
        Curve(_value(special.silu), digits.silu, _ramp_bounds, _at(0)),
        Curve(_slope(special.silu), digits.silu_slope, _silu_slope_bounds, _at(0), _slope_error),
        "all, x·σ(x); as gelu",
    ),
    Function(
        "softplus", Curve(_value(special.softplus), digits.softplus, _softplus_bounds), _SIGMOID, "all; 0 at −inf"
    ),
    Function(
        "sqrt",
        Curve(np.sqrt, digits.sqrt, _POSITIVE, _at_squares),
        Curve(lambda x: 0.5 / np.sqrt(x + 0.0), digits.sqrt_slope, _POSITIVE, _at_powers_of(4)),
        "x ≥ 0; ±0 is kept, the derivative there is inf; NaN below",
    ),
    Function(
        "rsqrt",
        Curve(lambda x: 1 / np.sqrt(x), digits.rsqrt, _POSITIVE, _at_powers_of(4)),
        Curve(lambda x: -0.5 / (x * np.sqrt(x)), digits.rsqrt_slope, _NEGATIVE, _at_powers_of(4)),
        "x ≥ 0; rsqrt(±0) = ±inf (IEEE 754-2019, 9.2.1), the derivative there is −inf; NaN below",
    ),
    Function(
        "reciprocal",
        _RECIPROCAL,
        Curve(lambda x: -1 / (x * x), digits.reciprocal_slope, _NEGATIVE, _at_powers_of(2)),
        "all; 1/±0 = ±inf, the derivative there is −inf",
    ),
)

FUNCTIONS: Mapping[str, Function] = MappingProxyType({f.name: f for f in _ALL})
"""Functions by name; "gelu" is the erf form, "gelu_tanh" its approximation."""


@np.errstate(all="ignore")  # infinities and NaN, signaling ones too, have their rules
def evaluate(name: str, x: ArrayLike, cast: Cast, derivative: bool = False) -> NDArray[np.float32]:
    """Compute f(x) or f′(x), the real number rounded once.

        y_i = cast(f(x_i))

    Args:
        name: a name in ``FUNCTIONS``; its ``domain`` defines the values at the edges.
        x: float16, bfloat16, float32 or float64, any shape and value. NaN gives NaN, positive if NaN has a sign.
        cast: a deterministic cast to any format, with either overflow rule. A real number beyond the largest value is
            finite, so that a directed rounding may give the largest value; f(x) = ±inf, at ±inf and poles, is infinite.
        derivative: compute f′ instead of f.

    Returns:
        float32 of the shape of x.

    Raises:
        ArgumentError: the function is unknown, or the cast is stochastic.
        CarrierError: x is not an array of such floats.
        FormatError: a result is NaN, and the format has none.

    Source: IEEE 754-2019, section 9.2, for inputs at the edges; for the method, see the module.

    Example:
        >>> from refscale.formats import Cast
        >>> evaluate("gelu", np.float16([-1, 25.375]), Cast("bfloat16", "nearest_even", "nonsaturate"))
        array([-0.15917969, 25.375     ], dtype=float32)
    """
    if name not in FUNCTIONS:
        raise ArgumentError(f"exact.evaluate({name!r}): expected one of {', '.join(FUNCTIONS)}")
    check_deterministic("exact.evaluate", cast)
    array = plain(f"exact.evaluate({name!r})", "x", x)
    if array.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
        raise CarrierError(
            f"exact.evaluate({name!r}): x is {array.dtype}, expected float16, bfloat16, float32 or float64"
        )
    curve = FUNCTIONS[name].derivative if flag("exact.evaluate", "derivative", derivative) else FUNCTIONS[name].value
    wide = np.atleast_1d(np.asarray(array, np.float64))
    low, high = curve.interval(wide)
    y, other = cast(low), cast(high)
    doubtful = y.view(np.uint32) != other.view(np.uint32)
    if doubtful.any():
        y[doubtful] = cast(np.array([digits.odd(curve.digits, v) for v in wide[doubtful].tolist()]))
    return y.reshape(array.shape)
