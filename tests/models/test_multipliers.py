"""The multipliers of u-μP: factors against values of the library's rules worked by hand, functions against NumPy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from refscale import functional as F  # noqa: N812
from refscale import models, ops
from refscale.engine import Tape, backward
from refscale.errors import ArgumentError
from refscale.models import get_config, language
from refscale.scales import (
    Call,
    Multipliers,
    attention_factor,
    default,
    equal_parts,
    gated_unit_factor,
    get_scheme,
    to_output_scale,
    u_mup,
)
from tests.models.test_language import batch_of


def test_the_gated_unit_by_hand():
    """Shares ½, 4/5 and 1/5: 2^¾, 2^(1 − ½·4/5) and 2^(1 − ½·1/5)."""
    assert gated_unit_factor(1) == pytest.approx(2**0.75, rel=1e-15)
    assert gated_unit_factor(2) == pytest.approx(2**0.6, rel=1e-15)
    assert gated_unit_factor(0.5) == pytest.approx(2**0.9, rel=1e-15)


def test_attention_by_hand():
    """16 keys of size 4: the share is 1/(1 + 16/m²), ½ for m = 4, so that the factor is (16/u)^¼; 1/5 for m = 2."""
    assert attention_factor(4, 16, 4, causal=False) == pytest.approx(2, rel=1e-15)
    assert attention_factor(4, 16, 4, causal=True) == pytest.approx((16 / math.log(16)) ** 0.25, rel=1e-15)
    assert attention_factor(2, 16, 4, causal=False) == pytest.approx(16**0.4, rel=1e-15)
    assert attention_factor(2, 1, 4, causal=True) == 1


@pytest.mark.parametrize(
    ("layer", "multiplier", "ratio", "expected"),
    [
        (1, 1, 1, (2 + 0) ** -0.5),
        (4, 1, 1, (2 + 3) ** -0.5),
        (1, 3, 1, 3 * (2 + 0) ** -0.5),
        (3, 3, 1, 3 * (2 + 18) ** -0.5),
        (1, 1, 7**0.5, 7**0.5 * 0.5 * (2 + 0) ** -0.5),  # a = √7/2 of attention, ½ of feed-forward
        (2, 1, 7**0.5, 0.5 * (2 + 7 / 4) ** -0.5),
        (3, 1, 7**0.5, 7**0.5 * 0.5 * (2 + 7 / 4 + 1 / 4) ** -0.5),
        (4, 2, 7**0.5, 1 * (2 + 7 + 7 + 1) ** -0.5),
    ],
)
def test_residual_branches_by_hand(layer, multiplier, ratio, expected):
    """Of four additions."""
    assert equal_parts(layer, 4, multiplier, ratio) == pytest.approx(expected, rel=1e-14)


def test_the_parts_of_the_stream():
    """Attention over feed-forward is the ratio; both together over the embedding are the multiplier, in the mean."""
    depth, m, ratio = 6, 1.5, 0.4
    weights = np.zeros(depth + 1)
    weights[0] = 1
    for layer in range(1, depth + 1):
        tau = equal_parts(layer, depth, m, ratio)
        weights /= math.hypot(1, tau)
        weights[layer] = tau / math.hypot(1, tau)
    attention, ffn = np.sum(weights[1::2] ** 2), np.sum(weights[2::2] ** 2)
    assert math.sqrt(attention / ffn) == pytest.approx(ratio, rel=1e-12)
    assert math.sqrt((attention + ffn) / 2 / weights[0] ** 2) == pytest.approx(m, rel=1e-12)


def test_with_all_multipliers_1_the_rule_is_the_one_without():
    for depth in (2, 6, 10):
        for layer in range(1, depth + 1):
            assert equal_parts(layer, depth) == float((depth / 2 + layer - 1) ** -0.5)


def test_the_scheme_asks_for_the_residual_multipliers():
    scheme = get_scheme("u-mup:residual=3,attention_ratio=0.5")
    tau = equal_parts(2, 4, 3, 0.5)
    assert scheme.residual_weights(default, 2, 4) == pytest.approx((1 / math.hypot(1, tau), tau / math.hypot(1, tau)))


@pytest.mark.parametrize("unit", [F.silu_glu, lambda x, gate: F.glu(x, gate, "silu")], ids=["silu_glu", "glu"])
@pytest.mark.parametrize("m", [0.5, 2.0])
def test_a_gated_unit(m, unit):
    """c·x·g·sigmoid(m·g), and its gradients times the same c."""
    rng = np.random.default_rng(2)
    x, gate, g = rng.standard_normal((3, 4, 5))
    tape = Tape(get_scheme(f"u-mup:activation={m}"), dtype=np.float64)
    a, b = tape.tensor(x), tape.tensor(gate)
    y = unit(a, b)
    backward(y, g)
    sigmoid, c = 1 / (1 + np.exp(-m * gate)), gated_unit_factor(m)
    np.testing.assert_allclose(y.value, c * x * gate * sigmoid, rtol=1e-12)
    np.testing.assert_allclose(a.grad, c * g * gate * sigmoid, rtol=1e-12)
    np.testing.assert_allclose(b.grad, c * g * x * sigmoid * (1 + m * gate * (1 - sigmoid)), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize(("values", "causal"), [("independent", False), ("causal", True)])
def test_attention(values, causal):
    """c·softmax(m·q·kᵀ/d)·v; the gradients of q, k and v are the true ones times c."""
    m, t, d = 3.0, 6, 4
    rng = np.random.default_rng(3)
    q, k, v, g = rng.standard_normal((4, 1, t, d))
    tape = Tape(get_scheme(f"u-mup:attention={m}"), dtype=np.float64)
    leaves = [tape.tensor(x) for x in (q, k, v)]
    y = F.attention(*leaves, heads=1, causal=causal, values=values)
    backward(y, g)
    c = attention_factor(m, t, d, causal=causal)

    def mixed(q, k, v):
        logits = m / d * q[0] @ k[0].T
        weights = np.exp(np.where(np.tri(t) if causal else True, logits, -np.inf))
        return c * (weights / weights.sum(-1, keepdims=True)) @ v[0]

    np.testing.assert_allclose(y.value[0], mixed(q, k, v), rtol=1e-12)
    for i, leaf in enumerate(leaves):
        for place in ((0, 1, 2), (0, 5, 0)):
            ends = []
            for sign in (1, -1):
                moved = [q, k, v]
                moved[i] = moved[i].copy()
                moved[i][place] += sign * 1e-6
                ends.append(np.sum(g[0] * mixed(*moved)))
            assert leaf.grad[place] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6, abs=1e-8)


def test_the_loss():
    """m multiplies the logits forward alone: the gradient is β·(softmax(m·z) − target)."""
    m, rows, s = 2.5, 3, 4
    z, labels = np.random.default_rng(4).standard_normal((rows, s)), np.array([0, 3, 1])
    tape = Tape(get_scheme(f"u-mup:loss={m}"), dtype=np.float64)
    logits = tape.tensor(z)
    loss = F.cross_entropy(logits, labels)
    backward(loss)
    p = np.exp(m * z)
    p /= p.sum(-1, keepdims=True)
    np.testing.assert_allclose(loss.value, -np.mean(np.log(p[np.arange(rows), labels])), rtol=1e-12)
    p[np.arange(rows), labels] -= 1
    np.testing.assert_allclose(logits.grad, p * s / math.sqrt(s - 1), rtol=1e-12)


def test_the_gradients_of_a_decoder_are_legal():
    """``backward`` checks the factors; each multiplier changes the loss."""
    config = get_config("decoder-tiny:layers=1,vocabulary=40,values=causal")
    rng = np.random.default_rng(0)
    batch = batch_of(config, rng)
    parameters = models.initial_parameters(config, u_mup, rng)
    losses = set()
    for name in (
        "u-mup",
        *(f"u-mup:{f}=2" for f in ("activation", "attention", "loss", "residual", "attention_ratio")),
    ):
        tape = Tape(get_scheme(name))
        total = language.next_token_loss(models.parameters_on(tape, parameters, config), batch, config).total
        backward(total)
        losses.add(float(total.value))
    assert len(losses) == 6


def test_without_a_multiplier_of_attention_the_mixture_is_as_it_was():
    call = Call(ops.AttentionMix("causal"), ((1, 6, 6), (1, 6, 4)), to_output_scale, (0, 1))
    assert replace(u_mup, multipliers=Multipliers(loss=2)).scales(call) == u_mup.scales(call)
    correlated = Call(ops.AttentionMix("correlated"), ((1, 6, 6), (1, 6, 4)), to_output_scale, (0, 1))
    assert replace(u_mup, multipliers=Multipliers(attention=2)).scales(correlated) == u_mup.scales(correlated)


def test_spellings():
    scheme = get_scheme("u-mup:loss=0.5, residual=2^1,activation=1")
    assert scheme.name == "u-mup:loss=0.5,residual=2"
    assert scheme.multipliers == Multipliers(loss=0.5, residual=2)
    assert get_scheme("u-mup:loss=1") == u_mup
    for text in ("loss=0", "loss=-1", "loss", "loss=big", "gain=2"):
        with pytest.raises(ArgumentError, match=r"or activation=NUMBER above 0, or attention=NUMBER above 0, or loss="):
            get_scheme(f"u-mup:{text}")
    with pytest.raises(ArgumentError, match=r"'loss=2', expected rows=independent"):
        get_scheme("unit:loss=2")
    assert get_scheme("u-mup:rows=alike,loss=2").name == "u-mup:rows=alike,loss=2"
    with pytest.raises(ArgumentError, match=r"Multipliers\(loss=inf\): expected a positive finite number"):
        Multipliers(loss=math.inf)
