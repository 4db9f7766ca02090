import math
import tracemalloc
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refscale.analysis.tables.formats import format_label
from refscale.errors import ArgumentError, CarrierError, FormatError
from refscale.formats import FORMATS, quantize
from refscale.stats import Limits, Lost, measure
from refscale.stats.measurement import BLOCK
from tests.analysis.builders import spread, tensor

WITH_ZERO = [name for name, f in FORMATS.items() if f.has_zero]
WITH_NAN = [name for name in WITH_ZERO if FORMATS[name].has_nan]


def exact_moments(x):
    """Mean, σ and RMS of few values, in rational arithmetic but for the roots."""
    values = [Fraction(float(v)) for v in x.ravel()]
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / len(values)
    return float(mean), math.sqrt(variance), math.sqrt(mean * mean + variance)


def lost_by_casting(x, name):
    """What measure counts, by casting: x without NaN."""
    f = FORMATS[name]
    q = quantize(x, name, rounding="nearest_even", overflow="nonsaturate")
    finite = np.isfinite(q)
    return Lost(
        underflow=int(np.count_nonzero((q == 0) & (x != 0))),
        subnormal=int(np.count_nonzero(finite & (q != 0) & (np.abs(q) < f.min_normal))),
        overflow=int(np.count_nonzero(~finite)),
    )


class TestMoments:
    # Bound: mean(d)² ≤ n·variance, so the difference loses at most about n units of 2^-53; n ≤ 1000 here, with room
    # for the summations.
    RELATIVE = 1000 * 8 * 2.0**-53

    @pytest.mark.parametrize(
        ("mean", "std"), [(0, 1), (3, 0.5), (1e4, 1e-3), (-1e-20, 1e-25), (1e30, 1e30), (0, 1e-40), (2.0**100, 2.0**80)]
    )
    def test_against_rational_arithmetic(self, mean, std):
        x = (mean + std * np.random.default_rng(1).standard_normal(1000)).astype(np.float32)
        m = measure(x)
        expected = exact_moments(x)
        assert m.std == pytest.approx(expected[1], rel=self.RELATIVE, abs=0)
        assert m.rms == pytest.approx(expected[2], rel=self.RELATIVE, abs=0)
        assert abs(m.mean - expected[0]) <= self.RELATIVE * m.rms

    def test_first_element_far_out(self):
        x = np.full(1000, 1e-3, np.float32)
        x[0] = 1e10
        x[1:] *= np.random.default_rng(2).standard_normal(999).astype(np.float32)
        assert measure(x).std == pytest.approx(exact_moments(x)[1], rel=self.RELATIVE, abs=0)

    @pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -3e38, 1e-45])
    def test_equal_elements_have_no_deviation(self, value):
        m = measure(np.full(3 * BLOCK + 5, value, np.float32))
        assert m.std == 0
        assert m.mean == np.float32(value)
        assert m.rms == m.amax == abs(m.mean)

    @pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17])
    def test_blocks_join(self, size):
        x = np.random.default_rng(size).standard_normal(size).astype(np.float32)
        m = measure(x)
        wide = x.astype(np.float64)
        assert m.elements == size
        assert m.std == pytest.approx(wide.std(), rel=size * 2.0**-50, abs=0)
        assert m.amax == np.abs(x).max()
        assert sum(m.exponents.values()) == size - m.zeros

    def test_any_strides(self):
        x = np.random.default_rng(3).standard_normal((70, 90, 50)).astype(np.float32)
        for view in (x.transpose(2, 0, 1), x[::-1, ::3], x[:, 5], np.broadcast_to(x[0], (3, 90, 50))):
            m, copied = measure(view), measure(view.copy())
            assert (m.elements, m.amax, m.zeros) == (copied.elements, copied.amax, copied.zeros)
            assert (dict(m.exponents), m.lost) == (dict(copied.exponents), copied.lost)
            assert m.std == pytest.approx(copied.std, rel=1e-12)  # another order of summation

    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
    def test_other_carriers(self, dtype):
        x = np.random.default_rng(4).standard_normal(1000).astype(dtype)
        assert measure(x) == measure(x.astype(np.float64))

    def test_empty(self):
        m = measure(np.empty((0, 3), np.float32))
        assert (m.elements, m.mean, m.std, m.rms, m.amax, m.exponents) == (0, 0, 0, 0, 0, {})
        assert m.share(0) == 0

    def test_not_finite(self):
        x = np.array([np.nan, 1, -np.inf, 3, 0, np.inf, -np.nan], np.float32)
        m = measure(x, ["float16"])
        assert (m.nan, m.infinite, m.zeros, m.elements, m.nonzero) == (2, 2, 1, 7, 4)
        assert (m.mean, m.amax) == (pytest.approx(4 / 3), 3)
        assert m.lost["float16"] == Lost(0, 0, 2)
        assert measure(np.full(3, np.nan, np.float32)).std == 0

    def test_every_count_goes_over_all_blocks(self):
        """One of each at the start, in the middle and at the end of three blocks and a bit: three in all, and 1s."""
        x = np.ones(3 * BLOCK + 17, np.float32)
        for start in (0, BLOCK + 5, 3 * BLOCK + 10):
            x[start : start + 6] = (np.nan, np.inf, 0, 2.0**-25, 2.0**-15, 65520)
        m = measure(x, ["float16", "float8_e4m3fn"])
        assert (m.elements, m.nan, m.infinite, m.zeros, m.amax) == (x.size, 3, 3, 3, 65520)
        assert m.exponents == {-25: 3, -15: 3, 0: x.size - 18, 15: 3}
        assert m.lost == {"float16": Lost(3, 3, 6), "float8_e4m3fn": Lost(6, 0, 6)}
        assert m.mean == pytest.approx((x.size - 18 + 3 * (65520 + 2.0**-15 + 2.0**-25)) / (x.size - 6), rel=1e-12)

    def test_no_copy_of_the_array(self):
        x = np.ones((4096, 2048), np.float32)  # 32 MiB
        tracemalloc.start()
        try:
            measure(x)
            measure(x.T)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 8 * 2**20

    def test_refuses(self):
        with pytest.raises(CarrierError, match="got an array of int64, expected a floating-point one"):
            measure(np.arange(3))
        with pytest.raises(ArgumentError, match=r"Limits\.of\('float8_e8m0fnu'\): expected a format with zero"):
            measure(np.ones(3), ["float8_e8m0fnu"])
        with pytest.raises(FormatError, match="unknown format 'fp12'"):
            measure(np.ones(3), ["fp12"])


