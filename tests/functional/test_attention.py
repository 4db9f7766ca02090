"""Attention against a transcription in loops: one batch, one head, one query at a time."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from refscale import functional as F  # noqa: N812
from refscale.engine import Tape, backward
from refscale.errors import ArgumentError, ShapeError
from refscale.graph import gradient_factors
from refscale.scales import geometric, none, regular, to_output_scale, unit
from refscale.testing import assert_same_bits, assert_vjp
from refscale.testing.strategies import generators
from tests.functional.near import assert_near


def damping(scores, d):
    return {"1/sqrt(d)": d**-0.5, "1/d": 1 / d}[scores]


def transcription(q, k, v, heads, mask=None, causal=False, scores="1/sqrt(d)", alphas=(1.0, 1.0, 1.0)):
    """softmax(α₁·q·kᵀ·damping), times α₂, times v, times α₃."""
    scores_alpha, softmax_alpha, mix_alpha = alphas
    (batch, s, width), t = q.shape, k.shape[1]
    d = width // heads
    y = np.zeros(q.shape)
    for n in range(batch):
        for h in range(heads):
            part = slice(h * d, (h + 1) * d)
            for i in range(s):
                seen = [j for j in range(t) if (mask is None or mask[n, j]) and (not causal or j <= i + t - s)]
                if not seen:
                    continue
                logits = [scores_alpha * float(q[n, i, part] @ k[n, j, part]) * damping(scores, d) for j in seen]
                top = max(logits)
                weights = [math.exp(x - top) for x in logits]
                total = math.fsum(weights)
                for j, w in zip(seen, weights, strict=True):
                    y[n, i, part] += mix_alpha * softmax_alpha * w / total * v[n, j, part]
    return y


def unit_alphas(s, t, d, scores, values, constraint):
    """The forward factors, from Table A.2: scores, softmax, mixture."""
    beta_q, beta_k = t**-0.5 / damping(scores, d), s**-0.5 / damping(scores, d)
    tied = constraint is geometric
    scores = (beta_q * beta_k) ** (1 / 3) if tied else 1.0
    mixture = 1 / t if values == "correlated" else (t * d * s) ** (-1 / 6) if tied else t**-0.5
    return scores, float(t), mixture


def inputs(rng, batch, s, t, width):
    return rng.standard_normal((batch, s, width)), *(rng.standard_normal((batch, t, width)) for _ in range(2))


def on(tape, arrays):
    return [tape.tensor(x, name) for x, name in zip(arrays, ("query", "key", "value"), strict=True)]


def operations(t, d):
    """Roundings per output: d in a score, which the exponential passes on times the size of the score (below 30),
    a few in exp and the division, t in each of two sums."""
    return 30 * (d + 4) + 2 * t + 10


@settings(max_examples=150)
@given(
    generators(),
    st.tuples(*[st.integers(1, 3)] * 2, *[st.integers(1, 5)] * 2, st.integers(1, 4)),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["1/sqrt(d)", "1/d"]),
    st.sampled_from(["correlated", "independent"]),
    st.sampled_from([geometric, none, to_output_scale]),
    st.booleans(),
)
@example(np.random.default_rng(0), (1, 1, 1, 1, 1), True, True, "1/sqrt(d)", "correlated", geometric, True)
@example(np.random.default_rng(0), (2, 2, 3, 5, 4), True, True, "1/d", "independent", geometric, True)
@example(np.random.default_rng(0), (2, 2, 5, 3, 4), False, True, "1/sqrt(d)", "correlated", geometric, True)
def test_attention_is_the_transcription(rng, sizes, masked, causal, scores, values, constraint, scaled):
    batch, heads, s, t, d = sizes
    arrays = inputs(rng, batch, s, t, heads * d)
    mask = rng.random((batch, t)) < 0.7 if masked else None
    y = F.attention(
        *on(Tape(unit if scaled else regular, dtype=np.float64), arrays),
        heads=heads,
        mask=mask,
        causal=causal,
        scores=scores,
        values=values,
        constraint=constraint,
    )
    alphas = unit_alphas(s, t, d, scores, values, constraint) if scaled else (1.0, 1.0, 1.0)
    assert_near(y.value, transcription(*arrays, heads, mask, causal, scores, alphas), operations(t, d))


@settings(max_examples=30)
@given(generators(), st.booleans(), st.booleans(), st.sampled_from(["1/sqrt(d)", "1/d"]))
def test_its_gradient(rng, masked, causal, scores):
    arrays = inputs(rng, 2, 3, 4, 6)
    mask = rng.random((2, 4)) < 0.7 if masked else None
    tensors = []

    def forward(*xs):
        tape = Tape(regular, dtype=np.float64)
        tensors[:] = on(tape, xs)
        tensors.append(F.attention(*tensors, heads=2, mask=mask, causal=causal, scores=scores))
        return tensors[-1].value

    def gradients(g):
        backward(tensors[-1], g)
        return [x.grad for x in tensors[:3]]

    assert_vjp(forward, gradients, arrays, rng=rng, directions=1)


def test_a_query_without_keys_gives_zero_and_takes_no_gradient():
    rng = np.random.default_rng(0)
    arrays = inputs(rng, 2, 3, 4, 6)
    mask = np.array([[True] * 4, [False] * 4])
    tensors = on(Tape(unit, dtype=np.float64), arrays)
    y = F.attention(*tensors, heads=2, mask=mask)
    assert_same_bits(y.value[1], np.zeros((3, 6)))
    backward(y, rng.standard_normal(y.shape))
    for x in tensors:
        assert not x.grad[1].any()
        assert x.grad[0].any()


def test_a_causal_query_may_see_no_key_when_there_are_more_queries():
    """s = 3, t = 1: query i sees keys j ≤ i − 2, so only the last one sees the key."""
    arrays = inputs(np.random.default_rng(0), 1, 3, 1, 2)
    y = F.attention(*on(Tape(regular, dtype=np.float64), arrays), heads=1, causal=True)
    assert_same_bits(y.value, np.concatenate([np.zeros((1, 2, 2)), arrays[2]], 1))


def test_causal_attention_does_not_look_ahead():
    """A later key, were it infinite, is not read."""
    q, k, v = inputs(np.random.default_rng(0), 1, 4, 4, 2)
    y = F.attention(*on(Tape(regular, dtype=np.float64), (q, k, v)), heads=1, causal=True)
    changed = k.copy(), v.copy()
    for x in changed:
        x[0, 3] = 1e6
    again = F.attention(*on(Tape(regular, dtype=np.float64), (q, *changed)), heads=1, causal=True)
    assert_same_bits(again.value[:, :3], y.value[:, :3])
    assert (again.value[:, 3] != y.value[:, 3]).any()


def test_padding_is_not_read():
    q, k, v = inputs(np.random.default_rng(0), 1, 4, 4, 2)
    mask = np.array([[True, True, False, True]])
    y = F.attention(*on(Tape(unit, dtype=np.float64), (q, k, v)), heads=1, mask=mask)
    k[0, 2] = v[0, 2] = 1e6
    assert_same_bits(F.attention(*on(Tape(unit, dtype=np.float64), (q, k, v)), heads=1, mask=mask).value, y.value)


@pytest.mark.parametrize("scores", ["1/sqrt(d)", "1/d"])
@pytest.mark.parametrize("constraint", [geometric, to_output_scale])
@pytest.mark.parametrize("masked", [False, True])
def test_inside_a_branch_every_factor_is_tied(scores, constraint, masked):
    """c = 1 for query, key and value: α = β on every edge."""
    tensors = on(Tape(unit, dtype=np.float64), inputs(np.random.default_rng(0), 2, 3, 4, 6))
    mask = np.ones((2, 4), np.bool_) if masked else None
    for values in ("correlated", "independent"):
        y = F.attention(*tensors, heads=2, mask=mask, scores=scores, values=values, constraint=constraint)
        c = gradient_factors(y)
        assert set(c.values()) == {1.0}


def test_without_constraint_every_factor_is_its_own():
    tape = Tape(unit, dtype=np.float64)
    F.attention(*on(tape, inputs(np.random.default_rng(0), 2, 3, 4, 6)), heads=2, constraint=none)
    found = {n.op.name: n.scales for n in tape.nodes if n.op.name not in ("reshape", "transpose")}
    assert {name: str(scales) for name, scales in found.items()} == {
        "attention_scores": "α=1 β=(0.866025, 1)",  # β_q = √(d/t) = √¾, β_k = √(d/s) = 1
        "softmax": "α=4 β=(4)",
        "attention_mix": "α=0.25 β=(0.57735, 0.57735)",  # β = d^-½, s^-½
    }


def test_equal_values_pass_through():
    """The mixture of equal values is that value for any weights: the correlated rule is exact there."""
    q, k, _ = inputs(np.random.default_rng(0), 1, 4, 8, 2)
    y = F.attention(*on(Tape(unit, dtype=np.float64), (q, k, np.ones(k.shape))), heads=1)
    assert_near(y.value, np.ones(q.shape), operations(8, 2))


def test_errors():
    tape = Tape()
    q, k, v = on(tape, inputs(np.random.default_rng(0), 2, 3, 4, 6))
    with pytest.raises(ShapeError) as error:
        F.attention(q, k, v, heads=2, mask=np.ones((2, 3), np.bool_))
    assert str(error.value) == "attention: mask has shape (2, 3), expected (2, 4)"
    for heads in (4, 0, -1):
        with pytest.raises(ShapeError) as error:
            F.attention(q, k, v, heads=heads)
        assert str(error.value) == (
            f"attention: Tensor(query, shape=(2, 3, 6), float32) with {heads} heads, "
            "expected (batch, s, width), width a multiple of heads"
        )
    flat = tape.tensor(np.ones((2, 6)), "flat")
    with pytest.raises(ShapeError, match=r"^attention: Tensor\(flat, shape=\(2, 6\), float32\) with 2 heads"):
        F.attention(flat, k, v, heads=2)
    with pytest.raises(ShapeError, match=r": x \(2, 2, 3, 4\) and w \(2, 2, 3, 3\), expected \(…, b, m\)"):
        F.attention(q, k, tape.tensor(np.ones((2, 3, 6))), heads=2)
    with pytest.raises(ShapeError) as error:
        F.attention(q, tape.tensor(np.ones((2, 4, 4))), v, heads=2)
    assert str(error.value) == ("attention_scores: q (2, 2, 3, 3) and k (2, 2, 4, 2), expected (…, s, d) and (…, t, d)")
    with pytest.raises(ArgumentError) as argument:
        F.attention(q, k, v, heads=2, scores="d")
    expected = "expected one of ('1/sqrt(d)', '1/d'), or a positive number"
    assert str(argument.value) == f"AttentionScores(rule='d'): {expected}"


# Wrong transcriptions, which the comparison must reject.


@pytest.mark.parametrize("change", [{"causal": False}, {"scores": "1/d"}, {"heads": 1}, {"mask": None}])
def test_the_comparison_can_fail(change):
    rng = np.random.default_rng(0)
    arrays = inputs(rng, 2, 4, 4, 6)
    mask = np.array([[True, True, False, True], [True] * 4])
    right = {"heads": 2, "mask": mask, "causal": True, "scores": "1/sqrt(d)"}
    y = F.attention(*on(Tape(regular, dtype=np.float64), arrays), **right)
    assert_near(y.value, transcription(*arrays, **right), operations(4, 3))
    with pytest.raises(AssertionError, match="off by"):
        assert_near(y.value, transcription(*arrays, **(right | change)), operations(4, 6))


def test_sinusoids_of_two_periods():
    """Of 2 and 4 places: ω = π and π/2; sine and cosine of each, times √2."""
    expected = np.sqrt(2) * np.array([[0, 1, 0, 1], [0, -1, 1, 0], [0, 1, 0, -1]])
    assert np.max(np.abs(F.sinusoids(3, 4, period=4) - expected)) <= 1e-15


@pytest.mark.parametrize(("frequencies", "period"), [(2, 1024), (0, 1024), (5, 1024), (4, 0)])
def test_sinusoids_without_a_value(frequencies, period):
    expected = "expected an even number of frequencies ≥ 4 and a period > 0"
    with pytest.raises(ArgumentError, match=rf"^sinusoids\(4, {frequencies}, {period}\): {expected}$"):
        F.sinusoids(4, frequencies, period)
