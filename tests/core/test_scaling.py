"""Loss scaling and automatic loss scaling, and the names of all techniques; the rest is in test_tensor_scaling."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refscale.errors import ArgumentError
from refscale.precision import fp16, fp32
from refscale.rivals import (
    AutomaticLossScale,
    NoScaling,
    Outcome,
    StaticLossScale,
    TensorScaling,
    all_finite,
    get_scaling,
)
from tests.core.one_step import X, gradient_of, same_state, step, through_npz


class TestLossScale:
    def test_none_does_nothing(self):
        technique = NoScaling()
        g = {"w": np.array([np.inf])}
        state, gradients, outcome = technique.finish(technique.init(), g)
        assert technique.loss_scale(state) == 1
        assert gradients["w"] is g["w"]
        assert outcome == Outcome()

    @pytest.mark.parametrize("scale", [2.0**-20, 0.5, 512.0, 2.0**40])
    def test_a_power_of_two_changes_no_bit_in_fp32(self, scale):
        np.testing.assert_array_equal(gradient_of(StaticLossScale(scale)), gradient_of(NoScaling()))

    def test_unscale_forgotten_is_rejected(self):
        class Forgetful(StaticLossScale):
            def finish(self, state, gradients, scales=None):
                return NoScaling().finish(state, gradients, scales)

        assert (gradient_of(Forgetful(512.0)) != gradient_of(NoScaling())).any()

    def test_any_other_number_costs_roundings(self):
        """Of the seed, each product and sum after it, and the quotient: fewer than 16, of 2^-24 each."""
        one, other = gradient_of(StaticLossScale(1000 / 3)), gradient_of(NoScaling())
        np.testing.assert_allclose(one, other, rtol=0, atol=16 * 2.0**-24 * np.abs(other).max())

    def test_small_gradients_survive_fp16_with_a_scale_and_vanish_without(self):
        """Gradients of logits are at most 1/6 here; times 2^-23 that is below 2^-25, half of FP16's smallest value."""
        assert not gradient_of(NoScaling(), fp16, times=2.0**-23).any()
        rescued = gradient_of(StaticLossScale(2.0**15), fp16, times=2.0**-23)
        # All that the tape holds is 2^15 times as large: it is what it would be had the gradients shrunk by 2^-8.
        np.testing.assert_array_equal(rescued, gradient_of(NoScaling(), fp16, times=2.0**-8) * np.float32(2.0**-15))
        exact = gradient_of(NoScaling(), times=2.0**-23)
        assert np.abs(rescued - exact).max() < 2.0**-8 * np.abs(exact).max()

    def test_a_scale_beyond_fp16_may_seed_the_loss(self):
        assert all_finite([gradient_of(StaticLossScale(2.0**16), fp16, x=X / 64)])

    def test_overflow_under_a_static_scale_is_left_to_the_user(self):
        _, gradients, outcome, _ = step(StaticLossScale(2.0**24), {}, fp16)
        assert not all_finite(gradients.values())
        assert not outcome.skipped

    def test_what_it_takes(self):
        assert step(StaticLossScale(8.0), {}, fp32)[2] == Outcome(scales=1)

    @pytest.mark.parametrize("scale", [0.0, -2.0, math.inf, math.nan, 2.0**-127, 2.0**128])
    def test_refused_scales(self, scale):
        with pytest.raises(ArgumentError, match=r"StaticLossScale\(scale=.*\): expected 2\^-126 to 2\^127"):
            StaticLossScale(scale)


GOOD, BAD = {"w": np.ones(3, np.float32), "b": np.ones(2, np.float32)}, {"w": np.array([1, np.inf], np.float32)}


def scales_of(technique, finite):
    """The scale of each step and whether it was skipped."""
    state, found = technique.init(), []
    for good in finite:
        scale = technique.loss_scale(state)
        state, _, outcome = technique.finish(state, GOOD if good else BAD)
        found.append((scale, outcome.skipped))
    return found, technique.loss_scale(state)


def transcribed(technique, finite):
    """Micikevicius et al. 2017, 3.2, written as a loop over variables."""
    scale, count, found = technique.initial, 0, []
    for good in finite:
        found.append((scale, not good))
        if good:
            count += 1
            if count == technique.interval:
                scale, count = (scale * technique.growth if scale * technique.growth <= 2.0**127 else scale), 0
        else:
            scale, count = max(scale * technique.backoff, technique.smallest), 0
    return found, scale


