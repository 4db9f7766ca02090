"""Plans whose parameters have the factors of the terms that their gradients are predicted to sum."""

from __future__ import annotations

import math

import numpy as np
import pytest

from refscale import ops
from refscale.engine import Tape, apply, backward
from refscale.errors import ArgumentError
from refscale.graph import gradient_factors, plan
from refscale.layers import Spec, initialize
from refscale.prediction import Terms
from refscale.scales import unit

B, S, M, N = 4, 8, 5, 6
LENGTH, WIDTH, HEADS, DEPTH, CLASSES = 16, 32, 2, 2, 10


def pooled(x, p):
    """Mean over a sequence of relu(x)·w + bias: every row of a sequence has the same gradient."""
    h = apply(ops.Bias(), apply(ops.Matmul(), apply(ops.Relu(), x), p["w"]), p["bias"])
    return apply(ops.Mean((1,)), h)


@pytest.fixture(scope="module")
def of_pooled():
    rng = np.random.default_rng(0)
    return plan(
        pooled,
        rng.standard_normal((B, S, M)),
        {"w": rng.standard_normal((M, N)), "bias": np.zeros(N)},
        gradients="predicted",
    )


def betas(scheme, b, s):
    tape = Tape(scheme, dtype=np.float64)
    p = {"w": tape.tensor(np.ones((M, N)), "w"), "bias": tape.tensor(np.zeros(N), "bias")}
    pooled(tape.tensor(np.ones((b, s, M)), "x"), p)
    return tape.nodes[1].scales.beta[1], tape.nodes[2].scales.beta[1]


@pytest.mark.parametrize(("b", "s"), [(B, S), (1, S), (7, S), (B, 1), (3, 20)])
def test_rows_that_share_a_gradient(of_pooled, b, s):
    """Of unit gradients, the bias sums s equal terms for each of b sequences: √b·s. The terms of the weight are inputs
    times gradients: relu's output has the mean square ½·α², of which 1/π is the square of the mean, common to all rows.
    """
    alpha = (2 / (1 - 1 / math.pi)) ** 0.5
    weight, bias = betas(of_pooled, b, s)
    assert bias == pytest.approx(1 / (math.sqrt(b) * s), rel=1e-4)
    assert weight == pytest.approx((b * s * alpha**2 / 2 * (1 + (s - 1) / math.pi)) ** -0.5, rel=1e-2)


def test_the_likeness_is_within_a_sequence(of_pooled):
    """Axis 1 is the sequence; two sequences are independent."""
    (w_axes, w), (bias_axes, bias) = (one for step in of_pooled.steps[1:3] for one in step.terms[1].likeness)
    assert w_axes == bias_axes == (1,)
    assert bias == pytest.approx(1.0, abs=1e-6)
    assert w == pytest.approx(1 / math.pi, rel=1e-2)
    assert of_pooled.steps[1].terms[0] == Terms()


def test_steps_have_the_factors_that_the_plan_applies(of_pooled):
    tape = Tape(of_pooled, dtype=np.float64)
    p = {"w": tape.tensor(np.ones((M, N)), "w"), "bias": tape.tensor(np.zeros(N), "bias")}
    pooled(tape.tensor(np.ones((B, S, M)), "x"), p)
    assert [node.scales for node in tape.nodes] == [step.resolved for step in of_pooled.steps]


def test_the_rule_takes_no_likeness(of_pooled):
    rng = np.random.default_rng(0)
    x, p = rng.standard_normal((B, S, M)), {"w": rng.standard_normal((M, N)), "bias": np.zeros(N)}
    assert betas(plan(pooled, x, p), B, S) == ((B * S) ** -0.5, (B * S) ** -0.5)
    assert betas(plan(pooled, x, p, base="unit:rows=alike"), B, S) == pytest.approx((1 / (B * S),) * 2, rel=1e-14)
    assert all(step.terms == () for step in plan(pooled, x, p).steps)


def test_the_scale_of_terms():
    """Two sequences of three: 1 + ½·2 within one, ¼·1·2 between two."""
    found = Terms(2.0, (((1,), 0.5), ((0, 1), 0.25)))
    assert found.scale((2, 3, 1)) == pytest.approx(2 * math.sqrt(1 + 0.5 * 2 + 0.25 * 2), rel=1e-14)
    assert found.scale((1, 1, 1)) == 2
    assert found.scale((1, 0, 1)) == 2
    assert Terms().scale((5, 5)) == 1


def test_what_is_used_twice_keeps_its_constraint():
    """A weight of two products is constrained, and so is all that its factor may be."""

    def twice(x, p):
        h = apply(ops.Matmul(), apply(ops.Tanh(), apply(ops.Matmul(), x, p["w"])), p["w"])
        return apply(ops.Mean((1,)), h)

    x, p = np.ones((B, S, M)), {"w": np.ones((M, M))}
    rule, predicted = plan(twice, x, p), plan(twice, x, p, gradients="predicted")
    assert [s.resolved for s in rule.steps] == [s.resolved for s in predicted.steps]


@pytest.mark.parametrize("gradients", ["measured", "", None])
def test_another_way_is_refused(gradients):
    with pytest.raises(ArgumentError) as found:
        plan(pooled, np.ones((B, S, M)), {}, gradients=gradients)
    assert str(found.value) == f"plan(gradients={gradients!r}): expected 'rule' or 'predicted'"


