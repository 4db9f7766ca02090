"""Correctly rounded products, against rational arithmetic; sums, against ``math.fsum``."""

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale import exact
from refscale.errors import ArgumentError, CarrierError, ShapeError
from refscale.exact import errorfree
from refscale.exact.product import _errors
from refscale.formats import Cast, quantize, round_exact
from refscale.testing.equality import assert_same_bits

PAIRS = [
    ("float8_e4m3fn", "float8_e4m3fn"),
    ("float8_e4m3fn", "float8_e5m2"),
    ("float8_e5m2", "float8_e5m2"),
    ("float16", "float16"),
    ("bfloat16", "float32"),
    ("float32", "float32"),
    ("float64", "float64"),
]
OUTPUTS = ("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2fnuz")
MODES = ("nearest_even", "nearest_away", "toward_zero", "up", "down")
FLOAT16 = Cast("float16", "nearest_even", "nonsaturate")
FLOAT32 = Cast("float32", "nearest_even", "nonsaturate")


def as_integers(x):
    """Floats as integers over one denominator, a power of two."""
    ratios = [v.as_integer_ratio() for v in x.ravel().tolist()]
    denominator = max((d for _, d in ratios), default=1)
    return np.array([n * (denominator // d) for n, d in ratios], object).reshape(x.shape), denominator


def in_rationals(a, b, cast, factor=1.0):
    """The definition, one output at a time; sums in Python's integers, as those of Fractions are slow."""
    (left, p), (right, q) = as_integers(a), as_integers(b)
    totals = left @ right
    out = np.empty(totals.shape, np.float32)
    for i, j in np.ndindex(out.shape):
        total = Fraction(totals[i, j], p * q) * Fraction(factor)
        out[i, j] = round_exact(total, cast.format, rounding=cast.rounding, overflow=cast.overflow)
    return out


def adversarial(rng, pair, kind, rows, inner, columns):
    """Operands in the pair's formats: wide exponents, cancelling halves, or sums beside ties."""

    def narrow(x, format):
        return x if format == "float64" else quantize(x, format, rounding="nearest_even", overflow="saturate")

    spread = {"wide": 12, "cancelling": 8, "ties": 2}[kind]
    a = rng.standard_normal((rows, inner)) * 2.0 ** rng.integers(-spread, spread, (rows, inner))
    b = rng.standard_normal((inner, columns)) * 2.0 ** rng.integers(-spread, spread, (inner, columns))
    a, b = narrow(a, pair[0]), narrow(b, pair[1])
    half = inner // 2
    if kind == "cancelling" and half:
        a[:, :half], b[:half] = a[:, half : 2 * half], -b[half : 2 * half]
    if kind == "ties" and inner >= 3:  # 1 + 2^-11 ± tiny: the last term decides a float16 tie
        a[:, :3], b[:3] = [[1, 2.0**-5, 2.0**-14]], [[1.0], [2.0**-6], [2.0**-14]]
        a[:, 3:] = 0
        a[rows // 2 :, 2] *= -1
        b[0, columns // 2 :] = 1 + 2.0**-2
    return a, b


def check(matmul, rng, pair, kind, output, mode, inner, factor, rows=5, columns=4):
    a, b = adversarial(rng, pair, kind, rows, inner, columns)
    cast = Cast(output, mode, "nonsaturate")
    assert_same_bits(matmul(a, b, cast, factor), in_rationals(a, b, cast, factor))
    return rows * columns


@pytest.mark.parametrize("kind", ["wide", "cancelling", "ties"])
@pytest.mark.parametrize("pair", PAIRS, ids="·".join)
def test_adversarial_outputs_against_rationals(pair, kind):
    rng = np.random.default_rng(1)
    for output in OUTPUTS:
        for mode in MODES:
            for inner in (1, 7, 33):
                check(exact.matmul, rng, pair, kind, output, mode, inner, (1.0, -0.7, 33**-0.5)[inner % 3])


@pytest.mark.slow
def test_a_hundred_thousand_adversarial_outputs():
    rng = np.random.default_rng(2)
    count = 0
    while count < 100_000:
        for pair in PAIRS:
            for kind in ("wide", "cancelling", "ties"):
                for output in OUTPUTS:
                    for mode in MODES:
                        inner = int(rng.integers(1, 40))
                        factor = (1.0, 0.25, -1.0, 33**-0.5, 0.7)[int(rng.integers(5))]
                        count += check(exact.matmul, rng, pair, kind, output, mode, inner, factor)
    print(f"{count} outputs, 0 mismatches")


@given(
    st.integers(1, 4), st.integers(0, 9), st.integers(1, 4), st.sampled_from(OUTPUTS), st.sampled_from(MODES), st.data()
)
def test_any_float32_operands(rows, inner, columns, output, mode, data):
    """With subnormals, zeros of both signs, and numbers near the largest."""
    element = st.floats(width=32, allow_nan=False, allow_infinity=False)
    flat = data.draw(st.lists(element, min_size=inner * (rows + columns), max_size=inner * (rows + columns)))
    x = np.array(flat, np.float32)
    a, b = x[: rows * inner].reshape(rows, inner), x[rows * inner :].reshape(inner, columns)
    cast = Cast(output, mode, "nonsaturate")
    assert_same_bits(exact.matmul(a, b, cast), in_rationals(a, b, cast))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("output", OUTPUTS)
def test_a_sum_that_cancels_far_beyond_the_format(output, mode):
    """Its error leaves both signs open; formats without infinity overflow to one NaN on either side."""
    big, small = np.float32(2.0**55 * 1.5), np.float32(2.0**55 * 1.25 + 2.0**33)
    a, b = np.array([[big, small, 1]], np.float32), np.array([[small, 1], [-big, 0], [0.5, 2]], np.float32)
    cast = Cast(output, mode, "nonsaturate")
    assert_same_bits(exact.matmul(a, b, cast), in_rationals(a, b, cast))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("size", [3.5947239884980224e16, 1e18])
def test_a_product_about_the_end_of_float32(output, mode, size):
    a, b = np.float32([[9.466158840966506e21, 1]]), np.float32([[size, -size], [0.3, 0.3]])
    cast = Cast(output, mode, "nonsaturate")
    assert_same_bits(exact.matmul(a, b, cast), in_rationals(a, b, cast))


@pytest.mark.parametrize("factor", [2.0**-300, -(2.0**300), 2.0**-299 * 0.7, 2.0**299 * 1.1])
@pytest.mark.parametrize("kind", ["wide", "cancelling", "ties"])
def test_factors_about_the_ends_of_their_range(kind, factor):
    """Against operands that make up for them, so that every bit of the result is there to be wrong."""
    rng = np.random.default_rng(9)
    away = 2.0 ** -(math.frexp(factor)[1] // 2)
    for pair in (("float16", "float16"), ("float64", "float64")):
        a, b = adversarial(rng, pair, kind, 4, 9, 3)
        a, b = a.astype(np.float64) * away, b.astype(np.float64) * away
        for mode in ("nearest_even", "down"):
            cast = Cast("float32", mode, "nonsaturate")
            assert_same_bits(exact.matmul(a, b, cast, factor), in_rationals(a, b, cast, factor))
        y = exact.matmul_float64(a, b, factor)
        for i, j in np.ndindex(y.shape):
            terms = zip(a[i].tolist(), b[:, j].tolist(), strict=True)
            total = sum((Fraction(u) * Fraction(v) for u, v in terms), Fraction(0))
            assert y[i, j] == float(total * Fraction(factor))


def test_matmul_float64_is_the_real_number_rounded():
    rng = np.random.default_rng(3)
    for pair in PAIRS:
        for kind in ("wide", "cancelling"):
            a, b = adversarial(rng, pair, kind, 4, 17, 3)
            for factor in (1.0, 0.3):
                y = exact.matmul_float64(a, b, factor)
                for i, j in np.ndindex(y.shape):
                    terms = zip(a[i].tolist(), b[:, j].tolist(), strict=True)
                    total = sum((Fraction(u) * Fraction(v) for u, v in terms), Fraction(0))
                    # numbers.Rational → float rounds once; a factor rounds once more where the product was exact
                    assert y[i, j] == float(total * Fraction(factor)), (pair, kind, factor)


@pytest.mark.parametrize("bits", [(26, 24), (26, 25), (27, 27), (29, 27)])
def test_integers_about_the_limit_of_exact_partial_sums(bits):
    """Sums below and beyond 2^53 units: whether a float64 product needs no bound is decided to the bit."""
    rng = np.random.default_rng(8)
    a, b = (rng.integers(2 ** (n - 1), 2**n, shape) | 1 for n, shape in zip(bits, [(6, 8), (8, 6)], strict=True))
    y = exact.matmul_float64(a.astype(np.float64), b.astype(np.float64))
    for i, j in np.ndindex(y.shape):
        assert y[i, j] == float(sum(Fraction(int(u) * int(v)) for u, v in zip(a[i], b[:, j], strict=True)))


def test_the_bound_on_a_float64_product_by_hand():
    """(K + 4)·2^-53·‖a‖·‖b‖, times the factor; products of few bits are exact."""
    a, b = np.array([[3.0, 4.0], [5.0, 12.0]]), np.array([[0.6], [0.8]])
    row, column = _errors(a, b, -0.5)
    for found, right in zip(np.outer(row, column)[:, 0].tolist(), (5.0, 13.0), strict=True):
        bound = 6 * 2.0**-53 * right * 0.5
        assert bound <= found <= bound * (1 + 2.0**-40)
    assert _errors(a, np.array([[0.5], [0.25]]), -0.5) is None


def test_many_doubtful_outputs_are_summed_together():
    """Total cancellation of a whole matrix takes another path than that of a few elements."""
    rng = np.random.default_rng(4)
    a, b = adversarial(rng, ("float16", "float16"), "cancelling", 40, 64, 30)
    some = exact.matmul(a, b, FLOAT32)
    single = [exact.matmul(a[i : i + 1], b[:, j : j + 1], FLOAT32).item() for i in range(40) for j in range(30)]
    assert_same_bits(some, np.float32(single).reshape(40, 30))


# --- wrong products are rejected ------------------------------------------------------------------------------------


def in_float64(a, b, cast, factor):
    return cast(np.asarray(a, np.float64) @ np.asarray(b, np.float64) * factor)


def in_float32(a, b, cast, factor):
    return cast((a.astype(np.float32) @ b.astype(np.float32)) * np.float32(factor))


def rounded_before_the_factor(a, b, cast, factor):
    return cast(exact.matmul(a, b, cast) * np.float64(factor))


def through_float32(a, b, cast, factor):
    return cast(exact.matmul(a, b, FLOAT32, factor))


def without_the_factor(a, b, cast, factor):
    return exact.matmul(a, b, cast)


@pytest.mark.parametrize(
    ("wrong", "kind", "inner"),
    [
        (in_float64, "cancelling", 34),
        (in_float32, "cancelling", 34),
        (rounded_before_the_factor, "wide", 33),
        (through_float32, "ties", 7),
        (without_the_factor, "wide", 7),
    ],
)
def test_wrong_products_are_rejected(wrong, kind, inner):
    rng = np.random.default_rng(5)
    factor = 1.0 if wrong in (through_float32, in_float64) else 0.7
    output, mode = ("float16", "nearest_even") if wrong is not in_float64 else ("float32", "nearest_even")
    pair = ("float32", "float32") if wrong is in_float64 else ("float16", "float16")
    with pytest.raises(AssertionError):
        check(wrong, rng, pair, kind, output, mode, inner, factor, 12, 12)


# --- inf, NaN, zeros, shapes ----------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([0.0, -0.0, 1.0, -2.0, math.inf, -math.inf, math.nan]), min_size=12, max_size=12))
def test_infinities_and_nan_as_ieee_754(elements):
    a, b = np.float32(elements[:6]).reshape(2, 3), np.float32(elements[6:]).reshape(3, 2)
    y = exact.matmul(a, b, FLOAT16)
    with np.errstate(invalid="ignore"):
        products = a[:, :, None] * b[None]
        expected = np.array([[math.nan if np.isnan(p).any() else _ieee_sum(p) for p in row.T] for row in products])
    assert np.array_equal(y, expected, equal_nan=True)


def _ieee_sum(terms):
    infinite = set(terms[np.isinf(terms)].tolist())
    if len(infinite) == 2:
        return math.nan
    return infinite.pop() if infinite else float(terms.sum())


def test_zero_sums_are_positive_and_infinities_take_the_sign_of_the_factor():
    minus = np.float32([[-0.0, -0.0]])
    assert_same_bits(exact.matmul(minus, np.ones((2, 1)), FLOAT16), np.float32([[0.0]]))
    assert_same_bits(exact.matmul(np.float32([[1, -1]]), np.ones((2, 1)), FLOAT16, -1.0), np.float32([[0.0]]))
    assert exact.matmul(np.float32([[math.inf]]), np.float32([[2]]), FLOAT16, -1.0).item() == -math.inf
    assert exact.matmul(np.float32([[300.0]]), np.float32([[300.0]]), FLOAT16).item() == math.inf


def test_zero_sums_in_float64_are_positive():
    for a in ([[-0.0]], [[0.0]]):
        for factor in (1.0, -1.0):
            assert_same_bits(exact.matmul_float64(np.array(a), np.ones((1, 1)), factor), np.array([[0.0]]))


def test_a_start_value_is_a_term_of_the_sum():
    """1 + 2^-24 is a tie of float32, to even 1; with 2^-40 it is above, whichever of the three is the start value."""
    float32 = Cast("float32", "nearest_even", "nonsaturate")
    up, terms = 1 + 2.0**-23, np.float32([1, 2.0**-24, 2.0**-40])
    for i in range(3):
        products = np.delete(terms, i)[None]
        assert exact.matmul(products, np.ones((2, 1), np.float32), float32, c=terms[i, None, None]).item() == up
    assert exact.matmul(terms[None, 1:], np.ones((2, 1), np.float32), float32, 2.0, terms[:1, None]).item() == 2 * up


def test_start_values_of_every_kind():
    a, b = np.float32([[2.0], [0.0]]), np.float32([[3.0, np.inf]])
    c = np.float32([[np.inf, -np.inf], [np.nan, 1.0]])
    y = exact.matmul(a, b, FLOAT16, c=c)
    assert_same_bits(y, np.float32([[np.inf, np.nan], [np.nan, np.nan]]))
    minus = exact.matmul(np.zeros((1, 0)), np.zeros((0, 2)), FLOAT16, c=np.float32([[-0.0, 70000]]))
    assert_same_bits(minus, np.float32([[0.0, np.inf]]))
    assert_same_bits(exact.matmul(a, b[:, :1], FLOAT16, c=np.float16(1)), np.float32([[7], [1]]))
    batch = exact.matmul(np.stack([a, -a]), b[:, :1], FLOAT16, c=np.float32([[[1], [2]], [[3], [4]]]))
    assert batch[..., 0].tolist() == [[7, 2], [-3, 4]]


@pytest.mark.parametrize(
    ("c", "error", "text"),
    [
        (np.zeros((1, 1)), CarrierError, "c is float64, expected float16, bfloat16 or float32"),
        (np.zeros((2, 3), np.float32), ShapeError, r"c \(2, 3\), expected the shape of the sums, \(1, 1\)"),
    ],
)
def test_what_is_no_start_value(c, error, text):
    one = np.ones((1, 1), np.float32)
    for call in (exact.matmul, lambda a, b, cast, c: exact.interval(a, b, "any-order", cast, c=c)):
        with pytest.raises(error, match=text):
            call(one, one, FLOAT16, c=c)


def test_the_bound_from_a_start_value_by_hand():
    """Any order, K = 1, c = 3: two terms, T = 5, γ of 3 roundings, and 2·2^-149 for underflow."""
    two, one = np.float32([[2]]), np.float32([[1]])
    found = exact.bound(two, one, "any-order", np.float32([[-3]])).item()
    u = 2.0**-24
    assert found == pytest.approx(5 * 3 * u / (1 - 3 * u), rel=1e-12)
    assert exact.bound(two, one, "any-order").item() == pytest.approx(2 * 2 * u / (1 - 2 * u), rel=1e-12)
    low, high = exact.interval(
        two, one, "any-order", Cast("float32", "nearest_even", "nonsaturate"), c=[[np.float32(3)]]
    )
    assert low.item() < 5 < high.item()
    assert high.item() - 5 == pytest.approx(found + 5 * 2.0**-22, rel=0.3)


def test_empty_operands():
    assert_same_bits(exact.matmul(np.zeros((2, 0)), np.zeros((0, 3)), FLOAT16), np.zeros((2, 3), np.float32))
    assert exact.matmul(np.zeros((0, 4)), np.zeros((4, 3)), FLOAT16).shape == (0, 3)
    assert exact.matmul(np.zeros((5, 0, 4)), np.zeros((4, 3)), FLOAT16).shape == (5, 0, 3)
    assert exact.matmul_float64(np.zeros((2, 0)), np.zeros((0, 3))).tolist() == [[0.0] * 3] * 2


def test_leading_axes_broadcast_and_operands_of_any_float_dtype():
    rng = np.random.default_rng(6)
    a, b = rng.standard_normal((4, 1, 2, 5)).astype(np.float16), rng.standard_normal((3, 5, 2)).astype(np.float16)
    y = exact.matmul(a, b, FLOAT16)
    assert y.shape == (4, 3, 2, 2)
    for i, j in np.ndindex(4, 3):
        assert_same_bits(y[i, j], exact.matmul(a[i, 0], b[j], FLOAT16))
    narrow = a.astype(ml_dtypes.bfloat16)
    assert_same_bits(exact.matmul(narrow, b, FLOAT16), exact.matmul(narrow.astype(np.float64), b, FLOAT16))


def test_operands_are_not_written_to():
    a, b = np.full((2, 3), 1e-3), np.full((3, 2), np.inf)
    before = a.copy(), b.copy()
    exact.matmul(a, b, FLOAT16, 0.3)
    assert_same_bits(a, before[0])
    assert_same_bits(b, before[1])


def test_bad_calls_are_named():
    one = np.ones((1, 1))
    with pytest.raises(ShapeError, match=r"exact.matmul: a \(1, 1\) and b \(2, 1\)"):
        exact.matmul(one, np.ones((2, 1)), FLOAT16)
    with pytest.raises(ShapeError, match="do not broadcast"):
        exact.matmul(np.ones((2, 1, 1)), np.ones((3, 1, 1)), FLOAT16)
    with pytest.raises(CarrierError, match="b is int64"):
        exact.matmul(one, np.ones((1, 1), np.int64), FLOAT16)
    with pytest.raises(ArgumentError, match="deterministic"):
        exact.matmul(one, one, Cast("float16", "stochastic", "saturate"))
    for factor in (0.0, math.inf, math.nan, 2.0**300 * (1 + 2.0**-52), 2.0**-300 * (1 - 2.0**-53)):
        with pytest.raises(ArgumentError, match=r"factor is .*, expected a magnitude of 2\^-300 to 2\^300"):
            exact.matmul(one, one, FLOAT16, factor)
    with pytest.raises(ArgumentError, match="factor is 'a', expected a number"):
        exact.matmul(one, one, FLOAT16, "a")
    with pytest.raises(ArgumentError, match=r"exact.matmul: cast is 'bf16', expected a Cast"):
        exact.matmul(one, one, "bf16")
    with pytest.raises(ArgumentError, match=r"2\^-200 to 2\^200"):
        exact.matmul(one * 1e-200, one, FLOAT16)


# --- sums -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=40))
def test_sums_are_those_of_fsum(terms):
    rational = sum(map(Fraction, terms), Fraction(0))
    try:
        expected = float(rational) + 0.0
    except OverflowError:
        expected = math.inf if rational > 0 else -math.inf
    assert_same_bits(exact.sum(np.array(terms)), np.float64(expected))


def test_sums_along_axes():
    rng = np.random.default_rng(7)
    x = rng.standard_normal((3, 4, 50)) * 2.0 ** rng.integers(-60, 60, (3, 4, 50))
    x[..., 25:] = -x[..., :25] * (1 + 2.0**-52)
    for axis in (None, 0, -1, (0, 2), (2, 1, 0), ()):
        y = exact.sum(x, axis)
        kept = exact.sum(x, axis, keepdims=True)
        axes = range(3) if axis is None else (axis,) if isinstance(axis, int) else axis
        assert kept.shape == tuple(1 if i in [a % 3 for a in axes] else n for i, n in enumerate(x.shape))
        assert y.shape == x.sum(axis).shape
        assert_same_bits(y, kept.reshape(y.shape))
    assert_same_bits(exact.sum(x, -1), np.array([[math.fsum(row) for row in plane] for plane in x]))
    with pytest.raises(AssertionError):
        assert_same_bits(x.sum(-1), exact.sum(x, -1))


def test_sums_of_infinities_nothing_and_zeros():
    inf = math.inf
    assert exact.sum(np.array([inf, 1, inf])).item() == inf
    assert exact.sum(np.array([-1.7e308, -1.7e308, 1e308])).item() == -inf
    assert exact.sum(np.array([-1.7e308, -1.7e308, 1.7e308])).item() == -1.7e308
    assert math.isnan(exact.sum(np.array([inf, -inf])).item())
    assert math.isnan(exact.sum(np.array([math.nan, inf])).item())
    assert_same_bits(exact.sum(np.array([-0.0, -0.0])), np.float64(0.0))
    assert_same_bits(exact.sum(np.zeros((0, 2)), 0), np.zeros(2))
    for axis in (2, 1.5, "a", (0, 0)):
        with pytest.raises(ShapeError, match="axis "):
            exact.sum(np.zeros(3), axis)
    assert exact.sum(np.ones((2, 3)), np.int64(1)).tolist() == [3.0, 3.0]
    with pytest.raises(CarrierError, match="int64"):
        exact.sum(np.arange(3))


@pytest.mark.parametrize("sign", [1, -1])
def test_what_follows_a_tie_decides_it(sign):
    """Half an ulp above 1, which is even, and above 1 + 2^-52, which is odd; and a little more or less."""
    for first, rest, expected in (
        (1.0, 0.0, 1.0),
        (1.0, 2.0**-110, 1 + 2.0**-52),
        (1.0, -(2.0**-110), 1.0),
        (1 + 2.0**-52, 0.0, 1 + 2.0**-51),
        (1 + 2.0**-52, 2.0**-110, 1 + 2.0**-51),
        (1 + 2.0**-52, -(2.0**-110), 1 + 2.0**-52),
    ):
        parts = [np.array([sign * part]) for part in (first, 2.0**-53, rest)]
        assert errorfree.nearest(parts).item() == sign * expected, (first, rest)


@given(st.lists(st.integers(-(2**60), 2**60), min_size=1, max_size=12), st.integers(-30, 30))
def test_odd_rounding_keeps_what_a_later_rounding_needs(terms, shift):
    """Rounded to odd in float64 and then to float32 is rounded once."""
    parts = [np.array([math.ldexp(float(t), shift)]) for t in terms]
    total = sum((Fraction(p.item()) for p in parts), Fraction(0))
    folded = errorfree.sum_rows(np.array([[p.item() for p in parts]]))
    once = round_exact(total, FLOAT32.format, rounding="nearest_even", overflow="nonsaturate")
    assert FLOAT32(errorfree.odd(folded)).item() == once
    assert errorfree.nearest(folded).item() == float(total)
