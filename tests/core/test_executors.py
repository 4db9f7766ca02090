"""The two executors: the page of ``engine.run``, which is the specification, and the fast one beside it.

Call by call, on the page's own arrays, both return results within the bound of the op (``Op.bound``), under every
policy; the same bits where arithmetic has rules of its own, and for ops declared ``bitwise``.

Whole steps have no common bits: where forms differ in the last place, casts flip. So in FP32 the two are compared in
float64, where a difference of forms is a few 1e-16 and a wrong factor is percents; in exact arithmetic, where both run
the readable forms, to the bit; and under every policy by their casts and probes, in number and order.
"""

from __future__ import annotations

import numpy as np
import pytest

from refscale.engine import Rows, Tape, backward, fast, record, run
from refscale.golden.call_bounds import intervals
from refscale.golden.models import models, parameters
from refscale.golden.replay import replay
from refscale.layers import on_tape
from refscale.precision import POLICIES, Rounder, get_precision
from refscale.scales import SCHEMES, Scales, get_scheme
from refscale.testing import assert_same_bits
from tests.ops.cases import ALL_OPS, CASES, EXAMPLES

MODELS = {m.name: m for m in models() if m.name != "bert-tiny"}
EXACT = get_precision("fp8", accumulate="exact")


def step(name, scheme, precision, *, fast, dtype=np.float32):
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
    page, ours = (step(name, scheme, "fp32", fast=fast, dtype=np.float64) for fast in (False, True))
    assert places(page[0]) == places(ours[0])
    for way in ("forward", "backward"):
        pairs = [(p[1:], o[2]) for p, o in zip(page[0], ours[0], strict=True) if p[0] == way]
        largest = max(np.sqrt(np.mean(np.square(expected))) for (_, expected), _ in pairs)
        for (where, expected), actual in pairs:
            assert np.max(np.abs(actual - expected), initial=0) <= 1e-12 * largest, (way, where)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scheme", ["regular", "unit"])
def test_the_same_bits_in_exact_arithmetic(name, scheme):
    page, ours = (step(name, scheme, EXACT, fast=fast) for fast in (False, True))
    assert page[1] == ours[1]
    assert places(page[0]) == places(ours[0])
    for (_, _, expected), (_, _, actual) in zip(page[0], ours[0], strict=True):
        assert_same_bits(actual, expected)


@pytest.mark.parametrize("precision", POLICIES)
@pytest.mark.parametrize("name", MODELS)
def test_casts_and_probes_agree_in_number_and_order(name, precision):
    page, ours = (step(name, "unit", precision, fast=fast) for fast in (False, True))
    assert page[1] == ours[1]
    assert places(page[0]) == places(ours[0])


# --- Call by call -----------------------------------------------------------------------------------------------------


def calls(monkeypatch, name, scheme, precision):
    """(node, inputs, gradient of the output or None) of each call of a model, from the page.

    Of calls that differ in their arrays only, such as those of layers one after another, the first.
    """
    model, inputs, gradients = MODELS[name], {}, {}

    def call(*args):
        node, tensors = record.call(*args)
        inputs[node] = [t.value for t in tensors]
        return node, tensors

    monkeypatch.setattr(run, "call", call)
    tape = Tape(
        scheme,
        precision,
        probe=lambda way, variable, x: gradients.update({variable: x} if way == "backward" else {}),
        rng=np.random.default_rng(0),
        fast=False,
    )
    output = model.run(on_tape(tape, parameters(model, get_scheme(scheme)), model.specs), model.arrays)
    backward(output, np.random.default_rng(1).standard_normal(output.shape))
    first = {}
    for node in tape.nodes:
        shapes = tuple(x.shape for x in inputs[node])
        first.setdefault((node.op, shapes, node.scales, tuple(node.wanted)), node)
    return [(node, inputs[node], gradients.get(node.output)) for node in first.values()]


def deviations(op, arrays, gradient, scales, precision, wanted=None):
    """Results of one call outside its bound, by name and executor; or with other bits where they must agree."""
    page, ours = (
        replay(op, arrays, gradient, scales, precision, wanted, fast=fast, rng=np.random.default_rng(2))
        for fast in (False, True)
    )
    assert page.outputs.keys() == ours.outputs.keys()
    if Rounder(precision, np.dtype(np.float32)).has_arithmetic(op) or op.bitwise or op.fast_forward is None:
        return [name for name in page.outputs if not same_bits(page.outputs[name], ours.outputs[name])]
    bounds = intervals(op, arrays, page.gradient, scales, precision)
    return [
        (name, executor)
        for name, (low, high) in bounds.items()
        for executor, found in (("page", page), ("fast", ours))
        if name in found.outputs and not within(found.outputs[name], low, high)
    ]


def within(x, low, high):
    return bool(np.all((low <= x) & (x <= high) | (np.isnan(x) & np.isnan(low))))


def same_bits(a, b):
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("precision", POLICIES)
def test_every_call_is_within_its_bound(monkeypatch, name, precision):
    """On the page's own arrays, both executors; where arithmetic has rules of its own, the same bits."""
    for node, arrays, gradient in calls(monkeypatch, name, "unit", precision):
        args = node.op, arrays, gradient, node.scales, get_precision(precision), node.wanted
        assert deviations(*args) == [], node


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scheme", [s for s in SCHEMES if s != "unit"])
def test_every_call_is_within_its_bound_under_every_scheme(monkeypatch, name, scheme):
    for node, arrays, gradient in calls(monkeypatch, name, scheme, "fp32"):
        assert deviations(node.op, arrays, gradient, node.scales, get_precision("fp32"), node.wanted) == [], node


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("precision", ["fp32", "fp8", EXACT], ids=str)
def test_every_op_is_within_its_bound(case, precision):
    rng = np.random.default_rng(3)
    arrays = [a.astype(np.float32) if a.dtype.kind == "f" else a for a in case.arrays(rng)]
    gradient = rng.standard_normal(np.shape(case.op.forward(*arrays)[0]))
    scales = Scales(0.7, tuple(None if i in case.op.constants else 1.9 for i in range(len(arrays))))
    assert deviations(case.op, arrays, gradient, scales, get_precision(precision)) == []


FAST = [op for op in ALL_OPS if op.fast_forward is not None]


@pytest.mark.parametrize("part", ["forward", "backward"])
@pytest.mark.parametrize("kind", FAST, ids=lambda op: op.__name__)
def test_a_fast_form_off_by_a_thousandth_is_rejected(monkeypatch, kind, part):
    case = EXAMPLES[kind][0]
    right = getattr(kind, f"fast_{part}")

    def spoiled(x):
        if isinstance(x, Rows):
            return Rows(x.indices, spoiled(x.values), x.shape)
        return None if x is None else np.asarray(x * np.float32(1.001))

    def wrong(*args):
        results = right(*args)
        return (spoiled(results[0]), results[1]) if part == "forward" else tuple(map(spoiled, results))

    monkeypatch.setattr(kind, f"fast_{part}", wrong)
    rng = np.random.default_rng(3)
    arrays = [a.astype(np.float32) if a.dtype.kind == "f" else a for a in case.arrays(rng)]
    gradient = rng.standard_normal(np.shape(case.op.forward(*arrays)[0]))
    scales = Scales(0.7, tuple(None if i in case.op.constants else 1.9 for i in range(len(arrays))))
    assert deviations(case.op, arrays, gradient, scales, get_precision("fp32")) != []


# --- Wrong executors --------------------------------------------------------------------------------------------------


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
