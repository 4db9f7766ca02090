"""Split, fork, embeddings, norm, dropout and losses."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale import functional as F  # noqa: N812
from refscale import layers, ops
from refscale.engine import Tape, apply, backward
from refscale.errors import ArgumentError, ShapeError, TapeError
from refscale.graph import balance, gradient_factors
from refscale.layers import initialize
from refscale.models import bert, get_config, language
from refscale.scales import CONSTRAINTS, fixed, none, regular, running_mean, to_output_scale, u_mup, unit
from refscale.testing import assert_exact_rms, assert_same_bits, hadamard, signs
from refscale.testing.strategies import generators
from tests.functional.near import assert_near

SCHEMES = pytest.mark.parametrize("scheme", [regular, unit], ids=lambda s: s.name)


# Split and fork


@SCHEMES
@pytest.mark.parametrize(
    ("parts", "axis", "indices"), [(3, -1, [2, 4]), ((1, 5), 1, [1]), ([2, 1, 1], 0, [2, 3]), (1, 0, [])]
)
def test_split(scheme, parts, axis, indices):
    """As numpy.split; factors 1, and the parts' gradients together are the gradient."""
    x = np.random.default_rng(0).standard_normal((4, 6))
    tape = Tape(scheme, dtype=np.float64)
    leaf = tape.tensor(x)
    pieces = F.split(leaf, parts, axis)
    for piece, expected in zip(pieces, np.split(x, indices, axis), strict=True):
        assert_same_bits(np.ascontiguousarray(piece.value), np.ascontiguousarray(expected))
    y = apply(ops.Concat(axis), *pieces)
    assert set(gradient_factors(y).values()) == {1.0}
    backward(y, x)
    assert_same_bits(leaf.grad, x)


def test_split_errors():
    x = Tape().tensor(np.ones((4, 6)))
    for parts in (4, (2, 3), (7, -1), 0):
        with pytest.raises(ShapeError) as error:
            F.split(x, parts)
        assert str(error.value) == f"split: 6 elements into parts {parts}"
    with pytest.raises(ShapeError) as error:
        F.split(x, 2, axis=2)
    assert str(error.value) == "split: axis 2 of an array with 2 dimensions"


@pytest.mark.parametrize("ways", [1, 2, 5])
def test_fork(ways):
    """Identities whose gradients add up, each damped so that independent ones keep their scale."""
    tape = Tape(unit, dtype=np.float64)
    leaf = tape.tensor(np.array([1.0, -2.0]))
    uses = F.fork(leaf, ways)
    assert len(uses) == ways
    for use in uses:
        assert_same_bits(use.value, leaf.value)
    assert [node.scales.beta for node in tape.nodes] == [(ways**-0.5,)] * ways
    y = apply(ops.WeightedAdd((1.0,) * ways), *uses, constraint=to_output_scale, constrained=range(ways))
    assert gradient_factors(y)[leaf.variable] == pytest.approx(ways**-0.5, rel=1e-15)


# Embeddings and norm


@SCHEMES
def test_embedding_sum(scheme):
    """Equal weights, broadcast; over √3 under unit scaling."""
    rng = np.random.default_rng(0)
    words, positions, segments = (rng.standard_normal((n, 4)) for n in (7, 5, 2))
    ids, kinds = rng.integers(0, 7, (3, 5)), rng.integers(0, 2, (3, 5))
    tape = Tape(scheme, dtype=np.float64)
    y = F.embedding_sum(
        (tape.tensor(words), ids), (tape.tensor(positions), np.arange(5)), (tape.tensor(segments), kinds)
    )
    expected = words[ids] + positions + segments[kinds]
    assert_near(y.value, expected * (3**-0.5 if scheme is unit else 1), 6)


def test_embedding_sum_has_unit_scale():
    """Rows of ±1 that are orthogonal: RMS² of a sum of k is exactly k."""
    rows = hadamard(8)
    tape = Tape(unit, dtype=np.float64)
    ids = np.array([0, 1, 1, 0])
    y = F.embedding_sum(*((tape.tensor(rows[k : k + 2]), ids) for k in (0, 2, 4)))
    assert_exact_rms(y.value)


