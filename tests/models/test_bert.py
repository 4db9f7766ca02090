"""BERT: sizes, certificates, the constant of every gradient, scales at initialization, dropout, errors."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from refscale import layers, models, ops
from refscale.data import IGNORE
from refscale.engine import Tape, backward
from refscale.errors import ArgumentError, FactorError, ShapeError
from refscale.graph import gradient_factors
from refscale.models import bert
from refscale.scales import (
    Unit,
    default,
    fixed,
    geometric,
    none,
    ratio,
    regular,
    running_mean,
    to_output_scale,
    u_mup,
    unit,
)
from refscale.testing import assert_same_bits, assert_vjp
from refscale.testing.gradients import TrueGradients, assert_multiples, computed_and_true
from tests.models.batches import random_batch, text_batch

WORDS = 600
POST = pytest.mark.parametrize("norm", ["post", "pre"])
TIED = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


def run(config, batch, scheme=unit, dtype=np.float32, parameters=None, rng=None, probe=None):
    """(losses, leaves) after the forward pass."""
    if parameters is None:
        parameters = models.initial_parameters(config, scheme, np.random.default_rng(0))
    tape = Tape(scheme, dtype=dtype, probe=probe)
    p = models.parameters_on(tape, parameters, config)
    return bert.pretraining_loss(p, batch, config, rng), p


# Sizes


def test_published_sizes():
    """With the published vocabulary (30522), to the last parameter.

    Encoder with embeddings and pooler: 109 482 240 (base) and 335 141 888 (large), the "110 M" and "340 M" of Devlin
    et al. 2018; 4.4 M and 11.2 M in Turc et al. 2019; the whole pre-training model of base: 110 106 428.
    """
    published = {
        "bert-tiny": 4_385_920,
        "bert-mini": 11_170_560,
        "bert-base": 109_482_240,
        "bert-large": 335_141_888,
    }
    for name, expected in published.items():
        specs = bert.specs(bert.get_config(name, vocabulary=30522))
        encoder = {k: v for k, v in specs.items() if k.startswith(("embeddings.", "encoder.", "nsp.pooler."))}
        assert layers.count(encoder) == expected, name
    assert layers.count(bert.specs(bert.get_config("bert-base", vocabulary=30522))) == 110_106_428


def test_the_paper_s_configurations():
    """Paper, BERT experiments: layers, width, hidden, heads of 64, vocabulary 30400."""
    found = {
        name: (c.layers, c.width, c.hidden, c.heads, c.width // c.heads, c.vocabulary)
        for name, c in bert.CONFIGS.items()
        if name in ("bert-base", "bert-large")
    }
    assert found == {"bert-base": (12, 768, 3072, 12, 64, 30400), "bert-large": (24, 1024, 4096, 16, 64, 30400)}


def test_what_all_configurations_share():
    """As published: gelu by erf, norms' eps, dropout, initial σ; post-norm, tied; and the paper's constraint."""
    for c in bert.CONFIGS.values():
        assert (c.activation, c.eps, c.std, c.positions, c.segments) == ("gelu", 1e-12, 0.02, 512, 2)
        assert (c.dropout, c.attention_dropout, c.outputs) == (0.1, 0.1, ("mlm", "nsp"))
        assert (c.norm, c.tied, c.scores, c.values, c.constraint) == (
            "post",
            True,
            None,
            "correlated",
            geometric,
        )


def test_shapes_and_names():
    specs = bert.specs(bert.get_config("bert-tiny", tied=False, norm="pre"))
    assert specs["embeddings.word"] == layers.Spec("embedding", (4096, 128))
    assert specs["encoder.1.ffn.up.weight"] == layers.Spec("weight", (128, 512), 4)
    assert specs["encoder.norm.gain"] == layers.Spec("gain", (128,))
    assert specs["mlm.decoder.weight"] == layers.Spec("readout", (128, 4096))
    original = bert.specs(bert.get_config("bert-tiny"))
    assert specs.keys() - original.keys() == {"mlm.decoder.weight", "encoder.norm.gain", "encoder.norm.bias"}


def test_initial_parameters():
    """Unit: σ = 1; regular: the same draws times 0.02; biases 0, gains 1."""
    config = bert.get_config("bert-tiny", vocabulary=WORDS)
    one = models.initial_parameters(config, unit, np.random.default_rng(0))
    small = models.initial_parameters(config, regular, np.random.default_rng(0))
    for name, spec in bert.specs(config).items():
        assert one[name].dtype == small[name].dtype == np.float32
        if spec.role in ("weight", "embedding", "readout"):
            assert_same_bits(small[name], one[name] * np.float32(0.02))
        else:
            assert_same_bits(one[name], np.full(spec.shape, float(spec.role == "gain"), np.float32))
    words = one["embeddings.word"]
    # 76 800 draws: seven standard errors (false alarm 3e-12) are 7/√(2N) = 1.8 %.
    assert abs(words.std() - 1) <= 7 / math.sqrt(2 * words.size)


def test_forward_shapes():
    config = bert.get_config("bert-tiny", vocabulary=WORDS)
    losses, _ = run(config, text_batch(WORDS))
    assert losses.encoded.shape == (4, 32, 128)
    assert losses.total.shape == losses.masked_lm.shape == losses.next_sentence.shape == ()
    assert losses.total.value == losses.masked_lm.value + losses.next_sentence.value


def test_the_untrained_model_knows_nothing():
    """The masked-LM loss starts near that of a uniform guess, log(words).

    Logits of σ = 1 add their half variance, E log Σ exp(z) − log(words) → ½; damped by u-μP to σ = 1/√128 they add
    nothing. A loss is a mean over some 20 words, each off by σ.
    """
    config, batch = bert.get_config("bert-tiny", vocabulary=WORDS), text_batch(WORDS)
    words = np.count_nonzero(batch.labels != IGNORE)
    for scheme, sigma in ((unit, 1.0), (u_mup, 128**-0.5)):
        value = run(config, batch, scheme)[0].masked_lm.value
        assert abs(value - (math.log(WORDS) + sigma**2 / 2)) < 5 * sigma * words**-0.5


# The certificate


def certify(config, batch, scheme=unit):
    """gradient_factors of the whole model: raises unless every gradient is a multiple of the true one."""
    losses, p = run(config, batch, scheme)
    c = gradient_factors(losses.total)
    return {name: c[leaf.variable] for name, leaf in p.items()}


@pytest.mark.parametrize("name", ["bert-tiny", "bert-mini"])
@POST
@TIED
@pytest.mark.parametrize("constraint", [geometric, to_output_scale, none], ids=lambda f: f.__name__)
@pytest.mark.parametrize("scores", ["1/sqrt(d)", "1/d"])
def test_every_gradient_is_a_multiple(name, norm, tied, constraint, scores):
    config = bert.get_config(name, vocabulary=WORDS, norm=norm, tied=tied, constraint=constraint, scores=scores)
    assert certify(config, text_batch(WORDS)).keys() == bert.specs(config).keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert-base", "bert-large"])
@POST
@TIED
def test_every_gradient_is_a_multiple_in_the_large_models(name, norm, tied):
    """Factors depend on shapes alone, so real text of one short batch will do."""
    certify(bert.get_config(name, norm=norm, tied=tied), text_batch(8192, 2, 16))


@pytest.mark.parametrize(
    "tau",
    [default, running_mean, fixed(0.5), ratio(0.3), lambda layer: (2.0, 1.0 / layer)],
    ids=["default", "running_mean", "fixed", "ratio", "not normalized"],
)
@POST
@pytest.mark.parametrize("values", ["correlated", "independent"])
def test_every_residual_rule_is_legal(tau, norm, values):
    config = bert.get_config("bert-tiny", vocabulary=WORDS, norm=norm, tau=tau, values=values)
    certify(config, text_batch(WORDS))


@pytest.mark.parametrize(
    ("norm", "tau", "branches"),
    [
        ("pre", None, [(1 / (layer + 1)) ** 0.5 for layer in (1, 2, 3, 4)]),  # the running mean, two to a layer
        ("post", None, [0.1**0.5] * 4),  # what stands in for the published x + f(x)
        ("post", running_mean, [0.5**0.5] * 4),  # the norm starts the stream anew: every addition is its first
        ("pre", fixed(0.25), [0.5] * 4),
    ],
    ids=["pre", "post", "post running_mean", "pre fixed"],
)
def test_the_weights_of_the_residual_additions(norm, tau, branches):
    config = bert.get_config("bert-tiny", vocabulary=WORDS, norm=norm, tau=tau)
    nodes = run(config, text_batch(WORDS))[0].total.tape.nodes
    weights = [n.op.weights for n in nodes if isinstance(n.op, ops.WeightedAdd) and n.output.name.startswith("encoder")]
    assert [branch for _, branch in weights] == pytest.approx(branches, rel=1e-12)
    assert [math.hypot(*pair) for pair in weights] == pytest.approx([1] * 4, rel=1e-12)
    starts = [n.scales.beta[0] for n in nodes if isinstance(n.op, ops.Fork) and n.inputs[0].shape == (4, 32, 128)][:4]
    assert starts == pytest.approx(branches, rel=1e-12)


def test_unit_rms_is_legal():
    certify(bert.get_config("bert-tiny", vocabulary=WORDS), text_batch(WORDS), Unit("unit-rms", "rms"))


def test_regular_has_no_factor():
    config = bert.get_config("bert-tiny", vocabulary=WORDS)
    assert set(certify(config, text_batch(WORDS), regular).values()) == {1.0}


# Models that are wrong, which the certificate must reject.


@pytest.mark.parametrize(
    "beta", [lambda b: 1.0, lambda b: b * b, lambda b: 1 / b], ids=["not paid", "paid twice", "inverted"]
)
def test_a_branch_that_starts_with_another_factor_is_put_right(monkeypatch, beta):
    config, batch = bert.get_config("bert-tiny", vocabulary=WORDS), text_batch(WORDS)
    right = certify(config, batch)
    fork = ops.Fork
    monkeypatch.setattr(ops, "Fork", lambda b: fork(beta(b)))
    assert certify(config, batch) == pytest.approx(right, rel=1e-12)


def test_branches_without_constraints_or_free_forks_are_caught(monkeypatch):
    monkeypatch.setattr(ops.Fork, "settles", False)
    config = bert.get_config("bert-tiny", vocabulary=WORDS, constraint=none)
    with pytest.raises(FactorError, match="consumers of encoder"):
        certify(config, text_batch(WORDS))


def test_forks_that_nobody_settles_are_caught(monkeypatch):
    monkeypatch.setattr(ops.Fork, "settles", False)
    with pytest.raises(FactorError, match=r"consumers of encoder\.1\.ffn\.layer_norm"):
        certify(bert.get_config("bert-tiny", vocabulary=WORDS), text_batch(WORDS))


# The constant, and the gradient


def gradients_of(config, batch, scheme=unit):
    """``computed_and_true`` of the pre-training loss, at initialization."""
    parameters = models.initial_parameters(config, scheme, np.random.default_rng(0))
    return computed_and_true(lambda p: bert.pretraining_loss(p, batch, config).total, parameters, scheme=scheme)


@POST
@TIED
@pytest.mark.parametrize("constraint", [geometric, none], ids=lambda f: f.__name__)
def test_every_gradient_is_c_times_the_true_one(norm, tied, constraint):
    config = bert.get_config("bert-tiny", vocabulary=WORDS, norm=norm, tied=tied, constraint=constraint)
    found = gradients_of(config, text_batch(WORDS))
    assert_multiples(found)
    assert len({round(c, 6) for _, c, _ in found.values()}) > 10  # and the constants are many
    # A wrong constant, by one part in a million, is seen.
    name = "encoder.0.ffn.up.weight"
    computed, c, true = found[name]
    with pytest.raises(AssertionError, match="is not"):
        assert_multiples(found | {name: (computed, c * (1 + 1e-6), true)})


MICRO = bert.BertConfig(layers=1, width=8, heads=2, hidden=16, vocabulary=20, positions=12)


@POST
def test_the_true_one_is_the_derivative(norm):
    """The true gradients above, against differences: the whole model, every parameter."""
    config = replace(MICRO, norm=norm)
    rng = np.random.default_rng(0)
    batch = random_batch(config, rng, 2, 12, 3)
    specs = bert.specs(config)
    start = {name: rng.standard_normal(spec.shape) * 0.5 + (spec.role == "gain") for name, spec in specs.items()}
    losses, _ = run(config, batch, unit, np.float64, start)
    replay = TrueGradients(unit, losses.total.tape)
    last = {}

    def forward(*arrays):
        last["run"] = run(config, batch, replay, np.float64, dict(zip(specs, arrays, strict=True)))
        return last["run"][0].total.value

    def gradients(g):
        losses, p = last["run"]
        backward(losses.total, g)
        return [leaf.grad for leaf in p.values()]

    assert_vjp(forward, gradients, list(start.values()), rng=rng, directions=1)


# Scales at initialization


def explained(name: str, config, shape) -> tuple[float, float, float, float]:
    """(least, most) RMS forward and backward of one tensor, in unit BERT at initialization on sequences of 64.

    [¼, 4] for all, but:
    - biases start at 0;
    - losses are sums and no operands;
    - next sentence has two classes, whose gradients are opposite, and sequences whose first tokens are alike: what the
      classifier makes of them is one random number, which may be small;
    - inside attention gradients shrink: the mixture of correlated values is damped by 1/t, not t^-½, so that the
      gradient of weights and values falls like t^-½ (about 0.2 here), and with it that of queries and keys; the
      gradient of the key's bias is zero.
    """
    least, most = 0.25, 4.0
    *path, last = name.split(".")
    inside = "attention" in path and (
        not {"query", "key", "value"}.isdisjoint(path)
        or last in ("reshape", "transpose", "attention_scores", "masked_softmax")
    )
    least_gradient = 1 / 16 if inside else least
    if shape == ():
        return 0.0, math.inf, 1.0, 1.0
    if path[:1] == ["nsp"] and (last in ("readout", "bias", "classifier") or "classifier" in path):
        least = least_gradient = 0.0
    if last == "bias" and len(shape) == 1:
        return 0.0, 0.0, 0.0 if "key" in path else least_gradient, most
    return least, most, least_gradient, most


@pytest.mark.parametrize("name", ["bert-tiny", "bert-mini"])
@POST
@TIED
def test_everything_starts_at_unit_scale(name, norm, tied):
    """RMS of every parameter, activation and gradient, on random tokens.

    [¼, 4] is the claim, wide enough for what depends on data (segments are shared by many tokens, padding is not
    uniform) and far from what a missing factor makes: α of one projection alone is 1/11 to 1/32.
    """
    config = bert.get_config(name, norm=norm, tied=tied)
    forward, gradient = {}, {}

    def probe(way, variable, value):
        (forward if way == "forward" else gradient)[variable] = math.sqrt(np.mean(np.square(value, dtype=np.float64)))

    batch = random_batch(config, np.random.default_rng(1), 8, 64, 10)
    losses, _ = run(config, batch, probe=probe)
    backward(losses.total)
    strays = []
    for variable, rms in forward.items():
        low, high, low_gradient, high_gradient = explained(variable.name, config, variable.shape)
        if not low <= rms <= high:
            strays.append((variable, "forward", rms))
        if variable.requires_grad and not low_gradient <= gradient[variable] <= high_gradient:
            strays.append((variable, "backward", gradient[variable]))
    assert strays == []
    assert len(forward) > 100


@pytest.mark.parametrize("name", ["bert-tiny", "bert-mini"])
@POST
def test_unconstrained_and_balanced_leaves_nothing_to_explain(name, norm):
    """Each op with its own factors, differences repaid at forks: inside attention, too, gradients start at unit scale.

    Weights are left out: the rows of a value's gradient are alike (attention averages them), and b^-½ is for rows
    that are not.
    """
    config = bert.get_config(name, norm=norm, constraint=none)
    strays = []

    def probe(way, variable, value):
        if variable.node is None or variable.shape == ():
            return
        rms = math.sqrt(np.mean(np.square(value, dtype=np.float64)))
        if not 0.25 <= rms <= 4 and not variable.name.endswith("key.bias"):
            strays.append((variable, way, rms))

    losses, _ = run(config, random_batch(config, np.random.default_rng(1), 8, 64, 10), probe=probe)
    backward(losses.total)
    assert strays == []


@pytest.mark.parametrize(("values", "alive"), [("independent", False), ("correlated", True)])
def test_the_rule_for_independent_values_makes_all_tokens_alike(values, alive):
    """Twelve layers: what tokens share grows until nothing else is left, and no query has anything to choose."""
    config = replace(bert.get_config("bert-tiny", values=values), layers=12)
    losses, p = run(config, random_batch(config, np.random.default_rng(1), 2, 64, 10))
    h = losses.encoded.value.astype(np.float64)
    backward(losses.total)
    gradient = p["encoder.11.attention.query.weight"].grad
    apart = h.std(axis=1).mean()  # of the tokens of a sequence, where 1 is as far as they can be
    assert (apart > 0.25) == alive
    assert (math.sqrt(np.mean(gradient**2)) > 0.01) == alive


def test_the_regular_model_does_not():
    """The check can fail: activations of regular BERT are near 1 only after norms, and its gradients nowhere."""
    config = bert.get_config("bert-tiny")
    gradient = {}

    def probe(way, variable, value):
        if way == "backward":
            gradient[variable] = math.sqrt(np.mean(np.square(value, dtype=np.float64)))

    losses, _ = run(config, random_batch(config, np.random.default_rng(1), 8, 64, 10), regular, probe=probe)
    backward(losses.total)
    outside = [v for v, rms in gradient.items() if v.shape != () and not 0.25 <= rms <= 4]
    assert len(outside) > 0.9 * len(gradient)


# Dropout and evaluation


def test_evaluation_is_deterministic():
    config, batch = bert.get_config("bert-tiny", vocabulary=WORDS), text_batch(WORDS)
    assert config.dropout == 0.1
    (first, p), (second, q) = run(config, batch), run(config, batch)
    for losses in (first, second):
        assert not any(isinstance(node.op, ops.Dropout) for node in losses.total.tape.nodes)
        backward(losses.total)
    assert_same_bits(first.total.value, second.total.value)
    for name in p:
        assert_same_bits(p[name].grad, q[name].grad)


@POST
def test_dropout(norm):
    """After the embeddings, on attention weights and on each branch; certified, and the generator decides."""
    config, batch = bert.get_config("bert-tiny", vocabulary=WORDS, norm=norm), text_batch(WORDS)
    losses = [run(config, batch, rng=np.random.default_rng(seed))[0].total for seed in (1, 1, 2)]
    nodes = losses[0].tape.nodes
    assert [node.output.name for node in nodes if isinstance(node.op, ops.Dropout)] == [
        "embeddings.dropout",
        *(f"encoder.{i}.{place}.dropout" for i in (0, 1) for place in ("attention.weights", "attention", "ffn")),
    ]
    assert losses[0].value == losses[1].value != losses[2].value
    gradient_factors(losses[0])
    backward(losses[0])


@pytest.mark.parametrize("norm", ["post", "pre", "branch"])
def test_attention_weights_are_dropped_with_a_probability_of_their_own(norm):
    """And a branch after its norm: the dropped part is the addend."""
    config = replace(MICRO, layers=2, norm=norm, dropout=0.25, attention_dropout=0.5)
    rng = np.random.default_rng(0)
    losses, _ = run(config, random_batch(config, rng, 2, 12, 3), rng=rng)
    dropped = [n for n in losses.total.tape.nodes if isinstance(n.op, ops.Dropout)]
    assert [n.op.p for n in dropped] == [0.25, *([0.5, 0.25, 0.25] * 2)]
    branch = "layer_norm" if norm == "branch" else "bias"
    assert [n.inputs[0].node.op.name for n in dropped] == ["layer_norm", *(["masked_softmax", branch, branch] * 2)]


def test_the_rules_that_a_run_has_options_for():
    """One dropout for all that a BERT drops; a language model has no dropout of attention weights."""
    found = models.with_rules(MICRO, dropout=0.25, constraint=to_output_scale)
    assert found == replace(MICRO, dropout=0.25, attention_dropout=0.25, constraint=to_output_scale)
    decoder = models.get_config("decoder-tiny")
    found = models.with_rules(decoder, dropout=0.25, constraint=none)
    assert found == replace(decoder, dropout=0.25, constraint=none)
    assert found.block.attention_dropout == 0
    assert (found.block.dropout, found.block.constraint) == (0.25, none)


# Errors


def test_a_sequence_that_is_too_long():
    config = bert.get_config("bert-tiny", vocabulary=WORDS, positions=31)
    with pytest.raises(ShapeError) as error:
        run(config, text_batch(WORDS))
    assert str(error.value) == "bert: sequence length 32, expected at most 31"


def test_parameters_that_do_not_fit():
    config, batch = bert.get_config("bert-tiny", vocabulary=WORDS), text_batch(WORDS)
    right = models.initial_parameters(config, unit, np.random.default_rng(0))
    with pytest.raises(ShapeError) as error:
        run(config, batch, parameters=right | {"mlm.transform.weight": np.ones((128, 64), np.float32)})
    assert str(error.value) == "on_tape: mlm.transform.weight has shape (128, 64), expected (128, 128)"
    missing = {k: v for k, v in right.items() if not k.startswith("embeddings.norm")} | {"spare": np.ones(1)}
    with pytest.raises(ShapeError) as error:
        run(config, batch, parameters=missing)
    assert str(error.value) == (
        "on_tape: parameters missing or unknown: embeddings.norm.bias, embeddings.norm.gain, spare (3 in all)"
    )


def test_tokens_that_are_not_in_the_vocabulary():
    config = bert.get_config("bert-tiny", vocabulary=100)
    with pytest.raises(ArgumentError, match=r"^embedding: indices from \d+ to \d+, expected 0 … 99$"):
        run(config, text_batch(WORDS))


def test_configurations_that_do_not_exist():
    with pytest.raises(ArgumentError) as error:
        bert.get_config("bert-huge")
    assert str(error.value) == "get_config('bert-huge'): expected one of bert-tiny, bert-mini, bert-base, bert-large"
    with pytest.raises(ArgumentError, match=r"^BertConfig\(layers=0, .*: sizes must be at least 1$"):
        bert.get_config("bert-tiny", layers=0)
    with pytest.raises(ArgumentError, match=r"^BertConfig\(.*: width 128 is not a multiple of heads 3$"):
        bert.get_config("bert-tiny", heads=3)
