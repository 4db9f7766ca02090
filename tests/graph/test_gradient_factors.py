"""Theorem 5.2 and its sharper form: which factors are legal, and by how much the gradient then differs."""

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given, settings

from refscale import ops
from refscale.claims.graphs import Chosen
from refscale.engine import Tape, Tensor, Variable, apply, backward
from refscale.errors import FactorError
from refscale.functional import fork
from refscale.graph import Edge, balance, cut_edges, gradient_factors
from refscale.scales import Scales, regular
from refscale.testing import assert_vjp
from refscale.testing.graphs import Dag
from refscale.testing.strategies import dags, generators
from tests.graph.recorded import (
    KINDS,
    SIDE,
    assert_multiple,
    leaves,
    random_factor,
    record,
    run,
    true_factors,
)

GradientFactors = Callable[[Tensor], dict[Variable, float]]
CutEdges = Callable[[Tensor], set[Edge]]
RESIDUAL = Dag(2, (("matmul", (0, 1)), ("tanh", (2,)), ("add", (2, 3))))


def constrained_factors(output: Tensor, rng: np.random.Generator, cut: set[Edge]) -> tuple[Scales, ...]:
    """Random α; β = α on every edge that is not cut, random β on the others."""
    found = []
    for node in output.tape.nodes:
        alpha = random_factor(rng)
        beta = [random_factor(rng) if Edge(node, i) in cut else alpha for i in range(len(node.inputs))]
        found.append(Scales(alpha, tuple(None if i in node.op.constants else b for i, b in enumerate(beta))))
    return tuple(found)


def assert_multiples(actual, true, c: dict[Variable, float]) -> None:
    """Every gradient, of leaves and of what lies between, is its c times the true one."""
    for i, (tensor, computed, reference) in enumerate(
        zip(actual.tensors, actual.gradients, true.gradients, strict=True)
    ):
        if computed is not None:
            assert_multiple(computed, c[tensor.variable], reference, f"gradient of node {i}")


# The checks, as functions of the implementation.


def check_theorem(factors_of: GradientFactors, cut_of: CutEdges, dag: Dag, rng: np.random.Generator) -> None:
    """α = β beside the cut-edges ⇒ no FactorError, and every gradient is c times the true one."""
    arrays, seed = leaves(dag, rng), rng.standard_normal((SIDE, SIDE))
    recorded = record(dag, Tape(regular, dtype=np.float64), arrays)[-1]
    factors = constrained_factors(recorded, rng, cut_of(recorded))
    actual = run(dag, Chosen(factors=factors), arrays, seed)
    true = run(dag, Chosen(factors=true_factors(factors)), arrays, seed)
    c = factors_of(actual.output)
    assert set(factors_of(true.output).values()) == {1.0}
    assert_multiples(actual, true, c)


def check_violation(factors_of: GradientFactors, dag: Dag, rng: np.random.Generator) -> None:
    """One β changed on one edge that is not cut ⇒ FactorError that names a tensor with two uses, and their values."""
    recorded = record(dag, Tape(regular, dtype=np.float64), arrays := leaves(dag, rng))[-1]
    cut = cut_edges(recorded)
    relevant = gradient_factors(recorded)
    loops = [
        Edge(node, i)
        for node in recorded.tape.nodes
        for i in range(len(node.inputs))
        if node.output in relevant and i not in node.op.constants and Edge(node, i) not in cut
    ]
    if not loops:
        return
    edge = loops[rng.integers(len(loops))]
    factors = list(constrained_factors(recorded, rng, cut))
    alpha, beta = factors[edge.node.index].alpha, list(factors[edge.node.index].beta)
    beta[edge.position] = alpha * 1.25
    factors[edge.node.index] = Scales(alpha, tuple(beta))
    output = record(dag, Tape(Chosen(factors=tuple(factors)), dtype=np.float64), arrays)[-1]
    with pytest.raises(FactorError) as raised:
        factors_of(output)
    found = re.fullmatch(
        r"consumers of (.+) disagree: \w+ #(\d+) demands c = (\S+), \w+ #(\d+) demands c = (\S+), so its gradient is "
        r"not a multiple of the true one; on the loop from (.+) to \w+ #\d+, α ≠ β at (\w+) #(\d+): constrain it, or "
        "start the branch with `fork`",
        str(raised.value),
    )
    assert found
    nodes = output.tape.nodes
    first, second = nodes[int(found[2])], nodes[int(found[4])]
    shared = {repr(v) for v in first.inputs} & {repr(v) for v in second.inputs}
    assert found[1] == found[6]
    assert found[1] in shared
    assert int(found[8]) == edge.node.index  # the one op whose factors are not tied
    # One edge of one cycle is off by 1.25, and so are the two ways around it.
    ratio = float(found[5]) / float(found[3])
    assert math.isclose(max(ratio, 1 / ratio), 1.25, rel_tol=1e-7)


