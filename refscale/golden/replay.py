"""One call of an op, from the numbers of a vector: casts, forward, backward, factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale import ops
from refscale.engine import Op, Tape, apply, backward
from refscale.errors import GoldenError
from refscale.golden.inputs import cast_for
from refscale.precision import Precision
from refscale.scales import Call, Regular, Scales

Array = NDArray[Any]


@dataclass(frozen=True)
class _Given(Regular):
    """A scheme with given factors."""

    factors: Scales = field(default_factory=lambda: Scales(1.0, ()))

    def scales(self, call: Call) -> Scales:
        """Return the given factors."""
        return self.factors


@dataclass(frozen=True)
class Replayed:
    """Arguments and results of a call, by name, as stored.

    Attributes:
        inputs: arrays, rounded to the store format of the policy.
        gradient: gradient of the output, as stored; None if no input needs one.
        outputs: "y", and "grad_NAME" of each input that has a gradient.
        scales: factors of the op.
    """

    inputs: dict[str, Array]
    gradient: Array | None
    outputs: dict[str, Array]
    scales: Scales


def make_op(name: str, attributes: Mapping[str, Any]) -> Op:
    """Return the op of that name, such as "layer_norm"; lists in JSON become its tuples.

    Raises:
        GoldenError: there is no such op.
    """
    if name not in ops.OPS:
        raise GoldenError(f"golden op {name!r}: no such op")
    return ops.OPS[name](**{k: tuple(v) if isinstance(v, list) else v for k, v in attributes.items()})


def input_names(op: Op, count: int) -> tuple[str, ...]:
    """Return the names of an op's inputs; those of a list are numbered."""
    if op.inputs[0].startswith("*"):
        return tuple(f"{op.inputs[0][1:]}{i}" for i in range(count))
    return op.inputs


def policy(
    op: Op, store: str, operand: str | None, operand_gradient: str | None, accumulate: str | None = "exact"
) -> Precision:
    """Return the policy that the attributes of a vector define."""
    return Precision(
        "vector",
        None if store == "float32" else cast_for(store),
        cast_for(operand) if operand else None,
        cast_for(operand_gradient) if operand_gradient else None,
        accumulate=accumulate,
    )


def replay(
    op: Op,
    arrays: Sequence[Array],
    gradient: Array | None,
    scales: Scales,
    precision: Precision,
    needed: Sequence[bool] | None = None,
    dtype: type[np.floating[Any]] = np.float32,
    fast: bool = True,
    rng: np.random.Generator | None = None,
) -> Replayed:
    """Run one call on a tape of its own.

    Args:
        op: the op.
        arrays: inputs; floats are rounded to the store format of the policy.
        gradient: gradient of the output; None: forward only.
        scales: factors of the op.
        precision: casts and accumulator.
        needed: whether each input has a gradient; None: all that can.
        dtype: float dtype of the computation.
        fast: whether to run the op's fast form, if it has one.
        rng: source of random bits, needed only if a cast rounds stochastically.
    """
    tape = Tape(_Given(factors=scales), precision, dtype=dtype, fast=fast, rng=rng)
    names = input_names(op, len(arrays))
    wanted = [True] * len(arrays) if needed is None else needed
    leaves = [tape.tensor(a, n, requires_grad=w) for a, n, w in zip(arrays, names, wanted, strict=True)]
    y = apply(op, *leaves)
    outputs, seed = {"y": y.value}, None
    if gradient is not None and y.variable.requires_grad:
        narrow = precision.store if not op.reports else None
        seed = narrow(gradient) if narrow else np.asarray(gradient, dtype)
        backward(y, seed)
        outputs |= {f"grad_{n}": t.grad for n, t in zip(names, leaves, strict=True) if t.grad is not None}
    inputs = {n: t.value for n, t in zip(names, leaves, strict=True)}
    return Replayed(inputs, seed, outputs, tape.nodes[0].scales)
