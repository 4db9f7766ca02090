"""What claims about whole models measure, against the same arrays measured otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.claims import at_most, same
from refscale.claims.measure import TensorRms, compared, over_predicted, rows, standard_error, uniform_batch, worst
from refscale.engine import apply
from refscale.errors import ArgumentError
from refscale.models import bert
from refscale.scales import regular
from refscale.testing import rms


@pytest.mark.parametrize("gradients", [True, False])
def test_rows(gradients):
    """Root mean squares over runs, each with a mean of its own; gradients if they are asked for."""
    draws = []

    def model(tape, rng):
        x, w = (rng.standard_normal(shape).astype(np.float32) + 0.5 for shape in ((700, 30), (30, 90)))
        draws.append((x, w))
        return F.linear(tape.tensor(x, "x"), tape.tensor(w, "weight"))

    found = {(r.way, r.name): r for r in rows(model, 3, np.random.default_rng(0), gradients=gradients)}
    assert {way for way, _ in found} == ({"forward", "backward"} if gradients else {"forward"})
    y = found["forward", "matmul"]
    wide = [x.astype(np.float64) @ w.astype(np.float64) for x, w in draws]
    factor = y.measured / rms(np.stack(wide))
    assert factor == pytest.approx((30 * 90) ** -0.25, rel=1e-5)  # tied: the geometric mean of 30^-½ and 90^-½
    assert y.std == pytest.approx(factor * np.sqrt(np.mean([np.var(v) for v in wide])), rel=1e-4)


def test_an_op_without_a_rule_is_refused():
    """Left out, its tensors would count as right."""
    with pytest.raises(ArgumentError, match=r"^rows: no prediction rule for exp$"):
        rows(
            lambda tape, rng: apply(ops.Exp(), tape.tensor(rng.standard_normal((3, 4)), "x")),
            1,
            np.random.default_rng(),
        )


def test_a_standard_deviation_far_below_the_mean():
    """±2^-12 about 1: in float32, the mean square less the squared mean is all rounding."""
    signs = np.resize(np.float32([-1, 1, 1]), (30, 100))

    def model(tape, rng):
        return F.linear(tape.tensor(1 + signs * 2.0**-12, "x"), tape.tensor(rng.standard_normal((100, 2)), "weight"))

    (x,) = [r for r in rows(model, 1, np.random.default_rng(0), gradients=False) if r.name == "x"]
    assert x.std == pytest.approx(2.0**-12 * np.sqrt(8) / 3, rel=1e-5)
    assert x.measured == pytest.approx(1 + 2.0**-12 / 3, rel=1e-5)


def test_no_tensor_is_dropped_but_those_that_hold_the_values_of_another():
    """Nor is a zero bias there, nor a scalar; of two parts, both are."""

    def model(tape, rng):
        arrays = {"x": rng.standard_normal((8, 6)), "weight": rng.standard_normal((6, 4)), "bias": np.zeros(4)}
        x, w, bias = (tape.tensor(a, name) for name, a in arrays.items())
        y = apply(ops.Reshape((2, 4, 4)), apply(ops.Tanh(), F.linear(x, w, bias)))
        return F.cross_entropy(F.split(y, 2)[0], np.zeros((2, 4), np.int64))

    found = [(r.way, r.name, r.shape) for r in rows(model, 2, np.random.default_rng(0))]
    x, weight, product = (8, 6), (6, 4), (8, 4)
    assert [f[1:] for f in found if f[0] == "forward"] == [
        ("x", x),
        ("weight", weight),
        ("matmul", product),
        ("tanh", product),
        *[("slice", (2, 4, 2))] * 2,
    ]
    assert sorted(f[1:] for f in found if f[0] == "backward") == [
        ("bias", (4,)),
        ("matmul", product),
        ("slice", (2, 4, 2)),  # the other part is not used
        ("tanh", product),
        ("weight", weight),
        ("x", x),
    ]


def test_what_rows_are_told_of_ids_counts():
    """Where all tokens have one id, the mean of a table's rows is that row: 1, not (1/v + (1 − 1/v)/t)^½."""

    def model(tape, rng):
        table = tape.tensor(rng.standard_normal((64, 32)), "table")
        return apply(ops.Mean((0,)), apply(ops.Embedding(), table, np.zeros(16, np.int64)))

    for agreement, predicted in ((None, (1 / 64 + 63 / 64 / 16) ** 0.5), ({"table": 1.0}, 1.0)):
        found = rows(model, 1, np.random.default_rng(0), regular, agreement, gradients=False)
        (mean,) = [r for r in found if r.name == "mean"]
        assert mean.predicted == pytest.approx(predicted, rel=1e-12)


