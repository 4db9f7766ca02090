"""Running error analysis: every rule by hand, and every float32 evaluation within the bound."""

import math

import numpy as np
import pytest

from refscale import ops, special
from refscale.engine import Op
from refscale.errors import ArgumentError
from refscale.exact import Bounded, ErrorModel, as_bounded, bounded
from refscale.ops.sums import total
from refscale.scales import Scales
from tests.ops.cases import ALL_OPS, CASES, drawn

HALVES = ErrorModel(ulp=0.5, smallest=0.25, functions=2.0)
"""Coarse enough that every bound is a short decimal."""


def pair(y):
    """(value, bound) as lists."""
    return y.view(np.ndarray).tolist(), y.error.tolist()


def given_error(x, e, model=HALVES):
    return bounded(np.array(x, float), np.array(e, float), model)


X, Y = given_error([4.0, -2.0], [1.0, 0.5]), given_error([2.0, 8.0], [0.5, 2.0])

RULES = {  # expected bound: propagated + ulp·|value| + smallest
    "add": (lambda: X + Y, [6.0, 6.0], [1.5 + 3 + 0.25, 2.5 + 3 + 0.25]),
    "subtract": (lambda: X - Y, [2.0, -10.0], [1.5 + 1 + 0.25, 2.5 + 5 + 0.25]),
    "multiply": (lambda: X * Y, [8.0, -16.0], [4 * 0.5 + 2 + 0.5 + 4 + 0.25, 2 * 2 + 8 * 0.5 + 1 + 8 + 0.25]),
    "divide": (lambda: X / Y, [2.0, -0.25], [(1 + 2 * 0.5) / 1.5 + 1 + 0.25, (0.5 + 0.25 * 2) / 6 + 0.125 + 0.25]),
    "square": (lambda: X**2, [16.0, 4.0], [8 + 1 + 8 + 0.25, 2 + 0.25 + 2 + 0.25]),
    "negative": (lambda: -X, [-4.0, 2.0], [1.0, 0.5]),
    "absolute": (lambda: abs(X), [4.0, 2.0], [1.0, 0.5]),
    "maximum": (lambda: np.maximum(X, 0), [4.0, 0.0], [1.0, 0.5]),
    "minimum": (lambda: np.minimum(X, Y), [2.0, -2.0], [1.0, 2.0]),
    "sqrt": (lambda: np.sqrt(given_error([4.0], [3.0])), [2.0], [1.0 + 1 + 0.25]),
    "exp": (lambda: np.exp(given_error([0.0], [math.log(2)])), [1.0], [1.0 + 2 * (0.5 + 0.25)]),
    "log": (lambda: np.log(given_error([1.0], [0.5])), [0.0], [math.log(2) + 2 * 0.25]),
    "tanh": (lambda: np.tanh(given_error([0.0], [0.0])), [0.0], [2 * 0.25]),
    "sum": (lambda: X.sum(), 2.0, 1.5 + 1 * (0.5 * 6 + 0.25)),
    "sum of one": (lambda: X[:1].sum(), 4.0, 1.0),
    "sums by index": (lambda: np.add.reduceat(X, np.array([0])), [2.0], [1.5 + 0.5 * 6 + 0.25]),
    "max": (lambda: X.max(), 4.0, 1.0),
    "matmul": (
        lambda: (X[None] @ Y[:, None])[0],
        [-8.0],
        [(2 * 0.5 + 0.5) * 24 + 2 * 0.25 + (4 * 0.5 + 2 * 2) + (2 + 4) + 1.5],
    ),
    "where": (lambda: np.where([True, False], X, 1.0), [4.0, 1.0], [1.0, 0.0]),
    "concatenate": (lambda: np.concatenate([X, np.ones(1)]), [4.0, -2.0, 1.0], [1.0, 0.5, 0.0]),
    "pad": (lambda: np.pad(X, (1, 0), constant_values=-np.inf), [-np.inf, 4.0, -2.0], [0.0, 1.0, 0.5]),
    "zeros_like": (lambda: np.zeros_like(X), [0.0, 0.0], [0.0, 0.0]),
    "spacing": (lambda: as_bounded(np.spacing(X)), [2.0**-50, -(2.0**-51)], [0.0, 0.0]),
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule(name):
    expression, value, error = RULES[name]
    found, bound = pair(expression())
    assert found == pytest.approx(value, rel=1e-15)
    assert bound == pytest.approx(error, rel=1e-12)


def test_a_divisor_that_may_be_zero_has_no_bound():
    assert pair(given_error([1.0], [0.0]) / given_error([2.0], [2.0]))[1] == [math.inf]


def test_a_value_that_is_not_finite_has_the_bound_0():
    assert pair(np.log(given_error([0.0, 1.0], [0.0, 0.0])))[1] == [0.0, 0.5]
    assert pair(given_error([1.0], [0.0]) / 0.0) == ([math.inf], [0.0])


def test_products_follow_their_accumulator():
    """K = 3, T = 3: a block of 3 cuts 4 terms by 2^-4·T, its sum of 5 bits by 2^-4·T; + 2u·T."""
    x = as_bounded(np.ones((1, 3), np.float32), ErrorModel.of("truncated:4:8"))
    ((y,),), ((bound,),) = pair(x @ np.ones((3, 1)))
    assert y == 3.0
    assert bound == pytest.approx(5 * 2.0**-4 * 3 + 2.0**-23 * 3, rel=1e-12)


def test_products_below_the_floor_of_their_accumulator():
    """2^-10, aligned to 2^0 and cut to multiples of 2^-8, is lost: 3·2^-8·(2^-10 + 2^0) bounds that."""
    x = as_bounded(np.float32([[2.0**-10]]), ErrorModel.of("truncated:8:4:floor=0"))
    bound = pair(x @ np.ones((1, 1)))[1][0][0]
    assert bound == pytest.approx(3 * 2.0**-8 * (1 + 2.0**-10) + 2.0**-33, rel=1e-12)
    assert ErrorModel.of("truncated:13:32:emin=-6/-14").accumulator.emin == (-6, -6)
    with pytest.raises(ArgumentError, match=r"sideways"):
        ErrorModel.of("sideways")


def test_special_functions_have_eight_ulp_and_twice_the_change():
    model = ErrorModel()
    value, derivative = special.silu(bounded(np.array([0.0]), np.array([0.25]), model))
    change = special.silu(np.array([0.25]))[0][0]  # larger than at −0.25
    assert pair(value)[1] == pytest.approx([2 * change + 8 * 8 * model.smallest])
    assert pair(derivative)[1][0] == pytest.approx(
        2 * (special.silu(np.array([0.25]))[1][0] - 0.5) + 8 * 2.0**-23 * 0.5
    )


def test_derivatives_are_bounded_where_they_cross_zero():
    _, derivative = special.silu(as_bounded(np.array([-1.278464542761074])))
    assert abs(derivative.view(np.ndarray)[0]) < 1e-12
    assert derivative.error[0] == pytest.approx(8 * 2.0**-23 / 8)


def test_in_place_and_by_index():
    x = given_error([[1.0, 2.0]], [[0.5, 0.25]])
    row = x[0]
    row[1] = Y[0]
    row += 1.0
    assert pair(x) == ([[2.0, 3.0]], [[0.5 + 1 + 0.25, 0.5 + 1.5 + 0.25]])


def test_the_type_is_kept_by_moves_and_lost_by_comparisons():
    x = given_error([[1.0, 2.0]], [[0.5, 0.25]])
    for moved in (x.T, x.reshape(2, 1), x.swapaxes(0, 1), np.moveaxis(x, 0, 1), x.copy().T, x.astype(np.float32).T):
        assert pair(moved) == ([[1.0], [2.0]], [[0.5], [0.25]])
    assert type(x > 1) is np.ndarray
    assert type(x.argmax(-1)) is np.ndarray
    assert x.astype(np.int64).dtype == np.int64
    assert as_bounded(np.arange(3)).dtype.kind == "i"


@pytest.mark.parametrize(
    "call",
    [
        lambda: np.sin(X),
        lambda: np.cumsum(X),
        lambda: X**3,
        lambda: np.hypot(X, Y),
        lambda: X.cumsum().error,
        lambda: np.linalg.norm(X),
        lambda: np.add(np.ones(2), X, out=np.ones(2)),
        lambda: np.add.reduce(X, where=np.array([True, False])),
    ],
)
def test_what_has_no_rule_is_refused(call):
    with pytest.raises(ArgumentError, match=r"no rule|cannot hold"):
        call()


# --- Ops --------------------------------------------------------------------------------------------------------------


def bounded_results(op, arrays, scales):
    g = np.random.default_rng(5).standard_normal(np.shape(op.forward(*arrays)[0])).astype(np.float32)
    y, gradients = op.bound(scales, g, *arrays)
    y32, kept = op.forward(*arrays)
    pieces = op.backward(g, *kept)
    factors = (scales.alpha, *(b for b in scales.beta))
    results = [(y, y32), *zip(gradients, pieces, strict=True)]
    return [(bound, np.asarray(np.float32(f) * r)) for f, (bound, r) in zip(factors, results, strict=True) if f]


def outside(op, arrays, scales):
    """Results that err by more than their bound, as (place among the results, error by bound)."""
    found = []
    for i, (bound, actual) in enumerate(bounded_results(op, arrays, scales)):
        assert isinstance(bound, Bounded)
        assert bound.shape == actual.shape
        with np.errstate(invalid="ignore"):
            error = np.abs(actual.astype(np.float64) - bound.view(np.ndarray))
        limit = bound.error + 2.0**-24 * np.abs(actual) + 2.0**-150
        found += [(i, float(e / b)) for e, b in zip(error.ravel(), limit.ravel(), strict=True) if e > b]
    return found


def call(case, seed, alpha=1.7, beta=0.3):
    arrays = [a.astype(np.float32) if a.dtype.kind == "f" else a for a in case.arrays(np.random.default_rng(seed))]
    betas = tuple(None if i in case.op.constants else beta for i in range(len(arrays)))
    return case.op, arrays, Scales(alpha, betas)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_readable_form_is_within_its_bound(case):
    for seed in range(3):
        assert outside(*call(case, seed)) == []


@pytest.mark.parametrize("kind", ALL_OPS, ids=lambda op: op.__name__)
def test_of_any_shape(kind):
    for case, seed in drawn(kind):
        assert outside(*call(case, seed)) == []


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_bound_is_less_than_a_thousand_ulp_of_the_tensor(case):
    """So that a factor off by a thousandth is seen: of these small shapes, in ulp of the largest element."""
    for bound, _ in bounded_results(*call(case, 0)):
        largest = np.max(np.abs(bound.view(np.ndarray)), initial=0)
        assert np.max(bound.error, initial=0) <= 1000 * 2.0**-23 * largest + 2.0**-140


class _Approximate(ops.Exp):
    """exp with an error of a thousandth."""

    def forward(self, x):
        y, kept = ops.Exp().forward(x)
        return (y * np.float32(1.001) if type(y) is np.ndarray else y), kept


def test_a_wrong_forward_is_outside():
    x = np.linspace(-2, 2, 5, dtype=np.float32)
    assert outside(ops.Exp(), [x], Scales(1.0, (1.0,))) == []
    assert [i for i, _ in outside(_Approximate(), [x], Scales(1.0, (1.0,)))] == [0] * 5


def test_a_sum_in_the_worst_order_is_inside_and_one_that_loses_a_term_is_not():
    x = np.random.default_rng(0).standard_normal(4096).astype(np.float32)
    bound = as_bounded(x).sum()
    slow = np.float32(0)
    for term in x:
        slow += term
    exact = math.fsum(x.astype(np.float64))
    assert abs(float(slow) - exact) <= bound.error
    assert abs(total(x[:-1]) - exact) > bound.error or abs(x[-1]) <= bound.error


def test_moves_have_no_error():
    x = np.ones((2, 3, 3), np.float32)
    y, (g,) = ops.RelativeShift().bound(Scales(1.0, (1.0,)), x, x)
    assert not y.error.any()
    assert not g.error.any()
    y, (g,) = ops.Reshape((6, 3)).bound(Scales(2.0, (1.0,)), x.reshape(6, 3), x)
    assert y.error.tolist() == np.full((6, 3), 2 * 2.0**-23 + 2.0**-149).tolist()


def test_gelu_allows_an_ulp_of_its_argument():
    """Beside the bound of its form: Φ as ½(1 + erf) cancels where x < 0."""
    x, scales = np.float32([-3.0, 2.0]), Scales(1.5, (1.0,))
    own, derived = (y.error for y, _ in (ops.Gelu().bound(scales, None, x), Op.bound(ops.Gelu(), scales, None, x)))
    assert own - derived == pytest.approx(2.0**-23 * 1.5 * np.abs(x), rel=1e-6)


def test_an_op_may_declare_its_own():
    class Tight(ops.Relu):
        def bound(self, scales, gradient, *arrays, model=None):
            return super().bound(scales, gradient, *arrays, model=ErrorModel(0.0, 0.0))

    x = np.array([-1.0, 2.0], np.float32)
    y, (g,) = Tight().bound(Scales(3.0, (1.0,)), x, x)
    assert pair(y) == ([0.0, 6.0], [0.0, 0.0])
    assert isinstance(Tight(), Op)
    assert pair(g)[1] == [0.0, 0.0]
