"""Check of a backward pass by random inner products: one forward difference per input, not one per element.

A vector-Jacobian product must return J^T g without forming J. For every v it must satisfy

    <J^T g, v> = <g, J v>

where the right side is the derivative of the scalar phi(t) = <g, forward(x + t v)> at t = 0, and is computed without
the gradient. With random g and v a gradient that is wrong in a single element fails almost surely.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from refscale.arrays import freeze, plain
from refscale.errors import ArgumentError, CarrierError
from refscale.testing.constructions import rms

Array = npt.NDArray[Any]
Forward = Callable[..., npt.ArrayLike]
Backward = Callable[[Array], Sequence[npt.ArrayLike | None]]

_UNIT = 2.0**-53  # unit roundoff of float64
_FORWARD_ULPS = 8  # assumed accuracy of `forward`; see assert_vjp
_STEPS = tuple(2.0**-k for k in (8, 11, 14, 17, 20, 23))
_GOOD_ENOUGH = 2.0**-24
_ZERO = 2.0**-40


def assert_vjp(
    forward: Forward,
    backward: Backward,
    inputs: Sequence[npt.ArrayLike],
    *,
    rng: np.random.Generator,
    directions: int = 3,
    resolution: float = 1e-3,
) -> float:
    """Assert that `backward` is the vector-Jacobian product of `forward`, in float64, at the given inputs.

        |<grad_i, v> - d/dt <g, forward(..., x_i + t v, ...)>| <= truncation + rounding,    g, v ~ N(0, I)

    for every input i that has a gradient, separately, and for several random g and v.

    Args:
        forward: `forward(*inputs) -> y`, pure and deterministic; y a float64 array of any shape. It receives read-only
            float64 copies of the floating inputs, others unchanged.
        backward: `backward(g) -> (grad or None, ...)`, one per input, at the given inputs; None for inputs that are not
            differentiated (indices, masks). It is called directly after a `forward` at the unperturbed inputs, so a
            forward that stores them is allowed.
        inputs: the point. It must not be on a kink or a jump (ReLU at exactly 0), where no derivative exists.
        rng: source of g and v.
        directions: number of pairs (g, v), >= 1. One finds nearly every error; more guard against bad luck.
        resolution: largest allowed bound relative to the gradient, in (0, 1); the check fails if differences cannot
            reach it. A smooth function is checked to about 1e-8 at any resolution. A gradient below 2^-40 of
            <|g|, |y|> + sum <|grad|, |x|> counts as zero and is compared within the bound alone.

    Returns:
        The largest relative error, |difference| / max(|grad_i|, |slope|), Euclidean norm; usually below 1e-9.

    Raises:
        AssertionError: an inner product deviates (the message has the ratio: -1 is a wrong sign), a gradient has
            another shape than its input or is not finite, or the slope cannot be resolved (a kink or jump nearby, or
            saturation).
        ArgumentError: a count or range is invalid, or `forward` returns two results for the same inputs.
        CarrierError: `forward` does not return float64.

    Derivation:
        D(h) = (phi(h) - phi(-h)) / 2h has an error in even powers of h. The Richardson step
        R(h) = (4 D(h/2) - D(h)) / 3 cancels h^2 and leaves c h^4 + ...; the check compares R(h/4). *Truncation* is
        four times the larger of |R(h) - R(h/2)| and |R(h/2) - R(h/4)|: far more than the error c (h/4)^4 where phi is
        smooth, and still more than the error where it is not, unless two differences vanish by chance. For *rounding*,
        `forward` is assumed to be stable: its outputs, moved by 8 ulp at most, are the exact ones of inputs moved by 8
        ulp at most. Then phi is known within d = 8 u (<|g|, |y|> + sum <|grad|, |x|>), u = 2^-53; D(h) within d / h;
        R(h/4) within (4 * 8 + 4) / 3 * d / h = 12 d / h. The step starts at 2^-8 of the input's RMS and shrinks
        eightfold, as far as 2^-23, until the bound is below 2^-24 of the gradient; otherwise the step with the smallest
        bound counts, widened to the results of smaller steps. Small steps are for kinks: a step that crosses one shows
        it as truncation. If the input is small, as a bias near 0, steps relative to 1 are tried as well.

    Source:
        The inner-product check: Griewank and Walther, Evaluating Derivatives (2008), section 3.1; as practiced in
        autograd's `check_grads`.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x, w = rng.standard_normal((5, 4)), rng.standard_normal((4, 3))
        >>> error = assert_vjp(np.matmul, lambda g: (g @ w.T, x.T @ g), (x, w), rng=rng)
        >>> error < 1e-9
        True
        >>> assert_vjp(np.matmul, lambda g: (g @ w.T, -x.T @ g), (x, w), rng=rng)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        AssertionError: the vector-Jacobian product is wrong for input 1 of shape (4, 3), direction 1 of 3:
        ...
    """
    if directions < 1:
        raise ArgumentError(f"assert_vjp: directions is {directions!r}, expected a number >= 1")
    if not 0 < resolution < 1:
        raise ArgumentError(f"assert_vjp: resolution is {resolution!r}, expected a number in (0, 1)")
    point = [_frozen(x) for x in inputs]
    if not np.array_equal(_evaluate(forward, point), _evaluate(forward, point), equal_nan=True):
        raise ArgumentError("assert_vjp: forward gave two results for the same inputs: fix its random numbers")
    worst = 0.0
    for direction in range(directions):
        y = _evaluate(forward, point)
        if not np.isfinite(y).all():
            raise ArgumentError("assert_vjp: forward is not finite at the inputs: no derivative to compare with")
        g = _frozen(rng.standard_normal(y.shape))
        gradients = _gradients(backward(g), point)
        magnitude = _magnitude(y, g, point, gradients)
        for i, gradient in enumerate(gradients):
            if gradient is None or gradient.size == 0:
                continue
            v = _frozen(rng.standard_normal(gradient.shape))
            unit = rms(point[i]) or 1.0  # steps are relative to the scale of the input
            claimed = unit * float(np.sum(gradient * v))
            norm = unit * float(np.linalg.norm(gradient))
            slope, bound = _slope(_line(forward, point, i, g, unit * v), unit, magnitude, norm)
            scale = max(norm, abs(slope))
            where = f"for input {i} of shape {gradient.shape}, direction {direction + 1} of {directions}:\n"
            resolved = bound <= resolution * scale or (scale <= _ZERO * magnitude and bound < math.inf)
            if not resolved:
                raise AssertionError(
                    f"the slope of forward cannot be resolved {where}"
                    f"  {slope:.9g} +- {bound:.3g}: is there a kink or a jump close to the inputs, or is the gradient "
                    "tiny beside the outputs?"
                )
            difference = abs(claimed - slope)
            if not difference <= bound:
                ratio = f"; ratio {claimed / slope:.6g}" if slope else ""
                raise AssertionError(
                    f"the vector-Jacobian product is wrong {where}"
                    f"  actual   <J^T g, v> = {claimed:.12g}\n"
                    f"  expected <g, J v>   = {slope:.12g} +- {bound:.3g}\n"
                    f"  relative error {difference / scale:.3g}{ratio}"
                )
            worst = max(worst, difference / scale if scale else 0.0)
    return worst


def _slope(phi: Callable[[float], float], unit: float, magnitude: float, norm: float) -> tuple[float, float]:
    """Return the derivative of phi at 0 and a bound on its error, at the step with the smallest bound."""
    tried: dict[float, tuple[float, float]] = {}
    for h in (*_STEPS, *(h / unit for h in _STEPS if h / unit > _STEPS[0])):
        d = [(phi(s) - phi(-s)) / (2 * s) for s in (h, h / 2, h / 4, h / 8)]
        r = [(4 * fine - coarse) / 3 for coarse, fine in pairwise(d)]
        truncation = 4 * max(abs(r[0] - r[1]), abs(r[1] - r[2]))
        bound = truncation + 12 * _FORWARD_ULPS * _UNIT * magnitude / h
        if not math.isfinite(bound):  # outside the domain: try a smaller step
            continue
        tried[h] = (r[2], bound)
        if bound <= _GOOD_ENOUGH * norm:
            return r[2], bound
    # No step is accurate enough. One may look better than it is; the smaller steps after it check it.
    best = (math.nan, math.inf)
    for h, (slope, bound) in tried.items():
        honest = max([bound, *(abs(slope - other) - slack for k, (other, slack) in tried.items() if k < h)])
        if honest < best[1]:
            best = (slope, honest)
    return best


def _line(forward: Forward, point: list[Array], i: int, g: Array, v: Array) -> Callable[[float], float]:
    """Return phi(t) = <g, forward(..., x_i + t v, ...)>; NaN and infinity are results here, without warnings."""

    def phi(t: float) -> float:
        moved = [*point[:i], _frozen(point[i] + t * v), *point[i + 1 :]]
        with np.errstate(all="ignore"):
            return float(np.sum(g * _evaluate(forward, moved)))

    return phi


def _evaluate(forward: Forward, point: list[Array]) -> Array:
    y = plain("assert_vjp", "what forward returned", forward(*point))
    if y.dtype != np.float64:
        raise CarrierError(f"assert_vjp: forward returned {y.dtype}, expected float64")
    return y


def _gradients(gradients: Sequence[npt.ArrayLike | None], point: list[Array]) -> list[Array | None]:
    """Return the gradients as arrays, each of its input's shape."""
    if not isinstance(gradients, tuple | list) or len(gradients) != len(point):
        what = f"{len(gradients)} gradients" if isinstance(gradients, tuple | list) else type(gradients).__name__
        raise ArgumentError(f"assert_vjp: backward returned {what}, expected a tuple of {len(point)}, one per input")
    checked: list[Array | None] = []
    for i, (gradient, x) in enumerate(zip(gradients, point, strict=True)):
        if gradient is None:
            checked.append(None)
            continue
        array = plain("assert_vjp", f"gradient {i}", gradient)
        if x.dtype != np.float64:
            raise ArgumentError(f"assert_vjp: input {i} is {x.dtype} and has no gradient, expected None")
        if array.shape != x.shape:
            raise AssertionError(f"the gradient of input {i} has shape {array.shape}, expected {x.shape}")
        if not np.isfinite(array).all():
            raise AssertionError(f"the gradient of input {i} is not finite")
        checked.append(array)
    if all(gradient is None for gradient in checked):
        raise ArgumentError("assert_vjp: backward returned None for every input, so there is nothing to check")
    return checked


def _magnitude(y: Array, g: Array, point: list[Array], gradients: list[Array | None]) -> float:
    """Return <|g|, |y|> + sum <|grad|, |x|>: the largest change of phi per relative change of outputs and inputs."""
    inputs = (
        float(np.sum(np.abs(gradient * x)))
        for x, gradient in zip(point, gradients, strict=True)
        if gradient is not None
    )
    return float(np.sum(np.abs(g * y))) + sum(inputs)


def _frozen(x: npt.ArrayLike) -> Array:
    """Return a read-only copy, floating dtypes as float64: a forward or backward that writes to its inputs raises."""
    array = plain("assert_vjp", "an input", x).copy()
    if array.dtype.kind in "fV":  # ml_dtypes' floats are of kind V
        array = array.astype(np.float64)
    return freeze(array)
