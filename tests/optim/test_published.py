"""Each optimizer against the published algorithm, and wrong ones that the comparison rejects."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refscale.optim import OPTIMIZERS, Group, Rate, get_optimizer
from refscale.optim.rules import norm, trust_ratio
from refscale.optim.update import optimizer
from tests.optim import published

BOUND64 = 2.0**-53 * published.STEPS * 5
"""A rounding of p in each of 20 steps, up to three in the transcription, and 1 for those of the update, as below."""

BOUND32 = 2.0**-24 * published.STEPS * 1.5
"""One rounding of p in each of 20 steps, and as much as half of that from the 16 of an update of 1/50 of p."""

LOOSE64 = 1e-12
"""With any hyperparameters, m/√v may exceed 1 by far; an error in a formula causes a much larger difference."""

HYPER = [
    ("sgd", {}),
    ("sgd", {"weight_decay": 0.1}),
    ("sgd", {"momentum": 0.9}),
    ("sgd", {"momentum": 0.5, "nesterov": True, "weight_decay": 0.01}),
    ("adam", {}),
    ("adam", {"b1": 0.0, "b2": 0.5, "eps": 1e-3}),
    ("adam", {"b1": 0.8, "b2": 0.95, "weight_decay": 0.1}),
    ("adamw", {}),
    ("adamw", {"b1": 0.95, "b2": 0.9, "eps": 1e-4, "weight_decay": 0.5}),
    ("adamw", {"weight_decay": 0.0}),
    ("adamw", {"weight_decay": 1e-3, "independent": True}),
    ("lamb", {}),
    ("lamb", {"b1": 0.5, "b2": 0.9, "eps": 1e-2, "weight_decay": 0.3}),
    ("lamb", {"weight_decay": 0.0}),
]


def deviation(made, name, hyper, dtype=np.float64):
    """Of an optimizer from the algorithm of that name, on the problem."""
    case = published.problem()
    want = published.reference(published.ALGORITHMS[name], case, **hyper)
    return published.distance(published.run(made, case.to(dtype)), want)


@pytest.mark.parametrize(("name", "hyper"), HYPER)
class TestPublished:
    def test_in_float64(self, name, hyper):
        assert deviation(get_optimizer(name, **hyper), name, hyper) <= BOUND64

    def test_in_float32(self, name, hyper):
        assert deviation(get_optimizer(name, **hyper), name, hyper, np.float32) <= BOUND32


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(["adam", "adamw", "lamb"]),
    st.floats(0, 0.99),
    st.floats(0.5, 0.9999),
    st.floats(1e-8, 1e-2),
    st.just(0.0) | st.floats(1e-6, 0.5),  # a smaller one's norm underflows
    st.integers(0, 2**32),
)
def test_any_hyperparameters(name, b1, b2, eps, weight_decay, seed):
    hyper = {"b1": b1, "b2": b2, "eps": eps, "weight_decay": weight_decay}
    case = published.problem(seed)
    want = published.reference(published.ALGORITHMS[name], case, **hyper)
    assert published.distance(published.run(get_optimizer(name, **hyper), case), want) <= LOOSE64


# --- Wrong on purpose -------------------------------------------------------------------------------------------------


def adam_like(
    *,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.0,
    first=0,
    corrected=True,
    eps_in_root=False,
    coupled=False,
    trust=False,
    ratio_of_all=False,
    decay_after_trust=False,
):
    """Adam, AdamW or LAMB on whole arrays, with one thing to get wrong each."""

    def rule(t, rate, group):
        lr, decay = rate.of(group), weight_decay * group.decayed
        t = t + first

        def step(g, p, m, v):
            if coupled:
                g = g + decay * p
            m = b1 * m + (1 - b1) * g
            v = b2 * v + (1 - b2) * g**2
            c1, c2 = (1 - b1**t, 1 - b2**t) if corrected else (1, 1)
            u = m / c1 / (np.sqrt(v / c2 + eps) if eps_in_root else np.sqrt(v / c2) + eps)
            if not coupled and not decay_after_trust:
                u = u + decay * p
            if trust and (group.decayed or ratio_of_all):
                u = u * trust_ratio(p, u)
            if decay_after_trust:
                u = u + decay * p
            return np.asarray(p - lr * u), np.asarray(m), np.asarray(v)

        return step

    return optimizer("adam_like", ("m", "v"), rule)


def dampened(t, rate, group):
    def step(g, p, m):
        m = 0.9 * m + (1 - 0.9) * g
        return np.asarray(p - rate.of(group) * m), np.asarray(m)

    return step


def scaled_momentum(t, rate, group):
    """The learning rate inside the moment: the same only while the rate stays."""

    def step(g, p, m):
        m = 0.9 * m + rate.of(group) * g
        return np.asarray(p - m), np.asarray(m)

    return step


def test_the_right_ones_written_the_same_way_pass():
    lamb = {"eps": 1e-6, "weight_decay": 0.01}
    assert deviation(adam_like(), "adam", {}) <= BOUND64
    assert deviation(adam_like(weight_decay=0.1, coupled=True), "adam", {"weight_decay": 0.1}) <= BOUND64
    assert deviation(adam_like(weight_decay=0.01), "adamw", {}) <= BOUND64
    assert deviation(adam_like(trust=True, **lamb), "lamb", lamb) <= BOUND64


LAMB = {"eps": 1e-6, "weight_decay": 0.01}
WRONG = {
    "no bias correction": (adam_like(corrected=False), "adam", {}),
    "steps counted from 2": (adam_like(first=1), "adam", {}),
    "eps inside the root": (adam_like(eps_in_root=True), "adam", {}),
    "b1 and b2 swapped": (adam_like(b1=0.999, b2=0.9), "adam", {}),
    "no decay": (adam_like(), "adam", {"weight_decay": 0.01}),
    "coupled for decoupled": (adam_like(weight_decay=0.01, coupled=True), "adamw", {}),
    "decoupled for coupled": (adam_like(weight_decay=0.01), "adam", {"weight_decay": 0.01}),
    "decay by the rate for independent": (adam_like(weight_decay=0.01), "adamw", {"independent": True}),
    "no trust ratio": (adam_like(**LAMB), "lamb", LAMB),
    "trust ratio without decay too": (adam_like(trust=True, ratio_of_all=True, **LAMB), "lamb", LAMB),
    "trust ratio before the decay": (adam_like(trust=True, decay_after_trust=True, **LAMB), "lamb", LAMB),
    "LAMB without bias correction": (adam_like(trust=True, corrected=False, **LAMB), "lamb", LAMB),
    "dampened momentum": (optimizer("dampened", ("m",), dampened), "sgd", {"momentum": 0.9}),
    "the rate inside the moment": (optimizer("scaled", ("m",), scaled_momentum), "sgd", {"momentum": 0.9}),
    "heavy ball for Nesterov": (get_optimizer("sgd", momentum=0.9), "sgd", {"momentum": 0.9, "nesterov": True}),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_the_comparison_rejects(wrong):
    """By a wide margin, so also in float32."""
    made, name, hyper = WRONG[wrong]
    assert deviation(made, name, hyper) > 10 * BOUND32


# --- Particulars ------------------------------------------------------------------------------------------------------

ONE = {"w": np.array([3.0, 4.0])}


def one_step(made, parameters, gradients, rate=Rate(0.5, 0.5), group=Group()):  # noqa: B008
    new, _ = made.update(gradients, made.init(parameters), parameters, rate, dict.fromkeys(parameters, group))
    return new


def test_by_hand():
    """Without gradient only the decay is left."""
    zero = {"w": np.zeros(2)}
    np.testing.assert_array_equal(one_step(get_optimizer("sgd"), ONE, {"w": np.ones(2)})["w"], [2.75, 3.75])
    np.testing.assert_array_equal(one_step(get_optimizer("adamw", weight_decay=0.5), ONE, zero)["w"], [2.625, 3.5])
    np.testing.assert_array_equal(one_step(get_optimizer("adam", eps=1.0), ONE, {"w": np.ones(2)})["w"], [2.875, 3.875])


def test_independent_decay_follows_the_multiplier_alone():
    zero = {"w": np.zeros(2)}
    made = get_optimizer("adamw", weight_decay=0.5, independent=True)
    for peak, lr_scale in ((0.5, 1.0), (7.0, 1.0), (0.5, 0.0), (0.0, 3.0)):
        new = one_step(made, ONE, zero, Rate(peak, 0.5), Group(lr_scale))
        np.testing.assert_array_equal(new["w"], 0.75 * ONE["w"])
    np.testing.assert_array_equal(one_step(made, ONE, zero, group=Group(decayed=False))["w"], ONE["w"])


def test_the_grain_of_float32_does_not_bend_the_decay():
    """δ = 1e-6 is 8.4 ulp of 1: rounding p − δ·p errs either way, rounding 1 − δ takes 17·2^-24, 1.3% more.

    Mean loss of 4096 parameters in [1, 2): standard error ulp/√12/√4096 = 5.4e-10; within 5 of them, rate 6e-7.
    """
    p = np.random.default_rng(2).uniform(1, 2, 4096).astype(np.float32)
    made = get_optimizer("adamw", weight_decay=1e-3)
    got = one_step(made, {"w": p}, {"w": np.zeros_like(p)}, Rate(1e-3))["w"]

    def loss(new):
        return float(np.mean((p.astype(np.float64) - new) / p))

    assert abs(loss(got) - 1e-6) < 5 * 5.4e-10
    assert abs(loss(p * np.float32(1 - 1e-6)) - 1e-6) > 20 * 5.4e-10


class TestTrustRatio:
    def test_values(self):
        assert trust_ratio(np.array([3.0, 4.0]), np.array([0.0, 2.0])) == 2.5

    @pytest.mark.parametrize(
        ("p", "u"), [((0.0, 0.0), (1.0, 2.0)), ((1.0, 2.0), (0.0, 0.0)), ((0.0,), (0.0,)), ((), ())]
    )
    def test_one_where_either_is_zero(self, p, u):
        assert trust_ratio(np.array(p), np.array(u)) == 1.0

    def test_norm_is_accumulated_in_float64(self):
        """In float32 the squares underflow, overflow, or are lost beside 2^24."""
        assert norm(np.full(5, 1e-30, np.float32)) == pytest.approx(5**0.5 * float(np.float32(1e-30)), rel=1e-15)
        assert norm(np.full(10, 1e30, np.float32)) == pytest.approx(10**0.5 * float(np.float32(1e30)), rel=1e-15)
        for scale in (1e-200, 1e200, 5e-324):  # where float64's own squares do
            assert norm(np.array([3 * scale, -4 * scale])) == pytest.approx(5 * scale, rel=1e-15)
            assert norm(np.array([-scale, 0])) == scale
        assert trust_ratio(np.array([3e-200, 4e-200]), np.array([0.0, 2e-200])) == pytest.approx(2.5, rel=1e-15)
        assert math.isnan(norm(np.array([1.0, math.nan])))
        assert norm(np.array([1.0, -math.inf])) == math.inf
        x = np.ones((3, 16667), np.float32)
        x[0, 0] = 4096
        assert norm(x) == (4096.0**2 + 50000) ** 0.5

    def test_the_step_of_a_decayed_parameter_is_as_long_as_the_parameter(self):
        rng = np.random.default_rng(1)
        p, g = ({"w": rng.standard_normal((30, 40))} for _ in range(2))
        new = one_step(get_optimizer("lamb"), p, g, Rate(0.1))
        assert norm(new["w"] - p["w"]) == pytest.approx(0.1 * norm(p["w"]), rel=1e-13)


def test_every_optimizer_is_compared():
    assert set(OPTIMIZERS) == set(published.ALGORITHMS) == {name for name, _ in HYPER}
