"""The strategies draw the documented values, reach every edge, and put the most readable first.

Hypothesis decides what is drawn when, and how far an example shrinks; both change from release to release. So a test
draws until it has seen what it waits for, and looks at the order of what is drawn, not at what shrinking makes of it.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable

import ml_dtypes
import numpy as np
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from refscale.blocks import ARITHMETICS, NONFINITES, SCALE_RULES
from refscale.errors import ArgumentError, CarrierError, FormatError
from refscale.formats import FORMATS, decode, get_format, quantize
from refscale.testing import assert_same_bits, assert_within_ulp
from refscale.testing import strategies as draw
from refscale.testing.strategies import Dag, undirected_edges

# The expected values occur at least once in a hundred draws.
PATIENT = settings(max_examples=3000, database=None, derandomize=True, deadline=None, phases=[Phase.generate])
VALUE_FORMATS = [f for f in FORMATS.values() if f.has_zero]


def assert_reaches(strategy: st.SearchStrategy, wanted: Collection, seen_in: Callable[..., Iterable]) -> None:
    """Draw until everything wanted was seen in a draw; Hypothesis raises ``NoSuchExample`` if something never is."""
    missing = set(wanted)

    def was_the_last(drawn):
        missing.difference_update(seen_in(drawn))
        return not missing

    find(strategy, was_the_last, settings=PATIENT)


def representable(x: np.ndarray, format) -> np.ndarray:
    """By a round trip through the format's own dtype; tf32 has none and keeps 10 of float32's 23 mantissa bits."""
    if format.name == "tf32":
        return (x.view(np.uint32) & 0x1FFF == 0) | np.isnan(x)
    back = x.astype(format.dtype).astype(x.dtype)
    return (back.view(np.uint32) == x.view(np.uint32)) | (np.isnan(back) & np.isnan(x))


# Formats and modes


def test_every_format_is_drawn():
    assert_reaches(draw.formats(scales=True), FORMATS, lambda f: [f.name])


def test_the_simplest_come_first(monkeypatch):
    """Which is where Hypothesis shrinks to."""
    monkeypatch.setattr(draw.st, "sampled_from", list)
    assert [f.name for f in draw.formats()][:1] == ["float4_e2m1fn"]
    assert [f.bits for f in draw.formats()] == sorted(f.bits for f in VALUE_FORMATS)
    assert draw.roundings() == ["nearest_even", "toward_zero", "up", "down", "nearest_away"]
    assert draw.roundings(stochastic=True) == [*draw.roundings(), "stochastic"]
    assert draw.overflows() == ["saturate", "nonsaturate"]


@given(draw.formats(min_bits=8, max_bits=8))
def test_formats_by_width(format):
    assert format.bits == 8
    assert format.has_zero


def test_formats_of_no_width():
    with pytest.raises(ArgumentError, match="no format has 9 to 15 bits"):
        draw.formats(min_bits=9, max_bits=15)


@given(draw.roundings(), draw.overflows())
def test_modes(rounding, overflow):
    assert rounding in ("nearest_even", "toward_zero", "up", "down", "nearest_away")
    assert overflow in ("saturate", "nonsaturate")


@given(draw.casts(draw.formats(max_bits=8)), draw.casts(stochastic=True))
def test_casts(cast, any_cast):
    assert cast.format.bits <= 8
    assert cast.rounding != "stochastic"
    assert any_cast.format.has_zero


def test_block_casts_reach_every_way_of_conversion():
    wanted = {*NONFINITES, *SCALE_RULES, *ARITHMETICS, "T: False", "T: True", 1, 2}
    seen = lambda c: (c.nonfinite, c.rule, c.arithmetic, f"T: {c.tensor_scale}", len(c.block))  # noqa: E731
    assert_reaches(draw.block_casts(), wanted, seen)


# Arrays


@given(st.data(), draw.casts(draw.formats(scales=True)))
def test_arrays_in_survive_any_cast_to_their_format(data, cast):
    x = data.draw(draw.arrays_in(cast.format, allow_nan=True))
    y = quantize(x, cast.format, rounding=cast.rounding, overflow=cast.overflow)
    assert_within_ulp(y, x, 0)


@given(st.data(), draw.formats(scales=True))
def test_arrays_in_hold_values_of_the_format(data, format):
    x = data.draw(draw.arrays_in(format))
    assert isinstance(x, np.ndarray)
    assert x.dtype == np.float32
    assert np.isfinite(x).all()
    assert representable(x, format).all()


@given(st.data(), draw.formats())
def test_arrays_in_with_specials(data, format):
    x = data.draw(draw.arrays_in(format, allow_nan=True, allow_infinity=True))
    assert representable(x, format).all()
    assert format.has_nan or not np.isnan(x).any()
    assert format.has_inf or not np.isinf(x).any()


@pytest.mark.parametrize("format", VALUE_FORMATS, ids=str)
def test_arrays_in_reach_every_edge(format):
    edges = [0.0, 1.0, min(2.0, format.max), format.max, format.min_normal, format.min_subnormal]
    edges += [format.min_normal - format.min_subnormal, 1 + format.eps]
    wanted = {str(x) for e in edges if e for x in (e, -e)} | {"0.0"}
    wanted |= {"-0.0"} if format.has_signed_zero else set()
    wanted |= {"inf", "-inf"} if format.has_inf else set()
    wanted |= {"nan"} if format.has_nan else set()
    arrays = draw.arrays_in(format, (8,), allow_nan=True, allow_infinity=True)
    assert_reaches(arrays, wanted, lambda x: map(str, x.tolist()))


def test_arrays_in_draw_every_value_of_a_narrow_format():
    values = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    wanted = {str(x) for v in values for x in (v, -v)}
    assert_reaches(draw.arrays_in("e2m1", (8,)), wanted, lambda x: map(str, x.tolist()))


def test_edges_begin_with_what_is_easy_to_read():
    def values(name):
        return decode(np.array(draw._edges(get_format(name)), get_format(name).code_dtype), name).tolist()

    assert values("e4m3fn") == [0, 1, 2, 0.9375, 1.125, 0, 448, 416, 2**-6, 2**-9, 7 * 2**-9]
    assert values("e8m0") == [1, 2, 0.5, 2, 2**-127, 2.0**127, 2.0**126]


@given(draw.arrays_in("fp16", draw.shapes(2, 2, min_side=0), dtype=np.float64))
def test_arrays_in_take_a_shape_strategy_and_a_carrier(x):
    assert x.ndim == 2
    assert x.dtype == np.float64
    assert np.array_equal(x, x.astype(np.float16))


def test_arrays_in_refuse():
    with pytest.raises(CarrierError, match="arrays_in: dtype is float16, expected float32 or float64"):
        draw.arrays_in("fp16", dtype=np.float16)
    with pytest.raises(FormatError, match="unknown format"):
        draw.arrays_in("fp17")


FLOATS = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16]


@pytest.mark.parametrize("dtype", FLOATS)
def test_float_arrays_reach_every_edge(dtype):
    info = ml_dtypes.finfo(dtype)
    unsigned = f"u{np.dtype(dtype).itemsize}"
    quiet = int(np.array([np.nan], dtype).view(unsigned)[0]) & (1 << info.nmant - 1)
    conditions = {
        "signaling NaN": lambda x: np.isnan(x[0]) and not x.view(unsigned)[0] & quiet,
        "negative NaN": lambda x: np.isnan(x[0]) and np.signbit(x[0]),
        "infinity": lambda x: x[0] == np.array(np.inf, dtype),
        "largest": lambda x: x[0] == info.max,
        "smallest": lambda x: x[0] == -info.smallest_subnormal,
        "negative zero": lambda x: x[0] == 0 and np.signbit(x[0]),
        "one": lambda x: x[0] == 1,
    }

    def seen_in(x):
        assert x.dtype == dtype
        with np.errstate(invalid="ignore"):
            return [name for name, condition in conditions.items() if condition(x)]

    assert_reaches(draw.float_arrays(dtype, (1,)), conditions, seen_in)


@given(st.data(), st.sampled_from(FLOATS), st.booleans(), st.booleans())
def test_float_arrays_keep_to_their_flags(data, dtype, nan, infinity):
    x = data.draw(draw.float_arrays(dtype, allow_nan=nan, allow_infinity=infinity))
    with np.errstate(invalid="ignore"):  # a signaling NaN signals when looked at
        assert nan or not np.isnan(x).any()
        assert infinity or not np.isinf(x).any()


@given(st.data(), st.sampled_from(FLOATS))
def test_every_bit_pattern_equals_itself_in_both_equalities(data, dtype):
    """Signaling NaN included: no assertion warns, and none changes its arguments."""
    x = data.draw(draw.float_arrays(dtype))
    assert isinstance(x, np.ndarray)
    assert x.dtype == dtype
    assert_same_bits(x, x.copy())
    assert_within_ulp(x, x.copy(), 0)


def test_float_arrays_refuse_other_dtypes():
    with pytest.raises(CarrierError, match="float_arrays: dtype is int32"):
        draw.float_arrays(np.int32)


# Shapes


@given(draw.shapes(1, 4, 5))
def test_shapes_keep_to_their_limits(shape):
    assert 1 <= len(shape) <= 4
    assert all(1 <= side <= 5 for side in shape)


def test_shapes_reach_scalars_and_empty_arrays():
    assert_reaches(draw.shapes(), {(), (1,), (6,)}, lambda shape: [shape])
    assert_reaches(draw.shapes(min_side=0), {(), (0,)}, lambda shape: [shape])


@given(draw.matmul_shapes())
def test_matmul_shapes_multiply(shapes):
    x, w = (np.ones(shape) for shape in shapes)
    y = x @ w
    assert x.ndim >= 2
    assert w.ndim >= 2
    assert (y == x.shape[-1]).all()


def test_matmul_shapes_are_batched_and_broadcast():
    def seen_in(shapes):
        (*left, _, _), (*right, _, _) = shapes
        for a, b, side in ((left, right, "x"), (right, left, "w")):
            if len(a) > len(b):
                yield f"{side} has more batch dimensions"
            if any(n == 1 < m for n, m in zip(a[::-1], b[::-1], strict=False)):
                yield f"{side} is broadcast"

    sides = ("x", "w")
    wanted = [f"{side} {what}" for side in sides for what in ("has more batch dimensions", "is broadcast")]
    assert_reaches(draw.matmul_shapes(), wanted, seen_in)


@given(draw.matmul_shapes(max_batch_dims=0, max_side=3, min_side=2))
def test_matmul_shapes_of_plain_matrices(shapes):
    (b, m), (k, n) = shapes
    assert m == k
    assert all(2 <= side <= 3 for side in (b, m, n))


@given(draw.broadcastable_shapes(3))
def test_broadcastable_shapes_broadcast(shapes):
    assert len(shapes) == 3
    np.broadcast_shapes(*shapes)


# Randomness


@given(draw.seeds(), draw.generators())
def test_generators_are_fresh(seed, rng):
    assert 0 <= seed < 2**32
    assert isinstance(rng, np.random.Generator)
    rng.random()


def test_generators_print_their_seed():
    @settings(database=None, phases=[Phase.generate])
    @given(draw.generators())
    def fails(rng):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as error:
        fails()
    assert re.search(r"default_rng\(\d+\)", "".join(error.value.__notes__))


# Graphs


@given(draw.dags({"f": 1, "g": 3}, max_leaves=3, max_ops=6))
def test_dags_are_valid(dag):
    assert 1 <= dag.n_leaves <= 3
    assert 1 <= len(dag.ops) <= 6
    assert dag.output == dag.n_nodes - 1 == dag.n_leaves + len(dag.ops) - 1
    for node, (kind, inputs) in enumerate(dag.ops, dag.n_leaves):
        assert len(inputs) == {"f": 1, "g": 3}[kind]
        assert all(0 <= i < node for i in inputs)
    edges = undirected_edges(dag)
    assert len(edges) == sum(len(inputs) for _, inputs in dag.ops)
    assert all(u < v for u, v in edges)
    assert list(edges) == sorted(edges)


def has_multi_edge(dag: Dag) -> bool:
    return max(Counter(undirected_edges(dag)).values()) > 1


def has_dead_end(dag: Dag) -> bool:
    used = {i for _, inputs in dag.ops for i in inputs}
    return any(node not in used for node in range(dag.n_nodes - 1))


def is_shared(dag: Dag) -> bool:
    return max(Counter(i for _, inputs in dag.ops for i in set(inputs)).values()) > 1


def test_dags_have_every_feature_and_lack_it():
    features = (has_multi_edge, has_dead_end, is_shared)
    wanted = [(feature, has) for feature in features for has in (True, False)]
    assert_reaches(draw.dags(), wanted, lambda dag: [(feature, feature(dag)) for feature in features])


def test_dags_draw_every_kind_and_every_earlier_node():
    def seen_in(dag):
        for node, (kind, inputs) in enumerate(dag.ops, dag.n_leaves):
            yield kind
            yield from ((node, i) for i in inputs)

    wanted = [*draw.DEFAULT_KINDS, *((node, i) for node in range(1, 6) for i in range(node))]
    assert_reaches(draw.dags(max_leaves=2, max_ops=4), wanted, seen_in)


def test_inputs_are_drawn_as_distances_back():
    """So the simplest draws are chains, an op that is deleted leaves the rest in form, and two inputs are two nodes."""
    f, g = ("f", (0,)), ("g", (0, 0))
    assert draw._chained(1, [f, f, f]) == Dag(1, (("f", (0,)), ("f", (1,)), ("f", (2,))))
    assert draw._chained(2, [f, g, f]) == Dag(2, (("f", (1,)), ("g", (2, 1)), ("f", (3,))))
    assert draw._chained(2, [g, f]) == Dag(2, (("g", (1, 0)), ("f", (2,))))
    assert draw._chained(1, [g]) == Dag(1, (("g", (0, 0)),))
    assert draw._chained(3, [("g", (1, 0))]) == Dag(3, (("g", (1, 1)),))
    assert draw._chained(3, [("g", (2, 3))]) == Dag(3, (("g", (0, 1)),))


def test_dag_example():
    dag = Dag(2, (("multiply", (0, 0)), ("add", (2, 1))))
    assert (dag.n_nodes, dag.output) == (4, 3)
    assert undirected_edges(dag) == ((0, 2), (0, 2), (1, 3), (2, 3))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Dag(0, (("f", (0,)),)), "0 leaves and 1 ops, expected at least one of each"),
        (lambda: Dag(1, ()), "1 leaves and 0 ops"),
        (lambda: Dag(1, (("f", (1,)),)), r"node 1 \(f\) has inputs \(1,\), expected numbers below 1"),
        (lambda: Dag(1, (("f", (-1,)),)), r"node 1 \(f\) has inputs \(-1,\)"),
        (lambda: Dag(1, (("f", ()),)), r"node 1 \(f\) has inputs \(\)"),
        (lambda: draw.dags({}), "kinds are {}, expected names with arities >= 1"),
        (lambda: draw.dags({"f": 0}), "kinds are {'f': 0}"),
        (lambda: draw.dags(max_ops=0), "max_leaves is 4 and max_ops is 0"),
    ],
)
def test_invalid_graphs(build, message):
    with pytest.raises(ArgumentError, match=message):
        build()
