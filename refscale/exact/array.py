"""Arrays with defined arithmetic: an op written for NumPy computes the same bits on every machine with them.

NumPy lets an array type define what functions do with it (NEP 13, NEP 18). ``ExactArray`` is float64, and defines:

====================================  ===============================================================================
+ − × ÷ √, comparisons, moves         those of IEEE 754 in float64, each rounded to nearest
sums (``sum``, ``add.reduce``)        the real sum of the float64 terms, rounded once
``einsum`` of two factors             products in float64, then such a sum
exp, log, log1p, tanh                 from basic operations, to about an ulp of float64: ``special.elementary``
``@``                                 a ``Product``: the real number, not rounded yet
other functions                       an error, because their results could depend on the machine
====================================  ===============================================================================

A ``Product`` stores its operands. Multiplication by a number changes its factor, and moves (reshape, transpose) are
recorded. ``rounded(x, cast)`` evaluates it, so that product and factor are rounded once, to the format in which they
are stored. Other functions of a ``Product`` use its value rounded to float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from refscale.errors import ArgumentError
from refscale.exact import accumulators, product, sums
from refscale.formats import Cast
from refscale.special import elementary
from refscale.special.elementary import BASIC, Elementary

Array = NDArray[Any]


Move = Callable[[Any], Any]


class ExactArray(np.ndarray[Any, np.dtype[Any]]):
    """A float64 array that computes by the rules of this module; booleans and integers made from it are plain arrays.

    Attributes:
        accumulate: accumulator of products, "exact" or a name in ``accumulators``.
    """

    elementary: ClassVar[Elementary] = BASIC
    accumulate: str = "exact"

    def __array_finalize__(self, parent: Any) -> None:
        self.accumulate = getattr(parent, "accumulate", "exact")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        """Every ufunc passes here."""
        return _call_ufunc(ufunc, method, inputs, options)

    def __array_function__(self, func: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> Any:
        """Every other function of NumPy passes here."""
        return _call_function(func, args, kwargs)


def as_exact(x: Any, accumulate: str = "exact") -> Any:
    """Convert floats, including bfloat16, to an ``ExactArray``; other values are returned unchanged."""
    if not isinstance(x, np.ndarray | np.generic) or not (x.dtype.kind == "f" or x.dtype == ml_dtypes.bfloat16):
        return x
    with np.errstate(invalid="ignore"):  # a signaling NaN is one
        y = np.asarray(x, np.float64).view(ExactArray)
    y.accumulate = accumulate
    return y


def rounded(x: Array | Product, cast: Cast, random_bits: NDArray[np.uint32] | None = None) -> NDArray[np.float32]:
    """Round an array or a product once; for stochastic rounding a product is first rounded to float64."""
    if isinstance(x, Product):
        if x.accumulate == "exact" and cast.rounding != "stochastic":
            return np.asarray(x.moved(product.matmul(x.a, x.b, cast, x.factor)))
        x = x.array()
    return cast(np.asarray(x), random_bits)


class Product:
    """A matrix product with a factor, factor · a @ b, whose elements are real numbers, not rounded yet.

    Attributes:
        a, b: operands, (…, M, K) and (…, K, N).
        factor: the factor; the product of several factors is rounded to float64.
        accumulate: "exact", or the accumulator whose float32 sums replace the real ones.
        moves: moves of elements, applied in order after rounding.
    """

    __slots__ = ("a", "accumulate", "b", "factor", "moves")
    __array_priority__ = 1000.0

    def __init__(self, a: Any, b: Any, accumulate: str, factor: float = 1.0, moves: tuple[Move, ...] = ()) -> None:
        self.a, self.b = _plain(a), _plain(b)
        self.accumulate, self.factor, self.moves = accumulate, factor, moves

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return tuple(self.moved(np.broadcast_to(np.float32(0), self._shape())).shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def T(self) -> Product:  # noqa: N802
        """The transposed product."""
        return self._then(lambda y: y.T)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of ``array()``, float64."""
        return np.dtype(np.float64)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self._shape())

    def array(self) -> ExactArray:
        """Return the result rounded to nearest float64, for further computation."""
        y = product.matmul_float64(self.a, self.b, self.factor) if self.accumulate == "exact" else self._accumulated()
        result: ExactArray = as_exact(self.moved(y), self.accumulate)
        return result

    def _accumulated(self) -> Array:
        model = accumulators.get_accumulator(self.accumulate)
        with np.errstate(over="ignore"):
            return np.asarray(model.matmul(self.a, self.b) * np.float64(self.factor))

    def reshape(self, *shape: Any) -> Product:
        """Return the product with a recorded move, as the method of an array does."""
        return self._then(lambda y: y.reshape(*shape))

    def transpose(self, *axes: Any) -> Product:
        """Return the product with a recorded move, as the method of an array does."""
        return self._then(lambda y: y.transpose(*axes))

    def swapaxes(self, first: int, second: int) -> Product:
        """Return the product with a recorded move, as the method of an array does."""
        return self._then(lambda y: y.swapaxes(first, second))

    def astype(self, dtype: Any, **_: Any) -> Product:
        """Return the product itself, which has no dtype before it is rounded."""
        return self

    def sum(self, axis: Any = None, keepdims: bool = False) -> Any:
        """Compute the sum of the elements, which are rounded to float64 first."""
        return self.array().sum(axis, keepdims=keepdims)

    def __mul__(self, other: Any) -> Any:
        """Times a number: part of the factor. Times an array: rounded to float64 first."""
        if np.ndim(other) == 0 and not isinstance(other, Product):
            return Product(self.a, self.b, self.accumulate, self.factor * float(other), self.moves)
        return self.array() * other

    __rmul__ = __mul__

    def __add__(self, other: Any) -> Any:
        """Rounded to float64 first, as for every operator below."""
        return self.array() + other

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return self.array() - other

    def __rsub__(self, other: Any) -> Any:
        return other - self.array()

    def __truediv__(self, other: Any) -> Any:
        return self.array() / other

    def __rtruediv__(self, other: Any) -> Any:
        return other / self.array()

    def __neg__(self) -> Any:
        return self * -1.0

    def __getattr__(self, name: str) -> Any:
        """Other attributes and methods of an array are those of the product rounded to float64."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.array(), name)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if ufunc is np.multiply and method == "__call__" and not options.get("out"):
            first, second = inputs
            return first * second if isinstance(first, Product) else second * first
        return _call_ufunc(ufunc, method, inputs, options)

    def __array_function__(self, func: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> Any:
        return _call_function(func, args, kwargs)

    def _then(self, move: Move) -> Product:
        return Product(self.a, self.b, self.accumulate, self.factor, (*self.moves, move))

    def _shape(self) -> tuple[int, ...]:
        batch = np.broadcast_shapes(self.a.shape[:-2], self.b.shape[:-2])
        return (*batch, self.a.shape[-2], self.b.shape[-1])

    def moved(self, y: Any) -> Any:
        """Apply the moves of the product to an array of its elements."""
        for move in self.moves:
            y = move(y)
        return y


# --- the rules --------------------------------------------------------------------------------------------------------


def words(text: str) -> frozenset[str]:
    """Split a text into words, and return them as a set of names."""
    return frozenset(text.split())


_FUNCTIONS: Mapping[np.ufunc, Callable[..., Any]] = {
    np.exp: elementary.exp,
    np.log: elementary.log,
    np.log1p: elementary.log1p,
    np.tanh: elementary.tanh,
}
_AS_IT_IS = words(
    """
    add subtract multiply divide negative positive absolute fabs square sqrt reciprocal maximum minimum fmax fmin clip
    sign copysign signbit isfinite isinf isnan equal not_equal less less_equal greater greater_equal rint trunc floor
    ceil logical_and logical_or logical_not logical_xor bitwise_and bitwise_or invert nextafter spacing
    """
)
_REDUCED_AS_IT_IS = frozenset({"maximum", "minimum", "logical_and", "logical_or"})
_MOVES = words(
    """
    all any amax amin argmax argmin argsort array_equal array_split atleast_1d broadcast_to clip concatenate copy copyto
    count_nonzero empty_like expand_dims flip full_like isneginf isposinf max may_share_memory min moveaxis ndim nonzero
    ones_like pad ravel repeat reshape result_type shape shares_memory size
    sliding_window_view split squeeze stack swapaxes take
    take_along_axis tile transpose unique where zeros_like
    """
)


def _call_ufunc(ufunc: np.ufunc, method: str, inputs: Sequence[Any], options: dict[str, Any]) -> Any:
    accumulate = _accumulate(inputs)
    if ufunc is np.matmul and method == "__call__":
        return Product(inputs[0], inputs[1], accumulate)
    outs = options.pop("out", None) or ()
    plain = [_plain(x) for x in inputs]
    result = _rule(ufunc, method)(*plain, **{k: _plain(v) for k, v in options.items()})
    if outs and outs[0] is not None:
        np.copyto(_plain(outs[0]), result, casting="same_kind")
        return outs[0]
    return as_exact(result, accumulate)


def _rule(ufunc: np.ufunc, method: str) -> Callable[..., Any]:
    """The function that computes a ufunc, or a method of it, exactly."""
    name = "divide" if ufunc is np.true_divide else ufunc.__name__
    if method == "__call__":
        if ufunc in _FUNCTIONS:
            return _FUNCTIONS[ufunc]
        if ufunc is np.power:
            return _power
        if name in _AS_IT_IS:
            return ufunc
    elif method == "reduce":
        if ufunc is np.add:
            return _sum
        if name in _REDUCED_AS_IT_IS:
            return ufunc.reduce
    elif method == "reduceat" and ufunc is np.add:
        return _sum_runs
    raise ArgumentError(f"exact arithmetic has no rule for numpy.{ufunc.__name__} ({method})")


def _power(x: Array, exponent: Any) -> Array:
    if np.ndim(exponent) or exponent != 2:
        raise ArgumentError(f"exact arithmetic has no rule for powers except squares, got exponent {exponent!r}")
    return np.square(x)


def _sum(x: Array, axis: Any = 0, dtype: Any = None, keepdims: bool = False, **others: Any) -> Any:
    if np.asarray(x).dtype.kind != "f":
        return np.sum(x, axis, dtype, keepdims=keepdims)
    if any(v is not np._NoValue and v not in (None, True) for v in others.values()):
        raise ArgumentError(f"exact arithmetic has no rule for sums with {', '.join(others)}")
    return sums.sum(x, axis, keepdims)


def _sum_runs(x: Array, starts: Array, axis: int = 0, **_: Any) -> Array:
    stops = [*starts[1:], x.shape[axis]]
    rows = [sums.sum(x.take(range(i, max(j, i + 1)), axis), axis) for i, j in zip(starts, stops, strict=True)]
    return np.stack(rows, axis)


def _call_function(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    accumulate = _accumulate(leaves((args, kwargs)))
    args, kwargs = map_nested(_plain, args), map_nested(_plain, kwargs)
    if func is np.einsum:
        return as_exact(_einsum(*args, **kwargs), accumulate)
    if func is np.sum:
        return as_exact(_sum(*args, **{"axis": None, **kwargs}), accumulate)
    if func.__name__ not in _MOVES:
        raise ArgumentError(f"exact arithmetic has no rule for numpy.{func.__name__}")
    return map_nested(lambda x: as_exact(x, accumulate), func(*args, **kwargs))


def _einsum(subscripts: str, a: Array, b: Array) -> Array:
    """Products of two arrays of the same subscripts, summed over the last axis."""
    if subscripts != "...i,...i->...":
        raise ArgumentError(f"exact arithmetic has no rule for einsum {subscripts!r}, only for '...i,...i->...'")
    return sums.sum(a * b, -1)


def _plain(x: Any) -> Any:
    """A plain array: a view of the same memory, or a product rounded to float64."""
    if isinstance(x, Product):
        x = x.array()
    return x.view(np.ndarray) if isinstance(x, ExactArray) else x


def map_nested(f: Callable[[Any], Any], x: Any) -> Any:
    """Apply f to every leaf of nested tuples, lists and dictionaries, keeping the structure."""
    if isinstance(x, tuple | list):
        return type(x)(map_nested(f, y) for y in x)
    if isinstance(x, dict):
        return {k: map_nested(f, y) for k, y in x.items()}
    return f(x)


def leaves(x: Any) -> list[Any]:
    """Return the leaves of nested tuples, lists and dictionaries."""
    found: list[Any] = []
    map_nested(found.append, x)
    return found


def _accumulate(inputs: Sequence[Any]) -> str:
    return next((x.accumulate for x in inputs if isinstance(x, ExactArray | Product)), "exact")