@pytest.mark.parametrize(
    ("changes", "ratio"),
    [
        ({"predicted": 0.5}, 4.0),
        ({"predicted": 2.02e-6}, 2 / 2.02e-6),
        ({"predicted": 1.98e-6}, None),  # less than a millionth of the RMS is rounding
        ({"predicted": 0.0}, None),
        ({}, None),
        ({"predicted": 0.5, "zero_because": "biases"}, None),
    ],
)
def test_over_predicted(changes, ratio):
    assert tensor(spread(2.0), **changes).over_predicted == (None if ratio is None else pytest.approx(ratio))


class TestExponents:
    def test_every_binade_of_float32(self):
        exponents = np.arange(-149, 128)
        low = np.ldexp(1.0, exponents).astype(np.float32)
        high = np.nextafter(np.ldexp(1.0, exponents + 1), 0).astype(np.float64)  # just below the next binade
        assert measure(-low).exponents == {int(e): 1 for e in exponents}
        assert measure(high).exponents == {int(e): 1 for e in exponents}

    @given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
    def test_counts_every_nonzero_element(self, values):
        x = np.array(values, np.float32)
        m = measure(x)
        expected = [math.frexp(v)[1] - 1 for v in values if v]
        assert m.exponents == {e: expected.count(e) for e in sorted(set(expected))}
        assert sum(m.exponents.values()) + m.zeros == m.elements


