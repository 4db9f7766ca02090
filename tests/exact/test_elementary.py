"""exp, expm1, log, log1p, tanh from basic operations: against mpmath, and the same bits on every machine."""

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale import special
from refscale.errors import CarrierError
from refscale.special import elementary
from refscale.testing.equality import assert_same_bits
from tests.machines import MACHINES, levels, output

NAMES = ("exp", "expm1", "log", "log1p", "tanh")
ULPS = {"exp": 0.6, "expm1": 0.9, "log": 0.9, "log1p": 0.9, "tanh": 1.6}  # as the docstrings say
EXPECTED = "f7a52722b1aee8c158a89435f2f65c16198e5725674bba0c1d4b45bf3488c83d"


def inputs(name, count=600):
    """Of every magnitude, and dense about 0 and 1."""
    rng = np.random.default_rng(1)
    wide = rng.choice([-1.0, 1.0], count) * np.ldexp(rng.uniform(1, 2, count), rng.integers(-60, 12, count))
    x = np.concatenate([wide, rng.uniform(-3, 3, count), 1 + rng.uniform(-0.3, 0.5, count)])
    if name == "log":
        return np.abs(np.concatenate([x, np.ldexp(rng.uniform(1, 2, count), rng.integers(-1073, 1023, count))]))
    if name == "log1p":
        return x[x > -1]
    return x[np.abs(x) < 700]


def in_mpmath(name, x):
    mp = pytest.importorskip("mpmath")
    with mp.workprec(300):
        return [getattr(mp, name)(mp.mpf(v)) for v in x.tolist()]


def error(name, f, x):
    """The largest error, in ulp of float64 of the exact result."""
    mp = pytest.importorskip("mpmath")
    with mp.workprec(300):
        return max(
            float(abs(mp.mpf(y) - r)) / math.ulp(float(r))
            for y, r in zip(f(x).tolist(), in_mpmath(name, x), strict=True)
        )


@pytest.mark.parametrize("name", NAMES)
def test_errors_are_those_of_the_docstrings(name):
    assert error(name, getattr(elementary, name), inputs(name)) <= ULPS[name]


def plain_expm1(x):
    return elementary.exp(x) - 1


def plain_log1p(x):
    return elementary.log(1 + x)


def exp_of_a_rounded_reduction(x):
    """ln 2 in one piece: x − k·ln 2 loses what k gains."""
    k = np.rint(x / math.log(2))
    return np.ldexp(elementary.exp(x - k * math.log(2)), k.astype(np.int64))


@pytest.mark.parametrize(
    ("name", "wrong"), [("expm1", plain_expm1), ("log1p", plain_log1p), ("exp", exp_of_a_rounded_reduction)]
)
def test_evaluations_that_cancel_are_rejected(name, wrong):
    assert error(name, wrong, inputs(name)) > ULPS[name]


@pytest.mark.parametrize("name", NAMES)
def test_edges(name):
    f, inf, nan = getattr(elementary, name), math.inf, math.nan
    expected = {
        "exp": [1, 1, inf, 0, nan, inf, 0],
        "expm1": [0.0, -0.0, inf, -1, nan, inf, -1],
        "log": [-inf, -inf, inf, nan, nan, math.log(1e4), nan],
        "log1p": [0.0, -0.0, inf, nan, nan, math.log1p(1e4), nan],
        "tanh": [0.0, -0.0, 1, -1, nan, 1, -1],
    }[name]
    x = np.array([0.0, -0.0, inf, -inf, nan, 1e4, -1e4])
    assert_same_bits(np.where(np.isnan(f(x)), nan, f(x)), np.array(expected, np.float64))
    if name == "log1p":
        assert f(np.float64(-1)).item() == -inf


@given(st.floats(width=32, allow_nan=False), st.sampled_from(NAMES))
def test_float32_is_float64_rounded(v, name):
    f = getattr(elementary, name)
    with np.errstate(all="ignore"):
        assert_same_bits(f(np.float32([v])), f(np.float64([v])).astype(np.float32))


def test_shapes_out_and_errors():
    x = np.linspace(-2, 2, 40000).reshape(2, 100, 200)
    y = elementary.exp(x)
    assert_same_bits(y, np.array([elementary.exp(v) for v in x[:, :, None].reshape(-1, 200)]).reshape(x.shape))
    own = x.copy()
    assert elementary.exp(own, own) is own
    assert_same_bits(own, y)
    assert elementary.exp(np.zeros((0, 3))).shape == (0, 3)
    for name in NAMES:
        with pytest.raises(CarrierError, match=f"elementary.{name}: argument is float16"):
            getattr(elementary, name)(np.float16(1))


# --- the same bits on every machine ---------------------------------------------------------------------------------


def digest():
    """SHA-256 of all five, and of the special functions made from them."""
    hashes = hashlib.sha256()
    for name in NAMES:
        hashes.update(getattr(elementary, name)(inputs(name, 5000)).tobytes())
    x = np.linspace(-8, 8, 20001).astype(np.float64).view(Basic)
    for function in (special.erf, special.gelu_erf, special.gelu_tanh, special.silu, special.sigmoid, special.softplus):
        y = function(x)
        for part in y if isinstance(y, tuple) else (y,):
            hashes.update(np.asarray(part).tobytes())
    return hashes.hexdigest()


class Basic(np.ndarray):
    elementary = elementary.BASIC


@pytest.mark.parametrize("machine", MACHINES)
def test_the_same_bits_on_every_machine(machine):
    assert output("from tests.exact.test_elementary import digest; print(digest())", machine) == EXPECTED


def test_machines_differ():
    """At their own exponential and their own product; else the test above would say nothing."""
    code = """
import numpy as np, hashlib
x = np.random.default_rng(0).standard_normal((300, 300))
print(hashlib.sha256(np.exp(x).tobytes() + (x @ x).tobytes()).hexdigest())"""
    if not any(f in levels for f in ("X86_V3", "AVX2")):
        pytest.skip("no SIMD levels to choose from")
    assert len({output(code, m) for m in MACHINES}) > 1
