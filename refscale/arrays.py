"""Arrays at the border of the package: which kinds are refused, and who may still write to one.

Every function that takes arrays from outside calls ``plain``. What is kept beyond the call, or handed out, is frozen:

======================  ============================================================================
array                   at the border
======================  ============================================================================
writable                copied once by ``kept``; a later write by the caller changes nothing
read-only to its base   kept as it is: parameters pass from step to step without a copy
a result                made read-only by ``freeze``, so that it may share memory with what is kept
======================  ============================================================================
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refscale.errors import CarrierError, ShapeError

Array = NDArray[Any]


def plain(call: str, name: str, value: ArrayLike) -> Array:
    """An argument as a plain NumPy array; one that is such an array already is returned itself.

    Args:
        call: the function called, for messages.
        name: of the argument, for messages.
        value: an array, a number, or nested lists of either.

    Raises:
        CarrierError: a masked array, a ``numpy.matrix``, a tensor or Python objects; ``np.asarray`` would drop the
            mask, the meaning of ``*`` or the gradient.
        ShapeError: nested lists of unequal lengths.
    """
    if type(value) is np.ndarray and value.dtype.kind != "O":
        return value
    kind = _refused(value)
    if kind is None:
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise ShapeError(f"{call}: {name} does not convert to an array: {error}") from None
        if array.dtype.kind != "O":
            return array
        kind = "an array of Python objects" if isinstance(value, np.ndarray) else f"of type {type(value).__name__}"
    raise CarrierError(f"{call}: {name} is {kind}, expected a plain array of numbers")


def _refused(value: object) -> str | None:
    """The kind of a value, or of one inside nested lists, that ``np.asarray`` would convert without its meaning."""
    if isinstance(value, list | tuple):
        return next((kind for item in value if (kind := _refused(item))), None)
    if getattr(type(value), "__array_ufunc__", True) is None:  # it refuses NumPy's functions, as tensors do
        return f"a {type(value).__name__}, whose value np.asarray returns"
    if not isinstance(value, np.ndarray) or type(value) is np.ndarray:
        return None
    if isinstance(value, np.ma.MaskedArray):
        return "a masked array"
    return "a numpy.matrix" if isinstance(value, np.matrix) else None


def kept(x: Array) -> Array:
    """An array that nobody writes to any more: x itself if it is read-only down to its base, else a read-only copy.

    A base that is no array (another library's buffer, a mapped file) counts as writable, unless it is ``bytes``.
    """
    base: object = x
    while isinstance(base, np.ndarray) and not base.flags.writeable:
        base = base.base
    return x if base is None or isinstance(base, bytes) else freeze(x.copy("K"))


def freeze(x: Array) -> Array:
    """x itself, made read-only down to its base; for arrays that nobody else holds."""
    base: object = x
    while isinstance(base, np.ndarray):
        base.setflags(write=False)
        base = base.base
    return x
