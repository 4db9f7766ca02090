"""The scheme ``authors``: one step of each character model against a transcription of the authors' formulas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from refscale import models, ops
from refscale.data import IGNORE, TextBatch
from refscale.engine import Tape, backward
from refscale.errors import ArgumentError
from refscale.models import get_config, language
from refscale.optim import Rate, get_optimizer, groups
from refscale.scales import (
    Call,
    Unit,
    authors,
    fixed,
    geometric,
    get_residual,
    joint,
    none,
    regular,
    to_output_scale,
    unit,
)

torch = pytest.importorskip("torch")
from tests.models import torch_authors  # noqa: E402

MODELS = [
    "charlm-attention:layers=2,width=12,head_size=4,frequencies=6",
    "charlm-conv:layers=2,width=12,groups=3,kernel=3",
    "charlm-rnn:layers=2,width=12",
]


def config(model, **changes):
    return replace(get_config(f"{model},vocabulary=11,initial=authors"), **changes)


def text(rng, c, ignored=True):
    ids = rng.integers(0, c.vocabulary, (2, 7)).astype(np.int32)
    labels = ids.copy()
    if ignored:
        labels[:, 3:5] = IGNORE  # not the first: its gradient is that of ``pad``
    return TextBatch(ids, labels)


def step(c, scheme, batch, parameters, lr):
    """Loss, gradients and parameters after a step, in float64."""
    tape = Tape(scheme, dtype=np.float64)
    p = models.parameters_on(tape, parameters, c)
    total = language.next_token_loss(p, batch, c).total
    backward(total)
    gradients = {name: t.grad for name, t in p.items()}
    optimizer = get_optimizer("adamw:eps=1e-7,eps_hat", weight_decay=0.0)
    after, _ = optimizer.update(
        gradients, optimizer.init(parameters), parameters, Rate(lr), groups(language.specs(c), scheme)
    )
    return float(total.value), gradients, after


def differences(c, scheme, tau=None):
    """Largest deviation of gradients and of new parameters from the transcription, relative to their largest."""
    rng = np.random.default_rng(5)
    batch = text(rng, c)
    parameters = {
        name: x.astype(np.float64) + 0.1 * rng.standard_normal(x.shape)
        for name, x in models.initial_parameters(c, scheme, rng).items()
    }
    total, gradients, after = step(c, scheme, batch, parameters, lr=0.01)
    theirs = {name: torch.tensor(x, requires_grad=True) for name, x in parameters.items()}
    loss = torch_authors.loss(theirs, batch, c, tau)
    loss.backward()
    found = [abs(total - loss.item()) / total]
    for name, p in parameters.items():
        g = theirs[name].grad.numpy()
        lr = 0.01 * (p.size**-0.5 if p.ndim == 1 else 1)
        found += [np.abs(gradients[name] - g).max() / np.abs(g).max()]
        found += [np.abs(after[name] - torch_authors.adamw(p, g, lr)).max() / lr]
    return max(found)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_one_step_is_that_of_the_authors(model, norm):
    assert differences(config(model, norm=norm, tau=get_residual("mean-of-branches")), authors) < 1e-9


@pytest.mark.parametrize("model", MODELS)
def test_with_a_fixed_weight(model):
    assert differences(config(model, tau=fixed(0.5)), authors, 0.5) < 1e-9


@pytest.mark.parametrize(
    "wrong",
    [
        Unit("rows and tables alone", rows=1.0, embeddings="v/b"),
        replace(authors, rows=0.0),
        replace(authors, embeddings="sqrt(v/b)"),
        type("Separate", (type(authors),), {"joins": False})(),
    ],
    ids=lambda scheme: type(scheme).__name__ + scheme.name,
)
def test_other_schemes_are_seen(wrong):
    assert differences(config(MODELS[0], tau=fixed(0.5)), wrong, 0.5) > 1e-3


def test_another_count_of_branches_is_seen():
    assert differences(config(MODELS[1], tau=get_residual("running-mean")), authors) > 1e-3


def test_factors_by_hand():
    """Scaled: products, parameters, residual additions. All else has the factor 1."""
    x, w = (4, 6), (6, 10)
    call = Call(ops.Matmul(), (x, w), joint(geometric, columns=3), (0,))
    assert authors.scales(call).alpha == pytest.approx((3 * 6 * 10) ** -0.25, rel=1e-15)
    assert authors.scales(call).beta == pytest.approx(((3 * 6 * 10) ** -0.25, 1 / 4), rel=1e-15)
    for op, shapes in (
        (ops.Relu(), (x,)),
        (ops.Tanh(), (x,)),
        (ops.Softmax(), (x,)),
        (ops.WeightedAdd((1.0, 1.0)), (x, x)),
        (ops.AttentionMix(), ((1, 1, 3, 3), (1, 1, 3, 4))),
    ):
        scales = authors.scales(Call(op, shapes))
        assert (scales.alpha, set(scales.beta)) == (1, {1.0}), op
    third = ops.WeightedAdd(((2 / 3) ** 0.5, (1 / 3) ** 0.5))
    scales = authors.scales(Call(third, (x, x), to_output_scale, (0,)))
    assert (scales.alpha, *scales.beta) == pytest.approx((1, 1, 3**0.5))
    loss = ops.SoftmaxCrossEntropy("mean", IGNORE, 3)
    assert authors.scales(Call(loss, (x, (4,)))).beta[0] == pytest.approx(4 * 6 / 5**0.5)
    assert unit.scales(Call(loss, (x, (4,)))).beta[0] == pytest.approx((3 * 4) ** 0.5 * 6 / 5**0.5)
    summed = ops.SoftmaxCrossEntropy("sum", IGNORE, 3)
    assert authors.scales(Call(summed, (x, (4,)))) == unit.scales(Call(summed, (x, (4,))))
    everything = ops.SoftmaxCrossEntropy("mean")
    assert authors.scales(Call(everything, (x, (4,)))) == unit.scales(Call(everything, (x, (4,))))


def test_a_joint_product():
    assert joint(geometric, rows=2)(0.5, (0.25,)) == pytest.approx((0.5 * 2**-0.5 * 0.25) ** 0.5)
    assert joint(geometric, columns=3)(0.5, (0.25,)) == pytest.approx((0.5 * 0.25 * 3**-0.5) ** 0.5)
    assert joint(none, 2, 3) is joint("none", 2, 3) is none


def test_the_mean_of_branches():
    rule = get_residual("mean-of-branches")
    assert rule(1) == (0, 1)
    assert rule(4) == (0.75**0.5, 0.5)
    with pytest.raises(ArgumentError, match=r"mean_of_branches\(layer=0\)"):
        rule(0)


def test_initial_weights():
    """Uniform; σ of the fan-in where the authors' is not Glorot's; 1 under unit scaling in each case."""
    c = config("charlm-attention:layers=1,width=64,head_size=32,frequencies=32")
    expected = {
        "embedding": 1,
        "layers.0.attention.query.weight": 64**-0.5,
        "layers.0.attention.value.weight": 64**-0.5,
        "layers.0.attention.distance.weight": 32**-0.5,
        "layers.0.attention.output.weight": (2 / 128) ** 0.5,
        "layers.0.ffn.up.weight": (2 / (64 + 256)) ** 0.5,
        "readout.weight": (2 / (64 + 11)) ** 0.5,
    }
    found = models.initial_parameters(c, regular, np.random.default_rng(0))
    for name, std in expected.items():
        assert 0.97 * 3**0.5 * std < np.abs(found[name]).max() <= 3**0.5 * std * (1 + 1e-6), name
        assert np.std(found[name]) == pytest.approx(std, rel=0.08)  # 704 elements or more: 1.7 % is one standard error
    scaled = models.initial_parameters(c, authors, np.random.default_rng(0))
    assert all(1.7 < np.abs(scaled[name]).max() <= 3**0.5 * (1 + 1e-6) for name in expected)
    gates = models.initial_parameters(config("charlm-rnn:layers=1,width=64"), regular, np.random.default_rng(0))
    for part in ("input", "state"):
        assert np.std(gates[f"layers.0.recurrence.{part}.weight"]) == pytest.approx(128**-0.5, rel=0.05)
    plain = replace(c, initial="normal")
    assert np.abs(models.initial_parameters(plain, unit, np.random.default_rng(0))["embedding"]).max() > 2.5
    with pytest.raises(ArgumentError, match=r"LanguageConfig\(initial='theirs'\): expected one of normal, authors"):
        replace(c, initial="theirs")


def test_the_amplitude_of_the_sinusoids():
    """√2 under unit scaling; the authors' regular models have 1: the same as a table that is smaller by √2."""
    rng = np.random.default_rng(1)
    c = config(MODELS[0], tau=fixed(0.5))
    batch = text(rng, c)
    parameters = {k: x.astype(np.float64) for k, x in models.initial_parameters(c, regular, rng).items()}
    one = step(replace(c, amplitude=1.0), regular, batch, parameters, 0.01)
    smaller = {k: x / 2**0.5 if ".distance." in k else x for k, x in parameters.items()}
    other = step(c, regular, batch, smaller, 0.01)
    assert one[0] == pytest.approx(other[0], rel=1e-12)
    assert one[0] != pytest.approx(step(c, regular, batch, parameters, 0.01)[0], rel=1e-6)
    for amplitude in (0, np.inf):
        with pytest.raises(ArgumentError, match="expected 0 < amplitude < inf"):
            replace(c, amplitude=amplitude)


def test_eps_before_the_bias_is_corrected():
    """g = 1, b1 = 0, b2 = ¾: v' = ¼, v̂ = 1; with ε̂ = ½ the divisor is 1 + ½/½, else 1 + ½."""
    p, g = {"w": np.zeros(2, np.float32)}, {"w": np.ones(2, np.float32)}
    for spelling, expected in (("adamw:b1=0,b2=0.75,eps=0.5,eps_hat", -1 / 2), ("adamw:b1=0,b2=0.75,eps=0.5", -2 / 3)):
        optimizer = get_optimizer(spelling, weight_decay=0.0)
        after, _ = optimizer.update(g, optimizer.init(p), p, Rate(1.0))
        assert after["w"] == pytest.approx([expected] * 2, rel=1e-6)
