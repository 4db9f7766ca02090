"""Random graphs made real: a ``Dag`` run through the engine in float64, and the gradient of every node of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale import ops
from refscale.engine import Op, Tape, Tensor, Variable, apply, backward
from refscale.functional import fork
from refscale.scales import Scales, Scheme
from refscale.testing.gradients import assert_multiples, plain
from refscale.testing.graphs import Dag

Array = NDArray[Any]

SIDE = 3
KINDS = {"tanh": 1, "add": 2, "multiply": 2, "matmul": 2, "weighted_add": 3, "scaled": 1, "masked": 1}
"""Kinds of ops for ``strategies.dags``; ``masked`` has a second, constant input without an edge."""

OPS: dict[str, Op] = {
    "tanh": ops.Tanh(),
    "add": ops.Add(),
    "multiply": ops.Multiply(),
    "matmul": ops.Matmul(),
    "weighted_add": ops.WeightedAdd((0.5, 1.0, 1.5)),
    "scaled": ops.Scaled(),
    "masked": ops.Dropout(0.25),
}
KEEP = np.array([[1, 1, 0], [0, 1, 1], [1, 1, 1]], np.bool_)


def leaves(dag: Dag, rng: np.random.Generator) -> list[Array]:
    """Entries in [−1, 1]: a chain of eight squares of 3 × 3 matrices then stays far from overflow in float64."""
    return [rng.uniform(-1, 1, (SIDE, SIDE)) for _ in range(dag.n_leaves)]


def connect(dag: Dag, tensors: Sequence[Tensor], *, forked: bool = False) -> list[Tensor]:
    """Run every op of the graph on its leaves; the tensor of each node, in its numbering.

    ``forked`` passes every use of a node that is used more than once through a fork of its own.
    """
    uses = Counter(i for _, inputs in dag.ops for i in inputs)
    nodes = list(tensors)
    forks: dict[int, list[Tensor]] = {}
    for kind, inputs in dag.ops:
        operands: list[Any] = []
        for i in inputs:
            if forked and uses[i] > 1:
                if i not in forks:
                    forks[i] = fork(nodes[i], uses[i])
                operands.append(forks[i].pop())
            else:
                operands.append(nodes[i])
        nodes.append(apply(OPS[kind], *operands, *([KEEP] if kind == "masked" else [])))
    return nodes


def record(
    dag: Dag, tape: Tape, arrays: list[Array], *, forked: bool = False, constant: frozenset[int] = frozenset()
) -> list[Tensor]:
    """``connect`` on new leaves of a tape, those numbered in ``constant`` without gradient."""
    tensors = [tape.tensor(x, f"leaf{i}", requires_grad=i not in constant) for i, x in enumerate(arrays)]
    return connect(dag, tensors, forked=forked)


@dataclass(frozen=True)
class Run:
    """A recorded graph after its backward pass: the tensor and the gradient (None where there is none) of each node."""

    tensors: list[Tensor]
    gradients: list[Array | None]

    @property
    def output(self) -> Tensor:
        return self.tensors[-1]


def run(dag: Dag, scheme: Scheme, arrays: list[Array], seed: Array, *, forked: bool = False, settle: Any = None) -> Run:
    """Record under a scheme, let ``settle`` see the output, run backward from ``seed``."""
    seen: dict[Variable, Array] = {}

    def probe(way: str, variable: Variable, value: Array) -> None:
        if way == "backward":
            seen[variable] = value

    tensors = record(dag, Tape(scheme, dtype=np.float64, probe=probe), arrays, forked=forked)
    if settle is not None:
        settle(tensors[-1])
    backward(tensors[-1], seed, check=False)  # the tests check whether the factors are legal
    return Run(tensors, [seen.get(t.variable) for t in tensors])


def random_factor(rng: np.random.Generator) -> float:
    """Between 2^-½ and 2^½: far enough from 1 to be seen, near enough that products of hundreds stay in range."""
    return math.exp2(rng.uniform(-0.5, 0.5))


def true_factors(factors: tuple[Scales, ...]) -> tuple[Scales, ...]:
    """The same forward pass with β = α throughout: every c is 1, so the gradient is that of the function computed.

    (Each op is then α·f with the vjp of α·f, plain backpropagation; ``test_gradient_factors`` checks it.)
    """
    return tuple(map(plain, factors))


def assert_multiple(computed: Array | None, c: float, true: Array | None, what: object = "gradient") -> None:
    """computed = c·true within 1e-10 of its norm.

    Both passes add the same few dozen terms, each off by some 1e-15; the rest of the bound is room for cancellation
    in their sum, and a wrong factor (at least 1e-9 off, in practice percents) is far outside.
    """
    assert (computed is None) == (true is None), what
    if computed is not None and true is not None:
        assert_multiples({str(what): (computed, c, true)})
