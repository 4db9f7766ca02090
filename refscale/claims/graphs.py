"""Cut-edges and gradient factors: legal combinations of factors, and the gradient that they give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.claims.claim import Figures, claim, near, none_wrong
from refscale.claims.models import ffn, ffn_parameters
from refscale.engine import Array, Op, Tape, Tensor, apply, backward
from refscale.errors import FactorError
from refscale.graph import cut_edges, gradient_factors, plan
from refscale.scales import Call, Regular, Scales, constrain, fixed, geometric, none, regular, to_output_scale, unit
from refscale.testing import rms
from refscale.testing.gradients import assert_gradient_factor
from refscale.testing.graphs import Dag, undirected_edges
from refscale.testing.places import Place

KINDS: dict[str, Op] = {
    "tanh": ops.Tanh(),
    "add": ops.Add(),
    "multiply": ops.Multiply(),
    "matmul": ops.Matmul(),
    "scaled": ops.Scaled(),
}
ARITY = {"tanh": 1, "add": 2, "multiply": 2, "matmul": 2, "scaled": 1}
GRAPHS = 12


def random_dag(rng: np.random.Generator, leaves: int, size: int) -> Dag:
    """Return a random graph whose inputs are mostly recent nodes: chains, loops, shared nodes, multi-edges."""
    calls = []
    for node in range(leaves, leaves + size):
        kind = str(rng.choice(list(KINDS)))
        back = np.minimum(node, 1 + rng.geometric(0.4, ARITY[kind]))
        calls.append((kind, tuple(int(node - k) for k in back)))
    return Dag(leaves, tuple(calls))


def connect(dag: Dag, leaves: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors of all nodes."""
    nodes = list(leaves)
    for kind, inputs in dag.ops:
        nodes.append(apply(KINDS[kind], *(nodes[i] for i in inputs)))
    return nodes


def run(dag: Dag, tape: Tape, arrays: list[Array]) -> list[Tensor]:
    """Apply ``connect`` to new leaves."""
    return connect(dag, [tape.tensor(x, f"leaf{i}") for i, x in enumerate(arrays)])


def _leaves(dag: Dag, rng: np.random.Generator) -> list[Array]:
    return [rng.uniform(-1, 1, (3, 3)) for _ in range(dag.n_leaves)]


def _needed(dag: Dag) -> set[int]:
    """Return the nodes that the output depends on."""
    found = {dag.output}
    for node in range(dag.output, dag.n_leaves - 1, -1):
        if node in found:
            found.update(dag.ops[node - dag.n_leaves][1])
    return found


def _components(nodes: set[int], edges: list[tuple[int, int]]) -> int:
    """Count the connected components of a graph, by merging."""
    root = {n: n for n in nodes}

    def find(n: int) -> int:
        while root[n] != n:
            n = root[n]
        return n

    for u, v in edges:
        root[find(u)] = find(v)
    return len({find(n) for n in nodes})


@dataclass(frozen=True)
class Chosen(Regular):
    """A scheme with given factors for each call, by number."""

    name: str = "chosen"
    factors: tuple[Scales, ...] = ()

    def scales(self, call: Call) -> Scales:
        """Return the factors of the call."""
        return self.factors[call.index]


def _any_factors(dag: Dag, rng: np.random.Generator) -> tuple[Scales, ...]:
    draws = np.exp2(rng.uniform(-0.5, 0.5, (len(dag.ops), 3)))
    return tuple(Scales(d[0], tuple(d[1 : 1 + ARITY[kind]])) for d, (kind, _) in zip(draws, dag.ops, strict=True))


@claim("paper, definition of a cut-edge; Tarjan 1974", "s")
def claim_5_01_cut_edges(place: Place) -> Figures:
    """A cut-edge is an edge whose removal disconnects the graph: found in linear time, and by removing each in turn."""
    rng = place.rng()
    wrong = edges = 0
    for _ in range(GRAPHS):
        dag = random_dag(rng, 3, 1 + place.at_most(s=16).s)
        tensors = run(dag, Tape(regular, dtype=np.float64), _leaves(dag, rng))
        number = {t.variable: i for i, t in enumerate(tensors)}
        found = sorted((number[e.variable], number[e.node.output]) for e in cut_edges(tensors[-1]))
        nodes = _needed(dag)
        alive = [(u, v) for u, v in undirected_edges(dag) if v in nodes]
        parts = _components(nodes, alive)
        bridges = [e for i, e in enumerate(alive) if _components(nodes, alive[:i] + alive[i + 1 :]) > parts]
        wrong += found != sorted(bridges)
        edges += len(alive)
    yield none_wrong(f"graphs of {GRAPHS} ({edges} edges) with other cut-edges", wrong)


