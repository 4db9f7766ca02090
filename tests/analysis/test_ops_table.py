"""The op table as rows and as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale import ops
from refscale.analysis.tables import ops as table
from refscale.errors import ArgumentError
from refscale.scales import Call, geometric, to_output_scale, unit
from tests.ops.cases import ALL_OPS, PROPERTY

sizes = st.dictionaries(st.sampled_from(sorted(table.DEFAULTS)), st.integers(1, 5000))


def row_of(op, statistic="", **shape):
    return next(row for row in table.rows(shape) if row.op == op and row.statistic == statistic)


@PROPERTY
@given(sizes)
def test_every_op_at_any_size(shape):
    rows = table.rows(shape)
    statistics = {op.__name__: {"std", "rms"} if op.has_mean else {""} for op in ALL_OPS}
    for op in ALL_OPS:
        name = "".join("_" + c.lower() if c.isupper() else c for c in op.__name__).lstrip("_")
        assert {row.statistic for row in rows if row.op == name} == statistics[op.__name__]
    lines = table.render(rows).splitlines()
    assert sum(not line.startswith(" ") for line in lines) == len(rows) + 1
    assert max(map(len, lines)) <= 100


def test_the_defaults():
    assert dict(table.DEFAULTS) == {"b": 1024, "m": 768, "n": 3072, "s": 512}
    assert table.rows({}) == table.rows() == table.rows(dict(table.DEFAULTS))


def test_sizes_reach_the_factors():
    row = row_of("matmul", b=16, m=4, n=64)
    assert (row.shapes, row.alpha, row.beta, row.constrained) == (((16, 4), (4, 64)), 0.5, (0.125, 0.25), 0.25)
    assert row_of("softmax", "std", s=7).alpha == 7
    assert row_of("softmax_cross_entropy", b=4, s=5).constrained is None
    assert row_of("embedding", b=9, s=36).beta == (2.0, None)


def test_the_constrained_value_is_the_schemes():
    for example, shapes in ((e.op, e.shapes) for e in table.examples()):
        if example.reports or example.carries_factors:
            continue
        addition = example.name in ("add", "subtract", "weighted_add")
        scales = unit.scales(Call(example, shapes, to_output_scale if addition else geometric, (0,)))
        statistic = "std" if example.has_mean else ""
        values = [
            r.constrained for r in table.rows() if (r.op, r.statistic, r.shapes) == (example.name, statistic, shapes)
        ]
        assert scales.alpha in values
    assert abs(row_of("gelu", "std").constrained - 1.587) < 0.0005


def test_attributes_are_those_that_differ():
    shown = [row.attributes for row in table.rows() if row.op == "gelu"]
    assert shown == ["", "", "form='tanh'", "form='tanh'"]
    assert row_of("weighted_add").attributes == "weights=(0.75, 0.5)"


def test_text():
    rows = [row for row in table.rows(table.parse_shape("b=16, m=4, n=64")) if row.op in ("matmul", "relu", "mse_loss")]
    assert table.render(rows) == "\n".join(
        [
            "op       statistic α       β                constrained",
            "matmul             0.5     0.125, 0.25      0.25",
            "    (16,4) (4,64): Table A.2",
            "relu     std       1.71286 1.41421          1.55639",
            "    (16,4): Table A.2; closed form",
            "relu     rms       1.41421 1.41421          1.41421",
            "    (16,4): Table A.2; closed form",
            "mse_loss           1       22.6274, 22.6274 -",
            "    (16,4) (16,4): closed form",
        ]
    )
    assert table.render([row_of("weighted_add", b=2, m=3)]).splitlines()[2] == (
        "    weights=(0.75, 0.5); (2,3) (2,3): Table A.2 (weighted add)"
    )
    assert table.render([row_of("embedding")]).splitlines()[1].split()[:2] == ["embedding", "1"]
    assert "0.707107, -" in table.render([row_of("embedding")])


def test_parse_shape():
    assert table.parse_shape("b=1024,m=768") == {"b": 1024, "m": 768}
    assert table.parse_shape(" s = 5 ") == {"s": 5}
    assert table.parse_shape("") == {}


@PROPERTY
@given(sizes)
def test_parse_shape_reads_what_is_written(shape):
    assert table.parse_shape(",".join(f"{name}={size}" for name, size in shape.items())) == shape


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("b", "'b', expected sizes such as 'b=1024,m=768'"),
        ("b=", "'b=', expected sizes such as 'b=1024,m=768'"),
        ("b=1.5", "'b=1.5', expected sizes such as 'b=1024,m=768'"),
        ("b=-1", "b is -1, expected an integer ≥ 1"),
        ("b=²", "'b=²', expected sizes such as 'b=1024,m=768'"),
        ("b=1,", "'', expected sizes such as 'b=1024,m=768'"),
        ("b=1,b=2", "b occurs twice, expected sizes such as 'b=1024,m=768'"),
        ("k=1", "unknown size 'k', expected one of b, m, n, s"),
        ("b=0", "b is 0, expected an integer ≥ 1"),
    ],
)
def test_parse_shape_refuses(text, problem):
    with pytest.raises(ArgumentError) as error:
        table.parse_shape(text)
    assert str(error.value) == f"parse_shape({text!r}): {problem}"


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ({"k": 1}, "unknown size 'k', expected one of b, m, n, s"),
        ({"m": 0}, "m is 0, expected an integer ≥ 1"),
        ({"m": 2.0}, "m is 2.0, expected an integer ≥ 1"),
    ],
)
def test_rows_refuse(shape, problem):
    with pytest.raises(ArgumentError) as error:
        table.rows(shape)
    assert str(error.value) == f"rows: {problem}"


def test_nothing_is_computed_from_data():
    """Shapes of a size that no machine could hold."""
    assert row_of("sum", m=2**40).alpha == 2.0**-20
    assert ops.Sum().scale((2**60,)).alpha == 2.0**-30