def test_embedding_sum_gradient():
    """Each table adds up the gradient of the rows it gave, times √(rows/tokens)."""
    tape = Tape(unit, dtype=np.float64)
    table, positions = tape.tensor(np.zeros((3, 2))), tape.tensor(np.zeros((2, 2)))
    y = F.embedding_sum((table, np.array([[0, 2], [0, 0]])), (positions, np.arange(2)))
    g = np.arange(8.0).reshape(2, 2, 2)
    backward(y, g)
    by_word = np.array([g[0, 0] + g[1, 0] + g[1, 1], [0, 0], g[0, 1]])
    assert_near(table.grad, math.sqrt(3 / 4) * by_word, 4)
    # Positions are seen twice each, once per sequence: r^-1/2 of the broadcast.
    assert_near(positions.grad, 2**-0.5 * (g[0] + g[1]), 4)


@SCHEMES
def test_layer_norm(scheme):
    rng = np.random.default_rng(0)
    x, gain, bias = rng.standard_normal((3, 4, 5)), rng.standard_normal(5), rng.standard_normal(5)
    tape = Tape(scheme, dtype=np.float64)
    y = F.layer_norm(*(tape.tensor(a) for a in (x, gain, bias)), eps=1e-5)
    centered = x - x.mean(-1, keepdims=True)
    assert_near(y.value, centered / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * gain + bias, 40)
    scales = tape.nodes[0].scales
    assert (scales.alpha, scales.beta[0]) == (1, 1)
    assert scales.beta[1:] == pytest.approx((12**-0.5 if scheme is unit else 1,) * 2, rel=1e-15)


def test_what_norms_add_unless_told_otherwise():
    """10^-12 to the variance, 10^-6 to the mean square: numbers of just that size come out as √½."""
    one = np.ones(2)
    for norm, arrays, size in ((F.layer_norm, (one, 0 * one), 1e-6), (F.rms_norm, (one,), 1e-3)):
        tape = Tape(regular, dtype=np.float64)
        y = norm(tape.tensor([size, -size]), *map(tape.tensor, arrays))
        assert y.value == pytest.approx([0.5**0.5, -(0.5**0.5)], rel=1e-12)


@SCHEMES
def test_rms_norm(scheme):
    """The mean stays; a row of (3, 4, 5, …) over its root mean square."""
    x = np.array([[3.0, 4.0], [1.0, 7.0], [-6.0, 8.0]])
    tape = Tape(scheme, dtype=np.float64)
    y = F.rms_norm(tape.tensor(x), tape.tensor([2.0, 10.0]), eps=0.0)
    rows = np.array([[12.5**0.5], [5.0], [50**0.5]])
    assert_near(y.value, x / rows * [2, 10], 8)
    assert (tape.nodes[0].scales.alpha, tape.nodes[0].scales.beta[0]) == (1, 1)
    assert tape.nodes[0].scales.beta[1] == pytest.approx(3**-0.5 if scheme is unit else 1, rel=1e-15)


# Positions


def test_sinusoids_by_hand():
    """Frequencies π and 2π/1024, or 2π/period; sine and cosine of each, times √2."""
    slow = 2 * math.pi / 1024
    expected = [
        [0, math.sqrt(2), 0, math.sqrt(2)],
        [0, -math.sqrt(2), math.sqrt(2) * math.sin(slow), math.sqrt(2) * math.cos(slow)],
        [0, math.sqrt(2), math.sqrt(2) * math.sin(2 * slow), math.sqrt(2) * math.cos(2 * slow)],
    ]
    assert F.sinusoids(3, 4) == pytest.approx(np.array(expected), abs=1e-14)
    assert F.sinusoids(2, 6, 8)[1, ::2] == pytest.approx(  # π/2^0, π/2, π/4
        math.sqrt(2) * np.sin([math.pi, math.pi / 2, math.pi / 4]), abs=1e-14
    )


def test_rotary_angles_by_hand():
    """Of place t: t and t/100, as 10000^(−2/4) is 1/100; or t and t/2 with a base of 4."""
    for base, angles in (((), (1.0, 0.01)), ((4.0,), (1.0, 0.5))):
        cos, sin = F.rotary_angles(3, 4, *base)
        assert cos == pytest.approx(np.array([[math.cos(t * a) for a in angles] for t in range(3)]), abs=1e-15)
        assert sin == pytest.approx(np.array([[math.sin(t * a) for a in angles] for t in range(3)]), abs=1e-15)