@claim("paper, Theorem 5.2", "s")
def claim_5_02_constraint_scaled_graphs(place: Place) -> Figures:
    """With α = β on every non-cut edge, each gradient is one positive constant times the true one.

    Random graphs, random factors on cut-edges, in float64, compared with plain backpropagation of the same function.
    """
    rng = place.rng()
    for _ in range(GRAPHS):
        dag = random_dag(rng, 3, 1 + place.at_most(s=12).s)
        arrays, free = _leaves(dag, rng), _any_factors(dag, rng)
        tape = Tape(Chosen(factors=free), dtype=np.float64)
        output = run(dag, tape, arrays)[-1]
        cut = {(e.node.index, e.position) for e in cut_edges(output)}
        tied = tuple(
            constrain(s, tuple(i for i in range(len(s.beta)) if (k, i) not in cut), geometric)
            for k, s in enumerate(free)
        )

        def program(*leaves: Tensor, dag: Dag = dag) -> Tensor:
            return connect(dag, leaves)[-1]

        c = assert_gradient_factor(program, *arrays, scheme=Chosen(factors=tied), rng=rng)
        yield none_wrong("constants that are not positive", sum(not f > 0 for f in c.values()))


def _trajectories(scheme: Chosen, weights: list[Array], rates: list[float], x: Array, adaptive: bool) -> list[Array]:
    """Return the outputs of a two-layer network over 20 steps of training toward zero."""
    outputs = []
    moments = [np.zeros_like(w) for w in weights]
    squares = [np.zeros_like(w) for w in weights]
    for step in range(1, 21):
        tape = Tape(scheme, dtype=np.float64)
        first, second = (tape.tensor(w) for w in weights)
        h = apply(ops.Tanh(), apply(ops.Matmul(), tape.tensor(x, requires_grad=False), first))
        y = apply(ops.Matmul(), h, second)
        outputs.append(y.value)
        backward(y, y.value / y.value.size)
        for i, leaf in enumerate((first, second)):
            g = np.asarray(leaf.grad)
            moments[i] = 0.9 * moments[i] + 0.1 * g
            squares[i] = 0.99 * squares[i] + 0.01 * g * g
            corrected = moments[i] / (1 - 0.9**step), squares[i] / (1 - 0.99**step)
            direction = corrected[0] / np.sqrt(corrected[1]) if adaptive else moments[i]
            weights[i] = weights[i] - rates[i] * direction
    return outputs


@claim("paper, Proposition 5.1", "bmn")
def claim_5_03_unscaled_equivalent(place: Place) -> Figures:
    """A scaled op has an unscaled equivalent with the same training dynamics: factors move into start and rate.

    y = α·x·w trained by β·(vjp) at the rate η equals y = x·v with v = α·w; its rate is α·β·η under SGD with momentum,
    and α·η under Adam, which divides by the scale of the gradient. Two runs of 20 steps in float64, same outputs.
    """
    p, rng = place.at_most(b=16, m=12, n=12), place.rng()
    x = rng.standard_normal((p.b, p.m))
    weights = [rng.standard_normal((p.m, p.n)), rng.standard_normal((p.n, 3))]
    a1, b1, a2, b2 = (float(f) for f in np.exp2(rng.uniform(-3, 0, 4)))
    scaled = Chosen(factors=(Scales(a1, (1.0, b1)), Scales(1.0, (1.0,)), Scales(a2, (a2, b2))))
    plain = Chosen(factors=(Scales(1.0, (1.0, 1.0)), Scales(1.0, (1.0,)), Scales(1.0, (1.0, 1.0))))
    for name, adaptive in (("SGD with momentum", False), ("Adam", True)):
        eta = 0.02
        rates = [a1 * eta, a2 * eta] if adaptive else [a1 * b1 * eta, a2 * b2 * eta]
        left = _trajectories(scaled, list(weights), [eta, eta], x, adaptive)
        right = _trajectories(plain, [a1 * weights[0], a2 * weights[1]], rates, x, adaptive)
        apart = max(rms(u - v) / rms(v) for u, v in zip(left, right, strict=True))
        moved = rms(left[-1] - left[0]) / rms(left[0])
        yield near(f"{name}: outputs apart", 1 + apart, 1.0, 1e-9)
        yield none_wrong(f"{name}: no training", moved < 1e-6)


