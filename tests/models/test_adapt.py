"""A trained BERT under unit scaling: the same function, the same gradients up to constants; and its limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refscale import functional as F  # noqa: N812
from refscale import models, ops, published
from refscale.data import SpanBatch
from refscale.engine import Tape, backward
from refscale.errors import ArgumentError, ProgramError, ShapeError
from refscale.graph import gradient_factors
from refscale.models import bert
from refscale.scales import (
    Call,
    Unit,
    arithmetic,
    constraint_at,
    default,
    exactly,
    fixed,
    geometric,
    none,
    ratio,
    regular,
    residual_at,
    running_mean,
    to_output_scale,
    unit,
)
from refscale.testing import assert_same_bits
from tests.models.batches import random_batch

WORDS, SEQ = 60, 12
SMALL = bert.BertConfig(
    layers=2, width=16, heads=2, hidden=24, vocabulary=WORDS, positions=SEQ, outputs=("mlm", "nsp", "span"), eps=1e-5
)


def trained(config, seed=0):
    """Parameters at scales of their own: σ·√fan-in of matrices from ¼ to 2, biases and gains off 0 and 1."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, spec in bert.specs(config).items():
        x = rng.standard_normal(spec.shape)
        if spec.role == "embedding":
            found[name] = x * 2.0 ** rng.uniform(-6, 0)
        elif len(spec.shape) == 2:
            found[name] = x * 2.0 ** rng.uniform(-2, 1) * spec.shape[0] ** -0.5
        else:
            found[name] = 0.3 * x + (spec.role == "gain")
    return found


def batch_of(config, seed=0):
    return random_batch(config, np.random.default_rng(seed), 3, SEQ, 4)


def spans(batch, seed=0):
    rng = np.random.default_rng(seed)
    starts, ends = rng.integers(0, SEQ, (2, len(batch.ids))).astype(np.int32)
    return SpanBatch(batch.ids, batch.segments, batch.mask, starts, ends)


def outputs(scheme, parameters, config, batch):
    """Encoder output, logits and losses; gradients of the sum of the losses, divided by their constants."""
    found, gradients = {}, {}
    if "mlm" in config.outputs:
        p = models.parameters_on(Tape(scheme, dtype=np.float64), parameters, config)
        losses = bert.pretraining_loss(p, batch, config)
        found |= {"encoded": losses.encoded.value, "mlm": losses.masked_lm_logits.value, "loss": losses.total.value}
        if losses.next_sentence_logits is not None:
            found["nsp"] = losses.next_sentence_logits.value
        gradients |= divided(losses.total, p)
    if "span" in config.outputs:
        p = models.parameters_on(Tape(scheme, dtype=np.float64), parameters, config)
        losses = bert.span_loss(p, spans(batch), config)
        found |= {"start": losses.start_logits.value, "end": losses.end_logits.value, "span loss": losses.total.value}
        gradients |= {f"span: {name}": g for name, g in divided(losses.total, p).items()}
    p = models.parameters_on(Tape(scheme, dtype=np.float64), parameters, config)
    encoded = bert.encode(p, config, batch.ids, batch.mask, batch.segments)
    found["encoded alone"] = encoded.value
    if config.pools:
        alpha = {"unit": unit.unconstrained(Call(ops.Tanh(), ((1,),))).alpha, "regular": 1.0}[scheme.name]
        found["pooled"] = bert.pooled(p, encoded).value / alpha
    return found, gradients


def divided(total, p):
    backward(total)
    c = gradient_factors(total)
    return {name: t.grad / c[t.variable] for name, t in p.items() if t.grad is not None}


def worst(config, parameters, adapted, batch=None):
    """Largest differences, over the expected RMS: of outputs, of gradients."""
    batch = batch or batch_of(config)
    expected, true = outputs(regular, parameters, config, batch)
    found, computed = outputs(adapted.scheme, adapted.unit(parameters), config, batch)
    values = max(distance(found[name], x) for name, x in expected.items())
    total = np.sqrt(np.mean([np.mean(np.square(g)) for g in true.values()]))
    gradients = 0.0
    for name, g in computed.items():
        divisor = adapted.divisors[name.removeprefix("span: ")]
        gradients = max(gradients, float(np.abs(g / divisor - true[name]).max() / total))
    return values, gradients


def distance(found, expected):
    return float(np.abs(found - expected).max() / np.sqrt(np.mean(np.square(expected))))


configs = st.builds(
    replace,
    st.just(SMALL),
    layers=st.integers(1, 3),
    norm=st.sampled_from(["post", "pre", "branch"]),
    tied=st.booleans(),
    constraint=st.sampled_from([geometric, to_output_scale, arithmetic, none]),
    activation=st.sampled_from(["gelu", "gelu-tanh", "relu", "silu", "tanh"]),
    eps=st.sampled_from([1e-12, 1e-5, 1e-2]),
    tau=st.sampled_from([None, default, fixed(0.3), ratio(0.5), running_mean]),
    outputs=st.sampled_from([("mlm",), ("mlm", "nsp"), ("span",), ("pooler", "span"), ("mlm", "nsp", "span")]),
)


