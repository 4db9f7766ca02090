"""Refits the coefficients of ``refscale.special``: ``python -m tests.fit_special`` (needs mpmath; some seconds).

Prints, for each fit P(z)/Q(z), the new coefficients in hexadecimal and three relative errors:

- the new fit's;
- the least that any fit of these degrees could have, by de la Vallée Poussin: where the error alternates in sign on
  n + m + 2 points, no other fit is better on all of them than the smallest of the |errors|;
- that of the coefficients carried now, which are rounded to float64.

Method: least squares for P/(f·Q) − 1, linearized by dividing by the Q of the round before (Loeb; Cody, SIAM Review 12,
1970), in 80 digits, on points that crowd at both ends as Chebyshev's do, which is what levels the extrema.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import mpmath as mp

from refscale.special import fits

Real = Any  # mpmath has no types
Coefficients = list[Real]


class Target(NamedTuple):
    """f(z), z = z(x), to be fitted for x in [0, end]; ``spread`` maps u in [0, 1] to x/end."""

    f: Callable[[Real], Real]
    z: Callable[[Real], Real]
    spread: Callable[[Real], Real]
    end: str
    carried: fits.Rational

    @property
    def degrees(self) -> tuple[int, int]:
        return len(self.carried.numerator) - 1, len(self.carried.denominator) - 1

    def points(self, intervals: int) -> list[Real]:
        return [mp.mpf(self.end) * self.spread(mp.mpf(i) / intervals) for i in range(intervals + 1)]


def erf_ratio(x: Real) -> Real:
    """erf(x)/x."""
    return mp.erf(x) / x if x else 2 / mp.sqrt(mp.pi)


def tail_ratio(a: Real) -> Real:
    """R(a) = exp(a²/2)·(1 − Φ(a))."""
    return mp.exp(a * a / 2) * mp.erfc(a / mp.sqrt(2)) / 2


def spread_even(u: Real) -> Real:
    """Chebyshev's points of [−1, 1], the right half: for an even function."""
    return mp.sin(mp.pi / 2 * u)


def spread_tail(u: Real) -> Real:
    """Chebyshev's points of [0, 1], drawn towards 0, where R bends."""
    v = mp.sin(mp.pi / 2 * u) ** 2
    return v / (1 + 5 * (1 - v))


def spread_near(u: Real) -> Real:
    """Chebyshev's points of [0, 1]."""
    return mp.sin(mp.pi / 2 * u) ** 2


TARGETS = {
    "erf, float32": Target(erf_ratio, lambda x: x * x, spread_even, "3.92", fits.ERF32),
    "erf, float64": Target(erf_ratio, lambda x: x * x, spread_even, "5.92", fits.ERF64),
    "tail, float32": Target(tail_ratio, lambda a: a, spread_tail, "14.2", fits.TAIL32),
    "near tail, float32": Target(tail_ratio, lambda a: a, spread_near, "2.84", fits.TAIL32_NEAR),
    "tail, float64": Target(tail_ratio, lambda a: a, spread_tail, "38.6", fits.TAIL64),
}


def polynomial(coefficients: Coefficients, z: Real) -> Real:
    """Σ c_k z^k."""
    return mp.polyval(coefficients[::-1], z)


def fit(target: Target) -> tuple[Coefficients, Coefficients]:
    """Coefficients of P and Q, ascending, Q(0) = 1."""
    n, m = target.degrees
    points = target.points(10 * (n + m + 2))
    q = [mp.mpf(1)]
    for _ in range(8):
        rows, right = [], []
        for z, f in ((target.z(x), target.f(x)) for x in points):
            weight = 1 / (f * polynomial(q, z))
            rows.append([weight * z**k for k in range(n + 1)] + [-weight * f * z**k for k in range(1, m + 1)])
            right.append(weight * f)
        solution = list(mp.lu_solve(mp.matrix(rows), mp.matrix(right)))  # least squares: more rows than columns
        p, q = solution[: n + 1], [mp.mpf(1), *solution[n + 1 :]]
    return p, q


def extrema(target: Target, p: Coefficients, q: Coefficients) -> list[Real]:
    """The largest relative error of each stretch on which it keeps its sign."""
    found: list[Real] = []
    for x in target.points(60 * (sum(target.degrees) + 2)):
        z = target.z(x)
        error = polynomial(p, z) / polynomial(q, z) / target.f(x) - 1
        if found and (error < 0) == (found[-1] < 0):
            found[-1] = max(found[-1], error, key=abs)
        else:
            found.append(error)
    return found


def errors(target: Target) -> tuple[float, float, float, Coefficients, Coefficients]:
    """Error of a new fit, bound on any fit's (0 if the error does not alternate), error of the carried one; P, Q."""
    with mp.workdps(80):
        p, q = fit(target)
        sizes = [float(abs(e)) for e in extrema(target, p, q)]
        least = min(sizes) if len(sizes) == sum(target.degrees) + 2 else 0.0
        carried = extrema(target, *([mp.mpf(c) for c in side] for side in target.carried))
        return max(sizes), least, float(max(map(abs, carried))), p, q


def main() -> None:
    """Print every fit."""
    for name, target in TARGETS.items():
        new, least, carried, p, q = errors(target)
        print(f"{name}, degrees {target.degrees} on [0, {target.end}]: ", end="")
        print(f"error {new:.3g} (least possible {least:.3g}; carried {carried:.3g})")
        for side, coefficients in (("P", p), ("Q", q)):
            print(f"  {side}:", *(float(c).hex() for c in coefficients))


if __name__ == "__main__":
    main()
