"""Factors, constraints, residual rules, quadrature, schemes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale import ops, scales
from refscale.errors import ArgumentError
from refscale.scales import Call, Scales, constrain, fixed, ratio, regular, running_mean, unit

positive = st.floats(1e-6, 1e6)


@given(positive, positive, positive)
def test_means_lie_in_order_between_least_and_greatest(a, b, c):
    betas = (b, c)
    h, g, m = (f(a, betas) for f in (scales.harmonic, scales.geometric, scales.arithmetic))
    slack = 1e-12
    assert min(a, b, c) * (1 - slack) <= h <= g * (1 + slack)
    assert g <= m * (1 + slack) <= max(a, b, c) * (1 + 2 * slack)


def test_means_of_known_numbers():
    assert scales.geometric(1.0, (8.0, 27.0)) == pytest.approx(6.0, rel=1e-14)
    assert scales.arithmetic(1.0, (2.0, 6.0)) == 3.0
    assert scales.harmonic(1.0, (0.5, 0.25)) == pytest.approx(3 / 7, rel=1e-14)
    assert scales.to_output_scale(2.0, (3.0, 5.0)) == 2.0
    assert scales.to_grad_input_scale(2.0, (3.0,)) == 3.0
    assert scales.to_left_grad_scale(2.0, (3.0, 5.0)) == 3.0
    assert scales.to_right_grad_scale(2.0, (3.0, 5.0)) == 5.0


def test_constrain_ties_only_the_named_inputs():
    free = Scales(2.0, (8.0, 5.0, None))
    assert constrain(free, (0,), scales.geometric) == Scales(4.0, (4.0, 5.0, None))
    assert constrain(free, (0, 2), scales.geometric) == Scales(4.0, (4.0, 5.0, None))
    assert constrain(free, (), scales.geometric) is free
    assert constrain(free, (2,), scales.geometric) is free
    assert constrain(free, (0, 1), scales.none) is free


def test_the_wrong_number_of_inputs_is_refused():
    with pytest.raises(ArgumentError, match="to_left_grad_scale: got 1 constrained inputs, expected 2"):
        constrain(Scales(1.0, (1.0,)), (0,), scales.to_left_grad_scale)
    with pytest.raises(ArgumentError, match="to_grad_input_scale: got 2 constrained inputs, expected 1"):
        constrain(Scales(1.0, (1.0, 1.0)), (0, 1), scales.to_grad_input_scale)


@pytest.mark.parametrize("inputs", [(-1,), (2,), (0, 0), (1, 0, 1)])
def test_positions_that_are_none_are_refused(inputs):
    with pytest.raises(ArgumentError) as error:
        constrain(Scales(1.0, (2.0, 3.0)), inputs, scales.to_output_scale)
    assert str(error.value) == f"constrain(inputs={inputs}): expected different positions of 2 inputs"


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_factors_are_positive_and_finite(bad):
    with pytest.raises(ArgumentError, match="factors must be positive, finite"):
        Scales(bad, (1.0,))
    with pytest.raises(ArgumentError, match="factors must be positive, finite"):
        Scales(1.0, (bad,))


def test_factors_are_python_floats():
    s = Scales(np.float64(2), (np.float64(3), None))
    assert type(s.alpha) is float
    assert type(s.beta[0]) is float
    assert str(s) == "α=2 β=(3, -)"


def test_every_constraint_is_listed():
    assert set(scales.CONSTRAINTS) == {
        "geometric",
        "harmonic",
        "arithmetic",
        "to_output_scale",
        "to_grad_input_scale",
        "to_left_grad_scale",
        "to_right_grad_scale",
        "none",
    }


def test_a_constraint_by_name():
    assert scales.get_constraint("geometric") is scales.geometric
    with pytest.raises(ArgumentError, match=r"get_constraint\('mean'\): expected one of geometric, harmonic"):
        scales.get_constraint("mean")


class TestQuadrature:
    @pytest.mark.parametrize(("power", "moment"), [(0, 1), (1, 0), (2, 1), (4, 3), (6, 15), (8, 105)])
    def test_moments_of_the_gaussian(self, power, moment):
        assert scales.gaussian_mean(lambda x: x**power) == pytest.approx(moment, rel=1e-13, abs=1e-13)

    def test_exponential(self):
        assert scales.gaussian_mean(np.exp) == pytest.approx(math.exp(0.5), rel=1e-14)
        assert scales.gaussian_mean(lambda x: np.exp(2 * x)) == pytest.approx(math.exp(2), rel=1e-14)

    def test_gelu_has_a_closed_form(self):
        """Stein's identity: E f² = 1/3 + 1/(2π√3), (E f)² = 1/(4π), E f'² = 1/3 + 2/(3π√3)."""
        square, slope = 1 / 3 + 1 / (2 * math.pi * math.sqrt(3)), 1 / 3 + 2 / (3 * math.pi * math.sqrt(3))
        std, rms = (ops.Gelu().scale((1,), statistic=s) for s in ("std", "rms"))
        assert std.alpha == pytest.approx((square - 1 / (4 * math.pi)) ** -0.5, rel=1e-14)
        assert rms.alpha == pytest.approx(square**-0.5, rel=1e-14)
        assert std.beta[0] == rms.beta[0] == pytest.approx(slope**-0.5, rel=1e-14)

    def test_std_removes_the_mean_and_rms_does_not(self):
        m = scales.gaussian_moments(lambda x: x + 2, np.ones_like)
        assert (m.std, m.rms, m.gradient_rms) == pytest.approx((1, math.sqrt(5), 1), rel=1e-13)
        assert m.scales("std").alpha == pytest.approx(1)
        assert m.scales("rms").alpha == pytest.approx(5**-0.5)


class TestResidualRules:
    @given(st.integers(1, 1000), st.floats(0.001, 0.999))
    def test_weights_keep_variance(self, layer, tau):
        for rule in (running_mean, fixed(tau), ratio(tau)):
            a, b = rule(layer)
            assert a**2 + b**2 == pytest.approx(1, rel=1e-14)

    def test_values(self):
        assert scales.default(5) == (1, 1)
        assert running_mean(3) == pytest.approx((math.sqrt(3 / 4), 1 / 2))
        assert fixed(0.36)(9) == pytest.approx((0.8, 0.6))
        assert ratio(0.75)(1) == pytest.approx((0.8, 0.6))

    def test_running_mean_weighs_every_branch_alike(self):
        """The weight of x₀ and of each f_l in the end is (L+1)^-1/2."""
        depth = 12
        weights = [1.0]
        for layer in range(1, depth + 1):
            a, b = running_mean(layer)
            weights = [a * w for w in weights] + [b]
        assert weights == pytest.approx([(depth + 1) ** -0.5] * (depth + 1))

    def test_a_plain_add_is_normalized_under_unit_scaling_only(self):
        assert regular.residual_weights(scales.default, 3, 4) == (1, 1)
        assert unit.residual_weights(scales.default, 3, 4) == running_mean(3)
        assert unit.residual_weights(scales.PlainAdd(fixed(0.1)), 3, 4) == fixed(0.1)(3)
        assert regular.residual_weights(fixed(0.1), 3, 4) == unit.residual_weights(fixed(0.1), 3, 4) == fixed(0.1)(3)

    @pytest.mark.parametrize("tau", [0.0, 1.0, -0.5, math.nan])
    def test_tau_out_of_range(self, tau):
        with pytest.raises(ArgumentError, match="expected 0 < tau < 1"):
            fixed(tau)
        if not tau > 0:
            with pytest.raises(ArgumentError, match="expected tau > 0"):
                ratio(tau)

    def test_layers_count_from_one(self):
        with pytest.raises(ArgumentError, match=r"running_mean\(layer=0\): expected layer ≥ 1"):
            running_mean(0)


class TestSchemes:
    def test_regular_is_all_ones_where_there_is_a_gradient(self):
        call = Call(ops.Embedding(), ((10, 4), (3,)))
        assert regular.scales(call) == Scales(1.0, (1.0, None))

    def test_unit_applies_the_constraint(self):
        call = Call(ops.Matmul(), ((64, 16), (16, 81)), scales.geometric, (0,))
        assert unit.scales(call).alpha == pytest.approx((16 * 81) ** -0.25)
        assert unit.scales(call).beta == pytest.approx(((16 * 81) ** -0.25, 1 / 8))
        assert unit.unconstrained(call) == ops.Matmul().scale((64, 16), (16, 81))

    def test_statistic_reaches_the_ops_that_have_a_mean(self):
        rms = scales.get_scheme("unit-rms")
        assert rms.scales(Call(ops.Relu(), ((2,),))).alpha == pytest.approx(math.sqrt(2))
        assert unit.scales(Call(ops.Relu(), ((2,),))).alpha == pytest.approx(math.sqrt(2 / (1 - 1 / math.pi)))
        tanh = Call(ops.Tanh(), ((2,),))
        assert rms.scales(tanh) == unit.scales(tanh)

    def test_initial_std(self):
        assert (regular.initial_std(0.02), unit.initial_std(0.02)) == (0.02, 1.0)

    def test_unknown_name(self):
        with pytest.raises(ArgumentError, match=r"get_scheme\('mup'\): expected one of regular, unit, unit-rms"):
            scales.get_scheme("mup")