def test_a_mean_of_the_tokens_that_are_there():
    """Of one token itself, of three their mean; under unit scaling times √4, for four places."""
    h = np.arange(24.0).reshape(2, 4, 3)
    mask = np.array([[False, True, False, False], [True, True, False, True]])
    for scheme, factor in ((regular, 1), (unit, 2)):
        y = F.mean_pooled(Tape(scheme, dtype=np.float64).tensor(h), mask)
        assert_near(y.value, factor * np.array([h[0, 1], (h[1, 0] + h[1, 1] + h[1, 3]) / 3]), 12)


# Dropout


@given(generators(), st.sampled_from([0.1, 0.5, 0.75]), st.booleans())
def test_dropout(rng, p, scaled):
    """x·keep/(1−p), over √(1/(1−p)) under unit scaling; the same mask for the gradient."""
    twin = np.random.Generator(type(rng.bit_generator)())
    twin.bit_generator.state = rng.bit_generator.state
    x = np.linspace(1.0, 2.0, 12).reshape(3, 4)
    tape = Tape(unit if scaled else regular, dtype=np.float64)
    leaf = tape.tensor(x)
    y = F.dropout(leaf, p, rng)
    keep = twin.random(x.shape) >= p
    factor = (1 - p) ** -0.5 if scaled else 1 / (1 - p)
    assert_near(y.value, factor * x * keep, 4)
    backward(y, np.ones(x.shape))
    assert_near(leaf.grad, factor * keep, 4)
    assert set(gradient_factors(y).values()) == {1.0}


def test_dropout_in_evaluation():
    x = Tape().tensor([1.0])
    assert F.dropout(x, 0.5, None) is x
    assert F.dropout(x, 0.0, np.random.default_rng(0)) is x


def test_dropout_keeps_the_share_it_says():
    """100 000 draws at p = 0.25: seven standard errors (false alarm 3e-12) are ±0.0096."""
    x = Tape(regular).tensor(np.ones(100_000))
    kept = np.count_nonzero(F.dropout(x, 0.25, np.random.default_rng(0)).value) / 100_000
    assert abs(kept - 0.75) <= 7 * math.sqrt(0.25 * 0.75 / 100_000)


@pytest.mark.parametrize("p", [1.0, -0.1, 1.5])
def test_dropout_errors(p):
    with pytest.raises(ArgumentError) as error:
        F.dropout(Tape().tensor([1.0]), p, np.random.default_rng(0))
    assert str(error.value) == f"Dropout(p={p}): expected 0 ≤ p < 1"


# Losses


@given(generators(), st.booleans(), st.booleans())
def test_cross_entropy(rng, ignoring, scaled):
    """The mean of −log softmax over the counted rows, under any scheme: a loss is a report."""
    logits, targets = rng.standard_normal((3, 4, 5)), rng.integers(0, 5, (3, 4))
    if ignoring:
        targets[rng.random((3, 4)) < 0.5] = -100
        targets[0, 0] = 1
    tape = Tape(unit if scaled else regular, dtype=np.float64)
    leaf = tape.tensor(logits)
    loss = F.cross_entropy(leaf, targets, -100 if ignoring else None)
    rows = [(i, j) for i in range(3) for j in range(4) if targets[i, j] != -100]
    terms = [math.log(math.fsum(np.exp(logits[r]))) - logits[r][targets[r]] for r in rows]
    assert_near(loss.value, np.asarray(math.fsum(terms) / len(rows)), 60)
    backward(loss)
    expected = np.zeros(logits.shape)
    for r in rows:
        expected[r] = np.exp(logits[r]) / math.fsum(np.exp(logits[r])) - np.eye(5)[targets[r]]
    beta = 5 / 2 * math.sqrt(12 / len(rows)) * len(rows) if scaled else 1
    assert_near(leaf.grad, beta * expected / len(rows), 60)


