"""Functions of one number composed of ONNX nodes, with their derivatives.

Each value is a pair of numbers, of f and f′ at the same points; each node maps pairs to a pair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.bridge.steps import AtenCall, resolve
from refscale.special import erf

__all__ = ["ELEMENTWISE", "ComposedNodes"]

Array = NDArray[Any]
Pair = tuple[Any, Any]
"""Values of a function and of its derivative."""


def _of_one(f: Callable[[Any], Any], slope: Callable[[Any], Any]) -> Callable[..., Pair]:
    def node(X: Any = None, input: Any = None, **unused: object) -> Pair:
        x, dx = X if input is None else input
        return f(x), slope(x) * dx

    return node


def _sigmoid(x: Any) -> Any:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _mish(x: Any) -> Any:
    return np.tanh(np.logaddexp(0.0, x))


def _add(A: Pair, B: Pair) -> Pair:
    return A[0] + B[0], A[1] + B[1]


def _sub(A: Pair, B: Pair) -> Pair:
    return A[0] - B[0], A[1] - B[1]


def _mul(A: Pair, B: Pair) -> Pair:
    return A[0] * B[0], A[1] * B[0] + A[0] * B[1]


def _div(A: Pair, B: Pair) -> Pair:
    return A[0] / B[0], (A[1] - A[0] / B[0] * B[1]) / B[0]


def _pow(X: Pair, Y: Pair) -> Pair:
    x, n = X[0], Y[0]
    if isinstance(n, float) and n == int(n):
        n = int(n)
    y = x**n
    # the exponent is a number in all but functions such as 2**x
    by_exponent = y * np.log(x) * Y[1] if np.any(Y[1]) else 0.0
    return y, n * x ** (n - 1) * X[1] + by_exponent


def _clip(input: Pair, min: Any = None, max: Any = None) -> Pair:
    low, high = (None if bound is None else bound[0] for bound in (min, max))
    x, dx = input
    inside = (True if low is None else x >= low) & (True if high is None else x <= high)
    return np.clip(x, low, high), np.where(inside, dx, 0.0)


def _extreme(pick: Callable[[Any, Any], Any]) -> Callable[[Sequence[Pair]], Pair]:
    def node(data_0: Sequence[Pair]) -> Pair:
        (x, dx), *others = data_0
        for y, dy in others:
            best = pick(x, y)
            dx = np.where(x == y, 0.5 * (dx + dy), np.where(best == x, dx, dy))
            x = best
        return x, dx

    return node


def _hard_sigmoid(X: Pair, alpha: Any, beta: Any) -> Pair:
    return _clip((alpha[0] * X[0] + beta[0], alpha[0] * X[1]), (0.0, 0.0), (1.0, 0.0))


def _elu(X: Pair, alpha: Any) -> Pair:
    x, a = X[0], alpha[0]
    negative = a * np.exp(np.minimum(x, 0.0))
    return np.where(x > 0, x, negative - a), np.where(x > 0, 1.0, negative) * X[1]


def _leaky(X: Pair, alpha: Any) -> Pair:
    slope = np.where(X[0] > 0, 1.0, alpha[0])
    return X[0] * slope, X[1] * slope


def _celu(X: Pair, alpha: Any) -> Pair:
    x, a = X[0], alpha[0]
    negative = np.exp(np.minimum(x, 0.0) / a)
    return np.where(x > 0, x, a * (negative - 1)), np.where(x > 0, 1.0, negative) * X[1]


_NODES: Mapping[str, Callable[..., Pair]] = {
    "Add": _add,
    "Sub": _sub,
    "Mul": _mul,
    "Div": _div,
    "Pow": _pow,
    "Clip": _clip,
    "Max": _extreme(np.maximum),
    "Min": _extreme(np.minimum),
    "HardSigmoid": _hard_sigmoid,
    "Elu": _elu,
    "Celu": _celu,
    "LeakyRelu": _leaky,
    "Identity": _of_one(lambda x: x, lambda x: 1.0),
    "Neg": _of_one(lambda x: -x, lambda x: -1.0),
    "Abs": _of_one(np.abs, np.sign),
    "Relu": _of_one(lambda x: np.maximum(x, 0.0), lambda x: (x > 0) * 1.0),
    "Sqrt": _of_one(np.sqrt, lambda x: 0.5 / np.sqrt(x)),
    "Reciprocal": _of_one(lambda x: 1 / x, lambda x: -1 / x**2),
    "Exp": _of_one(np.exp, np.exp),
    "Log": _of_one(np.log, lambda x: 1 / x),
    "Sin": _of_one(np.sin, np.cos),
    "Cos": _of_one(np.cos, lambda x: -np.sin(x)),
    "Erf": _of_one(erf, lambda x: 2 / np.sqrt(np.pi) * np.exp(-(x**2))),
    "Tanh": _of_one(np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "Sigmoid": _of_one(_sigmoid, lambda x: _sigmoid(x) * _sigmoid(-x)),
    "Softplus": _of_one(lambda x: np.logaddexp(0.0, x), _sigmoid),
    "Softsign": _of_one(lambda x: x / (1 + np.abs(x)), lambda x: (1 + np.abs(x)) ** -2.0),
    "Mish": _of_one(lambda x: x * _mish(x), lambda x: _mish(x) + x * (1 - _mish(x) ** 2) * _sigmoid(x)),
    "HardSwish": _of_one(
        lambda x: x * np.clip(x + 3, 0, 6) / 6,
        lambda x: np.where(np.abs(x) < 3, (2 * x + 3) / 6, (x >= 3) * 1.0),
    ),
}
ELEMENTWISE = frozenset(f"onnx.{name}" for name in _NODES)
"""Targets of the nodes that have a pair."""


class ComposedNodes:
    """An element-wise function by the nodes that compute it.

    Attributes:
        source: name of the argument in the steps.
        steps: the steps, in order; the last one has the result.
    """

    def __init__(self, source: str, steps: Sequence[AtenCall]) -> None:
        self.source, self.steps = source, tuple(steps)

    def kinks(self) -> tuple[float, ...]:
        """Places in (−12, 12) where f′ may jump: where the input of a node crosses a threshold of it."""
        found = set()
        for i, step in enumerate(self.steps):
            for name in step.inputs:
                value = partial(ComposedNodes(self.source, self.steps[:i])._value, name)
                for threshold in _thresholds(step):
                    found.update(_crossings(value, threshold))
        return tuple(sorted(found))

    def _pair(self, x: Array) -> Pair:
        return self._values(x)[self.steps[-1].name]

    def _value(self, name: str, x: Array) -> Array:
        return np.asarray(self._values(x)[name][0])

    def _values(self, x: Array) -> dict[str, Pair]:
        values: dict[str, Pair] = {self.source: (x, np.ones_like(x))}
        with np.errstate(all="ignore"):
            for step in self.steps:
                # numbers are pairs with derivative 0
                arguments = {
                    key: _paired(resolve(argument, lambda ref: values[ref.name]))
                    for key, argument in step.arguments.items()
                }
                values[step.name] = _NODES[step.target.removeprefix("onnx.")](**arguments)
        return values

    def __call__(self, x: Array) -> Array:
        """f(x) of an array."""
        return np.asarray(self._pair(np.asarray(x))[0], x.dtype)

    def slope(self, x: Array) -> Array:
        """f′(x) of an array."""
        return np.asarray(self._pair(np.asarray(x))[1], x.dtype)


def _thresholds(step: AtenCall) -> list[float]:
    """Where the derivative of a node jumps."""
    settings = step.arguments
    kind = step.target.removeprefix("onnx.")
    if kind == "Clip":
        return [x for x in (settings.get("min"), settings.get("max")) if isinstance(x, float)]
    if kind in ("Max", "Min"):
        return [x for x in settings["data_0"] if isinstance(x, float)]
    if kind == "HardSigmoid":
        return [(y - settings["beta"]) / settings["alpha"] for y in (0.0, 1.0)]
    return {"HardSwish": [-3.0, 3.0]}.get(kind, [0.0] if kind in ("Relu", "Abs", "Elu", "Celu", "LeakyRelu") else [])


def _crossings(f: Callable[[Array], Array], level: float) -> list[float]:
    """Where a function crosses a level, by bisection between the points of a grid."""
    grid = np.linspace(-12.0, 12.0, 2402)
    above = f(grid) > level
    found = []
    for i in np.flatnonzero(above[1:] != above[:-1]):
        low, high = grid[i], grid[i + 1]
        while low < (middle := 0.5 * (low + high)) < high:
            if (f(np.array([middle]))[0] > level) == above[i]:
                low = middle
            else:
                high = middle
        found.append(float(high))
    return found


def _paired(argument: Any) -> Any:
    if isinstance(argument, int | float):
        return float(argument), 0.0
    return [_paired(a) for a in argument] if isinstance(argument, list) else argument
