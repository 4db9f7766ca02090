"""Every float16 input of every function and derivative, in every format, against mpmath; and the hard cases.

``expected_functions.json`` holds SHA-256 of the expected codes, made from mpmath alone, so that the default tests need
none. It is written by

    PYTHONPATH=. python tests/exact/test_functions.py write
"""

import hashlib
import json
import math
import multiprocessing
import sys
from decimal import Context, Decimal, localcontext
from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale.errors import ArgumentError, CarrierError, FormatError
from refscale.exact.functions import FUNCTIONS, evaluate
from refscale.files import write_atomically
from refscale.formats import FORMATS, Cast, encode, get_format
from refscale.testing.equality import assert_same_bits
from refscale.testing.strategies import casts as any_cast
from refscale.testing.strategies import float_arrays

PATH = Path(__file__).with_name("expected_functions.json")
BITS = 320  # of the oracle
CURVES = [(name, derivative) for name in FUNCTIONS for derivative in (False, True)]
NEAREST = ("nearest_even/nonsaturate",)
OTHERS = tuple(
    f"{rounding}/{overflow}"
    for overflow in ("nonsaturate", "saturate")
    for rounding in ("nearest_even", "nearest_away", "toward_zero", "up", "down")
)[1:]
COMMON = ("float16", "bfloat16", "float32", "float8_e4m3fn", "float8_e5m2", "float4_e2m1fn", "float8_e8m0fnu")
"""Formats that are tried by default, of every width, one without NaN; the others when slow: ``tests/formats`` has casts
to each."""
PATTERNS = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
FINITE = PATTERNS[np.isfinite(PATTERNS)]

# --- the oracle: mpmath --------------------------------------------------------------------------------------------


def real(mp, name, derivative, x):
    """f(x) or f′(x) as a pair (a, b): the real number is a + b, and b may be far too small to be added."""
    one, zero = mp.mpf(1), mp.mpf(0)
    tail = lambda v: mp.erfc(v / mp.sqrt(2)) / 2  # noqa: E731
    density = lambda v: mp.exp(-v * v / 2) / mp.sqrt(2 * mp.pi)  # noqa: E731

    def polynomial():
        """2·√(2/π)·(x + 0.044715·x³), and its derivative."""
        linear, cubic = 2 * mp.sqrt(2 / mp.pi), mp.mpf(44715) / 1000000
        return linear * (x + cubic * x**3), linear * (1 + 3 * cubic * x**2)

    match name, derivative:
        case "exp", _:
            return mp.exp(x), zero
        case "log", False:
            return mp.log(x), zero
        case ("log", True) | ("reciprocal", False):
            return 1 / x, zero
        case "reciprocal", True:
            return -1 / (x * x), zero
        case "tanh", False:
            return (mp.tanh(x), zero) if abs(x) < 9 else (mp.sign(x), -mp.sign(x) * 2 / (mp.exp(2 * abs(x)) + 1))
        case "tanh", True:
            return mp.sech(x) ** 2, zero
        case ("sigmoid", False) | ("softplus", True):
            return (1 / (1 + mp.exp(-x)), zero) if x < 9 else (one, -1 / (1 + mp.exp(x)))
        case "sigmoid", True:
            return (mp.sech(x / 2) / 2) ** 2, zero
        case "erf", False:
            return (mp.erf(x), zero) if abs(x) < 4 else (mp.sign(x), -mp.sign(x) * mp.erfc(abs(x)))
        case "erf", True:
            return 2 / mp.sqrt(mp.pi) * mp.exp(-x * x), zero
        case "gelu", False:
            return (x * tail(-x), zero) if x < 4 else (x, -x * tail(x))
        case "gelu", True:
            return (tail(-x) + x * density(x), zero) if x < 4 else (one, x * density(x) - tail(x))
        case "gelu_tanh", False:
            v, _ = polynomial()
            return (x / (1 + mp.exp(-v)), zero) if x < 4 else (x, -x / (1 + mp.exp(v)))
        case "gelu_tanh", True:
            v, slope = polynomial()
            curved = x * slope * (mp.sech(v / 2) / 2) ** 2
            return (1 / (1 + mp.exp(-v)) + curved, zero) if x < 4 else (one, curved - 1 / (1 + mp.exp(v)))
        case "silu", False:
            return (x / (1 + mp.exp(-x)), zero) if x < 9 else (x, -x / (1 + mp.exp(x)))
        case "silu", True:
            curved = x * (mp.sech(x / 2) / 2) ** 2
            return (1 / (1 + mp.exp(-x)) + curved, zero) if x < 9 else (one, curved - 1 / (1 + mp.exp(x)))
        case "softplus", False:
            return (mp.log1p(mp.exp(x)), zero) if x < 9 else (x, mp.log1p(mp.exp(-x)))
        case "sqrt", False:
            return mp.sqrt(x), zero
        case "sqrt", True:
            return 1 / (2 * mp.sqrt(x)), zero
        case "rsqrt", False:
            return 1 / mp.sqrt(x), zero
        case "rsqrt", True:
            return -1 / (2 * x * mp.sqrt(x)), zero
    raise AssertionError(name)