# Properties


@settings(max_examples=200)
@given(dags(KINDS, max_leaves=4, max_ops=8), generators())
@example(Dag(1, (("multiply", (0, 0)),)), np.random.default_rng(0))
@example(RESIDUAL, np.random.default_rng(0))
def test_constrained_factors_give_a_multiple_of_the_true_gradient(dag, rng):
    check_theorem(gradient_factors, cut_edges, dag, rng)


@settings(max_examples=200)
@given(dags(KINDS, max_leaves=2, max_ops=8), generators())
@example(Dag(1, (("multiply", (0, 0)),)), np.random.default_rng(0))
@example(RESIDUAL, np.random.default_rng(0))
def test_a_violation_is_caught(dag, rng):
    check_violation(gradient_factors, dag, rng)


@settings(max_examples=50)
@given(dags({"tanh": 1, "add": 2, "multiply": 2, "matmul": 2, "weighted_add": 3}, max_ops=4), generators())
def test_with_beta_equal_to_alpha_the_gradient_is_the_true_one(dag, rng):
    """The true gradient of the other tests, checked by differences."""
    tape = Tape(regular, dtype=np.float64)
    recorded = record(dag, tape, arrays := leaves(dag, rng))[-1]
    factors = Chosen(factors=true_factors(constrained_factors(recorded, rng, set())))
    tensors = []

    def forward(*xs):
        tensors[:] = record(dag, Tape(factors, dtype=np.float64), list(xs))
        return tensors[-1].value

    def gradients(g):
        backward(tensors[-1], g)
        return [np.zeros((SIDE, SIDE)) if t.grad is None else t.grad for t in tensors[: dag.n_leaves]]

    assert_vjp(forward, gradients, arrays, rng=rng, directions=1)


@settings(max_examples=200)
@given(dags(KINDS, max_leaves=4, max_ops=8), generators())
def test_any_assignment_is_certified_only_if_it_is_legal(dag, rng):
    """Unconstrained factors: either all consumers agree and the gradients are multiples, or an error is raised."""
    arrays, seed = leaves(dag, rng), rng.standard_normal((SIDE, SIDE))
    recorded = record(dag, Tape(regular, dtype=np.float64), arrays)[-1]
    cut = cut_edges(recorded)
    # β/α is 1 or 2, so that products around a loop agree by chance often enough.
    factors = tuple(
        Scales(s.alpha, tuple(b and s.alpha * rng.choice([1, 1, 2]) for b in s.beta))
        for s in constrained_factors(recorded, rng, cut)
    )
    actual = run(dag, Chosen(factors=factors), arrays, seed)
    try:
        c = gradient_factors(actual.output)
    except FactorError:
        return
    assert_multiples(actual, run(dag, Chosen(factors=true_factors(factors)), arrays, seed), c)


@settings(max_examples=200)
@given(dags(KINDS, max_leaves=4, max_ops=8), generators())
@example(RESIDUAL, np.random.default_rng(0))
@example(Dag(1, (("multiply", (0, 0)),)), np.random.default_rng(0))
def test_balanced_forks_make_any_factors_legal(dag, rng):
    """Every tensor with several uses is forked: then no factor needs a constraint."""
    arrays, seed = leaves(dag, rng), rng.standard_normal((SIDE, SIDE))
    recorded = record(dag, Tape(regular, dtype=np.float64), arrays, forked=True)[-1]
    # Forks may start with any factor: balance must correct it.
    factors = tuple(
        Scales(
            1.0 if isinstance(node.op, ops.Fork) else random_factor(rng),
            tuple(None if i in node.op.constants else random_factor(rng) for i in range(len(node.inputs))),
        )
        for node in recorded.tape.nodes
    )
    actual = run(dag, Chosen(factors=factors), arrays, seed, forked=True, settle=balance)
    c = gradient_factors(actual.output)
    true = run(dag, Chosen(factors=true_factors(factors)), arrays, seed, forked=True)
    assert_multiples(actual, true, c)
    before = [node.scales for node in actual.output.tape.nodes]
    balance(actual.output)
    assert [node.scales for node in actual.output.tape.nodes] == before  # settled once, settled


