"""Arrays with bounds of their rounding errors, with which an op written for NumPy derives its own error bound.

A ``Bounded`` array consists of real numbers x (in float64) and, for each, a bound e of the error of its float32
evaluation: running error analysis (Wilkinson 1986; Higham 2002, section 3.3). Each function propagates the bounds of
its operands and adds the error of its own rounding, with u = 2^-24 and the ulp 2u = 2^-23:

========================  ==========================================================================================
x ± y                     e_x + e_y,                              and 2u·|result|
x · y                     |x|·e_y + |y|·e_x + e_x·e_y,            and 2u·|result|
x / y                     (e_x + |x/y|·e_y) / (|y| − e_y),        and 2u·|result|
√x, exp, log, tanh        largest change of f over [x − e, x + e], and 2u·|result| for √, 16u·|result| for the others
functions of ``special``  twice that change, and 16u·max(|result|, ⅛) (their derivatives cross 0)
sums of n terms           Σ e_i,                                  and 2u·(n − 1)·Σ|x_i|
``@`` over n terms        |x|@e_y + e_x@|y| + e_x@e_y,            and (2u·n + 2u)·|x|@|y|, or an accumulator's bound
max, min, where, moves    the bounds move with their elements
comparisons               of the values; the result is a plain array
========================  ==========================================================================================

The relative error of one rounding is u. With 2u the bound allows for one more rounding per operation, and so covers
evaluations that multiply a factor into an operand, add in another order, or multiply by a reciprocal. A multiple of the
smallest subnormal, 2^-149, is added to each bound for underflow. The bound does not cover intermediate overflow.

Values are computed in float64, whose error (2^-29 of these bounds) is neglected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.errors import ArgumentError
from refscale.exact.accumulators import Accumulator, Truncated, get_accumulator
from refscale.exact.array import leaves, map_nested, words
from refscale.exact.intervals import sum_errors

Array = NDArray[Any]


@dataclass(frozen=True)
class ErrorModel:
    """The errors of the arithmetic for which a bound is derived; by default those of float32.

    Attributes:
        ulp: relative error of an operation: twice the unit roundoff.
        smallest: absolute error of an operation: the smallest subnormal.
        functions: error of exp, log, tanh and the functions of ``special``, in ulp.
        accumulator: accumulator of products, whose bound (``intervals``) replaces n·ulp·|x|@|y|; None: float32.
    """

    ulp: float = 2.0**-23
    smallest: float = 2.0**-149
    functions: float = 8.0
    accumulator: Accumulator | None = None

    @classmethod
    def of(cls, accumulator: str, functions: float = 8.0) -> ErrorModel:
        """Make the error model of float32 with sums of products by a named accumulator.

        If the accumulator has different ``emin`` for the two operands, both get the larger one, because gradients
        multiply the operands in another order.

        Args:
            accumulator: a name of ``get_accumulator``.
            functions: error of exp, log, tanh and the functions of ``special``, in ulp.

        Raises:
            ArgumentError: the accumulator is unknown.
        """
        model = get_accumulator(accumulator)
        if isinstance(model, Truncated) and isinstance(model.emin, tuple):
            model = replace(model, emin=max(model.emin))
        return cls(functions=functions, accumulator=model)


FLOAT32 = ErrorModel()


class Bounded(np.ndarray[Any, np.dtype[np.float64]]):
    """Real numbers in float64, each with a bound of the error of its evaluation; see this module.

    Attributes:
        error: bounds ≥ 0, of the same shape.
        model: the arithmetic for which they are derived.
    """

    _error: Array | None = None
    model: ErrorModel = FLOAT32

    def __array_finalize__(self, parent: Any) -> None:
        self.model = getattr(parent, "model", FLOAT32)

    @property
    def error(self) -> Array:
        """Error bounds, of the shape of the values."""
        if self._error is None:
            raise ArgumentError("bounded arithmetic has no rule for the method of ndarray that made this array")
        return self._error

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        """Every ufunc passes here."""
        outs = options.pop("out", None) or ()
        model = _model(inputs)
        with np.errstate(all="ignore"):
            result = _ufunc(ufunc, method, inputs, options, model)
        if not outs or outs[0] is None:
            return result if isinstance(result, np.ndarray) else np.asarray(result)
        out = outs[0]
        if not isinstance(out, Bounded):
            raise ArgumentError(f"numpy.{ufunc.__name__}(out=…): a plain array cannot hold the bounds of the result")
        out[...] = result
        return out

    def __array_function__(self, func: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> Any:
        """Every other function of NumPy passes here."""
        return _function(func, args, kwargs)

    def __special__(self, compute: Callable[[Array], tuple[Array, ...]]) -> tuple[Array, ...]:
        """Functions of ``refscale.special``: the results of ``compute``, with bounds."""
        x, e = _value(self), self.error
        with np.errstate(all="ignore"):
            values, below, above = compute(x), compute(x - e), compute(x + e)
            return tuple(
                self._bounded_function(v, 2 * np.fmax(np.abs(lo - v), np.abs(hi - v)), 0.125 if i else 0.0)
                for i, (v, lo, hi) in enumerate(zip(values, below, above, strict=True))
            )

    def _bounded_function(self, y: Array, moved: Array, floor: float) -> Array:
        r = self.model
        error = moved + r.functions * (r.ulp * np.maximum(np.abs(y), floor) + 8 * r.smallest)
        return bounded(y, error, r)

    def __getitem__(self, index: Any) -> Any:
        return bounded(_value(self)[index], self.error[index], self.model)

    def __setitem__(self, index: Any, x: Any) -> None:
        _value(self)[index] = _value(x)
        self.error[index] = _error(x)

    @property
    def T(self) -> Any:  # noqa: N802
        """The transposed array."""
        return self.transpose()

    def argmax(self, *args: Any, **options: Any) -> Any:
        """Return the result for the values, without bounds."""
        return _value(self).argmax(*args, **options)

    def argmin(self, *args: Any, **options: Any) -> Any:
        """Return the result for the values, without bounds."""
        return _value(self).argmin(*args, **options)

    def astype(self, dtype: Any, *_: Any, copy: Any = True, **__: Any) -> Any:
        """Return the array itself for floating-point dtypes, as values are real numbers; else convert the values."""
        if np.dtype(dtype).kind != "f":
            return _value(self).astype(dtype)
        return self.copy() if copy else self


def _moved(name: str) -> Callable[..., Any]:
    def method(self: Bounded, *args: Any, **options: Any) -> Any:
        value, error = (getattr(x, name)(*args, **options) for x in (_value(self), self.error))
        return bounded(value, error, self.model)

    method.__name__ = name
    return method


for _name in ("reshape", "transpose", "swapaxes", "ravel", "squeeze", "copy", "take", "repeat"):
    setattr(Bounded, _name, _moved(_name))


def as_bounded(x: Any, model: ErrorModel = FLOAT32) -> Any:
    """Convert floats to exact operands with bounds 0; integers, booleans and bounded arrays are returned unchanged."""
    if isinstance(x, Bounded):
        return x
    array = np.asarray(x)
    if array.dtype.kind != "f":
        return array
    value = array.astype(np.float64)
    return bounded(value, np.zeros(value.shape), model)


def bounded(value: Any, error: Any, model: ErrorModel = FLOAT32) -> Bounded:
    """Combine values and error bounds into one array."""
    value, error = np.asarray(value, np.float64), np.asarray(error, np.float64)
    y: Bounded = value.view(Bounded)
    y._error, y.model = error, model
    return y


def _value(x: Any) -> Any:
    return x.view(np.ndarray) if isinstance(x, Bounded) else x


def _error(x: Any) -> Any:
    return x.error if isinstance(x, Bounded) else 0.0


def _model(inputs: Sequence[Any]) -> ErrorModel:
    return next((x.model for x in inputs if isinstance(x, Bounded)), FLOAT32)


# --- The rules --------------------------------------------------------------------------------------------------------


def _ufunc(ufunc: np.ufunc, method: str, inputs: Sequence[Any], options: dict[str, Any], model: ErrorModel) -> Any:
    values, errors = [_value(x) for x in inputs], [_error(x) for x in inputs]
    name = "divide" if ufunc is np.true_divide else ufunc.__name__
    if method == "__call__":
        if name == "power" and np.ndim(values[1]) == 0 and values[1] == 2:
            name, values, errors = "multiply", [values[0]] * 2, [errors[0]] * 2
        elif name == "square":
            name, values, errors = "multiply", values * 2, errors * 2
        if name in _PLAIN:
            return ufunc(*values, **options)
        if name in _ARITHMETIC and not options:
            return _ARITHMETIC[name](values, errors, model)
    elif method == "reduce" and name in ("add", "maximum", "minimum"):
        return _reduced(name, values[0], errors[0], options, model)
    elif method == "reduceat" and name == "add":
        return _sums_of_runs(values[0], errors[0], values[1], model)
    raise ArgumentError(f"bounded arithmetic has no rule for numpy.{ufunc.__name__} ({method}, {', '.join(options)})")


_PLAIN = words("equal not_equal less less_equal greater greater_equal isfinite isinf isnan signbit sign spacing")


def _rounded(value: Array, error: Any, r: ErrorModel, ulps: float = 1.0) -> Bounded:
    """A result whose own evaluation errs by ``ulps``."""
    value = np.asarray(value)
    error = np.asarray(error + ulps * (r.ulp * np.abs(value) + r.smallest))
    return bounded(value, np.where(np.isfinite(value), error, 0.0), r)


def _product(v: Sequence[Any], e: Sequence[Any], r: ErrorModel) -> Bounded:
    (x, y), (ex, ey) = v, e
    return _rounded(x * y, np.abs(x) * ey + np.abs(y) * ex + ex * ey, r)


def _quotient(v: Sequence[Any], e: Sequence[Any], r: ErrorModel) -> Bounded:
    (x, y), (ex, ey) = v, e
    quotient = x / y
    room = np.abs(y) - ey
    error = np.where(room > 0, (ex + np.abs(quotient) * ey) / room, np.inf)
    return _rounded(quotient, error, r)


def _monotone(function: np.ufunc, ulps: float | None) -> Callable[..., Bounded]:
    def rule(v: Sequence[Any], e: Sequence[Any], r: ErrorModel) -> Bounded:
        (x,), (ex,) = v, e
        y, low = function(x), x - ex
        if function in (np.sqrt, np.log):
            low = np.maximum(low, 0)
        moved = np.fmax(function(x + ex) - y, y - function(low))
        return _rounded(y, np.where(np.equal(ex, 0), 0.0, moved), r, r.functions if ulps is None else ulps)

    return rule


def _matmul(v: Sequence[Any], e: Sequence[Any], r: ErrorModel) -> Bounded:
    (x, y), (ex, ey) = v, e
    ex, ey = np.broadcast_to(ex, x.shape), np.broadcast_to(ey, y.shape)
    n = x.shape[-1]
    size_x, size_y = np.abs(x), np.abs(y)
    total = size_x @ size_y
    if r.accumulator is None:
        error = (n + 1) * r.ulp * total + n * r.smallest
    else:
        error = sum_errors(x, y, r.accumulator) + r.ulp * total + r.smallest
    for a, b, error_of in ((size_x, ey, ey), (ex, size_y, ex), (ex, ey, ex)):
        if error_of.any():
            error = error + a @ b
    return _rounded(x @ y, error, r, 0.0)


_ARITHMETIC: dict[str, Callable[[Sequence[Any], Sequence[Any], ErrorModel], Bounded]] = {
    "add": lambda v, e, r: _rounded(v[0] + v[1], np.add(*e), r),
    "subtract": lambda v, e, r: _rounded(v[0] - v[1], np.add(*e), r),
    "multiply": _product,
    "divide": _quotient,
    "matmul": _matmul,
    "negative": lambda v, e, r: bounded(-v[0], e[0], r),
    "absolute": lambda v, e, r: bounded(np.abs(v[0]), e[0], r),
    "maximum": lambda v, e, r: bounded(*_spread(np.maximum(*v), np.maximum(*e)), r),
    "minimum": lambda v, e, r: bounded(*_spread(np.minimum(*v), np.maximum(*e)), r),
    "sqrt": _monotone(np.sqrt, 1.0),
    "exp": _monotone(np.exp, None),
    "log": _monotone(np.log, None),
    "log1p": _monotone(np.log1p, None),
    "tanh": _monotone(np.tanh, None),
}


def _spread(value: Any, error: Any) -> tuple[Array, Array]:
    return np.asarray(value), np.broadcast_to(error, np.shape(value)).copy()


def _reduced(name: str, x: Array, e: Any, options: dict[str, Any], r: ErrorModel) -> Bounded:
    axis, keepdims = options.get("axis", 0), bool(options.get("keepdims", False))
    given = {k: o for k, o in options.items() if k in ("where", "initial") and o is not np._NoValue}
    e = np.broadcast_to(e, x.shape)
    if name != "add":
        y = getattr(np, name).reduce(x, axis=axis, keepdims=keepdims, **given)
        return bounded(y, np.max(e, axis, keepdims=keepdims, initial=0.0, where=given.get("where", True)), r)
    given = {k: o for k, o in given.items() if o is not True}
    if given:
        raise ArgumentError(f"bounded arithmetic has no rule for sums with {', '.join(given)}")
    y = np.asarray(np.sum(x, axis, keepdims=keepdims))
    n = x.size // max(1, y.size)
    size = np.sum(np.abs(x), axis, keepdims=keepdims)
    error = np.sum(e, axis, keepdims=keepdims) + max(0, n - 1) * (r.ulp * size + r.smallest)
    return _rounded(y, error, r, 0.0)


def _sums_of_runs(x: Array, e: Any, starts: Array, r: ErrorModel) -> Bounded:
    """``add.reduceat`` along the first axis."""
    n = np.diff(starts, append=len(x)).reshape(-1, *(1,) * (x.ndim - 1))
    error = np.add.reduceat(np.broadcast_to(e, x.shape), starts) + (n - 1) * (
        r.ulp * np.add.reduceat(np.abs(x), starts) + r.smallest
    )
    return _rounded(np.add.reduceat(x, starts), error, r, 0.0)


_MOVES = words(
    """
    broadcast_to concatenate copy expand_dims flip moveaxis ravel repeat reshape sliding_window_view split squeeze stack
    swapaxes take take_along_axis tile transpose
    """
)
_OF_VALUES = words("all any argmax argmin argsort count_nonzero isneginf isposinf ndim result_type shape size")
_LIKE = words("empty_like full_like ones_like zeros_like")


def _function(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    name = func.__name__
    model = _model(leaves((args, kwargs)))
    values = map_nested(_value, args), map_nested(_value, kwargs)
    if name in _OF_VALUES:
        return func(*values[0], **values[1])
    if name in ("sum", "max", "amax", "min", "amin"):
        ufunc = {"sum": np.add, "max": np.maximum, "amax": np.maximum}.get(name, np.minimum)
        x, *rest = args
        options = {"axis": rest[0] if rest else None, **kwargs}
        with np.errstate(all="ignore"):
            return _ufunc(ufunc, "reduce", (x,), options, model)
    if name in _LIKE:
        y = func(*values[0], **values[1])
        return bounded(y, np.zeros(y.shape), model) if y.dtype.kind == "f" else y
    if name == "pad":
        x, width, *_ = args
        return bounded(func(*values[0], **values[1]), np.pad(_error(x), width), model)
    if name == "where":
        condition, *choices = args
        return bounded(func(*values[0]), func(condition, *map(_error, choices)), model)
    if name not in _MOVES:
        raise ArgumentError(f"bounded arithmetic has no rule for numpy.{name}")
    errors = func(*map_nested(_error_like, args), **map_nested(_error_like, kwargs))
    return _paired(func(*values[0], **values[1]), errors, model)


def _error_like(x: Any) -> Any:
    """The bounds of an argument: 0 for a plain array of numbers; indices and options are returned unchanged."""
    if isinstance(x, Bounded):
        return x.error
    return np.zeros_like(x) if isinstance(x, np.ndarray | np.floating) and x.dtype.kind == "f" else x


def _paired(value: Any, error: Any, model: ErrorModel) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_paired(v, e, model) for v, e in zip(value, error, strict=True))
    return bounded(value, error, model)
