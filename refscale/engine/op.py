"""What an op is: its readable form, its factors, and the fast form that it may have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refscale.scales import Scales

Array = NDArray[Any]


class Kernel(NamedTuple):
    """The fast form of an op: the same function, in passes that stay in cache, with the factors inside.

    * ``forward(op, α, *arrays) -> (α·y, kept)``
    * ``backward(op, betas, g, *kept) -> (β_i · gradient of input i, ...)``; None where β_i is: nobody asks for it.

    A kernel is handed its factors, and only says where they cost least; it never chooses them.  It writes to nothing
    that it was given, but its backward, which runs once, may overwrite what its own forward has made and kept.  What it
    returns are new arrays, each another, except that y may be one that it keeps, and a gradient may be g itself.
    """

    forward: Callable[..., tuple[Array, tuple[Any, ...]]]
    backward: Callable[..., tuple[Any, ...]]


class Op:
    """One row of the op table: forward, backward and factors of one function.

    A subclass with attributes is a frozen dataclass, of which they are the fields.  It defines

    * ``inputs``: their names; ``source``: where the factors come from;
    * ``forward(*arrays) -> (y, kept)``: the function, and a tuple of what backward will need;
    * ``backward(g, *kept) -> (gradient of each input, None for those in ``constants``)``;
    * ``scale(*shapes) -> Scales``: the factors that give unit variance when inputs and gradients are
      independent N(0, 1).  It sees shapes and attributes only.

    ``constants`` are positions of inputs without gradient.  ``contraction`` marks ops that hardware runs on narrow
    operands, ``weight_inputs`` the positions of those that are weights, where they are matrices.  ``has_mean`` marks
    outputs whose standard deviation and RMS differ: ``scale`` then takes ``statistic``.
    ``reports`` marks a value that is read by people, not by ops, and is not rounded, nor is its gradient (losses).
    ``carries_factors`` marks identities that exist only for their factors: a regular model is the same without them.

    ``fast`` is the fast form of ``forward`` and ``backward``, if there is one.  The engine runs it, unless the policy
    asks for another arithmetic, or other functions have taken the place of the two that it stands for, in a subclass or
    by a patch.

    ``moves`` marks ops that compute nothing: y holds values of the inputs, and the gradients hold those of g, so that
    neither has to be rounded; of one input, its gradient is g or a view of it.
    """

    inputs: ClassVar[tuple[str, ...]]
    source: ClassVar[str]
    name: ClassVar[str]
    constants: ClassVar[tuple[int, ...]] = ()
    contraction: ClassVar[bool] = False
    weight_inputs: ClassVar[tuple[int, ...]] = ()
    has_mean: ClassVar[bool] = False
    reports: ClassVar[bool] = False
    carries_factors: ClassVar[bool] = False
    moves: ClassVar[bool] = False
    fast: ClassVar[Kernel | None] = None
    _stands_for: ClassVar[tuple[Any, Any]] = (None, None)
    forward: ClassVar[Callable[..., tuple[Array, tuple[Any, ...]]]]
    backward: ClassVar[Callable[..., tuple[Array | None, ...]]]
    scale: ClassVar[Callable[..., Scales]]

    def __init_subclass__(cls) -> None:
        cls.name = op_name(cls)
        if "fast" in vars(cls):
            cls._stands_for = cls.forward, cls.backward

    # What a frozen dataclass has; one is made for ops with attributes only, as making it takes half a millisecond.
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{self!r}: cannot assign to {name!r}, the attributes of an op do not change")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{self!r}: cannot delete {name!r}, the attributes of an op do not change")

    def __eq__(self, other: object) -> bool:
        """Of one class, and of the same attributes."""
        return vars(self) == vars(other) if type(self) is type(other) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in vars(self).items())})"

    def __post_init__(self) -> None:
        # A NumPy scalar attribute would widen float32 arrays to float64.
        for field, value in vars(self).items():
            if isinstance(value, np.floating):
                object.__setattr__(self, field, float(value))


def kernel_of(op: Op) -> Kernel | None:
    """The fast form of an op, if it has one that stands for its forward and backward."""
    kind = type(op)
    forward, backward = kind._stands_for
    return kind.fast if kind.forward is forward and kind.backward is backward else None


def op_name(kind: type[Op]) -> str:
    """``SoftmaxCrossEntropy`` → ``softmax_cross_entropy``."""
    return "".join("_" + c.lower() if c.isupper() else c for c in kind.__name__).lstrip("_")
