"""Learning-rate schedules, at points and as curves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale.errors import ArgumentError
from refscale.optim import SCHEDULES, Rate, constant, cosine, exponential, get_schedule, halving, linear


def values(schedule, steps):
    return [schedule(step) for step in steps]


def test_constant():
    assert values(constant(), (0, 1, 10**9)) == [1, 1, 1]
    assert values(constant(warmup=4), range(6)) == [0.25, 0.5, 0.75, 1, 1, 1]
    assert values(constant(warmup=2, steps=3), range(5)) == [0.5, 1, 1, 1, 1]


def test_linear():
    assert values(linear(4), range(7)) == [1, 0.75, 0.5, 0.25, 0, 0, 0]
    assert values(linear(steps=6, warmup=2), range(8)) == [0.5, 1, 1, 0.75, 0.5, 0.25, 0, 0]
    assert values(linear(2, 2), range(4)) == [0.5, 1, 0, 0]


def test_cosine():
    half = math.cos(math.pi / 4)
    assert values(cosine(4), range(6)) == pytest.approx([1, (1 + half) / 2, 0.5, (1 - half) / 2, 0, 0], abs=2.0**-52)
    assert values(cosine(4, 2), range(6)) == pytest.approx([0.5, 1, 1, 0.5, 0, 0], abs=2.0**-52)
    assert values(cosine(2, 0, final=0.2), range(5)) == pytest.approx([1, 0.6, 0.2, 0.2, 0.2], abs=2.0**-52)
    assert values(cosine(2, 2, 0.2), range(4)) == [0.5, 1, 0.2, 0.2]


def test_exponential():
    """2^(−step/every), between the halvings too."""
    root, third = math.sqrt(0.5), 2 ** (-1 / 3)
    assert values(exponential(2), range(5)) == pytest.approx([1, root, 0.5, root / 2, 0.25], rel=2.0**-52)
    assert values(exponential(3, warmup=2), range(4)) == pytest.approx([0.5, third, third**2, 0.5], rel=2.0**-51)
    assert values(exponential(4, warmup=8), (4, 7, 8)) == pytest.approx([0.3125, 2**-1.75, 0.25], rel=2.0**-52)
    assert exponential(65536)(32768) == pytest.approx(root, rel=2.0**-52)  # of the paper's character models
    assert exponential(65536)(524288) == 2.0**-8
    assert exponential(1)(1074) == 2.0**-1074
    assert exponential(1)(10**400) == 0.0


def test_halving():
    assert values(halving(2), range(7)) == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125]
    assert values(halving(3, warmup=2), range(5)) == [0.5, 1, 1, 0.5, 0.5]
    assert values(halving(2, warmup=4), range(5)) == [0.25, 0.5, 0.375, 0.5, 0.25]
    assert halving(1)(1074) == 2.0**-1074
    assert halving(1)(10**400) == 0.0


@given(st.data(), st.integers(1, 300), st.floats(0, 1), st.integers(1, 50))
def test_rise_then_fall_within_0_and_1(data, steps, final, every):
    """Up to the peak in warmup equal steps, never up again; and every value makes a Rate."""
    warmup = data.draw(st.integers(0, steps))
    for schedule in (constant(warmup), linear(steps, warmup), cosine(steps, warmup, final)):
        s = values(schedule, range(steps + 3))
        assert s[:warmup] == [(step + 1) / warmup for step in range(warmup)]
        assert s[warmup:] == sorted(s[warmup:], reverse=True)
        assert all(type(Rate(1.0, x).multiplier) is float for x in s)
    assert linear(steps, warmup)(steps) == 0
    assert cosine(steps, warmup, final)(steps) == final
    for schedule in (exponential(every), halving(every)):
        s = values(schedule, range(steps))
        assert all(s[step + every] == s[step] / 2 for step in range(steps - every))
        assert s == sorted(s, reverse=True)
    assert all(exponential(every)(step) <= halving(every)(step) for step in range(steps))


def test_steps_may_be_numpy_integers():
    assert linear(4)(np.int64(1)) == 0.75
    with pytest.raises(TypeError):
        linear(4)(1.0)


def test_by_name():
    assert set(SCHEDULES) == {"constant", "linear", "cosine", "exponential", "halving"}
    for name in ("constant", "linear", "cosine"):
        assert get_schedule(name, warmup=2, steps=4)(0) == 0.5
    assert get_schedule("halving", warmup=2, every=4)(6) == 0.5
    assert get_schedule("exponential", warmup=2, every=4)(6) == pytest.approx(2**-1.5, rel=2.0**-52)
    assert get_schedule("cosine", steps=4, final=0.5)(4) == 0.5


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: constant(-1), "constant(warmup=-1): expected warmup ≥ 0"),
        (lambda: constant(3, steps=2), "constant(steps=2, warmup=3): expected 0 ≤ warmup ≤ steps"),
        (lambda: linear(0), "linear(steps=0): expected steps ≥ 1"),
        (lambda: linear(5, 6), "linear(steps=5, warmup=6): expected 0 ≤ warmup ≤ steps"),
        (lambda: cosine(5, -1), "cosine(steps=5, warmup=-1): expected 0 ≤ warmup ≤ steps"),
        (lambda: cosine(5, final=1.5), "cosine(final=1.5): expected 0 ≤ final ≤ 1"),
        (lambda: cosine(5, final=math.nan), "cosine(final=nan): expected 0 ≤ final ≤ 1"),
        (lambda: exponential(0), "exponential(every=0): expected every ≥ 1"),
        (lambda: exponential(2, -1), "exponential(warmup=-1): expected warmup ≥ 0"),
        (lambda: exponential(5)(-1), "exponential schedule at step -1: expected step ≥ 0"),
        (lambda: halving(0), "halving(every=0): expected every ≥ 1"),
        (lambda: halving(2, -1), "halving(warmup=-1): expected warmup ≥ 0"),
        (lambda: linear(5)(-1), "linear schedule at step -1: expected step ≥ 0"),
        (lambda: halving(5)(-1), "halving schedule at step -1: expected step ≥ 0"),
        (
            lambda: get_schedule("step"),
            "get_schedule('step'): expected one of constant, linear, cosine, exponential, halving",
        ),
        (lambda: get_schedule("linear", final=1), "get_schedule('linear', final=1): expected some of steps, warmup"),
        (lambda: get_schedule("halving", warmup=1), "get_schedule('halving'): expected every="),
    ],
)
def test_errors(make, text):
    with pytest.raises(ArgumentError) as error:
        make()
    assert str(error.value) == text
