"""One training step of a classifier of one layer, under any scaling technique."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from refscale import ops
from refscale.engine import Op, Tape, apply, backward
from refscale.precision import fp32
from refscale.scales import Scales, regular

RNG = np.random.default_rng(20231)
X, W = RNG.standard_normal((6, 5)), RNG.standard_normal((5, 3))
TARGET = np.array([0, 1, 2, 0, 1, 2])


@dataclass(frozen=True)
class Shrink(Op):
    """Identity whose gradient is ``times`` the correct one, as after many layers."""

    times: float
    inputs = ("x",)
    source = "test"

    def forward(self, x):
        return x, ()

    def backward(self, g):
        return (g * self.times,)

    def scale(self, x):
        return Scales(1.0, (1.0,))


def step(technique, state, precision, *, x=X, w=W, times=1.0, **options):
    """One step of a classifier of one layer: (next state, gradients, outcome, tape)."""
    scales = technique.operand_scales(state)
    tape = Tape(regular, precision, operand_scales=scales, **options)
    weight = tape.tensor(w, "w")
    logits = apply(Shrink(times), apply(ops.Matmul(), tape.tensor(x, "x"), weight))
    loss = apply(ops.SoftmaxCrossEntropy(), logits, TARGET)
    with np.errstate(over="ignore", invalid="ignore"):
        backward(loss, technique.loss_scale(state))
    return (*technique.finish(state, {"w": weight.grad}, scales), tape)


def gradient_of(technique, precision=fp32, **options):
    return step(technique, technique.init(), precision, **options)[1]["w"]


def through_npz(state):
    file = io.BytesIO()
    np.savez(file, **state)
    file.seek(0)
    with np.load(file) as loaded:
        return dict(loaded)


def same_state(one, two):
    return one.keys() == two.keys() and all(
        one[k].dtype == two[k].dtype and np.array_equal(one[k], two[k]) for k in one
    )