class TestAutomatic:
    def test_defaults(self):
        """Those of torch.amp.GradScaler, and a least scale: the smallest subnormal of float16."""
        assert AutomaticLossScale() == AutomaticLossScale(65536.0, 2.0, 0.5, 2000, 2.0**-24)

    def test_grow_back_off_skip(self):
        technique = AutomaticLossScale(initial=8.0, interval=2, smallest=2.0)
        found, last = scales_of(technique, [1, 1, 1, 0, 1, 1, 0, 0, 0, 0])
        assert found == [
            (8, False),
            (8, False),
            (16, False),
            (16, True),
            (8, False),
            (8, False),
            (16, True),
            (8, True),
            (4, True),
            (2, True),
        ]
        assert last == 2

    def test_the_last_scale_is_that_of_float32s_last_binade(self):
        found, last = scales_of(AutomaticLossScale(initial=2.0**126, interval=1), [1, 1, 1])
        assert [scale for scale, _ in found] == [2.0**126, 2.0**127, 2.0**127]
        assert last == 2.0**127

    @given(st.lists(st.booleans(), max_size=40), st.integers(1, 4), st.integers(-24, 127))
    def test_a_plain_transcription(self, finite, interval, exponent):
        technique = AutomaticLossScale(initial=2.0**exponent, interval=interval)
        assert scales_of(technique, finite) == transcribed(technique, finite)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"growth": 4.0},
            {"backoff": 0.25},
            {"interval": 3},
            {"smallest": 2.0**-3},
        ],
    )
    def test_a_wrong_number_is_rejected(self, wrong):
        technique = AutomaticLossScale(initial=8.0, interval=2, smallest=2.0)
        finite = [1, 1, 1, 0, 1, 1, 0, 0, 0, 0]
        assert scales_of(technique, finite) != transcribed(replace(technique, **wrong), finite)

    def test_a_skip_forgotten_is_rejected(self):
        class Careless(AutomaticLossScale):
            def finish(self, state, gradients, scales=None):
                state, gradients, outcome = super().finish(state, gradients, scales)
                return state, gradients, replace(outcome, skipped=False)

        technique = AutomaticLossScale(initial=8.0)
        careless = Careless(initial=8.0)
        assert scales_of(technique, [1, 0]) == transcribed(technique, [1, 0]) != scales_of(careless, [1, 0])

    @pytest.mark.parametrize("seed", range(3))
    def test_torch(self, seed):
        """The same sequence of scales and of skipped steps as torch.amp.GradScaler."""
        torch = pytest.importorskip("torch")
        finite = np.random.default_rng(seed).random(60) < 0.8
        technique = AutomaticLossScale(initial=2.0**125, interval=3)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**125, growth_interval=3)
        p = torch.nn.Parameter(torch.zeros(2))
        optimizer = torch.optim.SGD([p], lr=1.0)
        found = []
        for good in finite:
            before, value = scaler.get_scale(), p.detach().clone()
            scaler.scale(torch.zeros(()))  # makes the scale, lazily
            p.grad = torch.tensor([1.0, 1.0 if good else math.inf])
            scaler.step(optimizer)
            scaler.update()
            found.append((before, bool((p.detach() == value).all())))
            p.data.zero_()
        # A good step moves p by 1/scale, which is at least 2^-127.
        assert scales_of(technique, finite) == (found, scaler.get_scale())

    def test_it_finds_a_scale_at_which_fp16_trains(self):
        technique = AutomaticLossScale(initial=2.0**30, interval=100)
        state, skipped = technique.init(), 0
        for _ in range(30):
            state, gradients, outcome, _ = step(technique, state, fp16)
            if not outcome.skipped:
                break
            skipped += 1
        assert 0 < skipped < 30
        np.testing.assert_array_equal(gradients["w"], gradient_of(NoScaling(), fp16))

    def test_gradients_are_unscaled(self):
        np.testing.assert_array_equal(gradient_of(AutomaticLossScale()), gradient_of(NoScaling()))

    def test_a_gradient_that_overflows_when_unscaled_is_not_finite(self):
        technique = AutomaticLossScale(initial=0.5)
        _, _, outcome = technique.finish(technique.init(), {"w": np.full(1, 2.0**127, np.float32)})
        assert outcome.skipped

    def test_what_it_takes(self):
        technique = AutomaticLossScale(interval=1)
        _, _, outcome = technique.finish(technique.init(), GOOD)
        assert outcome == Outcome(False, 2, 2, 5, scales=1, changes=1, state=2)
        _, _, outcome = AutomaticLossScale().finish(technique.init(), GOOD)
        assert outcome == Outcome(False, 2, 2, 5, scales=1, changes=0, state=2)
        assert technique.finish(technique.init(), BAD)[2].changes == 1

    def test_state_through_npz(self):
        technique = AutomaticLossScale(interval=3)
        state, *_ = step(technique, technique.init(), fp16)
        again = through_npz(state)
        assert same_state(state, again)
        assert same_state(step(technique, state, fp16)[0], step(technique, again, fp16)[0])

    def test_finish_is_pure(self):
        technique = AutomaticLossScale(interval=1)
        state = technique.init()
        technique.finish(state, GOOD)
        assert same_state(state, technique.init())
        assert (GOOD["w"] == 1).all()

    @pytest.mark.parametrize(
        "wrong", [{"growth": 1.0}, {"backoff": 1.0}, {"interval": 0}, {"initial": math.inf}, {"smallest": 2.0**17}]
    )
    def test_refused_numbers(self, wrong):
        with pytest.raises(ArgumentError, match=r"AutomaticLossScale\(.*\): expected 2\^-126 ≤ smallest ≤ initial"):
            AutomaticLossScale(**wrong)