@settings(max_examples=40, deadline=None)
@given(configs, st.integers(0, 1000))
def test_the_same_function(config, seed):
    """Every logit and loss to 1e-12, every gradient, too, once divided by its certified constant."""
    parameters = trained(config, seed)
    values, gradients = worst(config, parameters, published.adapt(config, parameters), batch_of(config, seed))
    assert (values < 1e-12, gradients < 1e-11) == (True, True)


def test_matrices_have_unit_rms_and_the_way_back():
    parameters = trained(SMALL)
    adapted = published.adapt(SMALL, parameters)
    mine = adapted.unit(parameters)
    for name, x in mine.items():
        if x.ndim == 2:
            assert np.sqrt(np.mean(np.square(x))) == pytest.approx(1, abs=1e-12), name
    single = {name: x.astype(np.float32) for name, x in parameters.items()}
    for name, x in adapted.regular(adapted.unit(single)).items():
        assert x.dtype == np.float32
        np.testing.assert_array_max_ulp(x, single[name], 2)


def test_norms_stay_and_zero_matrices_too():
    parameters = trained(SMALL)
    parameters["encoder.0.ffn.down.weight"][:] = 0
    adapted = published.adapt(SMALL, parameters)
    assert adapted.divisors["encoder.0.ffn.down.weight"] == 1
    assert {adapted.divisors[name] for name in parameters if ".norm." in name} == {1.0}
    values, _ = worst(SMALL, parameters, adapted)
    assert values < 1e-12


def test_each_addition_of_a_post_norm_stack_is_the_first():
    """By hand: the first addition of a running mean weights stream and branch alike; after a norm the stream's scale
    is 1. So the weight of each branch is the scale of its output.
    """
    config = replace(SMALL, tau=running_mean)
    parameters = trained(config)
    adapted = published.adapt(config, parameters)
    for i in range(config.layers):
        for branch, end in (("attention", "output"), ("ffn", "down")):
            scale = adapted.divisors[f"encoder.{i}.{branch}.{end}.bias"]
            assert adapted.scheme.trained[f"encoder.{i}.{branch}"] == pytest.approx(scale, rel=1e-14)
    values, gradients = worst(config, parameters, adapted)
    assert (values < 1e-12, gradients < 1e-11) == (True, True)


