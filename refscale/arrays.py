"""Checks and write protection of arrays that enter or leave the package.

Every function that takes arrays from outside calls ``plain``. Arrays that outlive the call, or are returned, are
read-only:

======================  ============================================================================
array                   treatment
======================  ============================================================================
writable                copied once by ``kept``; a later write by the caller changes nothing
read-only to its base   kept without a copy, as parameters from step to step
a result                made read-only by ``freeze``, so that it may share memory with kept arrays
======================  ============================================================================
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refscale.errors import CarrierError, ShapeError

Array = NDArray[Any]


def plain(call: str, name: str, value: ArrayLike) -> Array:
    """Return an argument as a plain NumPy array; a plain NumPy array is returned itself.

    Args:
        call: the function called, for messages.
        name: the name of the argument, for messages.
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
    """Return an array that no other code can write to: x itself if it is read-only down to its base, else a copy.

    The copy is read-only. A base that is not an array (another library's buffer, a mapped file) counts as writable,
    unless it is ``bytes``.
    """
    base: object = x
    while isinstance(base, np.ndarray) and not base.flags.writeable:
        base = base.base
    return x if base is None or isinstance(base, bytes) else freeze(x.copy("K"))


def freeze(x: Array) -> Array:
    """Make x read-only down to its base, and return it; for arrays without other references."""
    base: object = x
    while isinstance(base, np.ndarray):
        base.setflags(write=False)
        base = base.base
    return x
