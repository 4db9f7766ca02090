"""Every backward is the vector-Jacobian product of its forward, in float64, through the engine."""

import numpy as np
import pytest

from refscale.engine import Tape, apply, backward
from refscale.scales import regular
from refscale.testing import assert_vjp
from tests.ops.cases import ALL_OPS, CASES, drawn, run


def check_vjp(op, arrays, seed=0, *, fast=True):
    """assert_vjp of one op under the regular scheme; arrays must not sit on kinks."""
    last = []

    def forward(*xs):
        tape = Tape(regular, dtype=np.float64, fast=fast)
        leaves = [tape.tensor(x) for x in xs]
        last[:] = [apply(op, *leaves), leaves]
        return last[0].value

    def vjp(g):
        backward(last[0], g)
        return tuple(leaf.grad for leaf in last[1])

    return assert_vjp(forward, vjp, arrays, rng=np.random.default_rng(seed), directions=2)


@pytest.mark.parametrize("op", ALL_OPS, ids=lambda op: op.__name__)
def test_inner_products(op):
    for case, seed in drawn(op)[::2]:
        check_vjp(case.op, case.arrays(np.random.default_rng(seed)), seed)


def central_differences(op, arrays, i, g):
    """d<g, y>/dx_i, element by element, and a bound on its error: the next Richardson step, plus rounding."""
    x, h = arrays[i], 2.0**-12
    gradient, bound = np.zeros(x.shape), np.zeros(x.shape)
    # A forward that errs by 32 roundings of its terms moves a difference over h/2 by so much.
    rounding = 2 * 32 * 2.0**-53 * np.sum(np.abs(g * op.forward(*arrays)[0])) / (h / 4)

    def inner(element, step):
        moved = x.copy()
        moved[element] += step
        return np.sum(g * op.forward(*arrays[:i], moved, *arrays[i + 1 :])[0])

    for element in np.ndindex(*x.shape):
        coarse, fine, finer = ((inner(element, s) - inner(element, -s)) / (2 * s) for s in (h, h / 2, h / 4))
        gradient[element] = (4 * finer - fine) / 3
        bound[element] = abs(gradient[element] - (4 * fine - coarse) / 3) + rounding
    return gradient, bound


@pytest.mark.parametrize("case", CASES, ids=str)
def test_central_differences(case):
    arrays = case.arrays(np.random.default_rng(1))
    y = case.op.forward(*arrays)[0]
    g = np.random.default_rng(2).standard_normal(y.shape)
    gradients = run(case.op, arrays, g)[1]
    for i, gradient in enumerate(gradients):
        if i in case.op.constants:
            assert gradient is None
            continue
        expected, bound = central_differences(case.op, arrays, i, g)
        assert gradient.shape == expected.shape
        assert np.all(np.abs(gradient - expected) <= bound)
        # It can fail: the bound is far below the gradients.
        assert np.max(bound) <= 1e-6 * np.max(np.abs(expected))


@pytest.mark.parametrize(("case", "i"), [(c, i) for c in CASES for i in c.differentiable], ids=str)
def test_a_wrong_backward_is_rejected(case, i, monkeypatch):
    """Of another sign, 3 % too large, or zero."""
    right = type(case.op).backward
    arrays = case.arrays(np.random.default_rng(1))
    check_vjp(case.op, arrays, fast=False)
    for change in (-1, 1.03, 0):

        def wrong(self, g, *kept, change=change):
            return tuple(np.asarray(change * p) if j == i else p for j, p in enumerate(right(self, g, *kept)))

        monkeypatch.setattr(type(case.op), "backward", wrong)
        with pytest.raises(AssertionError, match=f"wrong for input {i}"):
            check_vjp(case.op, arrays, fast=False)