# --- An image model with mean pooling ---------------------------------------------------------------------------------


def specs():
    def block(i):
        for name in ("query", "key", "value", "out"):
            yield f"{i}.{name}.weight", Spec("weight", (WIDTH, WIDTH))
            yield f"{i}.{name}.bias", Spec("bias", (WIDTH,))
        for name, shape in (("up", (WIDTH, 4 * WIDTH)), ("down", (4 * WIDTH, WIDTH))):
            yield f"{i}.{name}.weight", Spec("weight", shape)
            yield f"{i}.{name}.bias", Spec("bias", shape[1:])
        for name in ("norm1", "norm2"):
            yield f"{i}.{name}.gain", Spec("gain", (WIDTH,))
            yield f"{i}.{name}.bias", Spec("bias", (WIDTH,))

    return {
        "patch": Spec("weight", (12, WIDTH)),
        "position": Spec("embedding", (LENGTH, WIDTH)),
        **{name: spec for i in range(DEPTH) for name, spec in block(i)},
        "readout": Spec("readout", (WIDTH, CLASSES)),
    }


def vit(x, p, classes):
    """Patches, positions, pre-norm blocks, mean over the patches, classes; written with no thought of scaling."""

    def linear(h, name):
        return apply(ops.Bias(), apply(ops.Matmul(), h, p[f"{name}.weight"]), p[f"{name}.bias"])

    def norm(h, name):
        return apply(ops.LayerNorm(), h, p[f"{name}.gain"], p[f"{name}.bias"])

    h = apply(ops.Add(), apply(ops.Matmul(), x, p["patch"]), p["position"])
    for i in range(DEPTH):
        n = norm(h, f"{i}.norm1")
        q, k, v = (_heads(linear(n, f"{i}.{name}")) for name in ("query", "key", "value"))
        mixed = apply(ops.AttentionMix(), apply(ops.Softmax(), apply(ops.AttentionScores(), q, k)), v)
        mixed = apply(ops.Reshape(h.shape), apply(ops.Transpose((0, 2, 1, 3)), mixed))
        h = apply(ops.Add(), h, linear(mixed, f"{i}.out"))
        hidden = apply(ops.Gelu(), linear(norm(h, f"{i}.norm2"), f"{i}.up"))
        h = apply(ops.Add(), h, linear(hidden, f"{i}.down"))
    logits = apply(ops.Readout(), apply(ops.Mean((1,)), h), p["readout"])
    return apply(ops.SoftmaxCrossEntropy("mean"), logits, classes)


def _heads(h):
    return apply(ops.Transpose((0, 2, 1, 3)), apply(ops.Reshape((*h.shape[:2], HEADS, WIDTH // HEADS)), h))


def images(b, seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((b, LENGTH, 12)), rng.integers(0, CLASSES, b)


def gradients_of(scheme, b, seed=1):
    """RMS of every parameter's gradient; keys' biases, whose true gradient is 0, are left out."""
    tape = Tape(scheme, dtype=np.float64)
    x, classes = images(b, seed)
    parameters = initialize(specs(), unit, np.random.default_rng(seed), lambda spec: 1.0)
    p = {name: tape.tensor(value.astype(np.float64), name) for name, value in parameters.items()}
    loss = vit(tape.tensor(x, "x", requires_grad=False), p, classes)
    factors = gradient_factors(loss)
    backward(loss)
    found = {name: math.sqrt(np.mean(np.square(t.grad))) for name, t in p.items() if "key.bias" not in name}
    return found, {name: (t.grad, factors[t.variable]) for name, t in p.items()}


def outside(found):
    return [name for name, rms in found.items() if not 0.25 <= rms <= 4]


@pytest.fixture(scope="module")
def plans():
    x, classes = images(16, 0)
    parameters = initialize(specs(), unit, np.random.default_rng(0), lambda spec: 1.0)

    def fn(x, p):
        return vit(x, p, classes)

    return {kind: plan(fn, x, parameters, gradients=kind) for kind in ("rule", "predicted")}


def test_every_gradient_of_an_image_model_with_mean_pooling(plans):
    """Rows are alike: by the rule for independent ones 23 of 33 gradients leave [¼, 4], by the predicted terms none."""
    rule, _ = gradients_of(plans["rule"], 16)
    predicted, _ = gradients_of(plans["predicted"], 16)
    assert len(rule) == 33
    assert len(outside(rule)) >= 20
    assert outside(predicted) == []


@pytest.mark.parametrize("b", [5, 40])
def test_another_batch(plans, b):
    assert outside(gradients_of(plans["predicted"], b, seed=2)[0]) == []


def test_only_the_constant_of_a_gradient_changes(plans):
    """Each gradient is c times the true one for any β of its parameter: the two plans differ by c alone."""
    _, one = gradients_of(plans["rule"], 6)
    _, two = gradients_of(plans["predicted"], 6)
    for name in one:
        (g, c), (other, d) = one[name], two[name]
        assert np.max(np.abs(g / c - other / d)) <= 1e-10 * np.max(np.abs(g / c)) + 1e-12, name
