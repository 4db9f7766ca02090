"""The recipe, automatic: the factors of the paper's feed-forward network, and how unit BERT differs from them."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refscale import functional, models, ops
from refscale.claims.graphs import Chosen
from refscale.engine import Tape, apply, backward
from refscale.errors import FactorError
from refscale.graph import cut_edges, gradient_factors, plan
from refscale.models import bert
from refscale.scales import Scales, arithmetic, geometric, get_scheme, harmonic, none, regular, to_output_scale, unit
from refscale.testing.strategies import dags, generators
from tests.graph.recorded import KINDS, SIDE, assert_multiple, connect, leaves, run, true_factors
from tests.models.batches import random_batch

ROWS, WIDTH, HIDDEN = 8, 16, 64


def feed_forward(x, p):
    """x + down(gelu(up(norm(x)))), written with no thought of scaling."""
    h = apply(ops.LayerNorm(), x, p["gain"], p["bias"])
    h = apply(ops.Matmul(), h, p["up"])
    h = apply(ops.Gelu(), h)
    h = apply(ops.Matmul(), h, p["down"])
    return apply(ops.Add(), x, h)


def feed_forward_parameters(rng, std=1.0):
    return {
        "gain": np.ones(WIDTH),
        "bias": np.zeros(WIDTH),
        "up": std * rng.standard_normal((WIDTH, HIDDEN)),
        "down": std * rng.standard_normal((HIDDEN, WIDTH)),
    }


def run_feed_forward(scheme, x, parameters, fn=feed_forward):
    tape = Tape(scheme, dtype=np.float64)
    leaves = {name: tape.tensor(value, name) for name, value in parameters.items()}
    return fn(tape.tensor(x, "x"), leaves), leaves


@pytest.fixture(scope="module")
def ffn():
    """(plan, x, parameters)."""
    rng = np.random.default_rng(0)
    x, parameters = rng.standard_normal((ROWS, WIDTH)), feed_forward_parameters(rng)
    return plan(feed_forward, x, parameters), x, parameters


def test_the_factors_of_the_feed_forward_network(ffn):
    """Paper, reference FFN: a projection has α = β_x = (m·n)^-1/4 and β_w = b^-1/2, gelu 1.587."""
    found = {
        name: (pytest.approx(step.resolved.alpha, rel=1e-12), [pytest.approx(b, rel=1e-12) for b in step.resolved.beta])
        for name, step in zip(("norm", "up", "gelu", "down", "add"), ffn[0].steps, strict=True)
    }
    rows, projection = ROWS**-0.5, (WIDTH * HIDDEN) ** -0.25
    gelu = math.sqrt(1.7009262 * 1.4811144)  # quadrature, eight digits
    assert found.pop("gelu") == (pytest.approx(gelu, rel=1e-7), [pytest.approx(gelu, rel=1e-7)])
    assert gelu == pytest.approx(1.587, abs=5e-4)  # the paper's digits
    assert found == {
        "norm": (1, [1, rows, rows]),
        "up": (projection, [projection, rows]),
        "down": (projection, [projection, rows]),
        "add": (2**-0.5, [2**-0.5, 2**-0.5]),
    }


def test_a_replay_has_the_planned_factors(ffn):
    p, x, parameters = ffn
    output, _ = run_feed_forward(p, x, parameters)
    assert [node.scales for node in output.tape.nodes] == [step.resolved for step in p.steps]
    assert p.differences(output.tape) == []


def test_the_planned_gradient_is_a_multiple_of_the_true_one(ffn):
    p, x, parameters = ffn
    seed = np.random.default_rng(1).standard_normal((ROWS, WIDTH))
    y, leaves = run_feed_forward(p, x, parameters)
    c = gradient_factors(y)
    reference, true = run_feed_forward(
        Chosen(factors=true_factors(tuple(step.resolved for step in p.steps))), x, parameters
    )
    for output in (y, reference):
        backward(output, seed)
    for name in parameters:
        assert_multiple(leaves[name].grad, c[leaves[name].variable], true[name].grad, name)


def test_what_is_constrained(ffn):
    """Edges of the loop are, those of weights are not."""
    assert [step.constrained for step in ffn[0].steps] == [(0,), (0,), (0,), (0,), (0, 1)]


def test_the_table(ffn):
    assert (
        str(ffn[0])
        == """\
