"""Operators of tensors: ``x + y`` and ``x @ w`` run ops; NumPy functions of tensors raise an error.

The engine does not import ops: ``refscale.ops`` installs them when it is imported. A NumPy function of a tensor would
return a plain array, and the gradient would be lost silently; ``np.asarray(tensor)`` returns that array explicitly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

from refscale.errors import TapeError

_INSTALLED: dict[str, Callable[[Any, Any], Any]] = {}

INSTEAD = {
    "array_split": "functional.split",
    "concatenate": "ops.Concat",
    "dot": "functional.matmul",
    "inner": "functional.matmul",
    "mean": "ops.Mean",
    "reshape": "ops.Reshape",
    "split": "functional.split",
    "sum": "ops.Sum",
    "take": "functional.embedding",
    "transpose": "ops.Transpose",
}
"""By name of a NumPy function, the function or op of refscale that has a gradient."""


def install(functions: Mapping[str, Callable[[Any, Any], Any]]) -> None:
    """Set the functions of two operands that the operators call.

    Args:
        functions: by symbol: "+", "-" and "@", of two tensors; "*", of two tensors or of a tensor and a number; "/", of
            a tensor and a number; "neg", of a tensor and −1.
    """
    _INSTALLED.update(functions)


def _number(x: object) -> object:
    """A Python integer as a float, for ``2 * x``: integers are token ids to an op, not numbers."""
    return float(x) if type(x) is int else x


class Operators:
    """Base class of ``Tensor``: its operators, and an error for NumPy functions."""

    __slots__ = ()
    __array_ufunc__: ClassVar[None] = None  # NumPy then leaves ``array + tensor`` to the tensor

    def _run(self, symbol: str, left: object, right: object) -> Self:
        if symbol not in _INSTALLED:
            raise TapeError(f"{left!r} {symbol} {right!r}: no op is installed for {symbol}; import refscale.ops")
        result: Self = _INSTALLED[symbol](_number(left), _number(right))
        return result

    def __add__(self, other: Any) -> Self:
        """``ops.Add``."""
        return self._run("+", self, other)

    def __radd__(self, other: Any) -> Self:
        """``ops.Add``, with the other operand on the left."""
        return self._run("+", other, self)

    def __sub__(self, other: Any) -> Self:
        """``ops.Subtract``."""
        return self._run("-", self, other)

    def __rsub__(self, other: Any) -> Self:
        """``ops.Subtract``, with the other operand on the left."""
        return self._run("-", other, self)

    def __mul__(self, other: Any) -> Self:
        """``ops.Multiply``; by a number ``ops.ScalarMultiply``."""
        return self._run("*", self, other)

    def __rmul__(self, other: Any) -> Self:
        """``ops.Multiply`` of what stands on the left; of a number ``ops.ScalarMultiply``."""
        return self._run("*", other, self)

    def __matmul__(self, other: Any) -> Self:
        """``ops.Matmul``."""
        return self._run("@", self, other)

    def __rmatmul__(self, other: Any) -> Self:
        """``ops.Matmul`` of what stands on the left."""
        return self._run("@", other, self)

    def __truediv__(self, other: Any) -> Self:
        """``ops.ScalarDivide``, by a number."""
        return self._run("/", self, other)

    def __neg__(self) -> Self:
        """``ops.ScalarMultiply`` by −1."""
        return self._run("neg", self, -1.0)

    def __array_function__(self, function: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> Any:
        """Raise TapeError: the result of a NumPy function would have no gradient."""
        name = f"{function.__module__}.{function.__name__}"
        instead = INSTEAD.get(function.__name__)
        use = f"refscale.{instead}" if instead else "a function of refscale.functional or an op of refscale.ops"
        raise TapeError(f"{name} of a Tensor has no gradient: use {use}, or np.asarray(tensor)")
