"""Counts of multiplications: by hand, by formulas of shapes, and by watching the engine multiply."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from refscale import functional as F  # noqa: N812
from refscale import models, ops
from refscale.analysis import Flops, OpFlops, count_flops, render_flops, save_flops, tape_flops
from refscale.claims.graphs import Chosen
from refscale.cli import main
from refscale.engine import Tape, apply, backward, fast
from refscale.errors import ArgumentError
from refscale.models import bert
from refscale.scales import Scales, geometric, none, regular, unit
from tests.models.batches import text_batch


def by_op(output):
    return {op.op: op for op in tape_flops(output)}


def test_a_layer_by_hand():
    """x (6, 4) · w (4, 5), then gelu: 6·4·5 products forward and again for each gradient."""
    tape = Tape(unit)
    x, w = tape.tensor(np.ones((6, 4)), requires_grad=False), tape.tensor(np.ones((4, 5)), "w")
    y = apply(ops.Gelu(), apply(ops.Matmul(), x, w))
    assert by_op(y) == {
        "matmul": OpFlops("matmul", 1, 2 * 6 * 4 * 5, alpha=30, beta=20, of_parameters=20),  # x has no gradient
        "gelu": OpFlops("gelu", 1, 0, alpha=30, beta=30, of_parameters=0),
    }
    tape = Tape(regular)
    y = apply(ops.Matmul(), tape.tensor(np.ones((6, 4))), tape.tensor(np.ones((4, 5))))
    assert by_op(y) == {"matmul": OpFlops("matmul", 1, 3 * 6 * 4 * 5)}


def test_a_convolution_by_hand():
    tape = Tape(regular)
    x, w = tape.tensor(np.ones((2, 9, 4))), tape.tensor(np.ones((3, 2, 6)))
    y = apply(ops.Conv1d(groups=2), x, w)
    assert by_op(y)["conv1d"].products == 3 * (2 * 7 * 6) * (3 * 2)


def test_other_convolutions_by_hand():
    """Three axes: 2·1·2 taps of 4 channels for each place; transposed: every element goes to 3 taps of 3 channels."""
    tape = Tape(regular)
    x, w = tape.tensor(np.ones((2, 3, 2, 2, 4))), tape.tensor(np.ones((2, 1, 2, 4, 5)))
    assert by_op(apply(ops.Conv3d(), x, w))["conv3d"].products == 3 * (2 * 2 * 2 * 1 * 5) * (2 * 1 * 2 * 4)
    x, w = tape.tensor(np.ones((2, 7, 4))), tape.tensor(np.ones((3, 2, 6)))
    assert by_op(apply(ops.ConvTranspose(2, groups=2), x, w))["conv_transpose"].products == 3 * (2 * 7 * 4) * (3 * 3)


def test_a_contraction_without_a_count():
    class Dot(ops.Matmul):
        products = None

    tape = Tape(regular)
    y = apply(Dot(), tape.tensor(np.ones((2, 2))), tape.tensor(np.ones((2, 2))))
    with pytest.raises(ArgumentError, match=re.escape("tape_flops: no count for the contraction 'dot'")):
        tape_flops(y)


@pytest.mark.parametrize("name", ["bert-tiny", "bert-mini"])
def test_contractions_of_a_bert_by_formula(name):
    """Per layer 4d² + 2dh weights and two products of t keys; heads at p places; all times three for the gradients."""
    config, batch, seq = bert.get_config(name), 2, 32
    d, h, words, p = config.width, config.hidden, config.vocabulary, round(0.15 * seq)
    layer = batch * seq * (4 * d * d + 2 * d * h + 2 * seq * d)
    heads = batch * p * (d * d + d * words) + batch * (d * d + 2 * d)
    for scheme in ("regular", "unit"):
        flops = count_flops(name, scheme, batch=batch, seq=seq)
        assert flops.products == 3 * (config.layers * layer + heads)
    assert count_flops(name, "regular", batch=batch, seq=seq).factors == 0


@pytest.mark.parametrize("constraint", [geometric, none], ids=lambda f: f.__name__)
@pytest.mark.parametrize("scheme", [regular, unit], ids=lambda s: s.name)
def test_factors_as_the_engine_multiplies(scheme, constraint, monkeypatch):
    """The engine's own multiplication, watched: the same number of elements."""
    multiplied = []
    real = fast._times

    def watched(factor, x, own):
        multiplied.append(x.size)
        return real(factor, x, own)

    def forward(tape, node, tensors, right=fast.forward):
        y, kept = right(tape, node, tensors)
        multiplied.append(y.size if node.scales.alpha != 1 else 0)
        return y, kept

    monkeypatch.setattr(fast, "_times", watched)
    monkeypatch.setattr(fast, "forward", forward)
    # In a fast form a factor has no pass of its own, and applying it early, before a fork, costs less.
    for kind in map(vars(ops).get, ops.__all__):
        if getattr(kind, "fast_forward", None):
            monkeypatch.setattr(kind, "fast_forward", None)
    monkeypatch.setattr(fast, "_paid_ahead", lambda tape, output: {})
    config = bert.get_config("bert-tiny", vocabulary=600, constraint=constraint)
    tape = Tape(scheme)
    p = models.parameters_on(tape, models.initial_parameters(config, scheme, np.random.default_rng(0)), config)
    losses = bert.pretraining_loss(p, text_batch(600), config)
    backward(losses.total)
    counted = tape_flops(losses.total)
    assert sum(op.alpha + op.beta for op in counted) == sum(multiplied)
    assert (sum(multiplied) > 0) == (scheme is unit)