@claim("refscale.graph: c(x_i) = c(y)·β_i/α, and all consumers agree")
def claim_5_04_mixed_gradients(place: Place) -> Figures:
    """If uses of a tensor require different constants, its gradient is not a multiple of the true one, and is refused.

    Two cases: a tied embedding with unequal factors, and a residual branch with unequal α and β. Forks correct both.
    """
    rng = place.rng()
    table, ids = rng.standard_normal((7, 4)), rng.integers(0, 7, (3, 5))

    def tied(word: Tensor, *, forked: bool) -> Tensor:
        into, out = F.fork(word, 2) if forked else [word, word]
        h = apply(ops.Tanh(), apply(ops.Embedding(), into, ids))
        return F.readout(h, apply(ops.Transpose((1, 0)), out))

    def branch(x: Tensor, *, forked: bool) -> Tensor:
        if forked:
            return F.residual(lambda h: apply(ops.Tanh(), h), x, fixed(0.4))
        start = apply(ops.Scaled(1.0, math.sqrt(0.4)), x)
        add = ops.WeightedAdd((math.sqrt(0.6), math.sqrt(0.4)))
        return apply(add, x, apply(ops.Tanh(), start), constraint=to_output_scale, constrained=(0,))

    for name, program, x in (("tied embedding", tied, table), ("residual branch", branch, rng.standard_normal((3, 4)))):
        leaf = Tape(unit, dtype=np.float64).tensor(x)
        try:
            gradient_factors(program(leaf, forked=False))
            refused = False
        except FactorError:
            refused = True
        yield none_wrong(f"{name}: mixed gradients let through", not refused)
        c = assert_gradient_factor(lambda t, program=program: program(t, forked=True), x, rng=rng)
        yield none_wrong(f"{name}: no constant with forks", not c["0"] > 0)


@claim("refscale.engine.settle: c = (Σ c_i^-2)^-½ over the uses", "bm")
def claim_5_05_forks(place: Place) -> Figures:
    """Settled forks keep a sum of unit gradients at unit variance: Σ β_i² = 1 over the uses of a tensor."""
    rng = place.rng()
    for ways in (2, 3, 5):
        tape = Tape(unit, dtype=np.float64)
        x = tape.tensor(rng.standard_normal((place.at_most(b=4).b, place.at_most(m=4).m)))
        parts = [apply(ops.Scaled(1.0, float(np.exp2(rng.uniform(-2, 2)))), part) for part in F.fork(x, ways)]
        total = parts[0]
        for part in parts[1:]:
            total = apply(ops.Add(), total, part, constraint=none)
        gradient_factors(total)  # settles them
        forks = [n.scales.beta[0] or 0 for n in tape.nodes if isinstance(n.op, ops.Fork)]
        yield near(f"Σ β² of {ways} forks", sum(b * b for b in forks), 1.0, 1e-12)


@claim("paper, recipe; authors' code, examples/listings.py (ScaledFFN)", "bmn")
def claim_5_06_recipe(place: Place) -> Figures:
    """The automatic recipe finds the factors of the reference feed-forward layer that the paper chooses by hand."""
    p = place.at_most(b=32, m=32, n=64)
    rng = p.rng()
    x, parameters = rng.standard_normal((p.b, p.m)), ffn_parameters(p.m, p.n, rng)

    def program(x: Tensor, w: dict[str, Tensor]) -> Tensor:
        return ffn(x, w, fixed(0.4))

    by_recipe = plan(program, x, parameters)
    tape = Tape(unit, dtype=np.float64)
    y = program(tape.tensor(x), {k: tape.tensor(v, k) for k, v in parameters.items()})
    other = [
        step.op.name for step, _ in by_recipe.differences(tape) if not isinstance(step.op, ops.Fork | ops.WeightedAdd)
    ]
    yield none_wrong("calls with other factors, but where the branch starts and ends", len(other))
    widths = [n.scales.alpha for n in tape.nodes if isinstance(n.op, ops.Matmul)]
    for what, alpha in zip(("up", "down"), widths, strict=True):
        yield near(f"α of {what}", alpha, (p.m * p.n) ** -0.25, 1e-14)
    yield near("c of the stream", gradient_factors(y)[tape.nodes[0].inputs[0]], 1.0, 1e-12)
    yield near(
        "b² + a²", math.hypot(*next(n.op.weights for n in tape.nodes if isinstance(n.op, ops.WeightedAdd))), 1.0, 1e-12
    )
