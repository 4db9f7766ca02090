"""The two executors: the page of ``engine.run``, which is the specification, and the fast one beside it.

Whole steps have no common bits: where forms differ in the last place, casts flip.  So in FP32 the two are compared in
float64, where a difference of forms is a few 1e-16 and a wrong factor is percents; in exact arithmetic, where both run
the readable forms, to the bit; and under every policy by their casts and probes, in number and order.
"""

from __future__ import annotations

import numpy as np
import pytest

from refscale.engine import Tape, backward, fast
from refscale.golden.models import models, parameters
from refscale.layers import on_tape
from refscale.precision import POLICIES, get_precision
from refscale.scales import SCHEMES, get_scheme
from refscale.testing import assert_same_bits

MODELS = {m.name: m for m in models() if m.name != "bert-tiny"}
EXACT = get_precision("fp8", accumulate="exact")


def run(name, scheme, precision, *, fast, dtype=np.float32):
    """Everything that a probe sees, the casts, and the gradients of the parameters."""
    model, seen = MODELS[name], []
    tape = Tape(
        scheme,
        precision,
        dtype,
        probe=lambda way, variable, x: seen.append((way, variable.name, x)),
        rng=np.random.default_rng(0),
        fast=fast,
    )
    p = on_tape(tape, parameters(model, get_scheme(scheme)), model.specs)
    output = model.run(p, model.arrays)
    backward(output, np.random.default_rng(1).standard_normal(output.shape))
    casts = [(c.variable.name, c.place, c.cast, c.elements, c.scale, c.blocks) for c in tape.casts]
    return seen, casts, {n: t.grad for n, t in p.items()}


def places(seen):
    return [(way, name, x.shape, x.dtype) for way, name, x in seen]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_values_and_gradients(name, scheme):
    """Within 1e-12 of the largest tensor's RMS, in float64; gradients differ by less than eight orders of magnitude.

    (But for those of key biases, which are zero by construction.)
    """
    page, ours = (run(name, scheme, "fp32", fast=fast, dtype=np.float64) for fast in (False, True))
    assert places(page[0]) == places(ours[0])
    for way in ("forward", "backward"):
        pairs = [(p[1:], o[2]) for p, o in zip(page[0], ours[0], strict=True) if p[0] == way]
        largest = max(np.sqrt(np.mean(np.square(expected))) for (_, expected), _ in pairs)
        for (where, expected), actual in pairs:
            assert np.max(np.abs(actual - expected), initial=0) <= 1e-12 * largest, (way, where)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scheme", ["regular", "unit"])
def test_the_same_bits_in_exact_arithmetic(name, scheme):
    page, ours = (run(name, scheme, EXACT, fast=fast) for fast in (False, True))
    assert page[1] == ours[1]
    assert places(page[0]) == places(ours[0])
    for (_, _, expected), (_, _, actual) in zip(page[0], ours[0], strict=True):
        assert_same_bits(actual, expected)


@pytest.mark.parametrize("precision", POLICIES)
@pytest.mark.parametrize("name", MODELS)
def test_casts_and_probes_agree_in_number_and_order(name, precision):
    page, ours = (run(name, "unit", precision, fast=fast) for fast in (False, True))
    assert page[1] == ours[1]
    assert places(page[0]) == places(ours[0])


@pytest.mark.parametrize(
    ("owner", "function", "wrong", "check", "where"),
    [
        (fast, "_times", lambda factor, x, own: np.array(x), test_values_and_gradients, "unit"),
        (fast._Pending, "sum", lambda self, a, _, b, *rest: np.array(b), test_values_and_gradients, "regular"),
        (fast, "_stored", lambda pending, g, *rest: g, test_casts_and_probes_agree_in_number_and_order, "fp8"),
    ],
    ids=["factors left out", "gradients overwritten", "casts left out"],
)
def test_a_wrong_executor_is_rejected(monkeypatch, owner, function, wrong, check, where):
    monkeypatch.setattr(owner, function, wrong)
    with pytest.raises(AssertionError):
        check("decoder-mini-micro", where)
