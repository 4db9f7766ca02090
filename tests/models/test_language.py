"""Language models: their masks, gradients as multiples of the true ones, initial values."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from refscale import functional as F  # noqa: N812
from refscale import models, ops
from refscale.data import IGNORE, TextBatch
from refscale.engine import Tape, apply, backward
from refscale.errors import ArgumentError, FactorError, ShapeError
from refscale.graph import gradient_factors, plan
from refscale.layers import (
    convolution,
    convolution_specs,
    count,
    feed_forward,
    feed_forward_specs,
    on_tape,
    recurrence,
    recurrence_specs,
)
from refscale.models import NAMES, family, get_config
from refscale.models import language as lm
from refscale.precision import get_precision
from refscale.scales import default, geometric, get_scheme, none, regular, running_mean, unit
from refscale.testing import assert_gradient_factor, rms

SMALL = (
    "charlm-attention:layers=2,vocabulary=40",
    "charlm-conv:layers=2,vocabulary=40",
    "charlm-rnn:layers=1,vocabulary=40",
    "decoder-tiny:vocabulary=40",
)
MORE = (
    *SMALL,
    "charlm-attention:layers=2,norm=none,tau=fixed(0.5),vocabulary=40",
    "charlm-attention:layers=1,norm=post,tau=default,vocabulary=40",
    "charlm-conv:layers=1,norm=none,tau=none,vocabulary=40",
    "charlm-rnn:layers=1,norm=post,tau=running-mean,vocabulary=40",
    "decoder-mini:layers=2,tied=true,vocabulary=40",
)


def batch_of(config, rng, size=3, seq=12):
    ids = rng.integers(0, config.vocabulary, (size, seq)).astype(np.int32)
    labels = ids.copy()
    labels[0, :3] = IGNORE
    return TextBatch(ids, labels)


def loss_of(config, scheme, *, dtype=np.float64, seed=0, precision="fp32", seq=12):
    rng = np.random.default_rng(seed)
    tape = Tape(scheme, get_precision(precision), dtype=dtype)
    parameters = models.initial_parameters(config, scheme, rng)
    p = models.parameters_on(tape, parameters, config)
    return lm.next_token_loss(p, batch_of(config, rng, seq=seq), config), p


@pytest.mark.parametrize("model", SMALL)
def test_no_token_is_seen_before_its_time(model):
    """Logits change from where a token changed on, one place later with ``pad``; and there they do."""
    config = get_config(model)
    rng = np.random.default_rng(0)
    parameters = models.initial_parameters(config, unit, rng)
    ids = rng.integers(0, 40, (2, 12))
    other = ids.copy()
    other[:, 7] = (other[:, 7] + 1) % 40
    a, b = (lm.logits(models.parameters_on(Tape(unit), parameters, config), config, x).value for x in (ids, other))
    first = 8 if config.pad else 7
    assert np.array_equal(a[:, :first], b[:, :first])
    assert (a[:, first] != b[:, first]).any()


@pytest.mark.parametrize("constraint", ["geometric", "to_output_scale", "none"])
@pytest.mark.parametrize("model", MORE)
def test_every_gradient_is_a_multiple_of_the_true_one(model, constraint):
    config = get_config(f"{model},constraint={constraint}")
    rng = np.random.default_rng(0)
    parameters, batch = models.initial_parameters(config, unit, rng), batch_of(config, rng)
    assert_gradient_factor(lambda p: lm.next_token_loss(p, batch, config).total, parameters)


@pytest.mark.parametrize("scheme", ["regular", "unit", "unit-rms", "u-mup", "munit"])
@pytest.mark.parametrize("model", NAMES)
def test_every_model_is_certified(model, scheme):
    if model.startswith("bert"):
        pytest.skip("in test_bert")
    config = replace(get_config(model), layers=2)
    loss, p = loss_of(config, get_scheme(scheme), dtype=np.float32, seq=6)
    factors = gradient_factors(loss.total)
    assert all(t.variable in factors for t in p.values())


def test_a_loop_without_constraints_is_caught():
    """The state of a recurrence with factors of its own: the uses of its weight at each step demand other constants."""
    rng = np.random.default_rng(0)
    tape = Tape(unit, dtype=np.float64)
    w = tape.tensor(rng.standard_normal((4, 4)), "w")
    h = tape.tensor(rng.standard_normal((3, 4)), "h", requires_grad=False)
    for _ in range(3):
        h = apply(ops.Highway(), h, F.linear(h, w, constraint=none), F.linear(h, w, constraint=none))
    with pytest.raises(FactorError, match="disagree"):
        gradient_factors(apply(ops.Mean(), h))


@pytest.mark.parametrize("model", SMALL)
def test_the_automatic_recipe_takes_them(model):
    config = get_config(model)
    rng = np.random.default_rng(0)
    parameters, batch = models.initial_parameters(config, unit, rng), batch_of(config, rng)

    def program(p):
        return lm.next_token_loss(p, batch, config).total

    found = plan(program, parameters)
    tape = Tape(found, dtype=np.float64)
    p = on_tape(tape, parameters, lm.specs(config))
    loss = program(p)
    backward(loss)
    assert gradient_factors(loss)
    gradients = [rms(t.grad) for t in p.values() if t.grad.any()]
    assert 0.1 < np.median(gradients) < 10


@pytest.mark.parametrize("model", MORE)
def test_everything_starts_at_unit_scale(model):
    """On random tokens: activations in [¼, 4], gradients of weights in [1/8, 8].

    The state of a recurrence starts at 0, and its first steps are small. In attention gradients shrink, see test_bert,
    and with a tied embedding what the readout sends back is alike in all tokens.
    """
    config = get_config(model)
    seen = {}

    def probe(direction, variable, array):
        if array.ndim:
            seen[direction, variable.name, id(variable)] = (variable, array)

    rng = np.random.default_rng(0)
    tape = Tape(unit, probe=probe)
    p = models.parameters_on(tape, models.initial_parameters(config, unit, rng), config)
    ids = rng.integers(0, 40, (16, 32)).astype(np.int32)
    loss = lm.next_token_loss(p, TextBatch(ids, ids), config)
    backward(loss.total)
    for (direction, name, _), (variable, array) in seen.items():
        if direction == "forward" and variable.node is not None and array.any():
            least = 0.125 if "recurrence" in name else 0.25
            assert least <= rms(array) <= 4, (name, rms(array))
    for name, t in p.items():
        least = 1 / 32 if "attention" in name else 1 / 8
        assert least <= rms(t.grad) <= (16 if config.tied else 8), (name, rms(t.grad))


@pytest.mark.parametrize("seq", [3, 12])
def test_the_weight_of_a_recurrence_starts_with_a_factor_for_its_steps(seq):
    """seq uses, each with b^-½: the sum has (b·seq)^-½."""
    config = get_config("charlm-rnn:layers=1,vocabulary=40")
    loss, p = loss_of(config, unit, seq=seq)
    weight = p["layers.0.recurrence.state.weight"].variable
    (start,) = [n for n in loss.total.tape.nodes if weight in n.inputs]
    uses = [n for n in loss.total.tape.nodes if start.output in n.inputs]
    assert len(uses) == seq
    for use in uses:
        assert use.scales.beta[1] * start.scales.beta[0] == pytest.approx((3 * seq) ** -0.5, rel=1e-12)


def test_a_recurrence_step_by_step():
    """h + sigmoid(u − 1)·(tanh c − h), from a start that is a parameter."""
    rng = np.random.default_rng(0)
    p = {name: rng.standard_normal(spec.shape) for name, spec in recurrence_specs("r", 3).items()}
    x = rng.standard_normal((2, 4, 3))
    tape = Tape(regular, dtype=np.float64)
    block = get_config("charlm-rnn").block
    y = recurrence(on_tape(tape, p, recurrence_specs("r", 3)), "r", tape.tensor(x), None, block)
    for n in range(2):
        h = p["r.start"]
        for t in range(4):
            both = x[n, t] @ p["r.input.weight"] + p["r.input.bias"] + h @ p["r.state.weight"]
            candidate, update = np.tanh(both[:3]), both[3:]
            h = h + (candidate - h) / (1 + np.exp(-(update - 1)))
            assert y.value[n, t] == pytest.approx(h, rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("model", ["decoder-tiny", "charlm-attention"])
def test_a_feed_forward_layer_by_hand(model):
    """down(up(x)·silu(gate(x))) of a decoder; down(relu(up(x))), with biases, of a character model."""
    config = get_config(model)
    specs = feed_forward_specs("f", 3, 5, bias=config.biases, gated=config.gated)
    rng = np.random.default_rng(0)
    p = {name: rng.standard_normal(spec.shape) for name, spec in specs.items()}
    x = rng.standard_normal((4, 3))
    tape = Tape(regular, dtype=np.float64)
    y = feed_forward(on_tape(tape, p, specs), "f", tape.tensor(x), config.block)
    if config.gated:
        gate = x @ p["f.gate.weight"]
        expected = (x @ p["f.up.weight"] * gate / (1 + np.exp(-gate))) @ p["f.down.weight"]
    else:
        hidden = np.maximum(x @ p["f.up.weight"] + p["f.up.bias"], 0)
        expected = hidden @ p["f.down.weight"] + p["f.down.bias"]
    assert y.value == pytest.approx(expected, rel=1e-12, abs=1e-13)


def test_a_convolution_tap_by_tap():
    """relu of a causal convolution, in two groups of two channels, and a bias."""
    specs = convolution_specs("c", 4, kernel=3, groups=2)
    rng = np.random.default_rng(0)
    p = {name: rng.standard_normal(spec.shape) for name, spec in specs.items()}
    x = rng.standard_normal((2, 5, 4))
    tape = Tape(regular, dtype=np.float64)
    y = convolution(on_tape(tape, p, specs), "c", tape.tensor(x), None, get_config("charlm-conv").block)
    for n, t, o in np.ndindex(2, 5, 4):
        channels = slice(0, 2) if o < 2 else slice(2, 4)
        seen = [x[n, t + k - 2, channels] @ p["c.weight"][k, :, o] for k in range(3) if t + k >= 2]
        assert y.value[n, t, o] == pytest.approx(max(0, sum(seen) + p["c.bias"][o]), rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("model", ["charlm-attention", "charlm-conv", "charlm-rnn", "decoder-tiny"])
@pytest.mark.parametrize(
    ("scheme", "rule", "branches"),
    [
        ("regular", "running-mean", (2, 3, 4, 5)),
        ("unit", "running-mean", (2, 3, 4, 5)),
        ("unit", "default", (2, 3, 4, 5)),
        ("u-mup", "default", (3, 4, 5, 6)),  # τ² = (4/2 + l − 1)^-1 of the stream: 1/2, 1/3, 1/4, 1/5
    ],
)
def test_each_layer_is_added_by_its_own_number(model, scheme, rule, branches):
    """Four additions in two layers: the l-th branch weighs n^-½ and the stream the rest."""
    config = get_config(f"{model}:layers=2,width=32,head_size=8,vocabulary=9,tau={rule}")
    loss, _ = loss_of(config, get_scheme(scheme), seq=2)
    # Scores by place and by content, and the two parts of a gate, are added with weights of 1.
    added = [n for n in loss.total.tape.nodes if isinstance(n.op, ops.WeightedAdd) and n.op.weights != (1.0, 1.0)]
    assert [n.output.name for n in added] == [
        f"layers.{i}.{part}.weighted_add" for i in (0, 1) for part in (config.mixer, "ffn")
    ]
    assert [n.op.weights for n in added] == [
        pytest.approx((math.sqrt(1 - 1 / n), n**-0.5), rel=1e-12) for n in branches
    ]


@pytest.mark.parametrize(
    ("model", "rates"),
    [
        (
            "charlm-attention:layers=8",  # 16 additions: width 128, hidden 512, 128 sinusoids
            {
                "embedding": 128**-0.5,
                "embedding_norm.gain": 128**-0.5,
                "layers.0.attention.query.weight": (128 * 16) ** -0.5,
                "layers.7.attention.distance.weight": (128 * 16) ** -0.5,
                "layers.7.attention.output.bias": (128 * 16) ** -0.5,
                "layers.0.attention.norm.gain": (128 * 16) ** -0.5,
                "layers.3.ffn.down.weight": (512 * 16) ** -0.5,
                "norm.bias": 128**-0.5,
                "readout.weight": 1.0,
                "pad": 256**-0.5,
            },
        ),
        (
            "charlm-conv:layers=2",  # 4 additions; 7 taps of 128/8 channels
            {
                "layers.1.convolution.weight": (7 * 16 * 4) ** -0.5,
                "layers.1.convolution.bias": (128 * 4) ** -0.5,
                "layers.1.ffn.up.weight": (128 * 4) ** -0.5,
            },
        ),
        (
            "charlm-rnn:layers=3",
            {
                "layers.2.recurrence.state.weight": (128 * 6) ** -0.5,
                "layers.2.recurrence.start": (128 * 6) ** -0.5,
                "layers.2.ffn.norm.gain": (128 * 6) ** -0.5,
            },
        ),
        (
            "decoder-small",  # 16 additions, width 512; a tied embedding
            {"layers.0.ffn.gate.weight": (512 * 16) ** -0.5, "embedding": 512**-0.5, "norm.gain": 512**-0.5},
        ),
    ],
)
def test_rates_of_u_mup_know_the_depth(model, rates):
    """fan_in^-½ and depth^-½, where the depth is the number of additions: two to a layer, 1 outside the stack."""
    specs, scheme = lm.specs(get_config(model)), get_scheme("u-mup")
    found = {name: scheme.lr_scale(specs[name].role, specs[name].shape, specs[name].depth) for name in rates}
    assert found == pytest.approx(rates, rel=1e-12)


@pytest.mark.parametrize("norm", ["pre", "post", "branch", "none"])
def test_dropout(norm):
    """On the embeddings and on the result of each branch, so after a norm there; attention weights have none."""
    config = get_config(f"charlm-attention:layers=2,width=16,head_size=8,vocabulary=9,dropout=0.25,norm={norm}")
    rng = np.random.default_rng(0)
    p = models.parameters_on(Tape(unit), models.initial_parameters(config, unit, rng), config)
    batch = batch_of(config, rng)
    loss = lm.next_token_loss(p, batch, config, rng)
    dropped = [n for n in loss.total.tape.nodes if isinstance(n.op, ops.Dropout)]
    assert [n.output.name for n in dropped] == [
        "dropout",
        *(f"layers.{i}.{part}.dropout" for i in (0, 1) for part in ("attention", "ffn")),
    ]
    assert {n.op.p for n in dropped} == {0.25}
    made_by = [n.inputs[0].node.op.name for n in dropped]
    assert made_by == ["layer_norm", *(["layer_norm" if norm == "branch" else "bias"] * 4)]
    count = len(loss.total.tape.nodes)
    lm.next_token_loss(p, batch, config)  # on the same tape, in evaluation
    assert not any(isinstance(n.op, ops.Dropout) for n in loss.total.tape.nodes[count:])


def test_in_fp8():
    for model in SMALL:
        wide, _ = loss_of(get_config(model), unit, dtype=np.float32)
        narrow, p = loss_of(get_config(model), unit, dtype=np.float32, precision="fp8")
        backward(narrow.total)
        assert float(narrow.total.value) == pytest.approx(float(wide.total.value), rel=0.02)
        assert all(np.isfinite(t.grad).all() for t in p.values())


def test_grouped_queries_are_repeated_keys():
    """A key that two queries share is a key that stands twice; its gradient is the sum of both."""
    rng = np.random.default_rng(0)
    q = rng.standard_normal((2, 5, 16))
    k, v = rng.standard_normal((2, 2, 5, 8))
    angles = F.rotary_angles(5, 4)

    def run(kv_heads, *arrays):
        tape = Tape(regular, dtype=np.float64)
        leaves = [tape.tensor(x) for x in arrays]
        y = F.attention(*leaves, heads=4, kv_heads=kv_heads, causal=True, rotary=angles)
        backward(y, np.arange(y.value.size).reshape(y.shape) / 100)
        return y.value, [t.grad for t in leaves]

    def twice(x):
        return x.reshape(2, 5, 2, 1, 4).repeat(2, 3).reshape(2, 5, 16)

    few, (dq, dk, dv) = run(2, q, k, v)
    many, (eq, ek, ev) = run(4, q, twice(k), twice(v))
    assert np.allclose(few, many, rtol=0, atol=1e-14)
    assert np.allclose(dq, eq, rtol=0, atol=1e-13)
    for shared, apart in ((dk, ek), (dv, ev)):
        assert np.allclose(shared, apart.reshape(2, 5, 2, 2, 4).sum(3).reshape(2, 5, 8), rtol=0, atol=1e-13)
    with pytest.raises(ShapeError, match="4 heads with kv_heads=3"):
        run(3, q, np.zeros((2, 5, 12)), np.zeros((2, 5, 12)))


def test_scores_by_distance_know_distances_only():
    """Queries that are all alike see the same at the same distance."""
    rng = np.random.default_rng(0)
    tape = Tape(regular, dtype=np.float64)
    q = tape.tensor(np.tile(rng.standard_normal((1, 1, 8)), (1, 6, 1)))
    k = tape.tensor(np.zeros((1, 6, 8)))
    v = tape.tensor(np.eye(6)[None] @ np.eye(6, 8))
    table = tape.tensor(rng.standard_normal((6, 8)))
    y = F.attention(q, k, v, heads=1, causal=True, distances=table).value[0, :, :6]
    scores = np.log(y[-1, ::-1])  # by distance, up to a constant
    for i in range(6):
        row = np.log(y[i, : i + 1][::-1])
        assert np.allclose(row - row[0], scores[: i + 1] - scores[0], atol=1e-12)
    with pytest.raises(ShapeError, match="distances"):
        F.attention(q, k, v, heads=1, causal=True, distances=tape.tensor(np.zeros((5, 8))))


def test_rotary_scores_depend_on_differences():
    angles = F.rotary_angles(9, 6)
    rng = np.random.default_rng(0)
    tape = Tape(regular, dtype=np.float64)
    q, k = (
        apply(ops.Rotary(), tape.tensor(np.tile(rng.standard_normal((1, 6)), (9, 1))), *angles).value for _ in range(2)
    )
    scores = q @ k.T
    for d in range(-8, 9):
        assert np.ptp(np.diagonal(scores, d)) < 1e-13


class TestConfigurations:
    def test_the_paper_s(self):
        attention, conv, rnn = (NAMES[f"charlm-{kind}"] for kind in ("attention", "conv", "rnn"))
        assert (attention.layers, attention.width, attention.head_size, attention.hidden) == (8, 128, 64, 512)
        assert (conv.kernel, conv.groups) == (7, 8)
        assert rnn.layers == 2
        decoder = NAMES["decoder-mini"]
        assert (decoder.positions, decoder.rms, decoder.gated, decoder.biases) == ("rotary", True, True, False)
        assert not any(name.endswith(".bias") for name in lm.specs(decoder))

    def test_what_configurations_share(self):
        """Rules and sizes without a name: of the paper's models, then of the decoders, then of all."""
        for name, config in lm.CONFIGS.items():
            paper = name.startswith("charlm")
            assert (config.eps, config.tau) == ((1e-3, running_mean) if paper else (1e-6, default)), name
            assert (config.multiple, config.pad, config.embedding_norm) == (
                (4.0, True, True) if paper else (3.0, False, False)
            )
            assert (config.positions, config.activation) == ("relative" if paper else "rotary", "relu")
            assert (config.vocabulary, config.base, config.frequencies, config.dropout) == (256, 10000.0, 128, 0.0)
            assert (config.norm, config.scores, config.values, config.constraint) == (
                "pre",
                None,
                "correlated",
                geometric,
            )

    def test_fields_as_text(self):
        config = get_config("charlm-attention:norm=post,tau=fixed(0.5),layers=3,biases=false,multiple=2.5")
        assert (config.norm, config.layers, config.biases, config.hidden) == ("post", 3, False, 320)
        assert config.tau(1) == pytest.approx((0.5**0.5, 0.5**0.5))
        assert get_config("bert-tiny:norm=pre,outputs=mlm", layers=1).outputs == ("mlm",)
        assert family(config).initial_std(config, lm.specs(config)["embedding"]) == 1.0

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("gpt-5", "get_config('gpt-5'): expected one of bert-tiny, "),
            ("charlm-conv:depth=3", "'depth=3', expected FIELD=VALUE with one of layers, width"),
            ("charlm-conv:layers", "'layers', expected FIELD=VALUE"),
            ("charlm-conv:layers=two", "layers=two, expected a number of type int"),
            ("charlm-conv:biases=1", "biases=1, expected true or false"),
            ("charlm-conv:layers=0", "LanguageConfig(layers=0): expected at least 1"),
            ("charlm-conv:width=60", "LanguageConfig(width=60): expected a multiple of 8, the groups"),
            (
                "charlm-attention:width=96",
                "LanguageConfig(width=96): expected a multiple of 64, head_size times",
            ),
            ("decoder-tiny:head_size=1,shared=1", "expected an even number, for rotary positions"),
            ("charlm-conv:norm=last", "LanguageConfig(norm='last'): expected one of post, pre, branch, none"),
            (
                "charlm-conv:tau=mean",
                "get_residual('mean'): expected one of default, running-mean, mean-of-branches, none, fixed(NUMBER)",
            ),
            ("charlm-conv:tau=fixed(2)", "fixed(tau=2.0): expected 0 < tau < 1"),
            ("charlm-conv:multiple=0.001", "LanguageConfig(multiple=0.001)"),
            ("charlm-conv:multiple=inf", "multiple=inf, expected a number of type float"),
            ("charlm-conv:multiple=nan", "multiple=nan, expected a number of type float"),
            ("charlm-conv:dropout=1", "expected 0 ≤ dropout < 1"),
            ("charlm-conv:eps=nan", "eps=nan, expected a number of type float"),
            ("charlm-conv:eps=-1e-9", "LanguageConfig(eps=-1e-09): expected 0 ≤ eps < inf"),
            ("charlm-conv:eps=inf", "eps=inf, expected a number of type float"),
            ("decoder-mini:base=0", "LanguageConfig(base=0.0): expected 0 < base < inf"),
            ("decoder-mini:base=inf", "base=inf, expected a number of type float"),
        ],
    )
    def test_errors(self, text, message):
        with pytest.raises(ArgumentError) as error:
            get_config(text)
        assert message in str(error.value)

    @pytest.mark.parametrize("value", [math.inf, math.nan])
    @pytest.mark.parametrize("field", ["multiple", "eps", "base"])
    def test_constants_are_finite(self, field, value):
        with pytest.raises(ArgumentError, match=rf"LanguageConfig\({field}={value}\)"):
            get_config("decoder-mini", **{field: value})

    def test_sizes(self):
        """The paper's attention model has 1.7 million parameters without embedding and readout."""
        config = get_config("charlm-attention")
        trunk = {name: s for name, s in lm.specs(config).items() if name.startswith("layers.")}
        assert count(trunk) == 8 * (4 * 128**2 + 128**2 + 2 * 128 + 2 * 4 * 128**2 + 5 * 128 + 4 * 128)

    def test_ids_of_another_shape(self):
        config = get_config("decoder-tiny:vocabulary=40")
        p = models.parameters_on(Tape(), models.initial_parameters(config, regular, np.random.default_rng(0)), config)
        with pytest.raises(ShapeError, match=r"ids of shape \(5,\), expected \(batch, seq\)"):
            lm.logits(p, config, np.zeros(5, np.int32))

    def test_glorot_and_the_tied_embedding(self):
        config = get_config("decoder-mini:tied=true")
        start = models.initial_parameters(config, regular, np.random.default_rng(0))
        assert rms(start["embedding"]) == pytest.approx(128**-0.5, rel=0.02)
        assert rms(start["layers.0.ffn.up.weight"]) == pytest.approx((2 / (128 + 384)) ** 0.5, rel=0.02)
        conv = get_config("charlm-conv")
        start = models.initial_parameters(conv, regular, np.random.default_rng(0))
        weight = start["layers.0.convolution.weight"]
        assert weight.shape == (7, 16, 128)
        assert rms(weight) == pytest.approx((2 / (7 * (16 + 128))) ** 0.5, rel=0.02)
