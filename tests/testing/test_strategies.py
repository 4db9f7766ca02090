"""The strategies draw what they promise, reach every edge, and shrink to what is easy to read."""

from collections import Counter

import ml_dtypes
import numpy as np
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from refscale.blocks import ARITHMETICS, NONFINITES, SCALE_RULES
from refscale.errors import ArgumentError, CarrierError, FormatError
from refscale.formats import FORMATS, quantize
from refscale.testing import assert_same_bits, assert_within_ulp
from refscale.testing import strategies as draw
from refscale.testing.strategies import Dag, undirected_edges

# Explaining serves the reader of a failure, and takes as long as shrinking.
FIND = settings(
    max_examples=2000, database=None, derandomize=True, deadline=None, phases=[Phase.generate, Phase.shrink]
)
VALUE_FORMATS = [f for f in FORMATS.values() if f.has_zero]


def shrunk(strategy, condition):
    return find(strategy, condition, settings=FIND)


def sample(strategy, count: int) -> list:
    """The first `count` draws, the same in every run."""
    drawn = []

    @settings(max_examples=count, database=None, derandomize=True, phases=[Phase.generate])
    @given(strategy)
    def collect(x):
        drawn.append(x)

    collect()
    return drawn


def representable(x: np.ndarray, format) -> np.ndarray:
    """By a round trip through the format's own dtype; tf32 has none and keeps 10 of float32's 23 mantissa bits."""
    if format.name == "tf32":
        return (x.view(np.uint32) & 0x1FFF == 0) | np.isnan(x)
    back = x.astype(format.dtype).astype(x.dtype)
    return (back.view(np.uint32) == x.view(np.uint32)) | (np.isnan(back) & np.isnan(x))


# Formats and modes


def test_formats_are_all_formats_narrowest_first():
    assert {f.name for f in sample(draw.formats(scales=True), 300)} == set(FORMATS)
    assert shrunk(draw.formats(), lambda f: True).name == "float4_e2m1fn"


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


def test_modes_shrink_to_the_usual_ones():
    assert shrunk(draw.roundings(), lambda r: True) == "nearest_even"
    assert shrunk(draw.roundings(stochastic=True), lambda r: r == "stochastic") == "stochastic"
    assert shrunk(draw.overflows(), lambda o: True) == "saturate"


@given(draw.casts(draw.formats(max_bits=8)), draw.casts(stochastic=True))
def test_casts(cast, any_cast):
    assert cast.format.bits <= 8
    assert cast.rounding != "stochastic"
    assert any_cast.format.has_zero


def test_casts_shrink_to_the_usual_one():
    assert str(shrunk(draw.casts(), lambda c: c.format.bits == 8)).endswith("/nearest_even/saturate")


def test_block_casts_reach_every_way_of_conversion():
    drawn = sample(draw.block_casts(), 400)
    assert {c.nonfinite for c in drawn} == set(NONFINITES)
    assert {c.rule for c in drawn} == set(SCALE_RULES)
    assert {c.arithmetic for c in drawn} == set(ARITHMETICS)
    assert {c.tensor_scale for c in drawn} == {False, True}
    assert {len(c.block) for c in drawn} == {1, 2}


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
    drawn = np.concatenate(sample(draw.arrays_in(format, (8,), allow_nan=True, allow_infinity=True), 200))
    edges = [0.0, 1.0, min(2.0, format.max), format.max, format.min_normal, format.min_subnormal]
    edges += [format.min_normal - format.min_subnormal, 1 + format.eps]
    assert set(edges) | {-x for x in edges} <= set(drawn.tolist())
    assert (np.signbit(drawn) & (drawn == 0)).any() == format.has_signed_zero
    assert (drawn == -np.inf).any() == (drawn == np.inf).any() == format.has_inf
    assert np.isnan(drawn).any() == format.has_nan


def test_arrays_in_draws_every_value_of_a_narrow_format():
    assert len({str(value) for x in sample(draw.arrays_in("e2m1", (8,)), 300) for value in x}) == 16