def odd(mp, a, b):
    """a + b rounded to odd, from the integers of an mpf: what lies between two float64 gets the one with last bit 1."""
    total = a + b
    sign, mantissa, exponent, _ = total._mpf_
    mantissa, exponent = int(mantissa) << 200, exponent - 200
    if b != 0 and total == a:
        mantissa += 1 if (b > 0) == (sign == 0) else -1
    if mantissa == 0:
        return 0.0
    drop = max(mantissa.bit_length() - 53, -1074 - exponent)
    kept = mantissa >> drop
    kept |= (kept << drop) != mantissa
    try:
        y = math.ldexp(kept, exponent + drop)
    except OverflowError:
        y = sys.float_info.max
    return -y if sign else y


EDGES = {  # at 0; None where nothing is special. The derivative at a pole is that from the right.
    ("log", False): -math.inf,
    ("log", True): math.inf,
    ("sqrt", True): math.inf,
    ("rsqrt", True): -math.inf,
    ("reciprocal", True): -math.inf,
}
KEEP_ZERO = {("tanh", False), ("erf", False), ("gelu", False), ("gelu_tanh", False), ("silu", False), ("sqrt", False)}
POSITIVE_ONLY = ("log", "sqrt", "rsqrt")


def expected(name, derivative, x):
    """The real f(x) rounded to odd in float64, from which every cast follows; x finite."""
    import mpmath as mp

    def one(v):
        if v == 0:
            if (name, derivative) in KEEP_ZERO:
                return v
            if (name, derivative) in (("rsqrt", False), ("reciprocal", False)):
                return math.copysign(math.inf, v)
            if (name, derivative) in EDGES:
                return EDGES[name, derivative]
        if v < 0 and name in POSITIVE_ONLY:
            return math.nan
        return odd(mp, *real(mp, name, derivative, mp.mpf(v)))

    with mp.workprec(BITS):
        return np.array([one(v) for v in np.asarray(x, np.float64).tolist()])


# --- hashes of codes -------------------------------------------------------------------------------------------------


def inputs(name, format):
    """All finite float16, but in a format without NaN not those where the function has no value."""
    return FINITE if get_format(format).has_nan or name not in POSITIVE_ONLY else FINITE[FINITE >= 0]


def digest(codes):
    return hashlib.sha256(b"".join(c.astype(c.dtype.newbyteorder("<")).tobytes() for c in codes)).hexdigest()


def casts(format, modes):
    return [Cast(format, *mode.split("/")) for mode in modes]


def hashes_of(curve):
    """Stored values of a curve: format → hash in nearest_even/nonsaturate, hash in all other modes."""
    name, derivative = curve
    y = dict(zip(FINITE.view(np.uint16).tolist(), expected(name, derivative, FINITE).tolist(), strict=True))
    found = {}
    for format in FORMATS:
        exact = np.array([y[code] for code in inputs(name, format).view(np.uint16).tolist()])
        found[format] = [digest([encode(c(exact), format) for c in casts(format, m)]) for m in (NEAREST, OTHERS)]
    return found


