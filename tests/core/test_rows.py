"""Rules of the rows that a gradient sums over: independent, alike, of a likeness; and of tables by ids."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from refscale import ops
from refscale.engine import Sizes
from refscale.errors import ArgumentError
from refscale.scales import Call, Munit, Scales, Unit, base_name, geometric, get_scheme, of_likeness, unit
from refscale.train import TrainConfig


def beta(scheme, op, i, *shapes):
    return get_scheme(scheme).scales(Call(op, shapes)).beta[i]


SIX_ROWS = [  # op, input, shapes of six rows (of the Conv2d, eight), β for independent rows
    (ops.Matmul(), 1, ((2, 3, 5), (5, 7)), 6**-0.5),
    (ops.Matmul(), 1, ((3, 2, 2, 5), (2, 5, 7)), 6**-0.5),
    (ops.Readout(), 1, ((6, 5), (5, 7)), 6**-0.5),
    (ops.Readout("1/m"), 1, ((6, 5), (5, 7)), 6**-0.5),
    (ops.Conv1d(stride=2), 1, ((2, 7, 5), (3, 5, 7)), 6**-0.5),
    (ops.Conv2d(), 1, ((2, 3, 2, 5), (2, 1, 5, 7)), 8**-0.5),
    (ops.ConvTranspose(2), 1, ((2, 3, 5), (3, 5, 7)), 6**-0.5),
    (ops.NearestResize((2, 3)), 0, ((2, 4, 4, 5),), 6**-0.5),
    (ops.Bias(), 1, ((2, 3, 5), (5,)), 6**-0.5),
    (ops.Add(), 1, ((2, 3, 5), (5,)), 6**-0.5),
    (ops.Add(), 0, ((1, 5), (6, 5)), 6**-0.5),
    (ops.Subtract(), 1, ((6, 5), (5,)), 6**-0.5),
    (ops.WeightedAdd((0.5, 0.25)), 1, ((6, 5), (5,)), 4 * 6**-0.5),
    (ops.Multiply(), 0, ((5,), (6, 5)), 6**-0.5),
    (ops.Maximum(), 1, ((6, 5), (5,)), 2**0.5 * 6**-0.5),
    (ops.Where(), 2, ((6, 5), (6, 5), (5,)), 6**-0.5),
    (ops.Expand((6, 5)), 0, ((5,),), 6**-0.5),
    *((ops.LayerNorm(), i, ((2, 3, 5), (5,), (5,)), 6**-0.5) for i in (1, 2)),
    (ops.RmsNorm(), 1, ((6, 5), (5,)), 6**-0.5),
    *((ops.BatchNorm(), i, ((2, 3, 5), (5,), (5,)), 6**-0.5) for i in (1, 2)),
    *((ops.FrozenBatchNorm(), i, ((2, 3, 5), *[(5,)] * 4), 6**-0.5) for i in (1, 2)),
    *((ops.GroupNorm(5), i, ((2, 3, 5), (5,), (5,)), 6**-0.5) for i in (1, 2)),
]


@pytest.mark.parametrize(("op", "i", "shapes", "independent"), SIX_ROWS, ids=lambda x: str(x)[:40])
def test_six_rows(op, i, shapes, independent):
    """Alike: σ grows from √6 to 6. Of likeness 0.2: 6·(1 + 5·0.2) = 12, so √2 more."""
    n = 8 if isinstance(op, ops.Conv2d) else 6
    assert beta("unit", op, i, *shapes) == pytest.approx(independent, rel=1e-14)
    assert beta("unit:rows=alike", op, i, *shapes) == pytest.approx(independent * n**-0.5, rel=1e-14)
    assert beta("unit:rows=0.2", op, i, *shapes) == pytest.approx(independent * (1 + 0.2 * (n - 1)) ** -0.5, rel=1e-14)
    for scheme in ("unit:rows=alike", "unit:rows=0.2", "unit:embeddings=v/b"):
        free, scales = (get_scheme(name).scales(Call(op, shapes)) for name in ("unit", scheme))
        assert scales.alpha == free.alpha
        others = [k for k in range(len(shapes)) if op.rows_beside(*shapes)[k] == 0]
        assert [scales.beta[k] for k in others] == [free.beta[k] for k in others]


def test_data_has_no_rows():
    """A product of two batches, and scores and mixtures of attention: each gradient belongs to its own sample."""
    assert ops.Matmul().rows_beside((2, 3, 5), (2, 5, 7)) == (0, 0)
    assert ops.AttentionScores().rows_beside((2, 3, 5), (2, 3, 5)) == (0, 0)
    assert ops.AttentionMix().rows_beside((2, 3, 3), (2, 3, 5)) == (0, 0)
    assert ops.Gelu().rows_beside((6, 5)) == (0,)


def test_tables():
    """Four ids of 100 rows: √25 or 25; alike: 5·(1 + 3/100)^-½."""
    shapes = ((100, 8), (2, 2))
    assert beta("unit", ops.Embedding(), 0, *shapes) == 5
    assert beta("unit:embeddings=v/b", ops.Embedding(), 0, *shapes) == 25
    assert beta("unit:rows=alike,embeddings=v/b", ops.Embedding(), 0, *shapes) == 25
    assert beta("unit:rows=alike", ops.Embedding(), 0, *shapes) == pytest.approx(5 * 1.03**-0.5, rel=1e-14)
    assert beta("unit:rows=0.5", ops.Embedding(), 0, *shapes) == pytest.approx(5 * 1.015**-0.5, rel=1e-14)
    assert beta("unit:embeddings=v/b", ops.Embedding(), 0, (3, 8), (12,)) == 0.25


@pytest.mark.parametrize(("v", "b"), [(3, 2), (2, 5), (4, 3), (1, 4)])
def test_a_table_of_equal_terms_over_all_ids(v, b):
    """The mean square over all v^b ways to draw b ids, of counts: exactly 1 under rows=alike."""
    counts = [np.bincount(ids, minlength=v) for ids in itertools.product(range(v), repeat=b)]
    square = np.mean(np.square(counts))
    assert beta("unit:rows=alike", ops.Embedding(), 0, (v, 8), (b,)) == pytest.approx(square**-0.5, rel=1e-14)


def test_the_rule_is_the_variance_of_a_sum():
    """Of b normal terms with the correlation ρ, exactly: 1ᵀ·C·1."""
    for b, rho in ((1, 0.5), (2, 0.0), (5, 0.3), (7, 1.0)):
        covariance = np.full((b, b), rho) + (1 - rho) * np.eye(b)
        expected = covariance.sum() ** -0.5
        assert beta(f"unit:rows={rho}", ops.Bias(), 1, (b, 3), (3,)) == pytest.approx(expected, rel=1e-14)


SIZES = Sizes(b=3, m=8, n=4, s=6)


def undeclared(op_class):
    """Inputs whose β falls with the number of rows, other than ``rows_beside`` counts."""
    found = []
    for more in (SIZES._replace(b=6), SIZES._replace(s=12)):  # s may be a width as well
        for one, two in zip(op_class.examples(SIZES), op_class.examples(more), strict=True):
            few, many = (e.op.scale(*e.shapes).beta for e in (one, two))
            rows = [e.op.rows_beside(*e.shapes) for e in (one, two)]
            for i, (a, b) in enumerate(zip(few, many, strict=True)):
                same = one.shapes[i] == two.shapes[i] and a is not None and not one.op.has_ids
                if (
                    same
                    and (more.b > SIZES.b or rows[0][i])
                    and not math.isclose((a / b) ** 2, (rows[1][i] + 1) / (rows[0][i] + 1), rel_tol=1e-12)
                ):
                    found.append((op_class.name, i))
    return found


@pytest.mark.parametrize("op_class", ops.OPS.values(), ids=lambda c: c.name)
def test_every_op_counts_its_rows(op_class):
    assert undeclared(op_class) == []


def test_an_op_that_does_not_count_its_rows_is_found():
    class Uncounted(ops.Bias):
        def rows_beside(self, x, bias):
            return 0.0, 0.0

    class Miscounted(ops.Bias):
        def rows_beside(self, x, bias):
            return 0.0, 2 * super().rows_beside(x, bias)[1]

    assert ("uncounted", 1) in undeclared(Uncounted)
    assert ("miscounted", 1) in undeclared(Miscounted)


def test_a_likeness_for_each_input():
    scales = Scales(2.0, (3.0, None, 5.0))
    assert of_likeness(scales, (3.0, 8.0, 15.0), (1.0, 1.0, 0.2)) == Scales(2.0, (1.5, None, 2.5))
    assert of_likeness(scales, (3.0, 8.0, 15.0), 1) == Scales(2.0, (1.5, None, 1.25))
    assert of_likeness(scales, (3.0, 8.0, 15.0), 0) == scales


def test_constraints_come_after():
    """A constrained weight: the geometric mean of α, β_x and the β of alike rows."""
    shapes = ((4, 4), (4, 9))
    found = get_scheme("unit:rows=alike").scales(Call(ops.Matmul(), shapes, geometric, (0, 1)))
    assert found.alpha == pytest.approx((1 / 2 * 1 / 3 * 1 / 4) ** (1 / 3), rel=1e-14)


def test_spellings():
    alike = get_scheme("unit:rows=alike,embeddings=v/b")
    assert alike == Unit("unit:rows=alike,embeddings=v/b", rows=1.0, embeddings="v/b")
    assert get_scheme("unit: embeddings = v/b , rows = 1").name == alike.name
    assert get_scheme("unit:rows=independent") == unit
    assert get_scheme("unit:embeddings=sqrt(v/b)") == unit
    assert get_scheme("unit-rms:rows=0.25") == Unit("unit-rms:rows=0.25", "rms", rows=0.25)
    assert get_scheme("u-mup:rows=alike").name == "u-mup:rows=alike"
    assert get_scheme("u-mup:rows=alike").attention_scores == "1/d"
    assert [base_name(s) for s in ("unit", "unit:rows=alike", "u-mup:rows=0.5")] == ["unit", "unit", "u-mup"]


EXPECTED = (
    "rows=independent, rows=alike, rows=NUMBER from 0 to 1, embeddings=sqrt(v/b), embeddings=v/b, rates=unit or "
    "rates=regular"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unit:rows=1.001", f"'rows=1.001', expected {EXPECTED}"),
        ("unit:rows=-0.001", f"'rows=-0.001', expected {EXPECTED}"),
        ("unit:rows=nan", f"'rows=nan', expected {EXPECTED}"),
        ("unit:rows", f"'rows', expected {EXPECTED}"),
        ("unit:embeddings=b/v", f"'embeddings=b/v', expected {EXPECTED}"),
        ("unit:columns=alike", f"'columns=alike', expected {EXPECTED}"),
        ("unit:", f"'', expected {EXPECTED}"),
        ("regular:rows=alike", "'rows=alike', expected no options for regular"),
        ("munit:rows=alike", "'rows=alike', expected no options for munit"),
        ("units:rows=alike", "expected one of regular, unit, unit-rms, authors, u-mup, munit, or a Scheme"),
    ],
)
def test_other_spellings_are_refused(text, message):
    with pytest.raises(ArgumentError) as found:
        get_scheme(text)
    assert str(found.value) == f"get_scheme({text!r}): {message}"


@pytest.mark.parametrize("rows", [-1e-9, 1 + 1e-9, math.nan])
def test_a_likeness_out_of_range_is_refused(rows):
    with pytest.raises(ArgumentError, match=r"Unit\(rows=.*\): expected a correlation, 0 … 1"):
        Unit(rows=rows)
    assert Unit(rows=0.0).rows == 0
    assert Unit(rows=1.0).rows == 1


def test_a_rule_of_tables_that_is_none_is_refused():
    with pytest.raises(ArgumentError, match=r"Unit\(embeddings='b'\): expected one of \('sqrt\(v/b\)', 'v/b'\)"):
        Unit(embeddings="b")
    assert Munit().rows == 0


def test_a_run_has_the_customary_rate_of_its_scheme():
    config = TrainConfig("bert-tiny", scheme="unit:rows=alike,embeddings=v/b")
    assert config.peak_lr == TrainConfig("bert-tiny").peak_lr == 2.0**-6
    assert config.setup.scheme.rows == 1
    with pytest.raises(ArgumentError, match="scheme"):
        TrainConfig("bert-tiny", scheme="regular:rows=alike")
