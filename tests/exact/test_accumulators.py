"""Models of hardware sums: each against its definition in rationals, and each within its bound."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale import exact
from refscale.errors import ArgumentError, CarrierError, ShapeError
from refscale.exact.accumulators import InOrder, Rounded, Truncated
from refscale.formats import Cast, quantize, round_exact
from refscale.testing.equality import assert_same_bits

FLOAT16 = Cast("float16", "nearest_even", "nonsaturate")
MODELS = (
    "float32",
    "float32:4",
    "float32:16",
    "rounded:1",
    "rounded:4",
    "rounded:32",
    "truncated:13:32",
    "truncated:10:4",
    "truncated:25:8",
    "truncated:13:8:24",
    "truncated:13:8:floor=-4",
    "truncated:13:8:24:floor=-3:emin=-6",
    "truncated:10:8:emin=-1/-2",
)


def fl(x, rounding="nearest_even"):
    """A rational rounded to float32."""
    overflow = "saturate" if rounding == "toward_zero" else "nonsaturate"
    return Fraction(round_exact(x, "float32", rounding=rounding, overflow=overflow))


def exponent(x):
    """e where 2^e ≤ |x| < 2^(e + 1), by counting."""
    e = 0
    while Fraction(2) ** e > abs(x):
        e -= 1
    while Fraction(2) ** (e + 1) <= abs(x):
        e += 1
    return e


def in_order(pairs, total=Fraction(0)):
    """s ← fl(s + fl(a·b))."""
    for a, b in pairs:
        total = fl(total + fl(a * b))
    return total


def in_exact_blocks(pairs, block, total=Fraction(0)):
    """s ← fl(s + Σ a·b)."""
    for start in range(0, len(pairs), block):
        total = fl(total + sum((a * b for a, b in pairs[start : start + block]), Fraction(0)))
    return total


def truncated(pairs, bits, block, total=Fraction(0), floor=-1000, emin=(-1000, -1000)):
    """Aligned to the largest exponent, cut to multiples of 2^(e_max − bits), added, cut to bits + 1 or 24 bits."""
    of_sum = -126 if emin[0] > -1000 else -1000
    for start in range(0, len(pairs), block):
        some = [(a, b) for a, b in pairs[start : start + block] if a * b]
        exponents = [max(exponent(a), emin[0]) + max(exponent(b), emin[1]) for a, b in some]
        if total:
            some, exponents = [*some, (total, Fraction(1))], [*exponents, max(exponent(total), of_sum)]
        if some:
            grain = Fraction(2) ** (max(floor, *exponents) - bits)
            total = sum((int(a * b / grain) * grain for a, b in some), Fraction(0))
        if total:
            grain = Fraction(2) ** max(exponent(total) + 1 - min(bits + 1, 24), -149)
            total = int(total / grain) * grain
    return total


def by_definition(name, pairs, start=Fraction(0)):
    kind, *words = name.split(":")
    numbers = [int(w) for w in words if "=" not in w]
    given = dict(w.split("=") for w in words if "=" in w)
    options = {}
    if "floor" in given:
        options["floor"] = int(given["floor"])
    if "emin" in given:
        left, _, right = given["emin"].partition("/")
        options["emin"] = int(left), int(right or left)
    if kind == "rounded":
        return in_exact_blocks(pairs, *numbers, start)
    plain = 0 if kind == "float32" else 2  # sizes before that of promotion
    if len(numbers) == plain:
        return in_order(pairs, start) if kind == "float32" else truncated(pairs, *numbers, start, **options)
    total, size = start, numbers[plain]
    for first in range(0, len(pairs), size):
        part = pairs[first : first + size]
        total = fl(total + (in_order(part) if kind == "float32" else truncated(part, *numbers[:2], **options)))
    return total


def operands(rng, inner, rows=3, columns=3, format="float8_e4m3fn", spread=5):
    def make(*shape):
        x = rng.standard_normal(shape) * 2.0 ** rng.integers(-spread, spread + 1, shape)
        return quantize(x, format, rounding="nearest_even", overflow="saturate")

    return make(rows, inner), make(inner, columns)


def pairs(a, b, i, j):
    return [(Fraction(x), Fraction(y)) for x, y in zip(a[i].tolist(), b[:, j].tolist(), strict=True)]


def check_model(name, sums, format="float8_e4m3fn"):
    rng = np.random.default_rng(1)
    for inner in (0, 1, 3, 4, 9, 40, 70):
        a, b = operands(rng, inner, format=format)
        y = sums(a, b)
        for i, j in np.ndindex(y.shape):
            assert Fraction(y[i, j].item()) == by_definition(name, pairs(a, b, i, j)), (name, inner)


@pytest.mark.parametrize("name", MODELS)
def test_sums_start_from_c(name):
    rng = np.random.default_rng(5)
    for inner in (0, 1, 9, 40):
        a, b = operands(rng, inner, format="float16")
        c = np.float32(rng.standard_normal((3, 3)) * 2.0 ** rng.integers(-20, 20, (3, 3)))
        y = exact.get_accumulator(name).matmul(a, b, c)
        for i, j in np.ndindex(y.shape):
            right = by_definition(name, pairs(a, b, i, j), Fraction(c[i, j].item()))
            assert Fraction(y[i, j].item()) == right, (name, inner)


def test_start_values_are_checked():
    one = np.ones((1, 1))
    for model in ("float32", "rounded:2", "truncated:13:32"):
        with pytest.raises(CarrierError, match="c is float64, expected float16, bfloat16 or float32"):
            exact.get_accumulator(model).matmul(one, one, one)
        with pytest.raises(ShapeError, match=r"c \(2, 2\), expected the shape of the sums, \(1, 1\)"):
            exact.get_accumulator(model).matmul(one, one, np.ones((2, 2), np.float32))
        start = np.float32([[3]])
        assert exact.get_accumulator(model).matmul(one, one, start).item() == 4
        assert start.item() == 3


@pytest.mark.parametrize("name", [m for m in MODELS if m != "rounded:32"])
def test_leading_axes_are_matrices_side_by_side(name):
    rng = np.random.default_rng(6)
    model = exact.get_accumulator(name)
    a, b = rng.standard_normal((2, 1, 3, 20)).astype(np.float16), rng.standard_normal((4, 20, 5)).astype(np.float16)
    y = model.matmul(a, b)
    assert y.shape == (2, 4, 3, 5)
    for i, j in np.ndindex(2, 4):
        assert_same_bits(y[i, j], model.matmul(a[i, 0], b[j]))


@pytest.mark.parametrize("name", ["float32", "rounded:1", "rounded:32", "truncated:25:16", "h100:fp16"])
def test_sums_of_more_than_1024_products_go_on_from_those_of_1024(name):
    rng = np.random.default_rng(7)
    a, b = rng.standard_normal((4, 1100)).astype(np.float16), rng.standard_normal((1100, 3)).astype(np.float16)
    model = exact.get_accumulator(name)
    first = model.matmul(a[:, :1024], b[:1024])
    assert_same_bits(model.matmul(a, b), model.matmul(a[:, 1024:], b[1024:], first))


@pytest.mark.parametrize("name", MODELS)
def test_models_are_their_definitions(name):
    for format in ("float8_e4m3fn", "float16"):
        check_model(name, exact.get_accumulator(name).matmul, format)


@pytest.mark.parametrize("name", [m for m in MODELS if not m.startswith("truncated")])
def test_float32_operands_have_their_products_rounded(name):
    check_model(name, exact.get_accumulator(name).matmul, "float32")


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("float32:16", "float32"),
        ("float32", "float32:16"),
        ("truncated:13:32", "truncated:14:32"),
        ("truncated:13:8:24", "truncated:13:8"),
        ("truncated:13:8", "truncated:13:8:24"),
        ("truncated:10:4", "truncated:10:8"),
        ("rounded:4", "rounded:32"),
        ("rounded:1", "rounded:4"),
        ("truncated:13:8:floor=-4", "truncated:13:8:floor=-3"),
        ("truncated:13:8:floor=-4", "truncated:13:8:floor=-5"),
        ("truncated:10:8:emin=-1/-2", "truncated:10:8:emin=-2/-1"),
        ("truncated:10:8:emin=-1/-2", "truncated:10:8"),
    ],
)
def test_wrong_models_are_rejected(name, wrong):
    with pytest.raises(AssertionError):
        check_model(name, exact.get_accumulator(wrong).matmul, "float16")
    with pytest.raises(AssertionError):
        check_model(name, lambda a, b: exact.get_accumulator(name).matmul(a[:, ::-1], b[::-1]), "float16")


@given(st.sampled_from(MODELS), st.integers(1, 200), st.integers(0, 2**32 - 1), st.sampled_from([0, 5, 12]))
def test_sums_are_within_their_bounds(name, inner, seed, spread):
    a, b = operands(np.random.default_rng(seed), inner, format="float16", spread=spread)
    model = exact.get_accumulator(name)
    off = np.abs(model.matmul(a, b).astype(np.float64) - exact.matmul_float64(a, b))
    assert (off <= exact.bound(a, b, model)).all()


def test_bounds_are_attained_to_a_tenth():
    """Positive terms that are all cut by nearly a unit: the bound is close."""
    model = Truncated(10, 32)
    a = np.concatenate([np.full((1, 1), 1.0), np.full((1, 31), 2.0**-11)], 1)
    b = np.ones((32, 1))
    off = np.abs(model.matmul(a, b).astype(np.float64) - exact.matmul_float64(a, b)).item()
    assert off >= 0.1 * exact.bound(a, b, model).item()
    plain = exact.get_accumulator("float32")
    a = np.concatenate([np.full((1, 1), 1.0), np.full((1, 63), 2.0**-25)], 1)
    off = np.abs(
        plain.matmul(a, np.ones((64, 1))).astype(np.float64) - exact.matmul_float64(a, np.ones((64, 1)))
    ).item()
    assert off >= 0.1 * exact.bound(a, np.ones((64, 1)), plain).item()


def test_the_bound_of_any_order_is_attained():
    """1, and then terms that are each half an ulp of it and round away: a sum may lose all of them."""
    anything, plain = exact.get_accumulator("any-order"), exact.get_accumulator("float32")
    a, b = np.concatenate([np.full((1, 1), 1.0), np.full((1, 299), 2.0**-24)], 1), np.ones((300, 1))
    off = np.abs(plain.matmul(a, b).astype(np.float64) - exact.matmul_float64(a, b)).item()
    bound = exact.bound(a, b, anything).item()
    assert 0.9 * bound <= off <= bound
    cast = Cast("float32", "nearest_even", "nonsaturate")
    assert exact.inside(plain.matmul(a, b), *exact.interval(a, b, anything, cast)).all()


@pytest.mark.parametrize("name", [m for m in MODELS if m.startswith("float32")])
def test_float32_sums_in_any_order_are_within_any_order(name):
    rng = np.random.default_rng(2)
    anything = exact.get_accumulator("any-order")
    for inner in (1, 64, 300):
        a, b = operands(rng, inner, format="float16")
        low, high = exact.interval(a, b, anything, FLOAT16)
        assert exact.inside(FLOAT16(exact.get_accumulator(name).matmul(a, b)), low, high).all()
        assert exact.inside(FLOAT16(a.astype(np.float32) @ b.astype(np.float32)), low, high).all()


def test_an_interval_leaves_little_room():
    """A result one float16 ulp off is outside nearly everywhere, where sums do not cancel."""
    rng = np.random.default_rng(3)
    a, b = operands(rng, 64, 20, 20, "float16", 0)
    a, b = np.abs(a), np.abs(b)
    low, high = exact.interval(a, b, exact.get_accumulator("any-order"), FLOAT16)
    y = exact.matmul(a, b, FLOAT16)
    off = y + FLOAT16.format.spacing(y.astype(np.float64)).astype(np.float32)
    assert exact.inside(y, low, high).all()
    assert exact.inside(off, low, high).mean() < 0.02
    same_low, same_high = exact.interval(a, b, exact.get_accumulator("exact"), FLOAT16, 0.3)
    assert_same_bits(same_low, exact.matmul(a, b, FLOAT16, 0.3))
    assert_same_bits(same_high, same_low)


@pytest.mark.parametrize("factor", [1.0, 0.3, -0.7])
def test_intervals_hold_products_with_factors_in_float32(factor):
    rng = np.random.default_rng(4)
    for name in MODELS:
        a, b = operands(rng, 50, format="float16")
        model = exact.get_accumulator(name)
        low, high = exact.interval(a, b, model, FLOAT16, factor)
        assert exact.inside(FLOAT16(model.matmul(a, b) * np.float32(factor)), low, high).all()
        assert (low <= high).all()


def test_nan_and_overflow_in_intervals():
    model = exact.get_accumulator("float32")
    a = np.float32([[math.inf, 1], [math.nan, 1], [1, 1]])
    low, high = exact.interval(a, np.ones((2, 1)), model, FLOAT16)
    y = exact.matmul(a, np.ones((2, 1)), FLOAT16)
    assert exact.inside(y, low, high).all()
    assert not exact.inside(np.float32([[1], [1], [math.nan]]), low, high)[2]


def test_the_ends_of_an_interval():
    """inf has no error; of NaN no number is inside; an end that overflows in E4M3 is NaN."""
    cast = Cast("float8_e4m3fn", "nearest_even", "nonsaturate")
    low, high = exact.ends(np.array([1.0, np.inf, np.nan, 440.0]), np.array([0.5, 1.0, 1.0, 100.0]), cast)
    assert low.tolist()[:1] + low.tolist()[2:] == [0.5, np.inf, 352.0]
    assert high.tolist()[0] == 1.5
    assert high.tolist()[2] == -np.inf
    assert np.isnan(high[[1, 3]]).all()
    assert np.isnan(low[1])


def test_what_is_inside():
    nan, inf = math.nan, math.inf
    cases = [
        (1.0, 1.0, 1.0, True), (1.0, 1.5, 2.0, False), (2.5, 1.5, 2.0, False), (2.0, 1.5, 2.0, True),
        (nan, 1.0, 2.0, False), (nan, nan, 2.0, True), (nan, 1.0, nan, True), (nan, nan, nan, True),
        (1.0, nan, 2.0, True), (3.0, nan, 2.0, False), (3.0, 1.0, nan, True), (0.0, 1.0, nan, False),
        (inf, 1.0, inf, True), (inf, 1.0, 2.0, False), (-inf, -inf, 0.0, True),
        (nan, inf, -inf, True), (inf, inf, -inf, False), (-inf, inf, -inf, False), (0.0, inf, -inf, False),
    ]  # fmt: skip
    for y, low, high, right in cases:
        assert exact.inside(*(np.float32([v]) for v in (y, low, high))).item() is right, (y, low, high)


@pytest.mark.parametrize("name", ["float32:1", "truncated:25:1:1"])
def test_promoted_parts_are_added_in_their_order(name):
    """2^24 + 1 is a tie, and goes to 2^24; 1 + 1 + 2^24 is representable."""
    ones = np.ones((3, 1))
    sums = exact.get_accumulator(name).matmul(np.float32([[2.0**24, 1, 1], [1, 1, 2.0**24]]), ones)
    assert sums.tolist() == [[2.0**24], [2.0**24 + 2]]


@pytest.mark.parametrize("name", ["truncated:13:32", "truncated:25:16"])
def test_the_ends_of_float32_in_the_truncated_model(name):
    """Toward zero: below 2^-149 nothing; from 2^128 on infinity."""
    model = exact.get_accumulator(name)
    small, ones = np.float32([[2.0**-75]]), np.ones((2, 1))
    assert model.matmul(small, np.float32([[1.75 * 2.0**-75]])).item() == 0.0
    assert model.matmul(-small, np.float32([[1.75 * 2.0**-74]])).item() == -(2.0**-149)
    assert model.matmul(small, np.float32([[1.5 * 2.0**-70]])).item() == 1.5 * 2.0**-145
    two = np.float32([[2.0**127, 2.0**127], [-(2.0**127), -(2.0**127)]])
    assert model.matmul(two, ones).tolist() == [[math.inf], [-math.inf]]
    assert model.matmul(two, np.float32([[1], [1 - 2.0**-12]])).tolist() == [
        [2.0**128 - 2.0**115],
        [2.0**115 - 2.0**128],
    ]
    three = np.float32([[2.0**127, 2.0**127, -(2.0**127)]])
    assert exact.get_accumulator("truncated:13:2").matmul(three, np.ones((3, 1))).item() == math.inf  # and it stays
    beside_zero = np.float32([[0, 2.0**-40]]), np.float32([[3], [2.0**-40]])
    assert model.matmul(*beside_zero).item() == 2.0**-80  # zero aligns nothing


def test_bounds_and_intervals_of_subnormal_sums():
    """A product that rounds up to 2^-149, which no relative bound allows; a factor that leads to a tie of bfloat16."""
    small, one = np.float32([[2.0**-75]]), np.ones((1, 1))
    off = exact.get_accumulator("float32").matmul(small, 1.5 * small).item() - 1.5 * 2.0**-150
    for name in ("float32", "any-order", "truncated:13:32"):
        bound = exact.bound(small, 1.5 * small, name).item()
        assert 0 < off < 2.0**-149 <= bound < 2.0**-149 * 1.001
        three = exact.bound(np.zeros((1, 3)), np.zeros((3, 1)), name).item()
        assert three == 3 * 2.0**-149
    bfloat16 = Cast("bfloat16", "nearest_even", "nonsaturate")
    a = np.float32([[2.0**-34 * (1 + 2.0**-17)]])
    low, high = exact.interval(a, one, "float32", bfloat16, 2.0**-100)
    scaled = a * np.float32(2.0**-100)
    assert scaled.item() == 2.0**-134  # float32 has no 2^-134 + 2^-151
    assert [bfloat16(scaled).item(), exact.matmul(a, one, bfloat16, 2.0**-100).item()] == [0.0, 2.0**-133]
    assert [low.item(), high.item()] == [0.0, 2.0**-133]


def test_infinities_pass_through_the_models():
    a = np.float32([[math.inf, 1], [math.inf, -math.inf]])
    for name in MODELS:
        y = exact.get_accumulator(name).matmul(a, np.ones((2, 1)))
        assert y[0, 0] == math.inf
        assert math.isnan(y[1, 0])


def test_names():
    options = ("truncated:13:32:128:floor=-133:emin=-6", "truncated:25:16:floor=0", "truncated:13:32:emin=-14/-6")
    for name in (*exact.ACCUMULATORS, "float32:7", "truncated:40:1024", "rounded:1024", *options):
        assert exact.get_accumulator(name).name == name
    assert exact.get_accumulator("truncated:14").name == "truncated:14:32"
    assert exact.get_accumulator("truncated:13:32:128") == Truncated(13, 32, 128)
    for name in (
        "",
        "fp32",
        "float32:0",
        "float32:x",
        "truncated",
        "truncated:3:8",
        "truncated:14:4096",
        "truncated:14:32:0",
        "exact:1",
        "rounded",
        "rounded:0",
        "rounded:1025",
        "rounded:4:emin=-6",
        "float32:floor=-133",
        "truncated:13:floor=-133:32",
        "truncated:13:32:floor=-133:floor=-133",
        "truncated:13:32:floor=-301",
        "truncated:13:32:floor=1.5",
        "truncated:13:32:emin=-150",
        "truncated:13:32:emin=-6/",
        "truncated:13:32:ceiling=3",
        "h100",
        "h100:float32",
        "h300:bf16",
    ):
        with pytest.raises(ArgumentError, match="get_accumulator"):
            exact.get_accumulator(name)
    for name in (13, None, b"exact"):
        with pytest.raises(ArgumentError, match="get_accumulator"):
            exact.get_accumulator(name)
    model = Truncated(np.int64(13), np.uint8(32))
    assert exact.get_accumulator(model) is model == Truncated()
    for name in ("exact", "any-order"):
        with pytest.raises(ArgumentError, match=name):
            exact.get_accumulator(name).matmul(np.ones((1, 1)), np.ones((1, 1)))
    with pytest.raises(ArgumentError, match="no useful bound"):
        exact.get_accumulator("float32").relative(2**23)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Truncated(3), "Truncated: bits is 3, expected an integer from 4 to 40"),
        (lambda: Truncated(41), "Truncated: bits is 41, expected an integer from 4 to 40"),
        (lambda: Truncated(13, 0), "Truncated: block is 0, expected an integer from 1 to 1024"),
        (lambda: Truncated(13, 1025), "Truncated: block is 1025, expected an integer from 1 to 1024"),
        (lambda: Truncated(13, 32, -1), "Truncated: promoted is -1, expected an integer ≥ 0"),
        (lambda: Truncated(floor=-301), "Truncated: floor is -301, expected an integer from -300 to 127"),
        (lambda: Truncated(floor=True), "Truncated: floor is True, expected an integer from -300 to 127"),
        (lambda: Truncated(emin=-150), "Truncated: emin is -150, expected an integer from -149 to 127"),
        (lambda: Truncated(emin=(-6, 128)), "Truncated: emin is 128, expected an integer from -149 to 127"),
        (lambda: Truncated(emin=(1, 2, 3)), "Truncated: emin is (1, 2, 3), expected one integer or two"),
        (lambda: Rounded(0), "Rounded: block is 0, expected an integer from 1 to 1024"),
        (lambda: InOrder(-1), "InOrder: block is -1, expected an integer ≥ 0"),
        (lambda: InOrder(2.0), "InOrder: block is 2.0, expected an integer ≥ 0"),
    ],
)
def test_sizes_out_of_range(make, message):
    with pytest.raises(ArgumentError) as caught:
        make()
    assert str(caught.value) == message
    assert (Truncated(4, 1).bits, Truncated(40, 1024).block) == (4, 1024)


def test_bounds_and_intervals_take_names():
    a, b = np.float32([[1, 2]]), np.float32([[3], [4]])
    assert exact.bound(a, b, "float32") == exact.bound(a, b, InOrder())
    low, high = exact.interval(a, b, "float32", FLOAT16)
    assert low <= 11 <= high
    for factor in (0.0, math.nan, math.inf, "1"):
        with pytest.raises(ArgumentError, match=r"intervals.interval: factor is"):
            exact.interval(a, b, "float32", FLOAT16, factor)
    with pytest.raises(ArgumentError, match="expected a deterministic rounding"):
        exact.interval(a, b, "float32", Cast("float16", "stochastic", "saturate"))


@pytest.mark.parametrize(
    ("name", "inner", "roundings"),
    [
        ("float32", 64, 65),
        ("any-order", 64, 65),
        ("float32:16", 64, 16 + 4 + 1),
        ("float32:16", 70, 16 + 5 + 1),
        ("rounded:16", 70, 5),
    ],
)
def test_bounds_count_the_roundings_that_a_term_passes(name, inner, roundings):
    u = Fraction(1, 2**24)
    assert exact.get_accumulator(name).relative(inner) == float(roundings * u / (1 - roundings * u))


@pytest.mark.parametrize(("inner", "blocks", "terms"), [(64, 2, 33), (70, 3, 33), (5, 1, 6)])
def test_bounds_count_the_terms_that_are_cut(inner, blocks, terms):
    cut = blocks * (Fraction(terms, 2**13) + Fraction(1, 2**13))
    assert exact.get_accumulator("truncated:13:32").relative(inner) == float(cut)
    cut = blocks * (Fraction(terms, 2**25) + Fraction(1, 2**23))
    assert exact.get_accumulator("truncated:25:32").relative(inner) == float(cut)


def test_bounds_of_promoted_sums():
    """Parts of 128 are cut in four blocks of 32; a term passes as many roundings as there are parts."""
    cut = 4 * (Fraction(33, 2**13) + Fraction(1, 2**13))
    gamma = 3 * Fraction(1, 2**24) / (1 - 3 * Fraction(1, 2**24))
    expected = float(cut + gamma * (1 + cut))
    assert exact.get_accumulator("truncated:13:32:128").relative(300) == pytest.approx(expected, rel=2.0**-50)