def label(curve):
    return curve[0] + ("'" if curve[1] else "")


def all_hashes():
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        return dict(zip(map(label, CURVES), pool.map(hashes_of, CURVES, chunksize=1), strict=True))


@cache
def stored():
    return json.loads(PATH.read_text(encoding="utf-8"))["hashes"]


def check_all_float16(curve, format, modes, evaluation=evaluate):
    """Every float16 input gives the codes that mpmath gives."""
    name, derivative = curve
    x = inputs(name, format)
    codes = [encode(evaluation(name, x, c, derivative), format) for c in casts(format, modes)]
    assert digest(codes) == stored()[label(curve)][format][modes is OTHERS], (
        f"{label(curve)} to {format}: other codes than those of mpmath; "
        "the slow tests of this file name the first element"
    )


def by_default(*chosen):
    """Every format, those that are not chosen when slow."""
    return [f if f in chosen else pytest.param(f, marks=pytest.mark.slow) for f in FORMATS]


@pytest.mark.parametrize("format", by_default(*COMMON))
@pytest.mark.parametrize("curve", CURVES, ids=label)
def test_every_float16_to_nearest(curve, format):
    check_all_float16(curve, format, NEAREST)


@pytest.mark.parametrize("format", by_default("float8_e4m3fn"))
@pytest.mark.parametrize("curve", CURVES, ids=label)
def test_every_float16_in_the_other_modes(curve, format):
    check_all_float16(curve, format, OTHERS)


@pytest.mark.slow
def test_every_float16_against_mpmath_element_by_element():
    pytest.importorskip("mpmath")
    for name, derivative in CURVES:
        exact = dict(zip(FINITE.view(np.uint16).tolist(), expected(name, derivative, FINITE).tolist(), strict=True))
        for format in FORMATS:
            x = inputs(name, format)
            y = np.array([exact[code] for code in x.view(np.uint16).tolist()])
            for cast in casts(format, NEAREST + OTHERS):
                with np.errstate(all="ignore"):
                    assert_same_bits(evaluate(name, x, cast, derivative), cast(y))


@pytest.mark.slow
def test_the_stored_hashes_are_those_of_mpmath():
    pytest.importorskip("mpmath")
    assert all_hashes() == stored()


# --- wrong evaluations are rejected ---------------------------------------------------------------------------------


def float64_rounded(name, x, cast, derivative):
    """The float64 result, rounded: on the wrong side of a tie where f(x) = x(1 - 2^-60)."""
    with np.errstate(all="ignore"):
        curve = FUNCTIONS[name].derivative if derivative else FUNCTIONS[name].value
        return cast(curve.near(x.astype(np.float64)))


def float32_rounded(name, x, cast, derivative):
    """An evaluation rounded to float32 first: twice rounded."""
    with np.errstate(all="ignore"):
        curve = FUNCTIONS[name].derivative if derivative else FUNCTIONS[name].value
        return cast(curve(x.astype(np.float64)).astype(np.float32))


def other_form(name, x, cast, derivative):
    return evaluate({"gelu": "gelu_tanh"}[name], x, cast, derivative)


def without_subnormals(name, x, cast, derivative):
    y = evaluate(name, x, cast, derivative)
    return np.where(np.abs(y) < cast.format.min_normal, np.float32(0), y)


@pytest.mark.parametrize(
    ("wrong", "curve", "format"),
    [
        (float64_rounded, ("gelu", False), "bfloat16"),
        (float64_rounded, ("silu", False), "bfloat16"),
        (float64_rounded, ("exp", False), "float16"),
        (float32_rounded, ("exp", False), "float16"),
        (float32_rounded, ("gelu", False), "bfloat16"),
        (other_form, ("gelu", False), "float16"),
        (without_subnormals, ("exp", False), "float8_e5m2"),
    ],
)
def test_wrong_evaluations_have_other_hashes(wrong, curve, format):
    modes = NEAREST if wrong is not float64_rounded else OTHERS
    with pytest.raises(AssertionError, match="other codes than those of mpmath"):
        check_all_float16(curve, format, modes, wrong)


