import math

import numpy as np
import pytest

from refscale.engine import CastRecord, Variable
from refscale.errors import ArgumentError
from refscale.formats import Cast
from refscale.stats import CastSummary, summarize
from refscale.stats.report import by_layer, distance, is_outside
from refscale.stats.trace import summarize_casts
from tests.analysis.builders import spread, tensor


class TestJudgement:
    @pytest.mark.parametrize(
        ("scale", "outside"),
        [(0.25, False), (0.249, True), (1.0, False), (4.0, False), (4.01, True), (8.0, True), (2.0**-20, True)],
    )
    def test_by_standard_deviation(self, scale, outside):
        t = tensor(spread(scale))
        assert is_outside(t) == outside
        assert distance(t) == pytest.approx(abs(math.log2(scale)), abs=1e-6)

    def test_mean_does_not_count(self):
        x = spread(1.0) + 100
        assert not is_outside(tensor(x))
        assert is_outside(tensor(x, statistic="rms"))

    def test_gains_are_judged_by_rms(self):
        """They start at 1, all equal; after a step their σ is small, and not informative."""
        x = np.linspace(0.99, 1.01, 100)
        assert tensor(x, role="gain").scale == pytest.approx(1, abs=1e-3)
        assert is_outside(tensor(x))
        assert is_outside(tensor(x, role="gain", kind="weight gradient"))

    def test_equal_elements_are_judged_by_rms(self):
        assert not is_outside(tensor(np.ones(8)))
        assert is_outside(tensor(np.full(8, 8.0)))

    def test_all_zero_is_outside_and_farthest(self):
        zero = tensor(np.zeros(8))
        assert is_outside(zero)
        assert distance(zero) == math.inf

    @pytest.mark.parametrize("bad", [np.inf, np.nan])
    def test_not_finite_is_outside(self, bad):
        x = spread(1.0)
        x[7] = bad
        assert is_outside(tensor(x))
        assert distance(tensor(x)) == math.inf


class TestSummary:
    def test_counts_by_kind(self):
        s = summarize(
            [
                tensor(spread(1.0)),
                tensor(spread(8.0), name="wide"),
                tensor(spread(1.0), kind="activation"),
                tensor(spread(2.0**-9), name="narrow", kind="weight gradient"),
                tensor(spread(1.0), kind="weight gradient"),
            ]
        )
        assert s.judged == {"weight": 2, "activation": 1, "activation gradient": 0, "weight gradient": 2}
        assert s.outside == {"weight": 1, "activation": 0, "activation gradient": 0, "weight gradient": 1}
        assert (s.judged_count, s.outside_count) == (5, 2)
        assert s.worst.name == "narrow"

    def test_farthest_on_a_log_scale(self):
        assert summarize([tensor(spread(16.0), name="a"), tensor(spread(1 / 17), name="b")]).worst.name == "b"

    def test_of_two_as_far_the_first_is_named(self):
        """Also of those that are all zero or not finite, which are as far as can be."""
        two = [tensor(spread(16.0), name="a"), tensor(spread(1 / 16), name="b"), tensor(spread(2.0), name="c")]
        assert summarize(two).worst.name == "a"
        assert summarize(two[::-1]).worst.name == "b"
        lost = [tensor(np.full(4, np.nan), name="nan"), tensor(np.zeros(4), name="zero")]
        assert summarize([*two, *lost]).worst.name == "nan"
        assert summarize([*two, *lost[::-1]]).worst.name == "zero"

    def test_zero_by_construction_is_named_and_not_judged(self):
        s = summarize([tensor(spread(1.0)), tensor(np.zeros(4), name="a.bias", zero_because="biases at the start")])
        assert s.zero == {"biases at the start": ("a.bias",)}
        assert (s.judged_count, s.outside_count) == (1, 0)

    def test_damped_on_purpose_is_named_and_not_judged(self):
        s = summarize([tensor(spread(1.0)), tensor(spread(2.0**-7), name="mlm.readout", damped=True)])
        assert s.damped == ("mlm.readout",)
        assert (s.judged_count, s.outside_count) == (1, 0)

    def test_zero_without_a_reason_is_judged(self):
        s = summarize([tensor(spread(2.0**-30)), tensor(np.zeros(4), name="flushed")])
        assert s.worst.name == "flushed"
        assert s.outside_count == 2

    def test_nothing_to_judge(self):
        with pytest.raises(ArgumentError, match="summarize: no tensor to judge"):
            summarize([tensor(np.zeros(4), zero_because="biases")])


def cast_record(name, place, format, elements, clipped=None, flushed=None):
    return CastRecord(
        Variable(name, (elements,), True, None),
        place,
        Cast(format, "nearest_even", "saturate"),
        elements,
        clipped,
        flushed,
    )


def test_casts_are_summed_by_place_and_format():
    """The worst lost the largest share of its own elements, not the most; of two as bad the first."""
    records = [
        cast_record("a", "operand", "float8_e4m3fn", 1000, 30, 20),
        cast_record("b", "operand", "float8_e4m3fn", 10, 0, 2),
        cast_record("c", "operand", "float8_e4m3fn", 20, 4, 0),
        cast_record("a", "operand", "float8_e5m2", 1000, 0, 0),
        cast_record("a", "gradient", "float8_e4m3fn", 7, 1, 0),
        cast_record("empty", "gradient", "float8_e4m3fn", 0, 0, 0),
        cast_record("d", "output", "float16", 5),
    ]
    assert summarize_casts(records) == (
        CastSummary("operand", "float8_e4m3fn", 3, 1030, 34, 22, "b"),
        CastSummary("operand", "float8_e5m2", 1, 1000, 0, 0, ""),
        CastSummary("gradient", "float8_e4m3fn", 2, 7, 1, 0, "a"),
        CastSummary("output", "float16", 1, 5, 0, 0, ""),
    )


def test_by_layer_keeps_the_order():
    tensors = [tensor(spread(1.0), name=n, layer=n[0]) for n in ("b1", "a1", "b2")]
    assert [(layer, [t.name for t in rows]) for layer, rows in by_layer(tensors)] == [
        ("b", ["b1", "b2"]),
        ("a", ["a1"]),
    ]
