"""Per-tensor scaling: the powers of two around the casts of operands, from this step or from earlier ones."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale import ops
from refscale.engine import Tape, apply
from refscale.errors import ArgumentError
from refscale.formats import FORMATS, get_format
from refscale.precision import fp8, fp8_hidden, fp16, fp32
from refscale.rivals import NoScaling, OperandScales, Outcome, TensorScaling, operand_scale
from refscale.scales import regular
from tests.core.one_step import W, X, same_state, step, through_npz

E4, E5 = get_format("e4m3fn"), get_format("e5m2")


def exact_scale(format, amax, margin=0):
    """2^(⌊log2(max/amax)⌋ − margin) by counting in rational numbers."""
    ratio, k = Fraction(format.max) / Fraction(amax), 0
    while Fraction(2) ** (k + 1) <= ratio:
        k += 1
    while Fraction(2) ** k > ratio:
        k -= 1
    return Fraction(2) ** (k - margin)


MAGNITUDES = st.floats(2.0**-60, 2.0**60)
EIGHT_BITS = st.sampled_from([f for f in FORMATS.values() if f.signed and f.bits <= 8])


class TestOperandScale:
    @given(EIGHT_BITS, MAGNITUDES, st.integers(0, 3))
    def test_the_formula_in_exact_arithmetic(self, format, amax, margin):
        assert operand_scale(format, amax, margin) == exact_scale(format, amax, margin)

    @pytest.mark.parametrize("amax", [448.0, 1.0, 2.0, np.nextafter(448.0, 449), 1.75, 1.7500001])
    def test_binade_edges(self, amax):
        assert operand_scale(E4, amax) == exact_scale(E4, amax)

    @pytest.mark.parametrize(
        "wrong",
        [
            lambda f, a: 2.0 ** math.ceil(math.log2(f.max / a)),
            lambda f, a: 2.0 ** (math.floor(math.log2(f.max / a)) - 1),
            lambda f, a: 2.0 ** math.floor(math.log2(a / f.max)),
            lambda f, a: f.max / a,
        ],
        ids=["rounded up", "a binade low", "inverted", "no power of two"],
    )
    def test_wrong_scales_are_rejected(self, wrong):
        assert any(wrong(E4, a) != exact_scale(E4, a) for a in (1.0, 3.0, 448.0))

    @pytest.mark.parametrize("format", [f for f in FORMATS.values() if f.signed and f.name != "float32"], ids=str)
    @pytest.mark.parametrize("amax", [2.0**-149, 2.0**-126, 1.0, 2.0**127, 3.4028234663852886e38])
    def test_extremes_stay_within_float32(self, format, amax):
        s = np.float32(operand_scale(format, amax))
        assert np.isfinite(np.float32(amax) * s)
        for q in (format.min_subnormal, format.max):
            assert np.float32(q) / s * s == np.float32(q)
            if format.emin - format.mantissa_bits > -126:
                assert 2.0**-126 <= np.float32(q) / s < np.inf

    @pytest.mark.parametrize(
        ("format", "lowest", "highest"), [(E4, -119, 117), (E5, -112, 110), (get_format("float16"), -112, 102)], ids=str
    )
    def test_the_ends_of_float32(self, format, lowest, highest):
        """emax − 127 and 126 + emin − mantissa bits: E4M3 has 8, −6 and 3; E5M2 15, −14 and 2; FP16 15, −14 and 10."""
        assert operand_scale(format, 3.4028234663852886e38) == 2.0**lowest
        assert operand_scale(format, 2.0**-149) == 2.0**highest

    @pytest.mark.parametrize("amax", [0.0, math.inf, math.nan])
    def test_an_amax_that_says_nothing(self, amax):
        assert operand_scale(E4, amax) == 1

    @pytest.mark.parametrize("name", ["bfloat16", "tf32"])
    def test_a_format_with_the_exponents_of_float32_is_not_scaled(self, name):
        assert {operand_scale(get_format(name), 2.0**k) for k in range(-149, 128)} == {1.0}


def cast_of(tape, place, i=0):
    return [r for r in tape.casts if r.place == place][i]


def quantized(x, technique=None, state=None, precision=fp8):
    """x after the cast of operands, read from a product with 1."""
    technique = technique or TensorScaling("current")
    scales = technique.operand_scales(technique.init() if state is None else state)
    tape = Tape(regular, precision, operand_scales=scales)
    return apply(ops.Matmul(), tape.tensor(x), np.eye(np.shape(x)[-1])).value


FP8_WIDE = replace(fp8, store=None)  # FP8 operands, all else in float32
TENSORS = st.lists(st.floats(-8, 8, width=16), min_size=1, max_size=12).map(lambda v: np.array([v], np.float32))


class TestCurrent:
    def test_the_value_is_the_scaled_cast(self):
        x = X.astype(np.float32) * 100
        s = float(exact_scale(E4, float(np.abs(x).max())))
        np.testing.assert_array_equal(quantized(x, precision=FP8_WIDE), FP8_WIDE.operand(x * np.float32(s)) / s)

    def test_far_below_the_format_only_the_rounding_is_left(self):
        x = X.astype(np.float32)
        tiny = x * np.float32(2.0**-40)
        assert not FP8_WIDE.operand(tiny).any()
        np.testing.assert_array_equal(quantized(tiny, precision=FP8_WIDE), quantized(x, precision=FP8_WIDE) * 2.0**-40)
        # Half an ulp relative to the largest element's binade, at worst.
        error = np.abs(quantized(tiny, precision=FP8_WIDE) - tiny)
        assert (error <= np.maximum(np.abs(tiny) * 2.0**-4, np.abs(tiny).max() * 2.0**-16)).all()

    @given(TENSORS, st.integers(-60, 60))
    def test_scale_invariance(self, x, k):
        power = np.float32(2.0**k)
        np.testing.assert_array_equal(
            quantized(x * power, precision=FP8_WIDE), quantized(x, precision=FP8_WIDE) * power
        )

    @given(TENSORS)
    def test_nothing_is_clipped(self, x):
        scales = TensorScaling("current").operand_scales({})
        tape = Tape(regular, FP8_WIDE, operand_scales=scales, count_casts=True)
        apply(ops.Matmul(), tape.tensor(x * np.float32(2.0**20)), np.eye(x.shape[1]))
        assert cast_of(tape, "operand").clipped == 0

    def test_the_gradient_too_and_the_record_says_the_scale(self):
        technique = TensorScaling("current")
        _, _, outcome, tape = step(technique, {}, FP8_WIDE, times=2.0**-30, count_casts=True)
        records = [cast_of(tape, "operand", 0), cast_of(tape, "operand", 1), cast_of(tape, "operand_gradient")]
        measured = tape.rounder.operand_scales.measured
        assert list(measured) == ["0.matmul.0", "0.matmul.1", "0.matmul.gradient"]
        assert [r.scale for r in records] == [m.scale for m in measured.values()]
        assert [m.format for m in measured.values()] == [E4, E4, E5]
        assert records[2].scale > 2.0**40
        assert records[2].flushed == 0
        assert cast_of(step(NoScaling(), {}, FP8_WIDE, times=2.0**-30, count_casts=True)[3], "operand_gradient").flushed
        assert outcome == Outcome(False, 3, 3, X.size + W.size + 18, scales=3)

    def test_the_cast_alone_rounds_in_a_float64_carrier(self):
        technique = TensorScaling("current")
        x = X * 2.0**-300
        tape = Tape(regular, FP8_WIDE, np.float64, operand_scales=technique.operand_scales({}))
        y = apply(ops.Matmul(), tape.tensor(x), np.eye(5)).value
        s = cast_of(tape, "operand").scale
        assert y.dtype == np.float64
        np.testing.assert_array_equal(y, FP8_WIDE.operand(x * s).astype(np.float64) / s)

    @pytest.mark.parametrize("kind", ["current", "delayed"])
    def test_a_margin_leaves_binades_free(self, kind):
        found = []
        for margin in (0, 3):
            technique = TensorScaling(kind, margin)
            state, *_ = step(technique, technique.init(), FP8_WIDE)
            *_, tape = step(technique, state, FP8_WIDE)
            found.append([r.scale for r in tape.casts])
        assert found[0] == [8 * s for s in found[1]]

    @pytest.mark.parametrize("x", [np.zeros((2, 2)), np.full((2, 2), np.inf), np.zeros((0, 2))])
    def test_nothing_to_measure(self, x):
        tape = Tape(regular, FP8_WIDE, operand_scales=TensorScaling("current").operand_scales({}))
        apply(ops.Matmul(), tape.tensor(x), np.ones((2, 1)))
        assert cast_of(tape, "operand").scale == 1

    def test_a_nan_is_cast_as_it_is(self):
        tape = Tape(regular, FP8_WIDE, operand_scales=TensorScaling("current").operand_scales({}))
        y = apply(ops.Matmul(), tape.tensor([[1.0], [np.nan]]), [[1.0]]).value
        assert cast_of(tape, "operand").scale == 1
        np.testing.assert_array_equal(y, [[1.0], [np.nan]])

    def test_only_casts_of_operands_are_scaled(self):
        for precision, count in ((fp16, 0), (fp32, 0), (fp8_hidden, 3), (fp8, 3)):
            *_, outcome, tape = step(TensorScaling("current"), {}, precision)
            assert (outcome.scales, len(tape.rounder.operand_scales.measured)) == (count, count)
            assert all(r.scale == 1 for r in tape.casts if not r.place.startswith("operand"))


class TestDelayed:
    def steps(self, technique, factors):
        """States and tapes of steps whose input is X times each factor."""
        state, tapes, outcomes = technique.init(), [], []
        for f in factors:
            state, _, outcome, tape = step(technique, through_npz(state), FP8_WIDE, x=X * f, count_casts=True)
            tapes.append(tape)
            outcomes.append(outcome)
        return state, tapes, outcomes

    AMAX = float(np.abs(X).max().astype(np.float32))

    def expected(self, factors, history, delay=1):
        """Scales of x: of the largest magnitude in the ``history`` steps before each."""
        found = []
        for i in range(len(factors)):
            window = factors[max(0, i - history - delay + 1) : i - delay + 1] if i >= delay else []
            found.append(float(exact_scale(E4, self.AMAX * max(window))) if window else 1.0)
        return found

    FACTORS = (1.0, 4.0, 1.0, 1.0, 0.25, 0.25, 0.25, 8.0)

    @pytest.mark.parametrize("history", [1, 2, 3, 16])
    def test_the_scale_is_that_of_the_last_steps(self, history):
        _, tapes, _ = self.steps(TensorScaling("delayed", history=history), self.FACTORS)
        assert [cast_of(t, "operand").scale for t in tapes] == self.expected(self.FACTORS, history)

    @pytest.mark.parametrize(("history", "delay"), [(1, 1), (3, 1), (2, 0), (2, 2)])
    def test_another_window_is_rejected(self, history, delay):
        _, tapes, _ = self.steps(TensorScaling("delayed", history=2), self.FACTORS)
        assert [cast_of(t, "operand").scale for t in tapes] != self.expected(self.FACTORS, history, delay)

    def test_a_jump_saturates(self):
        _, tapes, _ = self.steps(TensorScaling("delayed"), [1.0, 1.0, 64.0])
        clipped = [cast_of(t, "operand").clipped for t in tapes]
        assert clipped[:2] == [0, 0]
        assert clipped[2] > 0
        s = cast_of(tapes[2], "operand").scale
        x = X.astype(np.float32) * 64
        assert clipped[2] == np.count_nonzero(np.abs(x) * s > E4.max)

    def test_a_jump_past_the_carrier_saturates(self):
        technique = TensorScaling("delayed")
        state = {"keys": np.array(["0.matmul.0"]), "amax": np.zeros((1, 16))}
        state["amax"][0, 3] = 2.0**-100
        tape = Tape(regular, FP8_WIDE, operand_scales=technique.operand_scales(state), count_casts=True)
        y = apply(ops.Matmul(), tape.tensor([[2.0**100]]), [[1.0]]).value
        assert cast_of(tape, "operand").clipped == 1
        assert y == 448 / operand_scale(E4, 2.0**-100)

    def test_keys_are_the_same_from_step_to_step(self):
        state, *_ = self.steps(TensorScaling("delayed"), [1.0])
        later, tapes, _ = self.steps(TensorScaling("delayed"), [1.0, 2.0, 3.0])
        assert state["keys"].tolist() == later["keys"].tolist() == list(tapes[2].rounder.operand_scales.measured)
        np.testing.assert_array_equal(later["amax"][0, :4], np.float32(self.AMAX) * np.array([3.0, 2.0, 1.0, 0.0]))

    def test_an_operand_that_does_not_occur_keeps_its_history(self):
        technique = TensorScaling("delayed", history=2)
        state = {"keys": np.array(["7.matmul.0"]), "amax": np.array([[3.0, 5.0]])}
        after, *_ = step(technique, state, FP8_WIDE)
        assert after["keys"].tolist()[0] == "7.matmul.0"
        assert after["amax"][0].tolist() == [3, 5]

    def test_what_is_not_finite_is_no_news(self):
        technique = TensorScaling("delayed", history=2)
        scales = OperandScales(former={"a": 4.0})
        with np.errstate(invalid="ignore"):
            for key, x in (("a", [np.inf]), ("b", [np.nan, 1]), ("c", [0.0])):
                scales.scale(key, np.array(x), E4)
        state = {"keys": np.array(["a"]), "amax": np.array([[4.0, 2.0]])}
        after, _, outcome = technique.finish(state, {}, scales)
        assert after["amax"].tolist() == [[0, 4], [0, 0], [0, 0]]
        assert outcome.changes == 0

    def test_what_it_takes(self):
        _, _, outcomes = self.steps(TensorScaling("delayed", history=4), [1.0, 1.0, 4.0])
        # The first step ends the scales of 1; that of the operand gradient stays if its amax has not left a binade.
        assert [o.changes for o in outcomes[:2]] == [3, 0]
        assert outcomes[2].changes >= 1
        assert replace(outcomes[2], changes=0) == Outcome(statistics=3, scales=3, state=12)

    def test_state_through_npz(self):
        technique = TensorScaling("delayed")
        state, *_ = self.steps(technique, [1.0, 3.0])
        again = through_npz(state)
        assert same_state(state, again)
        one, two = (step(technique, s, fp8, x=X * 5) for s in (state, again))
        assert same_state(one[0], two[0])
        np.testing.assert_array_equal(one[1]["w"], two[1]["w"])

    def test_finish_is_pure(self):
        technique = TensorScaling("delayed", history=2)
        state, *_ = self.steps(technique, [1.0, 3.0])
        before = {k: v.copy() for k, v in state.items()}
        step(technique, state, fp8, x=X * 5)
        assert same_state(state, before)

    def test_refusals(self):
        technique = TensorScaling("delayed", history=2)
        with pytest.raises(ArgumentError, match=r"delayed:history=2.finish\(scales=None\): expected the OperandScales"):
            technique.finish(technique.init(), {})
        with pytest.raises(ArgumentError, match=r"state has amax \(0, 16\), expected \(0, 2\)"):
            technique.operand_scales(TensorScaling("delayed").init())
        scales = technique.operand_scales(technique.init())
        step_tape = [Tape(regular, fp8, operand_scales=scales) for _ in range(2)]
        apply(ops.Matmul(), step_tape[0].tensor(X), W)
        with pytest.raises(ArgumentError, match=r"OperandScales.scale\('0.matmul.0'\): called twice, expected once"):
            apply(ops.Matmul(), step_tape[1].tensor(X), W)
        for wrong in ({"kind": "late"}, {"kind": "delayed", "margin": -1}, {"kind": "delayed", "history": 0}):
            with pytest.raises(ArgumentError, match=r"TensorScaling\(.*expected kind 'current' or 'delayed'"):
                TensorScaling(**wrong)