WRONG = {
    "eps as it was": {"encoder.0.attention.norm": lambda c: 1.0},
    "temperature of one layer off by 1 %": {"encoder.0.attention.scores": lambda c: 1.01 * c},
    "branch off by 1 %": {"encoder.1.ffn": lambda c: 1.01 * c},
    "linear layer before gelu off by 1 %": {"encoder.1.ffn.up": lambda c: 1.01 * c},
    "embeddings alike": {"embeddings.word": lambda c: 1.0},
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_constant_is_seen(what):
    config = replace(SMALL, eps=1e-2)
    parameters = trained(config)
    adapted = published.adapt(config, parameters)
    constants = dict(adapted.scheme.trained)
    wrong = constants | {place: change(constants[place]) for place, change in WRONG[what].items()}
    values, _ = worst(config, parameters, replace(adapted, scheme=Unit(trained=wrong)))
    assert values > 1e-6


def test_a_wrong_divisor_is_seen():
    config = replace(SMALL, eps=1e-2)
    parameters = trained(config)
    adapted = published.adapt(config, parameters)
    for name in ("encoder.0.attention.query.bias", "encoder.1.ffn.down.bias", "mlm.decoder.bias"):
        wrong = replace(adapted, divisors={**adapted.divisors, name: 1.01 * adapted.divisors[name]})
        assert worst(config, parameters, wrong)[0] > 1e-6, name


def test_what_cannot_be_adapted():
    with pytest.raises(ArgumentError, match=r"adapt\(values='independent'\)"):
        published.adapt(replace(SMALL, values="independent"), trained(SMALL))
    parameters = trained(SMALL)
    parameters["span.weight"][0, 0] = np.inf
    with pytest.raises(ProgramError, match=r"span\.weight has an RMS of inf"):
        published.adapt(SMALL, parameters)


# Encoder, pooling, heads


def leaves(scheme=regular, config=SMALL, dtype=np.float64):
    return models.parameters_on(Tape(scheme, dtype=dtype), trained(config), config)


def test_encode_without_mask_and_segments():
    batch = batch_of(SMALL)
    everything = np.ones_like(batch.mask)
    plain = bert.encode(leaves(), SMALL, batch.ids).value
    np.testing.assert_allclose(
        bert.encode(leaves(), SMALL, batch.ids, everything, np.zeros_like(batch.ids)).value, plain, rtol=1e-12
    )
    assert_same_bits(bert.encode(leaves(), SMALL, batch.ids, everything).value, plain)


def test_encode_refuses():
    ids = np.zeros((2, 5), np.int64)
    for wrong in ({"ids": ids[0]}, {"ids": ids, "mask": np.ones((2, 4), bool)}, {"ids": ids, "segments": ids[:, :3]}):
        with pytest.raises(ShapeError, match="expected three times"):
            bert.encode(leaves(), SMALL, **wrong)
    with pytest.raises(ShapeError, match="expected at most 12"):
        bert.encode(leaves(), SMALL, np.zeros((1, 13), np.int64))


def test_pooling():
    batch, p = batch_of(SMALL), leaves()
    h = bert.encode(p, SMALL, batch.ids, batch.mask, batch.segments)
    weights = batch.mask / batch.mask.sum(-1, keepdims=True)
    np.testing.assert_allclose(
        F.mean_pooled(h, batch.mask).value, np.einsum("bs,bsd->bd", weights, h.value), rtol=1e-12, atol=1e-14
    )
    expected = np.tanh(h.value[:, 0] @ p["nsp.pooler.weight"].value + p["nsp.pooler.bias"].value)
    np.testing.assert_allclose(bert.pooled(p, h).value, expected, rtol=1e-12)
    with pytest.raises(ShapeError, match="a True in each row"):
        F.mean_pooled(h, np.zeros_like(batch.mask))


def test_the_span_loss_by_hand():
    batch, p = batch_of(SMALL), leaves()
    where = spans(batch)
    losses = bert.span_loss(p, where, SMALL)
    logits = losses.encoded.value @ p["span.weight"].value + p["span.bias"].value
    total = 0.0
    for k, (name, places) in enumerate((("start", where.starts), ("end", where.ends))):
        x = logits[..., k]
        loss = np.mean(np.log(np.exp(x).sum(-1)) - x[np.arange(len(x)), places])
        assert float(losses.parts[name].value) == pytest.approx(loss, rel=1e-12)
        total += loss
    assert float(losses.total.value) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize(("call", "output"), [(bert.span_loss, "span"), (bert.pretraining_loss, "mlm")])
def test_a_head_that_is_not_there(call, output):
    config = replace(SMALL, outputs=("pooler",))
    with pytest.raises(ArgumentError, match=f"expected a model with the output '{output}'"):
        call(leaves(config=config), batch_of(SMALL), config)


@pytest.mark.parametrize(
    "wrong",
    [
        {"activation": "relu6"},
        {"outputs": ("mlm", "mlm")},
        {"outputs": ("head",)},
        {"dropout": 1.0},
        {"attention_dropout": -0.1},
        {"segments": 0},
    ],
)
def test_configurations_that_are_none(wrong):
    with pytest.raises(ArgumentError, match=next(iter(wrong)) if "segments" not in wrong else "sizes"):
        replace(SMALL, **wrong)


# Constants by place


def test_constants_by_place():
    assert exactly(3.0)(0.5, (0.1, 0.2)) == 3.0
    with pytest.raises(ArgumentError, match="expected a positive factor"):
        exactly(0.0)
    scheme = Unit(trained={"here": 2.0})
    assert constraint_at(scheme, "here", geometric)(9.0, (9.0,)) == 2.0
    assert constraint_at(scheme, "elsewhere", geometric) is geometric
    assert residual_at(scheme, "here", default)(1) == ratio(2.0)(1)
    assert residual_at(scheme, "elsewhere", default) is default
    for plain in (regular, unit):
        assert constraint_at(plain, "here", geometric) is geometric


def test_weights_of_an_embedding_sum():
    tape = Tape(dtype=np.float64)
    a, b = (tape.tensor(np.full((3, 2), x)) for x in (1.0, 10.0))
    ids = np.array([[0, 2]])
    assert (F.embedding_sum((a, ids), (b, ids), weights=(2.0, 0.5)).value == 7).all()
    assert (F.embedding_sum((a, ids), (b, ids)).value == 11).all()


def test_attention_dropout():
    """None without a generator; with one, the mean over draws is the value without one."""
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 1, 4, 8))

    def attention(**options):
        tape = Tape(dtype=np.float64)
        return F.attention(*(tape.tensor(x) for x in (q, k, v)), heads=2, **options).value

    plain = attention()
    assert_same_bits(attention(dropout=0.5), plain)
    draws = np.array([attention(dropout=0.5, rng=rng) for _ in range(2000)])
    error = draws.std(0) / np.sqrt(len(draws))
    assert np.abs((draws.mean(0) - plain) / error).max() < 5.5  # of 32 numbers: one false alarm in 10^6