@pytest.mark.parametrize("kept", [1, 3, 12])
def test_cross_entropy_starts_the_gradient_at_unit_scale(kept):
    """At uniform logits exactly, with most rows ignored too: over all rows, the ignored ones count as zeros."""
    targets = np.full(12, -1)
    targets[:kept] = np.arange(kept) % 7
    leaf = Tape(unit, dtype=np.float64).tensor(np.zeros((12, 7)))
    backward(F.cross_entropy(leaf, targets, ignore_index=-1))
    assert_exact_rms(leaf.grad, roundings=8)
    assert not leaf.grad[kept:].any()


def test_cross_entropy_survives_large_logits():
    leaf = Tape(regular, dtype=np.float64).tensor(np.array([[1e4, 0.0], [0.0, -1e4]]))
    loss = F.cross_entropy(leaf, np.array([1, 0]))
    assert loss.value == 5e3
    backward(loss)
    assert_same_bits(leaf.grad, np.array([[0.5, -0.5], [0.0, 0.0]]))


def test_total_loss():
    """The sum, and a gradient of 1 for each, under every scheme."""
    for scheme in (regular, unit):
        tape = Tape(scheme, dtype=np.float64)
        losses = [tape.tensor(x) for x in (1.5, 2.0, 4.0)]
        total = F.total_loss(*losses)
        assert total.value == 7.5
        backward(total)
        assert [float(x.grad) for x in losses] == [1, 1, 1]


def test_loss_errors():
    tape = Tape()
    logits = tape.tensor(np.zeros((2, 3)))
    with pytest.raises(ArgumentError) as error:
        F.cross_entropy(logits, np.array([-100, -100]), -100)
    assert str(error.value) == "SoftmaxCrossEntropy(kept=0): expected at least one row that counts"
    with pytest.raises(ArgumentError) as error:
        F.cross_entropy(logits, np.array([0, 3]))
    assert str(error.value) == "softmax_cross_entropy: targets from 0 to 3, expected 0 … 2"
    with pytest.raises(ArgumentError) as error:
        F.cross_entropy(logits, np.array([0, -100]))
    assert str(error.value) == "softmax_cross_entropy: targets from -100 to 0, expected 0 … 2"
    with pytest.raises(ArgumentError) as error:
        F.cross_entropy(logits, np.array([0.0, 1.0]))
    assert str(error.value) == "softmax_cross_entropy: targets are float32, expected integers"
    with pytest.raises(ShapeError) as error:
        F.cross_entropy(logits, np.array([0]))
    assert str(error.value) == "softmax_cross_entropy: logits (2, 3), targets (1,), expected (…, s) and (…)"
    with pytest.raises(ShapeError) as error:
        F.total_loss(logits)
    assert str(error.value) == "loss_sum: shapes (2, 3), expected scalars"


def test_signs_reach_every_part_of_a_split_gradient():
    """A split in three, used unevenly, still gives x its whole gradient."""
    rng = np.random.default_rng(0)
    tape = Tape(unit, dtype=np.float64)
    leaf = tape.tensor(signs((2, 6), rng))
    a, b, c = F.split(leaf, 3)
    y = apply(ops.Concat(-1), c, a, b)
    backward(y, g := signs((2, 6), rng))
    assert_same_bits(leaf.grad, np.concatenate([g[:, 2:4], g[:, 4:], g[:, :2]], 1))