def test_what_is_not_on_the_way_is_not_counted():
    tape = Tape(unit)
    x, w = tape.tensor(np.ones((6, 4))), tape.tensor(np.ones((4, 5)))
    y = apply(ops.Matmul(), x, w)
    F.linear(y, tape.tensor(np.ones((5, 5))))
    assert by_op(y)["matmul"].calls == 1
    assert tape_flops(x) == ()


def test_calls_are_added_up_and_the_costliest_op_comes_first():
    """Two products of 2·2·2 terms, and twice that for the gradients of each; then factors, then the name."""
    tape = Tape(unit)
    x, w = (tape.tensor(np.ones((2, 2)), name) for name in "xw")
    y = apply(ops.Matmul(), apply(ops.Matmul(), x, w), w)
    y = apply(ops.Gelu(), apply(ops.Tanh(), apply(ops.Gelu(), apply(ops.Reshape((2, 2)), y))))
    assert [(op.op, op.calls, op.products, op.alpha, op.beta, op.of_parameters) for op in tape_flops(y)] == [
        ("matmul", 2, 2 * 3 * 8, 8, 16, 12),
        ("gelu", 2, 0, 8, 8, 0),
        ("tanh", 1, 0, 4, 4, 0),
        ("reshape", 1, 0, 0, 0, 0),
    ]


def test_the_table_by_hand():
    """2 · 45 million products; 6, 3 and 1 million elements multiplied by factors: 10 in 100, ∂w among them."""
    ops_ = (
        OpFlops("matmul", 2, 90_000_000, 4_000_000, 3_000_000, 2_000_000),
        OpFlops("gelu", 1, 0, 2_000_000, 1_000_000),
    )
    lines = render_flops([Flops("m", "unit", "geometric", 8, 128, (*ops_, OpFlops("reshape", 9)))])
    assert lines[3] == "━━ unit: m, batch 8 × 128, geometric"
    assert [line.split() for line in lines[5:8]] == [
        ["matmul", "2", "90.000", "4.000", "3.000", "2.000"],
        ["gelu", "1", "·", "2.000", "1.000", "·"],
        ["all", "12", "90.000", "6.000", "4.000", "2.000"],
    ]
    assert lines[8] == "10 of 100 million multiplications are by factors: 10.000%"


def test_constants_have_no_factor_to_count():
    """cos and sin of a rotation have no gradient, though leaves of the tape may; nor have ids: ½ of a table's rows."""
    tape = Tape(Chosen(factors=(Scales(0.5, (0.5, None, None)),)))
    x, cos, sin = tape.tensor(np.ones((2, 3, 4)), "x"), tape.tensor(np.ones((3, 2))), tape.tensor(np.zeros((3, 2)))
    y = apply(ops.Rotary(), x, cos, sin)
    assert by_op(y) == {"rotary": OpFlops("rotary", 1, 0, alpha=24, beta=24, of_parameters=24)}
    tape = Tape(Chosen(factors=(Scales(1.0, (0.5, None)),)))
    y = apply(ops.Embedding(), tape.tensor(np.ones((5, 4)), "table"), np.array([0, 1, 1]))
    assert by_op(y) == {"embedding": OpFlops("embedding", 1, 0, alpha=0, beta=20, of_parameters=20)}


def test_sums_and_shares(tmp_path):
    flops = Flops("m", "unit", "geometric", 1, 2, (OpFlops("a", 1, 90, 4, 3, 2), OpFlops("b", 2, 0, 1, 2, 0)))
    assert (flops.products, flops.factors, flops.of_parameters, flops.share) == (90, 10, 2, 0.1)
    save_flops(tmp_path / "f.json", [flops])
    content = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))
    assert content["schema"] == "refscale.flops/1"
    assert content["runs"][0]["share"] == 0.1
    assert max(map(len, render_flops([flops]))) <= 110


def test_scales_of_one_are_free():
    assert Scales(1.0, (1.0,)).alpha == 1
    tape = Tape(unit)
    y = apply(ops.Reshape((4,)), tape.tensor(np.ones((2, 2))))
    assert tape_flops(y) == (OpFlops("reshape", 1),)


class TestCommand:
    def test_table(self, capsys, tmp_path):
        path = tmp_path / "f.json"
        assert main(["report", "bert-tiny", "--flops", "--batch", "2", "--seq", "32", "--json", str(path)]) == 0
        out = capsys.readouterr().out
        assert "━━ regular: bert-tiny, batch 2 × 32, geometric" in out
        shares = [float(x) for x in re.findall(r"factors: (\S+)%", out)]
        assert shares[0] == 0 < shares[1] < 5
        assert [r["scheme"] for r in json.loads(path.read_text(encoding="utf-8"))["runs"]] == ["regular", "unit"]

    def test_not_with_a_plot(self, capsys):
        assert main(["report", "--flops", "--plot", "x.svg"]) == 2
        assert capsys.readouterr().err == "refscale: report: --flops with --plot, expected one of the two\n"
