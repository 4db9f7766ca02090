"""The functions of ``functions`` to 800 digits, for the few arguments whose rounding float64 cannot decide.

    f(x) = v·(1 + ε),    |ε| < 10^-400

The formulas are evaluated in the decimal arithmetic of the standard library, whose exp, ln and square root are
correctly rounded. Terms may cancel, but results are not below 10^-330, so that half of the digits remain. No value of
these functions is known within 10^-35 of a tie: the number of digits suffices. One evaluation takes a millisecond.

Source: π from Machin's formula; the normal distribution from its series (Abramowitz and Stegun, 26.2.11).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import MAX_EMAX, MIN_EMIN, ROUND_HALF_EVEN, Context, Decimal, localcontext
from functools import cache

_DIGITS = 800


def odd(function: Callable[[Decimal], Decimal], x: float) -> float:
    """Compute f(x) rounded to odd: if f(x) is not a float64, the neighbor with an odd last bit.

    Rounded again to at most 51 bits, in any mode, it gives the same as the real number (see ``errorfree``).
    """
    context = Context(prec=_DIGITS, rounding=ROUND_HALF_EVEN, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])
    with localcontext(context):
        value = function(Decimal(x))
    y = float(value)
    if Decimal(y) != value and math.frexp(y)[0] * 2.0**53 % 2 == 0:
        y = math.nextafter(y, math.inf if value > Decimal(y) else -math.inf)
    return y


@cache
def _pi() -> Decimal:
    """Compute 16·arctan(1/5) − 4·arctan(1/239), in integers."""
    places = _DIGITS + 20

    def arctan_of_inverse(n: int) -> int:
        total, term, k = 0, 10**places // n, 1
        while term:
            total += term // k if k % 4 == 1 else -(term // k)
            term //= n * n
            k += 2
        return total

    return Decimal((0, tuple(map(int, str(16 * arctan_of_inverse(5) - 4 * arctan_of_inverse(239)))), -places))


def _density(x: Decimal) -> Decimal:
    """Compute φ(x) = exp(−x²/2)/√(2π)."""
    return (-x * x / 2).exp() / (2 * _pi()).sqrt()


def _mass(x: Decimal) -> Decimal:
    """Compute Φ(x) − ½ = φ(x)·(x + x³/3 + x⁵/(3·5) + …); all terms have one sign."""
    term = total = x
    n = 1
    while abs(term) > abs(total).scaleb(-_DIGITS - 10):
        n += 2
        term = term * x * x / n
        total += term
    return _density(x) * total


def exp(x: Decimal) -> Decimal:
    """Compute exp(x)."""
    return x.exp()


def log(x: Decimal) -> Decimal:
    """Compute log(x)."""
    return x.ln()


def tanh(x: Decimal) -> Decimal:
    """Compute (1 − e)/(1 + e), e = exp(−2x)."""
    e = (-2 * x).exp()
    return (1 - e) / (1 + e)


def tanh_slope(x: Decimal) -> Decimal:
    """Compute 4·σ′(2x)."""
    return 4 * sigmoid_slope(2 * x)


def sigmoid(x: Decimal) -> Decimal:
    """Compute 1/(1 + exp(−x))."""
    return 1 / (1 + (-x).exp())


def sigmoid_slope(x: Decimal) -> Decimal:
    """Compute e/(1 + e)², e = exp(x)."""
    e = x.exp()
    return e / (1 + e) ** 2


def erf(x: Decimal) -> Decimal:
    """Compute 2·Φ(x√2) − 1."""
    return 2 * _mass(x * Decimal(2).sqrt())


def erf_slope(x: Decimal) -> Decimal:
    """Compute 2/√π·exp(−x²)."""
    return 2 * (-x * x).exp() / _pi().sqrt()


def gelu(x: Decimal) -> Decimal:
    """Compute x·Φ(x)."""
    return x * (Decimal("0.5") + _mass(x))


def gelu_slope(x: Decimal) -> Decimal:
    """Compute Φ(x) + x·φ(x)."""
    return Decimal("0.5") + _mass(x) + x * _density(x)


def gelu_tanh(x: Decimal) -> Decimal:
    """Compute x·σ(2u), 2u = 2√(2/π)·(x + 0.044715·x³)."""
    return x * sigmoid(_twice_u(x)[0])


def gelu_tanh_slope(x: Decimal) -> Decimal:
    """Compute σ(2u) + x·(2u)′·σ′(2u)."""
    twice_u, slope = _twice_u(x)
    return sigmoid(twice_u) + x * slope * sigmoid_slope(twice_u)


def _twice_u(x: Decimal) -> tuple[Decimal, Decimal]:
    """Compute 2u and (2u)′."""
    linear, cubic = 2 * (2 / _pi()).sqrt(), Decimal("0.044715")
    return linear * (x + cubic * x**3), linear * (1 + 3 * cubic * x**2)


def silu(x: Decimal) -> Decimal:
    """Compute x·σ(x)."""
    return x * sigmoid(x)


def silu_slope(x: Decimal) -> Decimal:
    """Compute σ(x) + x·σ′(x)."""
    return sigmoid(x) + x * sigmoid_slope(x)


def softplus(x: Decimal) -> Decimal:
    """Compute log(1 + exp(x))."""
    return (1 + x.exp()).ln()


def sqrt(x: Decimal) -> Decimal:
    """Compute √x."""
    return x.sqrt()


def sqrt_slope(x: Decimal) -> Decimal:
    """Compute 1/(2√x)."""
    return 1 / (2 * x.sqrt())


def rsqrt(x: Decimal) -> Decimal:
    """Compute 1/√x."""
    return 1 / x.sqrt()


def rsqrt_slope(x: Decimal) -> Decimal:
    """Compute −1/(2x√x)."""
    return -1 / (2 * x * x.sqrt())


def reciprocal(x: Decimal) -> Decimal:
    """Compute 1/x."""
    return 1 / x


def reciprocal_slope(x: Decimal) -> Decimal:
    """Compute −1/x²."""
    return -1 / (x * x)
