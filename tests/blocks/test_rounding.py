"""The specification: every rule by search, blocks worked by hand, and the stated answers of the corner cases."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale.blocks import BLOCK_FORMATS, get_block_cast, round_block_exact, scale_exact, split_blocks
from refscale.blocks.rounding import element_exact, exponent_exact, tensor_scale_exact
from refscale.errors import ArgumentError, FormatError
from refscale.formats import FORMATS, Format, get_format, round_exact
from tests.blocks.oracles import POWER_RULES, exponent_by_search

ELEMENTS = [FORMATS[n] for n in ("float8_e4m3fn", "float8_e5m2", "float6_e3m2fn", "float6_e2m3fn", "float4_e2m1fn")]
ELEMENTS.append(FORMATS["int8_q6"])


def boundaries(element):
    """Magnitudes at which some rule changes, with their neighbors in float32."""
    top, m = element.max, element.mantissa_bits
    marks = [1.0, top, top / 2**element.emax, 2.0**element.emax * (2 - 2.0 ** -(m + 1)), math.sqrt(2) * top]
    for mark in marks:
        for scale in (1.0, 2.0**-7, 2.0**30):
            x = mark * scale
            step = 2.0 ** (math.frexp(x)[1] - 24)
            yield from (x - step, x, x + step)


@pytest.mark.parametrize("element", ELEMENTS, ids=str)
@pytest.mark.parametrize("rule", POWER_RULES)
def test_each_rule_is_what_it_is_for(rule, element):
    for amax in boundaries(element):
        assert exponent_exact(rule, Fraction(amax), element) == exponent_by_search(rule, amax, element), amax


@given(st.sampled_from(POWER_RULES), st.sampled_from(ELEMENTS), st.floats(2.0**-126, 2.0**127, width=32))
def test_each_rule_on_any_magnitude(rule, element, amax):
    assert exponent_exact(rule, Fraction(amax), element) == exponent_by_search(rule, amax, element)


@pytest.mark.parametrize("element", [*ELEMENTS, Format("e4m1", 4, 1, 7, "all_ones")], ids=str)
def test_nearest_changes_between_two_neighbors_of_float64(element):
    """At max·√½, which is irrational: of the float64 around it one belongs to each side."""
    cast = get_block_cast("mxfp8_e4m3", element=element, rule="nearest")
    above = element.max * math.sqrt(0.5)
    while 2 * Fraction(above) ** 2 > Fraction(element.max) ** 2:
        above = math.nextafter(above, 0)
    below, above = above, math.nextafter(above, math.inf)
    while 2 * Fraction(above) ** 2 < Fraction(element.max) ** 2:
        below, above = above, math.nextafter(above, math.inf)
    x = np.array([[below], [above]]) * 2.0**20
    assert [scale_exact(amax, cast) for amax in x[:, 0].tolist()] == [2.0**19, 2.0**20]
    assert split_blocks(x, cast).scales.tolist() == [[2.0**19], [2.0**20]]


HAND = {  # amax: exponents by rule, for e4m3fn (max 448, emax 8) and e2m1fn (max 6, emax 2)
    "float8_e4m3fn": {
        1.0: (-8, -8, -8, -8, -9),  # 1/448 = 2^-8.81
        448.0: (0, 1, 0, 0, 0),
        449.0: (0, 1, 1, 0, 0),
        479.0: (0, 1, 1, 0, 0),
        480.0: (0, 1, 1, 0, 0),
        496.0: (0, 1, 1, 1, 0),  # rounds to 512 at four bits
        512.0: (1, 1, 1, 1, 0),
        634.0: (1, 2, 1, 1, 1),  # 448·√2 = 633.57
        633.0: (1, 2, 1, 1, 0),
    },
    "float4_e2m1fn": {
        4.0: (0, 0, 0, 0, -1),  # log2(4/6) = -0.58
        4.25: (0, 1, 0, 0, 0),  # 6/√2 = 4.243
        6.0: (0, 1, 0, 0, 0),
        6.5: (0, 1, 1, 0, 0),
        7.0: (0, 1, 1, 1, 0),
        8.0: (1, 1, 1, 1, 0),
        8.5: (1, 2, 1, 1, 1),
    },
}


@pytest.mark.parametrize(("name", "amax"), [(n, a) for n, rows in HAND.items() for a in rows])
def test_worked_by_hand(name, amax):
    found = tuple(exponent_exact(rule, Fraction(amax), FORMATS[name]) for rule in POWER_RULES)
    assert found == HAND[name][amax]


def test_a_block_of_mxfp4_by_hand():
    # amax 9.5: ⌊log2⌋ = 3, less 2: s = 2. Elements 4.75 → 4 (tie to even would be between 4 and 6: 5), 0.5, -1.5, 0
    assert round_block_exact([9.5, 1.0, -3.0, 0.25], BLOCK_FORMATS["mxfp4"]) == (2.0, [4.0, 0.5, -1.5, 0.0], 1.0)


def test_a_block_of_nvfp4_by_hand():
    """A tensor of amax 2688 has T = 1; a block of amax 3 the scale 0.5; 2.9/0.5 = 5.8 → 6."""
    s, e, t = round_block_exact([3.0, 2.9, -0.6, 0.1], BLOCK_FORMATS["nvfp4"], 2688.0)
    assert (s, e, t) == (0.5, [6.0, 6.0, -1.0, 0.0], 1.0)


@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_a_block_of_zeros(name):
    cast = BLOCK_FORMATS[name]
    s, e, t = round_block_exact([0.0, -0.0], cast)
    assert s == (2.0**-127 if cast.rule != "amax" else 0.0)
    assert t == 1.0
    assert [math.copysign(1, x) for x in e] == [1, -1 if cast.element.has_signed_zero else 1]


@pytest.mark.parametrize("rule", POWER_RULES)
def test_the_ends_of_e8m0(rule):
    cast = get_block_cast("mxfp8_e4m3", rule=rule)
    assert scale_exact(2.0**-149, cast) == 2.0**-127
    assert scale_exact(float(get_format("float32").max), cast) == 2.0 ** {"floor": 119, "nearest": 119}.get(rule, 120)
    huge = get_block_cast("mxint8", rule=rule)
    assert scale_exact(2.0**200, huge) == 2.0**127


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite(bad):
    def block(name, nonfinite):
        return round_block_exact([1.0, bad], get_block_cast(name, nonfinite=nonfinite))

    for name in ("mxfp8_e4m3", "nvfp4", "fp8_1x128"):
        s, e, _ = block(name, "nan")
        assert math.isnan(s)
        assert e == [0.0, 0.0]
        s, e, _ = block(name, "saturate")
        if math.isnan(bad):
            assert math.isnan(s)
        else:
            top = BLOCK_FORMATS[name].element.max
            assert e == [0.0, math.copysign(top, bad)]
    s, e, _ = block("mxfp8_e4m3", "ignore")
    assert s == 2.0**-8
    assert e[0] == 256.0
    assert math.isnan(e[1]) if math.isnan(bad) else e[1] == math.copysign(448, bad)


@pytest.mark.parametrize(
    ("name", "values", "elements"),
    [
        ("fp8_1x128", [-0.2389, -0.8288, 0.185, -0.2841], {"exact": 104.0, "divide": 96.0, "reciprocal": 96.0}),
        ("nvfp4", [-0.1254, -0.0209, 1.0032, 0.4467], {"exact": -0.5, "divide": -1.0, "reciprocal": -1.0}),
    ],
)
def test_arithmetic_decides_bits(name, values, elements):
    """Found by search: a quotient so near to a tie that float32 takes it for one."""
    x = np.float32(values).tolist()
    position = 2 if name == "fp8_1x128" else 0
    for arithmetic, expected in elements.items():
        _, e, _ = round_block_exact(x, get_block_cast(name, arithmetic=arithmetic))
        assert e[position] == expected


def test_a_scale_of_the_tensor_by_hand():
    """T = amax/(largest element · largest scale): 6·448 = 2688 in NVFP4, 6·57344 with scales of e5m2."""
    for arithmetic in ("exact", "divide"):
        nvfp4 = get_block_cast("nvfp4", arithmetic=arithmetic)
        assert tensor_scale_exact(2688.0 * 4, nvfp4)[0] == 4.0
        assert tensor_scale_exact(6 * 57344.0 / 8, get_block_cast(nvfp4, scale="e5m2"))[0] == 0.125
    assert tensor_scale_exact(2688.0 * 4, BLOCK_FORMATS["nvfp4"]) == (4.0, 0.25)
    assert tensor_scale_exact(0.0, BLOCK_FORMATS["nvfp4"]) == tensor_scale_exact(9.0, BLOCK_FORMATS["mxfp4"]) == (1, 1)


def test_divide_rounds_after_each_of_its_divisions():
    """Found by search: amax/6/T rounded once to float32 is 136, a tie, and goes to 128; by fl(fl(amax/6)/T) to 144."""
    divide = get_block_cast("nvfp4", arithmetic="divide", block=1)
    x = np.float32([[4318.63720703125, 1311.014892578125]])
    t = tensor_scale_exact(float(x[0, 0]), divide)
    assert t[0] == float.fromhex("0x1.9b4c7cp+0")
    assert np.float32(x[0, 1].astype(np.float64) / 6 / t[0]) == 136
    assert scale_exact(float(x[0, 1]), divide, t) == 144.0
    assert split_blocks(x, divide).scales.tolist() == [[448.0, 144.0]]


@pytest.mark.parametrize(
    ("arithmetic", "amax", "x", "element"),
    [
        ("divide", 4874.0703125, 117.8625717163086, 4.0),  # x/(s·T) is above 5, x/fl(s·T) is it, a tie
        ("reciprocal", 4881.01416015625, 5.901523590087891, 0.0),  # likewise above ¼ and ¼
    ],
)
def test_elements_see_the_scale_times_that_of_the_tensor_in_float32(arithmetic, amax, x, element):
    """Found by search, for s = 13."""
    cast = get_block_cast("nvfp4", arithmetic=arithmetic, block=2)
    t = tensor_scale_exact(amax, cast)[0]
    assert float(np.float32(13 * t)) != 13 * t
    assert element_exact(x, 13.0, cast, t) == element
    parts = split_blocks(np.float32([[amax, 0, 78 * t, x]]), cast)
    assert parts.scales.tolist() == [[448.0, 13.0]]
    assert parts.elements.tolist() == [[6.0, 0.0, 6.0, element]]


@pytest.mark.parametrize("amax", [-1.0, math.inf])
def test_an_amax_is_finite_and_not_negative(amax):
    nvfp4 = BLOCK_FORMATS["nvfp4"]
    for call in (
        lambda: scale_exact(amax, nvfp4),
        lambda: tensor_scale_exact(amax, nvfp4),
        lambda: round_block_exact([1.0], nvfp4, amax),
    ):
        with pytest.raises(ArgumentError, match=r"scale_exact: amax is -?(1.0|inf), expected a finite number ≥ 0"):
            call()


def test_a_block_of_numbers_of_numpy():
    x = np.float32([3.0, 2.9, -0.6, -0.0])
    found = round_block_exact(list(x), BLOCK_FORMATS["nvfp4"], np.float32(2688))
    assert found == round_block_exact(x.tolist(), BLOCK_FORMATS["nvfp4"], 2688.0) == (0.5, [6.0, 6.0, -1.0, 0.0], 1.0)
    assert math.copysign(1, found[1][3]) == -1


def test_no_exponent_by_amax():
    with pytest.raises(ArgumentError, match="expected a rule that makes powers of two"):
        exponent_exact("amax", Fraction(1), FORMATS["float4_e2m1fn"])


@pytest.mark.parametrize(
    ("arithmetic", "parts"),
    [
        ("divide", ("divide", "divide")),
        ("divide+divide", ("divide", "divide")),
        ("product+steps", ("product", "steps")),
        ("inverse+inverse", ("inverse", "inverse")),
    ],
)
def test_an_arithmetic_has_two_parts(arithmetic, parts):
    cast = get_block_cast("nvfp4", arithmetic=arithmetic)
    assert (cast.scale_arithmetic, cast.element_arithmetic) == parts
    assert get_block_cast("nvfp4", arithmetic="exact+exact").arithmetic == "exact"


@pytest.mark.parametrize("name", ["steps", "product", "inverse+product", "steps+divide", "divide+", "a+b+c", 3])
def test_an_unknown_arithmetic_is_named(name):
    with pytest.raises(FormatError, match="unknown arithmetic"):
        get_block_cast("nvfp4", arithmetic=name)


def test_the_witness_of_a_reciprocal_by_hand():
    """T = 1 and s = 7/512: x/s = 1.75 just below or at the tie, so 1.5 by division; the reciprocal gives 2."""
    x = [42 / 512, 0.02392577938735485]
    for arithmetic, expected in (("divide+divide", 1.5), ("divide+steps", 1.5), ("divide+reciprocal", 2.0)):
        s, elements, t = round_block_exact(x, get_block_cast("nvfp4", arithmetic=arithmetic), tensor_amax=2688.0)
        assert (s, t) == (7 / 512, 1.0)
        assert elements == [6.0, expected]


def test_five_scale_arithmetics_by_hand():
    """amax of the tensor 8.75, of the block 8.75·s/448 with s a tie: float32 operations decide the side."""

    def f(x):
        return np.float32(x)

    t, e = f(8.75) / f(2688), f(2688) / f(8.75)
    for tie in (17.0, 1.0625, 3.125, 0.578125):
        a = f(tie * 8.75 / 448)
        known = {
            "divide": f(f(a / f(6)) / t),
            "reciprocal": f(f(a / f(6)) * e),
            "inverse": f(e * f(a * f(f(1) / f(6)))),
            "product": f(f(a * e) / f(6)),
        }
        for name, value in known.items():
            cast = get_block_cast("nvfp4", arithmetic=f"{name}+divide")
            s, _, _ = round_block_exact([float(a)], cast, tensor_amax=8.75)
            assert s == round_exact(float(value), "e4m3fn", rounding="nearest_even", overflow="saturate")


@pytest.mark.parametrize(("name", "largest"), [("mxfp8_e4m3", 2.0**127), ("nvfp4", 448.0), ("mxfp4", 2.0**127)])
def test_an_infinity_has_the_largest_scale(name, largest):
    cast = get_block_cast(name, nonfinite="largest")
    s, elements, _ = round_block_exact([1.0, float("inf"), -float("inf")], cast, tensor_amax=1.0)
    assert s == largest
    assert elements[1:] == [cast.element.max, -cast.element.max]
    assert math.isnan(round_block_exact([float("nan"), float("inf")], cast, tensor_amax=1.0)[0])