call          op          unconstrained                  resolved                           constrained by
0 layer_norm  layer_norm  α=1 β=(1, 0.353553, 0.353553)  α=1 β=(1, 0.353553, 0.353553)      x
1 matmul      matmul      α=0.25 β=(0.125, 0.353553)     α=0.176777 β=(0.176777, 0.353553)  x
2 gelu        gelu        α=1.70093 β=(1.48111)          α=1.58722 β=(1.58722)              x
3 matmul      matmul      α=0.125 β=(0.25, 0.353553)     α=0.176777 β=(0.176777, 0.353553)  x
4 add         add         α=0.707107 β=(1, 1)            α=0.707107 β=(0.707107, 0.707107)  x y"""
    )


@pytest.mark.parametrize("op", [ops.Add(), ops.Subtract(), ops.WeightedAdd((1, 1))])
def test_additions_pass_back_what_they_took(op):
    """x ± f(x): α of the addition for all, or the stream would grow; f itself takes the geometric mean."""
    p = plan(lambda x: apply(op, x, apply(ops.Relu(), x)), np.ones((3, 3)))
    branch, join = (step.resolved for step in p.steps)
    assert branch.alpha == branch.beta[0] == pytest.approx(math.sqrt(math.sqrt(2 / (1 - 1 / math.pi)) * math.sqrt(2)))
    assert (join.alpha, *join.beta) == pytest.approx([2**-0.5] * 3, rel=1e-15)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_factors_differ_from_the_plan_from_a_billionth_on(ffn, place):
    """α, β of x or β of w of the first product; nothing of the others."""
    p, x, parameters = ffn

    def differences(error):
        factors = [step.resolved for step in p.steps]
        one = [factors[1].alpha, *factors[1].beta]
        one[place] *= 1 + error
        factors[1] = Scales(one[0], tuple(one[1:]))
        return p.differences(run_feed_forward(Chosen(factors=tuple(factors)), x, parameters)[0].tape)

    assert differences(0.99e-9) == differences(-0.99e-9) == []
    for error in (1.01e-9, -1.01e-9):
        ((step, found),) = differences(error)
        assert step.name == "matmul"
        assert (found.alpha, *found.beta)[place] == pytest.approx((step.resolved.alpha, *step.resolved.beta)[place])


def test_another_program_is_refused(ffn):
    p, x, parameters = ffn
    with pytest.raises(FactorError) as another_op:
        run_feed_forward(p, x, parameters, lambda x, q: apply(ops.RmsNorm(), x, q["gain"]))
    assert (
        str(another_op.value) == "plan: call 0 is RmsNorm(eps=1e-06) of ((8, 16), (16,)), "
        "the plan has LayerNorm(eps=1e-12) of ((8, 16), (16,), (16,))"
    )
    with pytest.raises(FactorError) as another_attribute:
        run_feed_forward(p, x, parameters, lambda x, q: apply(ops.LayerNorm(1e-5), x, q["gain"], q["bias"]))
    assert str(another_attribute.value).startswith("plan: call 0 is LayerNorm(eps=1e-05) of")
    with pytest.raises(FactorError) as another_shape:
        run_feed_forward(p, x[:, :8], {n: a[..., :8] if n != "up" else a[:8] for n, a in parameters.items()})
    assert (
        str(another_shape.value) == "plan: call 0 is LayerNorm(eps=1e-12) of ((8, 8), (8,), (8,)), "
        "the plan has LayerNorm(eps=1e-12) of ((8, 16), (16,), (16,))"
    )
    with pytest.raises(FactorError) as another_rank:
        run_feed_forward(p, x[None], parameters)
    assert str(another_rank.value).startswith("plan: call 0 is LayerNorm(eps=1e-12) of ((1, 8, 16), (16,), (16,)), ")
    with pytest.raises(FactorError) as longer:
        run_feed_forward(p, x, parameters, lambda x, q: apply(ops.Tanh(), feed_forward(x, q)))
    assert str(longer.value) == "plan: call 5 is Tanh() of ((8, 16),), the plan has the end of the program"
    y, _ = run_feed_forward(unit, x, parameters, lambda x, q: apply(ops.Tanh(), x))
    with pytest.raises(FactorError) as other_tape:
        p.differences(y.tape)
    assert str(other_tape.value) == "Plan.differences: the tape records another program than the plan"


def test_a_plan_holds_for_another_number_of_rows(ffn):
    """Planned with 8 rows, run with 5: β of parameters is 5^-½, all else as planned; and the factors are legal."""
    p, x, parameters = ffn
    y, _ = run_feed_forward(p, x[:5], parameters)
    norm, up, gelu, down, add = (node.scales for node in y.tape.nodes)
    planned = [step.resolved for step in p.steps]
    assert (norm.alpha, *norm.beta) == (1, 1, pytest.approx(5**-0.5, rel=1e-15), pytest.approx(5**-0.5, rel=1e-15))
    for found, at_eight in ((up, planned[1]), (down, planned[3])):
        assert found.beta[1] == pytest.approx(5**-0.5, rel=1e-15)
        assert (found.alpha, found.beta[0]) == (at_eight.alpha, at_eight.beta[0])
    assert (gelu, add) == (planned[2], planned[4])
    c = gradient_factors(y)
    assert len(c) == 10
    assert {step.name for step, _ in p.differences(y.tape)} == {"layer_norm", "matmul"}


def test_rows_in_attributes_are_those_of_the_batch():
    """Reshape to (rows·2, 4), and a mean over 3 of 5 rows: planned with 8 rows, 7 of them counted."""

    def fn(x, p, labels):
        h = apply(ops.Matmul(), apply(ops.Reshape((labels.size, 4)), x), p["w"])
        return functional.cross_entropy(h, labels, ignore_index=-1)

    def labels(rows, ignored):
        return np.where(np.arange(rows) < ignored, -1, 0)

    w = {"w": np.ones((4, 3))}
    p = plan(lambda x, w: fn(x, w, labels(16, 2)), np.ones((8, 8)), w)
    tape = Tape(p)
    output = fn(tape.tensor(np.ones((5, 8))), {"w": tape.tensor(w["w"])}, labels(10, 4))
    reshape, matmul, loss = (node.scales for node in tape.nodes)
    assert reshape == Scales(1.0, (1.0,))
    assert (matmul.alpha, *matmul.beta) == pytest.approx((4**-0.5, 3**-0.5, 10**-0.5))
    assert (loss.alpha, *loss.beta) == (1, pytest.approx(6 * 3 / math.sqrt(2) * math.sqrt(10 / 6)), None)
    assert gradient_factors(output)
    with pytest.raises(FactorError, match="call 0 is Reshape"):  # another number of axes
        apply(ops.Reshape((5, 2, 4)), Tape(p).tensor(np.ones((5, 8))))


def test_a_mean_of_none_constrains_nothing(ffn):
    _, x, parameters = ffn
    p = plan(feed_forward, x, parameters, mean=none, add=none)
    assert all(step.resolved == step.unconstrained and step.constrained == () for step in p.steps)
    with pytest.raises(FactorError, match="consumers of x"):
        gradient_factors(run_feed_forward(p, x, parameters)[0])


def test_a_plan_is_a_scheme(ffn):
    p = ffn[0]
    assert p.name == "plan(geometric)"
    assert p.initial_std(0.02) == 1
    assert p.residual_weights(lambda layer: (layer, 2.0), 3, 4) == (3, 2.0)


def test_a_plan_judges_by_the_statistic_of_its_base():
    """relu by RMS: √2 forward, √2 backward."""
    base = get_scheme("unit-rms")
    p = plan(lambda x: apply(ops.Relu(), x), np.ones((3, 3)), base=base)
    assert (p.statistic, plan(lambda x: apply(ops.Relu(), x), np.ones((3, 3))).statistic) == ("rms", "std")
    assert (p.steps[0].resolved.alpha, *p.steps[0].resolved.beta) == pytest.approx([2**0.5] * 2)


@settings(max_examples=150)
@given(dags(KINDS), generators(), st.sampled_from([geometric, arithmetic, harmonic, to_output_scale]))
def test_a_plan_is_legal_on_any_graph(dag, rng, mean):
    """The theorem, and the gradient itself; ``Scaled`` carries factors, so the plan leaves it at 1."""
    arrays, seed = leaves(dag, rng), rng.standard_normal((SIDE, SIDE))
    p = plan(lambda *xs: connect(dag, xs)[-1], *arrays, mean=mean)
    actual = run(dag, p, arrays, seed)
    c = gradient_factors(actual.output)
    cut = {(edge.node.index, edge.position) for edge in cut_edges(actual.output)}
    for node, step in zip(actual.output.tape.nodes, p.steps, strict=True):
        edges = [i for i, v in enumerate(node.inputs) if v.requires_grad and node.output in c]
        loops = tuple(i for i in edges if (node.index, i) not in cut)
        assert step.constrained == (() if node.op.carries_factors else loops)
        assert all(step.resolved.beta[i] == step.resolved.alpha for i in loops)
    true = run(dag, Chosen(factors=true_factors(tuple(step.resolved for step in p.steps))), arrays, seed)
    for tensor, computed, reference in zip(actual.tensors, actual.gradients, true.gradients, strict=True):
        if computed is not None:
            assert_multiple(computed, c[tensor.variable], reference)


# Unit BERT, written by hand, against the recipe applied to plain BERT.

EVERYWHERE = {
    "encoder.attention.fork": "starts the branch: the weight that the paper's trick moves here from the branch's end",
    "encoder.ffn.fork": "as above",
    "encoder.attention.weighted_add": "the recipe resolves x + f(x), the hand-written model √(1−τ)·x + √τ·f(x)",
    "encoder.ffn.weighted_add": "as above; pre-norm, the running mean",
    "encoder.fork": "the encoder's output forks into the heads: each β is balanced, and no factor in a head is tied",
    "mlm.gather": "below the fork: β = √(n/k), where the recipe ties α to it and so scales the values",
    "mlm.gelu": "below the fork: its own α and β, not their mean (the dense layers are square, so α = β anyway)",
    "mlm.readout": "below the fork: α = 1/m damps the logits, β of its own",
    "mlm.softmax_cross_entropy": "below the fork: α = 1, where the recipe ties α to β and so weights the two losses",
    "nsp.slice": "below the fork, as mlm.gather",
    "nsp.tanh": "below the fork, as mlm.gelu",
    "nsp.readout": "below the fork, as mlm.readout",
    "nsp.softmax_cross_entropy": "below the fork, as mlm.softmax_cross_entropy",
}
TIED = {
    "embeddings.word.fork": "the table forks into input and decoder, balanced",
    "embeddings.embedding": "the word table, below the fork: β = √(v/b); position and segment hang on cut-edges anyway",
    "embeddings.weighted_add": "below the fork: β_word = 1, where the recipe ties it to α",
}
CORRELATED = {
    "encoder.attention.attention_mix": "α = 1/t, for the values of a sequence are alike; the recipe has t^-1/2"
}


def bert_plan(config, batch):
    """(plan of plain BERT, the output of unit BERT)."""
    parameters = models.initial_parameters(config, regular, np.random.default_rng(0))

    def fn(p):
        return bert.pretraining_loss(p, batch, config).total

    tape = Tape(unit)
    return plan(fn, parameters), fn(models.parameters_on(tape, parameters, config)), fn, parameters


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("values", ["correlated", "independent"])
def test_unit_bert_differs_from_the_recipe_where_it_says(norm, tied, values):
    config = bert.get_config("bert-tiny", vocabulary=512, norm=norm, tied=tied, values=values)
    batch = random_batch(config, np.random.default_rng(0))
    p, output, fn, parameters = bert_plan(config, batch)
    differences = {re.sub(r"encoder\.\d+", "encoder", step.name) for step, _ in p.differences(output.tape)}
    explained = {**EVERYWHERE, **(TIED if tied else {}), **(CORRELATED if values == "correlated" else {})}
    assert differences == explained.keys()
    # The rest is equal, which is not nothing: the scaled products of the encoder are.
    equal = [s for s in p.steps if s.op.name in ("matmul", "attention_scores", "masked_softmax", "layer_norm")]
    assert len(equal) > 20
    # And the recipe's own result is legal.
    tape = Tape(p)
    again = fn(models.parameters_on(tape, parameters, config))
    assert p.differences(tape) == []
    assert set(gradient_factors(again).values()) - {1.0}  # weights on cut-edges have factors of their own