# --- other inputs ---------------------------------------------------------------------------------------------------


@given(st.sampled_from(CURVES), float_arrays(allow_nan=False), any_cast(), st.booleans())
def test_float32_and_float64_inputs_against_mpmath(curve, x, cast, wide):
    pytest.importorskip("mpmath")
    name, derivative = curve
    x = np.atleast_1d(x[np.isfinite(x)]).astype(np.float64)
    if wide:
        x = x * (1 + 2.0**-40)
    if name in POSITIVE_ONLY:
        x = np.abs(x)
    if cast.rounding == "stochastic" or not cast.format.has_nan:
        cast = Cast("float16", "nearest_even", "nonsaturate")
    with np.errstate(all="ignore"):
        assert_same_bits(evaluate(name, x, cast, derivative), cast(expected(name, derivative, x)))


@pytest.mark.parametrize("curve", CURVES, ids=label)
def test_the_long_form_agrees_with_mpmath(curve):
    """To 300 digits, so that what float64 leaves in doubt is decided rightly."""
    mp = pytest.importorskip("mpmath")
    name, derivative = curve
    function = FUNCTIONS[name].derivative if derivative else FUNCTIONS[name].value
    for v in (0.0001, 0.7, 1.5, 3.25, 20.0, -0.3, -2.5, -15.0):
        if v < 0 and name in POSITIVE_ONLY:
            continue
        with localcontext(Context(prec=800)):
            ours = str(function.digits(Decimal(v)))
        with mp.workdps(700):
            a, b = real(mp, name, derivative, mp.mpf(v))
            assert abs(mp.mpf(ours) / (a + b) - 1) < mp.mpf(10) ** -300, (curve, v)


@pytest.mark.parametrize("curve", CURVES, ids=label)
def test_float64_evaluations_stay_well_within_the_error_that_decides(curve):
    """A quarter of what ``Curve.error`` allows, over every 16th float16 value."""
    pytest.importorskip("mpmath")
    name, derivative = curve
    x = FINITE[::16].astype(np.float64)
    x = x[(x > 0) | ((x != 0) & (name not in POSITIVE_ONLY))]
    function = FUNCTIONS[name].derivative if derivative else FUNCTIONS[name].value
    right = expected(name, derivative, x)
    normal = np.isfinite(right) & (np.abs(right) > 2.0**-1000) & (np.abs(right) < 2.0**1000)
    near, allowed = function(x), function.error(x, right)
    assert (np.abs(near - right)[normal] <= 0.25 * allowed[normal]).all()


