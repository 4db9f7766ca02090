"""u-μP beside its library, ``unit-scaling``: the same rules, and the two differences that ``UMup`` declares.

The library's numbers are worked out here from its formulas: ``optim.lr_scale_func_adam``, with the depth that
``DepthSequential`` sets, and the factor of ``functional.scaled_dot_product_attention``.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from refscale import functional as F  # noqa: N812
from refscale.engine import Tape
from refscale.graph import gradient_factors
from refscale.models import bert
from refscale.scales import none, u_mup
from tests.models.batches import text_batch
from tests.models.test_bert import WORDS, run


def library_rate(role, shape, layers):
    """Adam's, of a (fan_in, fan_out) weight, a (rows, d) embedding or a readout; ``layers`` is None outside a stack."""
    width = {"weight": shape[0], "embedding": shape[1], "readout": 1}[role]
    return width**-0.5 * (1 if layers is None else layers**-0.5)


@pytest.mark.parametrize("name", ["bert-tiny", "bert-mini", "bert-base"])
def test_learning_rates(name):
    """Those of matrices are the library's; in the stack, where it counts layers and we additions, over √2."""
    config = bert.get_config(name, tied=False, norm="pre")
    ratios = {True: set(), False: set()}
    for path, spec in bert.specs(config).items():
        if len(spec.shape) == 2:
            inside = path.startswith("encoder.")
            theirs = library_rate(spec.role, spec.shape, config.layers if inside else None)
            ratios[inside].add(round(u_mup.lr_scale(spec.role, spec.shape, spec.depth) / theirs, 12))
    assert ratios == {True: {round(2**-0.5, 12)}, False: {1.0}}


def library_attention_factor(t, d):
    """1/σ of the mixture: σ lies between t^-½ and 1, on a logarithmic scale 1/(1 + 4d) of the way."""
    way = 1 / (1 + 4 * d)
    return math.exp(-(1 - way) * math.log(t**-0.5))


def attention_factor(t, d, values):
    """By how much attention under u-μP multiplies the weighted mean."""
    tape = Tape(u_mup)
    F.attention(*(tape.tensor(np.ones((1, t, d), np.float32)) for _ in "qkv"), heads=1, values=values)
    return math.prod(n.scales.alpha for n in tape.nodes if n.op.name in ("softmax", "attention_mix"))


@pytest.mark.parametrize(("t", "d"), [(64, 64), (512, 64), (2048, 128)])
def test_factor_of_attention(t, d):
    """Independent values: the library's, but for the way from t^-½ that logits of variance 1/d cover."""
    ours, theirs = attention_factor(t, d, "independent"), library_attention_factor(t, d)
    assert ours / theirs == pytest.approx(t ** (1 / (2 + 8 * d)), rel=1e-12)
    assert 1 < ours / theirs < t ** (1 / (8 * d)) < 1.02
    assert attention_factor(t, d, "correlated") == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("norm", ["post", "pre", "branch"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("values", ["correlated", "independent"])
def test_gradients_are_multiples_without_constraints(norm, tied, values):
    """Without constraints forks compensate every difference, under u-μP as under unit scaling."""
    config = bert.get_config("bert-tiny", vocabulary=WORDS, norm=norm, tied=tied, values=values, constraint=none)
    losses, p = run(config, text_batch(WORDS), u_mup)
    factors = gradient_factors(losses.total)
    assert all(leaf.variable in factors for leaf in p.values())
