"""Correctly rounded products, sums and functions, with the same bits on any machine.

In reading order:

1. ``errorfree``: sums and products without error, used by the other modules.
2. ``product``: ``matmul``, each output the real number times a factor, rounded once; ``sums``: ``sum``, rounded once.
3. ``functions``: exp, gelu, … and their derivatives, correctly rounded, from basic operations.
4. ``accumulators``: models of the sums that hardware computes; ``hardware``: the models of GPUs; ``intervals``: error
   bounds of accumulators.
5. ``array``: ``ExactArray``, an array type with which ops compute by these rules.
6. ``bounded``: ``Bounded``, an array type with which ops derive bounds of their float32 errors.

    >>> import numpy as np
    >>> from refscale import exact
    >>> from refscale.formats import Cast
    >>> a, b = np.float32([[1, 2**-24, -1]]), np.float32([[1], [1], [1]])
    >>> exact.matmul(a, b, Cast("float32", "nearest_even", "nonsaturate")).item() == 2**-24
    True
"""

from refscale.exact.accumulators import ACCUMULATORS, Accumulator, get_accumulator
from refscale.exact.array import ExactArray, Product, as_exact, rounded
from refscale.exact.bounded import FLOAT32, Bounded, ErrorModel, as_bounded, bounded
from refscale.exact.functions import FUNCTIONS, Function, evaluate
from refscale.exact.hardware import HARDWARE, Hardware
from refscale.exact.intervals import bound, ends, inside, interval
from refscale.exact.product import matmul, matmul_float64
from refscale.exact.sums import sum

__all__ = [
    "ACCUMULATORS",
    "FLOAT32",
    "FUNCTIONS",
    "HARDWARE",
    "Accumulator",
    "Bounded",
    "ErrorModel",
    "ExactArray",
    "Function",
    "Hardware",
    "Product",
    "as_bounded",
    "as_exact",
    "bound",
    "bounded",
    "ends",
    "evaluate",
    "get_accumulator",
    "inside",
    "interval",
    "matmul",
    "matmul_float64",
    "rounded",
    "sum",
]