class TestArraysAmongTensors:
    """The tape is that of any tensor; without a tensor the error explains it."""

    X, W = np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]])

    @pytest.mark.parametrize(("scheme", "expected"), [("regular", 11.0), ("unit", 11 / math.sqrt(2)), ("u-mup", 5.5)])
    def test_a_readout_of_an_array(self, scheme, expected):
        w = Tape(scheme, dtype=np.float64).tensor(self.W)
        y = F.readout(self.X, w)
        backward(y)
        assert y.value == pytest.approx(expected, rel=1e-15)
        assert w.grad.tolist() == [[1], [2]]

    def test_a_linear_layer_of_an_array(self):
        p = {"a.weight": Tape().tensor(self.W), "a.bias": Tape().tensor([5.0])}
        p["a.bias"] = p["a.weight"].tape.tensor([5.0])
        y = layers.linear(p, "a", self.X)
        backward(y)
        assert y.value == 16
        assert (p["a.weight"].grad.tolist(), p["a.bias"].grad.tolist()) == ([[1], [2]], [1])

    def test_a_norm_of_an_array(self):
        gain = Tape().tensor([2.0, 2.0])
        np.testing.assert_allclose(
            layers.norm({"n.gain": gain}, "n", np.array([[3.0, 4.0]]), 0.0).value, [[1.697, 2.263]], 1e-3
        )

    @pytest.mark.parametrize(
        ("name", "call"),
        [
            ("readout", lambda x: F.readout(x, x)),
            ("residual", lambda x: F.residual(lambda h: h, x)),
            ("attention", lambda x: F.attention(x[None], x[None], x[None], heads=1)),
            ("mean_pooled", lambda x: F.mean_pooled(x[None], np.ones((1, 1), np.bool_))),
            ("linear('a')", lambda x: layers.linear({"a.weight": x.T}, "a", x)),
            ("norm('a')", lambda x: layers.norm({"a.gain": x[0]}, "a", x, 0.0)),
            ("residual_block('a')", lambda x: layers.residual_block({}, "a", None, x, BLOCK, 1, None)),
            ("transformer_layer('a')", lambda x: layers.transformer_layer({}, "a", x, None, BLOCK, 0, None)),
            ("self_attention('a')", lambda x: layers.self_attention({}, "a", x, None, BLOCK)),
            ("graph", balance),
            ("graph", gradient_factors),
        ],
    )
    def test_none_at_all(self, name, call):
        with pytest.raises(TapeError, match=f"^{re.escape(name)}: no tensor among the inputs, expected at least one"):
            call(np.ones((1, 2), np.float32))

    def test_parameters_that_are_on_no_tape(self):
        ids, rng = np.array([[1, 2]]), np.random.default_rng(0)
        config = bert.get_config("bert-tiny", vocabulary=8)
        with pytest.raises(TapeError, match="bert: no tensor among the inputs"):
            bert.encode(initialize(bert.specs(config), "unit", rng), config, ids)
        config = language.LanguageConfig(1, 64, vocabulary=8)
        with pytest.raises(TapeError, match="language: no tensor among the inputs"):
            language.logits(initialize(language.specs(config), "unit", rng), config, ids)


BLOCK = bert.get_config("bert-tiny").block


class TestNames:
    """A rule's name stands for the rule."""

    def test_of_a_residual_rule(self):
        x = Tape(unit).tensor([3.0])
        one, other = (F.residual(lambda h: apply(ops.Scaled(), h), x, tau).value for tau in ("fixed(0.4)", fixed(0.4)))
        assert one == other == pytest.approx(3 * (math.sqrt(0.6) + math.sqrt(0.4)), rel=1e-6)

    @pytest.mark.parametrize("tau", [0.4, "0.4", None, "fixed"])
    def test_of_none(self, tau):
        with pytest.raises(ArgumentError, match=rf"get_residual\({tau!r}\): expected one of default, .*fixed"):
            F.residual(lambda h: h, Tape().tensor([3.0]), tau)

    @pytest.mark.parametrize("name", ["none", "geometric", "to_output_scale"])
    def test_of_the_constraints_of_attention(self, name):
        def scales(constraint):
            tape = Tape(unit)
            x = tape.tensor(np.ones((1, 3, 4)))
            F.attention(x, x, x, heads=2, constraint=constraint, scores_constraint=constraint)
            return [node.scales for node in tape.nodes]

        assert scales(name) == scales(CONSTRAINTS[name])

    def test_in_a_configuration(self):
        for config in (bert.get_config("bert-tiny"), language.CONFIGS["charlm-attention"]):
            named = replace(config, constraint="none", tau="running-mean")
            assert named == replace(config, constraint=none, tau=running_mean)
            assert (named.block.constraint, named.block.tau) == (none, running_mean)
        assert get_config("bert-tiny", constraint="none").constraint is none
        assert replace(BLOCK, constraint="none").constraint is none

    def test_of_a_scheme_where_parameters_are_made(self):
        specs = bert.specs(bert.get_config("bert-tiny", vocabulary=8))
        one, other = (initialize(specs, s, np.random.default_rng(0)) for s in ("u-mup", u_mup))
        assert all(one[name].tobytes() == other[name].tobytes() for name in specs)
