"""Schemes: their values, and that the same model is correct under all of them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import refscale
from refscale import functional as F  # noqa: N812
from refscale.engine import Tape, backward
from refscale.errors import ArgumentError, FactorError
from refscale.graph import gradient_factors
from refscale.models import bert
from refscale.optim import Group, groups
from refscale.scales import (
    SCHEMES,
    Munit,
    PlainAdd,
    Scales,
    UMup,
    default,
    equal_parts,
    fixed,
    geometric,
    get_scheme,
    munit,
    none,
    ratio,
    regular,
    running_mean,
    u_mup,
    unit,
)
from refscale.testing.gradients import assert_multiples
from tests.models.batches import random_batch, text_batch
from tests.models.test_bert import WORDS, gradients_of, run

NORMS = pytest.mark.parametrize("norm", ["post", "pre", "branch"])
TIED = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


class TestLearningRates:
    """Rows: values of the sources; 1-D parameters under u-μP, which has none, as under unit scaling.

    A weight is (fan_in, fan_out), a kernel (sizes, fan_in, fan_out), an embedding (rows, d); a stack of 16 additions.
    """

    CASES = (
        # role, shape, depth, regular, unit, u-μP, µnit
        ("weight", (64, 256), 16, 1, 1, 1 / 8 / 4, 1 / 8),
        ("weight", (64, 256), 1, 1, 1, 1 / 8, 1 / 8),
        ("weight", (4, 16, 256), 16, 1, 1, 1 / 8 / 4, 1 / 8),
        ("weight", (2, 2, 16, 256), 1, 1, 1, 1 / 8, 1 / 8),
        ("embedding", (1000, 64), 1, 1, 1, 1 / 8, 1),
        ("readout", (64, 1000), 1, 1, 1, 1, 1),
        ("bias", (256,), 16, 1, 1 / 16, 1 / 16 / 4, 1),
        ("gain", (64,), 16, 1, 1 / 8, 1 / 8 / 4, 1),
        ("gain", (64,), 1, 1, 1 / 8, 1 / 8, 1),
    )

    @pytest.mark.parametrize(("role", "shape", "depth", "r", "u", "m", "s"), CASES)
    def test_scale(self, role, shape, depth, r, u, m, s):
        found = [scheme.lr_scale(role, shape, depth) for scheme in (regular, unit, u_mup, munit)]
        assert found == pytest.approx([r, u, m, s], rel=1e-15)
        assert get_scheme("unit-rms").lr_scale(role, shape, depth) == found[1]

    def test_groups_of_a_bert(self):
        config = bert.get_config("bert-tiny", tied=False)
        found = groups(bert.specs(config), u_mup)
        assert found["encoder.1.ffn.up.weight"] == Group(128**-0.5 * 4**-0.5, True)
        assert found["encoder.1.ffn.norm.gain"] == Group(128**-0.5 * 0.5, False)
        assert found["mlm.transform.weight"] == Group(128**-0.5, True)
        assert found["mlm.decoder.weight"] == found["nsp.classifier.weight"] == Group(1.0, True)
        assert found["embeddings.word"] == Group(128**-0.5, True)
        assert found["mlm.decoder.bias"] == Group(4096**-0.5, False)
        assert groups(bert.specs(config), unit)["mlm.decoder.bias"] == Group(4096**-0.5, False)


class TestResiduals:
    def test_depth_rule_of_u_mup(self):
        """The library's rule (``transformer_residual_scaling_rule``, all multipliers 1), counted from 0 there."""
        for layers in (2, 8, 24):
            for index in range(layers):
                n_attention, n_mlp = (index + 1) // 2, index // 2
                tau = 1 / math.sqrt(layers / 2 + n_attention + n_mlp)
                skip, branch = u_mup.residual_weights(default, index + 1, layers)
                assert (skip, branch) == pytest.approx(
                    (1 / math.sqrt(1 + tau**2), tau / math.sqrt(1 + tau**2)), rel=1e-15
                )

    def test_parts_are_equal(self):
        """At the end of a stack, embeddings, attention and feed-forward have a third of the variance each."""
        depth, parts = 12, [1.0]
        for layer in range(1, depth + 1):
            skip, branch = u_mup.residual_weights(default, layer, depth)
            parts = [p * skip**2 for p in parts] + [branch**2]
        assert [parts[0], sum(parts[1::2]), sum(parts[2::2])] == pytest.approx([1 / 3] * 3, rel=1e-13)

    def test_rules_of_the_model_stand(self):
        for rule in (fixed(0.2), ratio(0.5), running_mean):
            assert u_mup.residual_weights(rule, 2, 4) == munit.residual_weights(rule, 2, 4) == rule(2)
        assert u_mup.residual_weights(PlainAdd(fixed(0.1)), 1, 1) == fixed(0.1)(1)
        assert munit.residual_weights(default, 2, 4) == fixed(0.3)(2)
        assert Munit(tau=0.1).residual_weights(default, 2, 4) == fixed(0.1)(2)

    @pytest.mark.parametrize(("layer", "depth"), [(0, 4), (5, 4)])
    def test_layers_out_of_range(self, layer, depth):
        with pytest.raises(ArgumentError, match=re.escape(f"equal_parts(layer={layer}, depth={depth})")):
            equal_parts(layer, depth)