def test_the_standard_error_by_hand():
    """½·√(2·(3k/q + 1/p)·2/R)."""
    assert standard_error(products=3, pair=100, elements=50, runs=4) == pytest.approx(0.5 * 0.11**0.5, rel=1e-15)
    assert standard_error(products=0, pair=1, elements=2, runs=1) == pytest.approx(0.5 * 2**0.5, rel=1e-15)
    assert standard_error(products=1, pair=3, elements=10**9, runs=9) == pytest.approx(1 / 3, rel=1e-8)


Z = 7.440902150642369  # standard errors of a false-alarm rate of 1e-13, to both sides


@pytest.mark.parametrize(
    ("shape", "pair", "least", "most"),
    [
        # √(2·(3k/q + 1/p)·2/R)/2 for k = 2, R = 9; p is the number of elements, or q if that is less.
        ((5, 4), 100, 1 - 0.03 - Z * 0.11055415967851333, 1 + 0.03 + Z * 0.11055415967851333),
        ((50, 4), 100, 1 - 0.03 - Z * 0.08819171036881968, 1 + 0.03 + Z * 0.08819171036881968),
        ((), 100, 1 - 0.03 - Z * 0.3431876713662332, 1 + 0.03 + Z * 0.3431876713662332),
    ],
)
def test_a_comparison_ends_where_it_says(shape, pair, least, most):
    for ratio, holds in ((least + 1e-9, True), (least - 1e-9, False), (most - 1e-9, True), (most + 1e-9, False)):
        row = TensorRms("y", "forward", shape, measured=5 * ratio, predicted=5.0, std=1.0)
        assert compared(row, products=2, pair=pair, runs=9, relative=0.03).holds is holds, ratio


def test_an_interval_ends_where_it_says():
    """From 1 − ε·most to most + ε·most, and so many standard errors to either side; "forward y (2,)" names it."""
    least, most = 1 - 0.15 - Z * 0.01, 1.5 + 0.15 + Z * 0.01
    for ratio, holds in ((least + 1e-9, True), (least - 1e-9, False), (most - 1e-9, True), (most + 1e-9, False)):
        row = TensorRms("y", "forward", (2,), measured=ratio / 4, predicted=0.25, std=1.0)
        found = over_predicted(row, standard_error=0.01, relative=0.1, most=1.5)
        assert found.holds is holds, ratio
        assert (found.what, found.kind, found.expected) == ("forward y (2,)", "sampled", 1.25)


def test_the_worst_is_the_one_nearest_to_failing():
    figures = [at_most(name, measured, 1.0) for name, measured in (("a", 0.5), ("b", 0.9), ("c", 0.9), ("d", 0.1))]
    assert worst(iter(figures)).what == "b"
    assert worst(iter([*figures, same("e", 1, 2)])).what == "e"


def test_a_batch_of_uniform_ids():
    """Every id and label of the vocabulary, no place twice, one segment, no padding."""
    config = bert.get_config("bert-tiny", vocabulary=9)
    batch = uniform_batch(config, np.random.default_rng(0), size=50, seq=8, predictions=5)
    assert (batch.ids.shape, batch.positions.shape, batch.labels.shape) == ((50, 8), (50, 5), (50, 5))
    assert set(batch.ids.ravel()) == set(batch.labels.ravel()) == set(range(9))
    assert (np.diff(batch.positions, axis=1) > 0).all()
    assert set(batch.positions.ravel()) == set(range(8))
    assert set(batch.is_next) == {0, 1}
    assert batch.mask.all()
    assert not batch.segments.any()