def test_edges_are_those_of_the_domains():
    cast = Cast("float32", "nearest_even", "nonsaturate")

    def at(name, derivative, *x):
        return [float(v) for v in evaluate(name, np.array(x, np.float32), cast, derivative)]

    inf, zero = math.inf, 0.0
    assert at("exp", False, -inf, inf) == [0, inf]
    assert at("log", False, zero, -zero, inf) == [-inf, -inf, inf]
    assert at("log", True, zero, inf) == [inf, 0]
    assert at("tanh", False, -inf, inf) == [-1, 1]
    assert at("sigmoid", False, -inf, inf) == [0, 1]
    assert at("erf", False, -inf, inf) == [-1, 1]
    for name in ("gelu", "gelu_tanh", "silu"):
        value, slope = at(name, False, -inf, inf), at(name, True, -inf, inf, 0)
        assert value == [0, inf]
        assert math.copysign(1, value[0]) == -1
        assert slope == [0, 1, 0.5]
        assert math.copysign(1, slope[0]) == -1
    assert at("softplus", False, -inf, inf) == [0, inf]
    assert at("sqrt", False, inf, 4) == [inf, 2]
    assert at("rsqrt", False, zero, -zero, inf) == [inf, -inf, 0]
    assert at("reciprocal", False, zero, -zero, -inf) == [inf, -inf, 0]
    for name, derivative in CURVES:
        assert math.isnan(at(name, derivative, math.nan)[0])
        if name in POSITIVE_ONLY:
            assert math.isnan(at(name, derivative, -1.0)[0])
    for name in ("tanh", "erf", "gelu", "gelu_tanh", "silu", "sqrt"):
        assert [math.copysign(1, v) for v in at(name, False, zero, -zero)] == [1, -1]


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu", "softplus"])
def test_beside_a_tie_far_out_the_bounds_decide(name, monkeypatch):
    """x·(1 ∓ ε), four ulp from a tie of float32, is on the side of x; 800 digits would not find ε, nor end."""

    def no_digits(function, x):
        raise AssertionError(f"{name} of {x}")

    monkeypatch.setattr("refscale.exact.functions.digits.odd", no_digits)
    for size in (2.0**6, 2.0**100):
        x = size * np.array([1 + 2.0**-24 + 2.0**-50, 1 + 2.0**-24 - 2.0**-50])
        y = evaluate(name, x, Cast("float32", "nearest_even", "nonsaturate"))
        assert y.tolist() == [size * (1 + 2.0**-23), size]


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu"])
def test_of_the_smallest_numbers_half_is_left(name):
    """x·½ for x of float64 so small that no float32 is near: 0, or the first number on its side."""
    x = np.array([2.0**-1001, 5e-324, -5e-324])
    for mode, expected in (
        ("nearest_even", [0, 0, 0]),
        ("up", [2.0**-149, 2.0**-149, 0]),
        ("down", [0, 0, -(2.0**-149)]),
    ):
        assert evaluate(name, x, Cast("float32", mode, "nonsaturate")).tolist() == expected


def test_a_finite_result_beyond_the_format_is_rounded_as_such():
    down = Cast("float16", "down", "nonsaturate")
    assert evaluate("exp", np.float32([88.0]), down).item() == 65504
    assert evaluate("exp", np.float64([5000.0]), down).item() == 65504
    assert evaluate("exp", np.float32([math.inf]), down).item() == math.inf


def test_shapes_and_dtypes():
    cast = Cast("float16", "nearest_even", "nonsaturate")
    x = np.array([[0.5, -1.0]])
    y = evaluate("gelu", x, cast)
    assert y.shape == (1, 2)
    assert y.dtype == np.float32
    for dtype in (np.float16, np.float32, ml_dtypes.bfloat16):
        assert_same_bits(evaluate("gelu", x.astype(dtype), cast), y)
    assert evaluate("exp", np.float32(0), cast).shape == ()
    assert evaluate("exp", np.zeros((0, 3), np.float32), cast).shape == (0, 3)


def test_bad_input_is_named():
    cast = Cast("float16", "nearest_even", "nonsaturate")
    with pytest.raises(ArgumentError, match=r"exact.evaluate\('sine'\): expected one of exp, log"):
        evaluate("sine", np.zeros(1), cast)
    with pytest.raises(ArgumentError, match="deterministic"):
        evaluate("exp", np.zeros(1), Cast("float16", "stochastic", "saturate"))
    with pytest.raises(CarrierError, match="int64"):
        evaluate("exp", np.array([1, 2]), cast)
    with pytest.raises(ArgumentError, match=r"exact.evaluate: derivative is 'no', expected True or False"):
        evaluate("exp", np.zeros(1), cast, "no")
    with pytest.raises(FormatError, match="NaN"):
        evaluate("log", np.array([-1.0]), Cast("float4_e2m1fn", "nearest_even", "saturate"))


if __name__ == "__main__":
    if sys.argv[1:] != ["write"]:
        raise SystemExit(__doc__)
    document = {
        "comment": "SHA-256 of codes, little-endian, of f(x) over all finite float16 x in the order of their codes "
        "(x >= 0 only for log, sqrt, rsqrt to formats without NaN); from mpmath; see test_functions.py",
        "casts": [NEAREST, OTHERS],
        "hashes": all_hashes(),
    }
    text = json.dumps(document, indent=1) + "\n"
    write_atomically(PATH, lambda file: file.write(text.encode()))