class TestNames:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("none", NoScaling()),
            ("static:512", StaticLossScale(512.0)),
            ("static:2^15", StaticLossScale(2.0**15)),
            ("static:scale=2^-3", StaticLossScale(0.125)),
            ("automatic", AutomaticLossScale()),
            ("automatic:2^10,interval=100", AutomaticLossScale(1024.0, interval=100)),
            ("automatic:growth=4,backoff=0.25", AutomaticLossScale(growth=4.0, backoff=0.25)),
            ("current", TensorScaling("current")),
            ("current:margin=2", TensorScaling("current", 2)),
            ("delayed", TensorScaling("delayed")),
            ("delayed:history=4,margin=1", TensorScaling("delayed", 1, 4)),
        ],
    )
    def test_by_name_and_back(self, text, expected):
        assert get_scaling(text) == expected
        assert get_scaling(expected.name) == expected

    @given(st.floats(2.0**-126, 2.0**127))
    def test_every_scale_has_a_name(self, scale):
        assert get_scaling(StaticLossScale(scale).name) == StaticLossScale(scale)

    def test_names(self):
        assert [get_scaling(t).name for t in ("static:2^9", "static:2^40", "automatic", "delayed:margin=0")] == [
            "static:512",
            "static:2^40",
            "automatic",
            "delayed",
        ]

    def test_what_someone_has_to_choose(self):
        names = ("none", "static:512", "automatic", "current", "delayed")
        assert [get_scaling(n).tuned for n in names] == [(), ("scale",), (), (), ("history",)]

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "unit",
            "none:1",
            "none:",
            "static",
            "static:",
            "static:x",
            "static:inf",
            "static:2^9999",
            "static:initial=4",
            "static:4,scale=4",
            "automatic:interval=1.5",
            "automatic:100,200",
            "current:history=4",
            "delayed:4",
            "delayed:kind=current",
        ],
    )
    def test_unknown(self, text):
        with pytest.raises(ArgumentError) as caught:
            get_scaling(text)
        message = str(caught.value)
        assert message.startswith(f"get_scaling({text!r}): ")
        assert "expected one of none, static:512, automatic" in message

    def test_numbers_that_the_record_refuses(self):
        with pytest.raises(ArgumentError, match=r"StaticLossScale\(scale=0.0\)"):
            get_scaling("static:0")


def test_all_finite():
    assert all_finite([])
    assert all_finite([np.ones(3), np.zeros(0)])
    assert not all_finite([np.ones(3), np.array([np.nan])])
    assert not all_finite([np.array([-np.inf])])


@settings(max_examples=25)
@given(st.sampled_from(["none", "static:2^20", "automatic", "current"]))
def test_no_technique_changes_a_bit_of_fp32(name):
    np.testing.assert_array_equal(gradient_of(get_scaling(name)), gradient_of(NoScaling()))