@settings(max_examples=50)
@given(dags(KINDS, max_leaves=4, max_ops=8))
def test_balance_changes_nothing_under_the_regular_scheme(dag):
    rng = np.random.default_rng(0)
    output = record(dag, tape := Tape(regular, dtype=np.float64), leaves(dag, rng), forked=True)[-1]
    balance(output)
    assert all(factor in (1, None) for n in tape.nodes for factor in (n.scales.alpha, *n.scales.beta))


# Examples


def test_the_message():
    tape = Tape(Chosen(factors=(Scales(2, (1,)), Scales(1, (3,)), Scales(1, (1, 1)))), dtype=np.float64)
    x = tape.tensor(np.zeros((2, 3)), "table")
    y = apply(ops.Add(), apply(ops.Tanh(), x), apply(ops.Scaled(), x))
    with pytest.raises(FactorError) as raised:
        gradient_factors(y)
    assert str(raised.value) == (
        "consumers of table[2, 3] disagree: scaled #1 demands c = 3, tanh #0 demands c = 0.5, so its gradient is not "
        "a multiple of the true one; on the loop from table[2, 3] to add #2, α ≠ β at scaled #1, tanh #0: constrain "
        "it, or start the branch with `fork`"
    )


def test_a_constant_is_predicted():
    """c(x) = Π β/α along the way: 3/2 · 5/7."""
    tape = Tape(Chosen(factors=(Scales(2, (3,)), Scales(7, (5,)))), dtype=np.float64)
    x = tape.tensor(np.array([0.5]), "x")
    y = apply(ops.Scaled(), apply(ops.Scaled(), x))
    c = gradient_factors(y)
    assert math.isclose(c[x.variable], 15 / 14, rel_tol=1e-15)
    assert c[y.variable] == 1
    backward(y, [1.0])
    assert x.grad == 15


@pytest.mark.parametrize("sign", [1, -1])
def test_consumers_agree_to_a_billionth(sign):
    """x through tanh demands c = 1, through an identity 1 ± ε: as much as a few thousand rounded factors explain."""

    def output(error):
        factors = (Scales(1, (1,)), Scales(1, (1 + sign * error,)), Scales(1, (1, 1)))
        x = Tape(Chosen(factors=factors), dtype=np.float64).tensor(np.zeros(2), "x")
        return apply(ops.Add(), apply(ops.Tanh(), x), apply(ops.Scaled(), x))

    gradient_factors(output(0.99e-9))
    with pytest.raises(FactorError, match="consumers of x"):
        gradient_factors(output(1.01e-9))


def test_balance_mends_what_the_certificate_would_refuse_and_no_less():
    """Up to a billionth a fork stays as it is; beyond, it takes the difference over."""
    for error, beta in ((0.99e-9, 1.0), (1.01e-9, 1 / (1 + 1.01e-9))):
        tape = Tape(Chosen(factors=(Scales(1, (1,)), Scales(1, (1 + error,)), Scales(1, (1, 1)))), dtype=np.float64)
        x = tape.tensor(0.0, "x")
        (way,) = fork(x, 1)
        y = apply(ops.Add(), apply(ops.Scaled(), way), x)
        balance(y)
        assert tape.nodes[0].scales.beta == (pytest.approx(beta, rel=1e-15),)
        gradient_factors(y)


def test_a_factor_of_the_output_alone_is_balanced_too():
    """α = 2 with β = 1 halves c, which the fork compensates, though no β differs from 1."""
    tape = Tape(Chosen(factors=(Scales(1, (1,)), Scales(2, (1,)), Scales(1, (1, 1)))), dtype=np.float64)
    x = tape.tensor(0.0, "x")
    (way,) = fork(x, 1)
    y = apply(ops.Add(), apply(ops.Scaled(), way), x)
    balance(y)
    assert tape.nodes[0].scales == Scales(1, (2.0,))
    assert gradient_factors(y)[x.variable] == 1