def test_arrays_in_shrink_to_zeros_and_ones():
    assert shrunk(draw.arrays_in("bf16", (3,)), lambda x: (x > 0).any()).tolist() == [1, 1, 1]
    assert shrunk(draw.arrays_in("bf16"), lambda x: True).tolist() == 0.0
    assert shrunk(draw.arrays_in("e8m0", (2,)), lambda x: True).tolist() == [1, 1]
    assert shrunk(draw.arrays_in("e8m0", (1,)), lambda x: x[0] < 1).tolist() == [0.5]


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
    conditions = [
        lambda x: np.isnan(x[0]) and not x.view(unsigned)[0] & quiet,  # signaling
        lambda x: np.isnan(x[0]) and np.signbit(x[0]),
        lambda x: x[0] == np.array(np.inf, dtype),
        lambda x: x[0] == info.max,
        lambda x: x[0] == -info.smallest_subnormal,
        lambda x: x[0] == 0 and np.signbit(x[0]),
    ]
    for condition in conditions:
        with np.errstate(invalid="ignore"):
            x = shrunk(draw.float_arrays(dtype, (1,)), condition)
        assert x.dtype == dtype
    assert shrunk(draw.float_arrays(dtype, (1,)), lambda x: True).tolist() == [0.0]


@given(st.data(), st.sampled_from(FLOATS), st.booleans(), st.booleans())
def test_float_arrays_keep_to_their_flags(data, dtype, nan, infinity):
    x = data.draw(draw.float_arrays(dtype, allow_nan=nan, allow_infinity=infinity))
    with np.errstate(invalid="ignore"):  # a signaling NaN signals when looked at
        assert nan or not np.isnan(x).any()
        assert infinity or not np.isinf(x).any()


@given(st.data(), st.sampled_from(FLOATS))
def test_every_bit_pattern_equals_itself_in_both_equalities(data, dtype):
    """Signaling NaN included: no assertion warns, and none changes what it looks at."""
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
    assert shrunk(draw.shapes(), lambda shape: True) == ()
    assert shrunk(draw.shapes(min_side=0), lambda shape: 0 in shape) == (0,)


@given(draw.matmul_shapes())
def test_matmul_shapes_multiply(shapes):
    x, w = (np.ones(shape) for shape in shapes)
    y = x @ w
    assert x.ndim >= 2
    assert w.ndim >= 2
    assert (y == x.shape[-1]).all()


def test_matmul_shapes_are_batched_and_broadcast():
    x, w = shrunk(draw.matmul_shapes(), lambda s: len(s[0]) > len(s[1]) and s[0][0] > 1)
    assert (x, w) == ((2, 1, 1), (1, 1))
    x, w = shrunk(draw.matmul_shapes(), lambda s: s[0][:-2] != s[1][:-2] and len(s[0]) == len(s[1]))
    assert sorted([x[0], w[0]]) == [1, 2]


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
    @settings(database=None, phases=[Phase.generate, Phase.shrink])
    @given(draw.generators())
    def fails(rng):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as error:
        fails()
    assert "default_rng(0)" in "".join(error.value.__notes__)


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


@pytest.mark.parametrize("feature", [has_multi_edge, has_dead_end, is_shared])
def test_dags_have_every_feature_often(feature):
    share = np.mean([feature(dag) for dag in sample(draw.dags(), 200)])
    assert 0.1 < share < 0.95


def test_dags_draw_every_kind_and_every_earlier_node():
    kinds, distances = Counter(), Counter()

    for dag in sample(draw.dags(max_leaves=2, max_ops=4), 500):
        for node, (kind, inputs) in enumerate(dag.ops, dag.n_leaves):
            kinds[kind] += 1
            distances.update((node, i) for i in inputs)
    assert set(kinds) == set(draw.DEFAULT_KINDS)
    assert set(distances) == {(node, i) for node in range(1, 6) for i in range(node)}


def test_dags_shrink_to_chains():
    assert shrunk(draw.dags(), lambda dag: True) == Dag(1, (("tanh", (0,)),))
    assert shrunk(draw.dags(), lambda dag: len(dag.ops) == 3) == Dag(
        1, (("tanh", (0,)), ("tanh", (1,)), ("tanh", (2,)))
    )
    assert shrunk(draw.dags(), has_multi_edge) == Dag(1, (("add", (0, 0)),))
    adds = shrunk(draw.dags(), lambda dag: any(k == "add" and i[0] != i[1] for k, i in dag.ops))
    assert adds == Dag(2, (("add", (1, 0)),))


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