FIVE = ("regular", "unit", "unit-rms", "u-mup", "munit")


def test_questions():
    assert [s.attention_scores for s in (regular, unit, u_mup, munit)] == ["1/sqrt(d)"] * 2 + ["1/d", "1/sqrt(d)"]
    assert [s.readout for s in (regular, unit, u_mup, munit)] == ["1/sqrt(m)"] * 2 + ["1/m"] * 2
    assert [s.initial_std(0.02) for s in (regular, unit, u_mup, munit)] == [0.02, 1, 1, 1]
    for norm in ("post", "pre", "branch"):
        assert [s.norm_placement(norm) for s in (regular, unit, u_mup, munit)] == [norm] * 3 + ["branch"]
    assert {s.name for s in SCHEMES.values()} == set(SCHEMES) == {*FIVE, "authors"}


def test_the_model_does_not_know_the_schemes():
    """No scheme is named, imported or told apart where models are written."""
    root = Path(refscale.__file__).parent
    for path in (path for folder in ("models", "layers", "functional") for path in (root / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"u.mup|munit|\bUnit\b|UMup|regular\b *[,)]|scheme\.name|isinstance\([^)]*scheme", text), (
            path
        )


@pytest.mark.parametrize("scheme", [u_mup, munit, get_scheme("unit-rms")], ids=lambda s: s.name)
@NORMS
@TIED
class TestGradients:
    def test_every_gradient_is_c_times_the_true_one(self, scheme, norm, tied):
        config = bert.get_config("bert-tiny", vocabulary=WORDS, norm=norm, tied=tied)
        found = gradients_of(config, text_batch(WORDS), scheme)
        assert_multiples(found)
        constants = {c for _, c, _ in found.values()}
        assert constants == {1.0} if scheme is munit else len(constants) > 10


@dataclass(frozen=True)
class NotQuite(Munit):
    """µnit Scaling whose weight gradients have a factor of their own, as unit scaling's."""

    def scales(self, call):
        s = super().scales(call)
        return Scales(s.alpha, (s.beta[0], call.op.scale(*call.shapes).beta[1])) if call.op.name == "matmul" else s


@dataclass(frozen=True)
class Geometric(UMup):
    def scales(self, call):
        return super(UMup, self).scales(call)


def test_wrong_schemes_are_rejected():
    config = bert.get_config("bert-tiny", vocabulary=WORDS)
    losses, _ = run(config, text_batch(WORDS), NotQuite())
    assert set(gradient_factors(losses.total).values()) != {1.0}
    tapes = [run(config, text_batch(WORDS), s)[0].total.tape for s in (u_mup, Geometric())]
    inside = [[n.scales for n in tape.nodes if n.op.name == "matmul"] for tape in tapes]
    assert inside[0] != inside[1]
    # one β alone, where α is taken: the consumers of the stream disagree
    losses, _ = run(config, text_batch(WORDS), u_mup)
    node = next(n for n in losses.total.tape.nodes if n.output.name.endswith("query.matmul"))
    node.scales = Scales(node.scales.alpha, (2 * node.scales.alpha, node.scales.beta[1]))
    with pytest.raises(FactorError):
        gradient_factors(losses.total)


class TestUMup:
    def test_factors(self):
        """To output scale: α for all constrained factors, for any mean of the model; weights keep theirs."""
        for constraint in (geometric, None):
            changes = {} if constraint is None else {"constraint": constraint}
            config = bert.get_config("bert-tiny", vocabulary=WORDS, **changes)
            nodes = run(config, text_batch(WORDS), u_mup)[0].total.tape.nodes
            (up,) = [n for n in nodes if n.output.name == "encoder.0.ffn.up.matmul"]
            assert up.scales == Scales(128**-0.5, (128**-0.5, (4 * 32) ** -0.5))
            (scores,) = [n for n in nodes if n.output.name == "encoder.0.attention.attention_scores"]
            assert scores.op.rule == "1/d"
            (readout,) = [n for n in nodes if n.output.name == "mlm.readout"]
            assert readout.scales.alpha == 1 / 128

    def test_where_nothing_is_constrained_every_factor_is_its_own(self):
        config = bert.get_config("bert-tiny", vocabulary=WORDS, constraint=none)
        nodes = run(config, text_batch(WORDS), u_mup)[0].total.tape.nodes
        (up,) = [n for n in nodes if n.output.name == "encoder.0.ffn.up.matmul"]
        assert up.scales == Scales(128**-0.5, (512**-0.5, (4 * 32) ** -0.5))

    def test_the_depth_rule_reaches_the_model(self):
        """bert-tiny, pre-norm: four additions, τ² = 1/2, 1/3, 1/4, 1/5."""
        config = bert.get_config("bert-tiny", vocabulary=WORDS, norm="pre")
        nodes = run(config, text_batch(WORDS), u_mup)[0].total.tape.nodes
        adds = [n.op.weights for n in nodes if n.op.name == "weighted_add" and n.output.name.startswith("encoder")]
        assert [branch / skip for skip, branch in adds] == pytest.approx([k**-0.5 for k in (2, 3, 4, 5)], rel=1e-14)

    @pytest.mark.parametrize("name", ["bert-tiny", "bert-mini"])
    def test_activations_start_at_unit_scale(self, name):
        """Pre-norm, on random tokens: every weight and activation within [¼, 4] but the two that are damped.

        Scores of RMS d^-½ and logits of RMS m^-½ are u-μP's own.
        """
        config = bert.get_config(name, norm="pre")
        rms = {}

        def probe(way, variable, value):
            if way == "forward" and variable.shape != ():
                rms[variable] = math.sqrt(np.mean(np.square(value, dtype=np.float64)))

        run(config, random_batch(config, np.random.default_rng(1), 8, 64, 10), u_mup, probe=probe)
        damped = ("attention_scores", "readout", "mlm.bias", "nsp.bias")
        strays = {v: x for v, x in rms.items() if not 0.25 <= x <= 4 and x != 0 and not v.name.endswith(damped)}
        assert strays == {}
        assert len(rms) > 80


class TestMunit:
    def test_factors(self):
        tape = Tape(munit)
        x, w, gain, bias = (tape.tensor(np.ones(shape)) for shape in ((2, 64), (64, 16), (16,), (16,)))
        h = F.layer_norm(F.linear(x, w, bias), gain, bias)
        F.cross_entropy(F.readout(h, tape.tensor(np.ones((16, 4)))), np.array([0, 1]))
        found = {n.op.name: n.scales for n in tape.nodes}
        assert found["matmul"] == Scales(1 / 8, (1 / 8, 1 / 8))
        assert found["readout"] == Scales(1 / 16, (1 / 16, 1 / 16))
        assert found["bias"] == Scales(1.0, (1.0, 1.0))
        assert found["layer_norm"] == Scales(1.0, (1.0, 1.0, 1.0))
        assert found["softmax_cross_entropy"] == Scales(1.0, (1.0, None))

    def test_norm_on_the_branch(self):
        """The stream is a weighted sum of norms: its σ stays 1 through any number of layers."""
        config = replace(bert.get_config("bert-tiny", vocabulary=WORDS), layers=6)
        losses, p = run(config, text_batch(WORDS), munit)
        names = [n.op.name for n in losses.total.tape.nodes if n.output.name.startswith("encoder.0.attention.")]
        assert names[-2:] == ["layer_norm", "weighted_add"]
        assert float(losses.encoded.value.std()) == pytest.approx(1, abs=0.15)
        backward(losses.total)
        assert all(t.grad is not None for t in p.values())