def test_loops_whose_factors_cancel_are_legal():
    """The residual trick: α ≠ β on two edges of a loop, but their ratios multiply to 1."""
    a, b = Scales(1, (0.3,)), Scales(0.3, (1,))
    legal = Chosen(factors=(a, Scales(1, (1,)), b, Scales(1, (1, 1))))
    tape = Tape(legal, dtype=np.float64)
    x = tape.tensor(np.zeros(2), "x")
    y = apply(ops.Scaled(), apply(ops.Tanh(), apply(ops.Scaled(), x)))
    assert gradient_factors(apply(ops.Add(), x, y))[x.variable] == pytest.approx(1, rel=1e-15)


def test_balance_keeps_the_variance_of_a_sum():
    """Σ β² = 1: independent gradients of unit variance add up to one of unit variance."""
    tape = Tape(Chosen(factors=(*[Scales(1, (1,))] * 3, *(Scales(1, (b,)) for b in (0.5, 2, 3)), Scales(1, (1, 1, 1)))))
    x = tape.tensor(0.0, "x")
    uses = [apply(ops.Scaled(), f) for f in fork(x, 3)]
    y = apply(ops.WeightedAdd((1, 1, 1)), *uses)
    balance(y)
    betas = [node.scales.beta[0] for node in tape.nodes[:3]]
    assert math.isclose(math.hypot(*betas), 1, rel_tol=1e-15)
    # Each way demands β·c_i = c, here with c_i = 0.5, 2, 3.
    assert np.allclose(np.multiply(betas, (0.5, 2, 3)), gradient_factors(y)[x.variable], rtol=1e-15, atol=0)


def test_forks_follow_the_uses_without_one():
    """A fork at the start of a residual branch compensates the branch's factors, for any demand of the skip."""
    tape = Tape(Chosen(factors=(Scales(1, (1,)), Scales(1, (2,)), Scales(1, (1, 5)))))
    x = tape.tensor(0.0, "x")
    (way,) = fork(x, 1)
    y = apply(ops.Add(), apply(ops.Scaled(), way), x)
    balance(y)
    assert tape.nodes[0].scales == Scales(1, (2.5,))
    assert gradient_factors(y)[x.variable] == 5


def test_a_fork_cannot_settle_uses_without_forks():
    tape = Tape(Chosen(factors=(Scales(1, (1,)), Scales(1, (2,)), Scales(1, (3,)), Scales(1, (1, 1, 1)))))
    x = tape.tensor(0.0, "x")
    (way,) = fork(x, 1)
    y = apply(ops.WeightedAdd((1, 1, 1)), way, apply(ops.Scaled(), x), apply(ops.Scaled(), x))
    with pytest.raises(FactorError, match="consumers of x"):
        balance(y)


# Wrong implementations, which the checks must reject.


def first_consumer_wins(output: Tensor) -> dict[Variable, float]:
    """Believes whoever comes first, and never objects."""
    c = {output.variable: 1.0}
    for node in reversed(output.tape.nodes):
        for i, variable in enumerate(node.inputs):
            if node.output in c and variable.requires_grad:
                c.setdefault(variable, c[node.output] * (node.scales.beta[i] or 1) / node.scales.alpha)
    return c


def without_alpha(output: Tensor) -> dict[Variable, float]:
    """Multiplies by β, and forgets that α belongs to the function."""
    c = {output.variable: 1.0}
    for node in reversed(output.tape.nodes):
        for i, variable in enumerate(node.inputs):
            if node.output in c and variable.requires_grad:
                c.setdefault(variable, c[node.output] * (node.scales.beta[i] or 1))
    return c


def every_edge(output: Tensor) -> set[Edge]:
    """Takes every edge for a cut-edge: no constraint is ever needed."""
    return {Edge(node, i) for node in output.tape.nodes for i in range(len(node.inputs))}


def test_wrong_implementations_are_rejected():
    def rng():
        return np.random.default_rng(0)

    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        check_violation(first_consumer_wins, RESIDUAL, rng())
    with pytest.raises(AssertionError):
        check_theorem(without_alpha, cut_edges, RESIDUAL, rng())
    with pytest.raises(FactorError):
        check_theorem(gradient_factors, every_edge, RESIDUAL, rng())
    with pytest.raises(AssertionError, match=r"gradient of node \d is not"):
        # The first two errors together: no error is raised, and the gradient is not a multiple of the true one.
        check_theorem(first_consumer_wins, every_edge, RESIDUAL, rng())