class TestLost:
    @pytest.mark.parametrize("name", WITH_NAN)
    def test_every_float16(self, name):
        x = np.arange(2**16, dtype=np.uint16).view(np.float16)
        x = x[~np.isnan(x)]
        assert measure(x, [name]).lost[name] == lost_by_casting(x, name)

    @pytest.mark.parametrize("name", WITH_NAN)
    def test_at_the_thresholds(self, name):
        limits = Limits.of(name)
        for at in (limits.zero, limits.normal, limits.overflow):
            for x in (np.nextafter(at, 0), at, np.nextafter(at, np.inf), -at):
                array = np.array([x, 0.0])
                assert measure(array, [name]).lost[name] == lost_by_casting(array, name), (name, x)

    def test_ties_by_hand(self):
        cases = {
            2.0**-25: Lost(1, 0, 0),  # half the smallest float16: to zero, the even one
            math.nextafter(2.0**-25, 1): Lost(0, 1, 0),
            2.0**-14 - 2.0**-25: Lost(0, 0, 0),  # to the smallest normal
            math.nextafter(2.0**-14 - 2.0**-25, 0): Lost(0, 1, 0),
            65504.0: Lost(0, 0, 0),
            65520.0: Lost(0, 0, 1),  # 65504 is odd
            math.nextafter(65520.0, 0): Lost(0, 0, 0),
            math.inf: Lost(0, 0, 1),
        }
        for x, expected in cases.items():
            assert measure(np.array([x, 0.0]), ["float16"]).lost["float16"] == expected, x
        assert measure(np.array([464.0]), ["e4m3fn"]).lost["float8_e4m3fn"].overflow == 0  # 448 is even
        assert measure(np.array([math.nextafter(464.0, 999)]), ["e4m3fn"]).lost["float8_e4m3fn"].overflow == 1
        assert measure(np.array([248.0]), ["e4m3fnuz"]).lost["float8_e4m3fnuz"].overflow == 1  # 240 is odd

    def test_formats_without_nan_overflow_where_they_would_round_beyond(self):
        # float4_e2m1fn: … 4, 6, then 8 if it went on; 6 is odd (1.5·4), so the tie 7 goes out.
        assert measure(np.array([6.99, 7.0]), ["float4_e2m1fn"]).lost["float4_e2m1fn"] == Lost(0, 0, 1)

    @settings(max_examples=60)
    @given(
        st.lists(
            st.one_of(
                st.floats(width=32, allow_nan=False),
                st.floats(-600, 600, width=32),
                st.builds(math.ldexp, st.integers(-255, 255), st.integers(-30, 12)),
            ),
            min_size=1,
            max_size=40,
        )
    )
    def test_equals_casting(self, values):
        x = np.array(values, np.float32)
        m = measure(x, WITH_NAN)
        for name in WITH_NAN:
            assert m.lost[name] == lost_by_casting(x, name)

    def test_a_wrong_threshold_is_caught(self, monkeypatch):
        right = Limits.of("float16")
        x = np.arange(2**16, dtype=np.uint16).view(np.float16)
        x = x[np.isfinite(x)]
        wide = np.concatenate([x.astype(np.float64) / 2, x.astype(np.float64) * 2])  # ties included
        for wrong in (
            Limits(np.nextafter(right.zero, 0), right.normal, right.overflow),
            Limits(right.zero, np.nextafter(right.normal, 1), right.overflow),
            Limits(right.zero, right.normal, 65504.0),
        ):
            monkeypatch.setattr(Limits, "of", classmethod(lambda cls, name, wrong=wrong: wrong))
            assert measure(wide, ["float16"]).lost["float16"] != lost_by_casting(wide, "float16")
        monkeypatch.undo()
        assert measure(wide, ["float16"]).lost["float16"] == lost_by_casting(wide, "float16")


def test_labels():
    names = ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float32"]
    assert [format_label(n) for n in names] == ["FP16", "BF16", "E4M3", "E5M2", "E4M3FNUZ", "FLOAT32"]
