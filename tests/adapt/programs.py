"""Programs to adapt: small ones whose scales can be computed by hand, and one of each kind of block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.engine import apply
from refscale.layers import Spec
from refscale.programs import Program


class Trained(Program):
    """A loss of x (batch, 8) and classes, with parameters at scales of their own, biases and gains off 0 and 1."""

    def __init__(self, specs: dict[str, Spec], loss: Callable[..., Any], batch: int = 6, shape=(8,)) -> None:
        self._specs, self.fn, self.batch, self.shape = specs, loss, batch, shape

    @property
    def specs(self):
        return self._specs

    def loss(self, p, batch, rng=None):
        x, classes = batch
        return self.fn(p, p["w"].tape.tensor(x, "x", requires_grad=False), classes)

    def batches(self, rng):
        while True:
            yield 0.5 + rng.standard_normal((self.batch, *self.shape)), rng.integers(0, 4, self.batch)

    def initial_parameters(self, scheme, rng):
        found = {}
        for name, spec in self.specs.items():
            x = rng.standard_normal(spec.shape)
            if spec.role in ("bias", "gain"):
                found[name] = 0.3 * x + (spec.role == "gain")
            else:
                found[name] = x * 2.0 ** rng.uniform(-4, -1)
        return found


def classified(p, h, classes):
    """Cross-entropy of a readout."""
    return F.cross_entropy(apply(ops.Matmul(), h, p["out"]), classes)


W, OUT, BIAS = Spec("weight", (8, 8)), Spec("readout", (8, 4)), Spec("bias", (8,))


def mlp(p, x, classes):
    h = apply(ops.Bias(), x @ p["w"], p["b"])
    return classified(p, apply(ops.Relu(), h), classes)


def _residual(p, x, classes):
    """No constraint, no fork: the recipe finds both."""
    h = x @ p["w"]
    h = h + apply(ops.Gelu(), apply(ops.LayerNorm(1e-2), h, p["g"], p["b"]) @ p["v"])
    return classified(p, apply(ops.RmsNorm(1e-2), h, p["h"]), classes)


def _gated(p, x, classes):
    h = apply(ops.Tanh(), x @ p["w"])
    h = apply(ops.SiluGlu(), h @ p["v"], h @ p["u"])
    return classified(p, apply(ops.Square(), h), classes)


def _image(p, x, classes):
    h = apply(ops.Conv2d(padding=1), x, p["w"])
    h = apply(ops.BatchNorm(1e-2), h, p["g"], p["b"])
    h = apply(ops.MaxPool(2), apply(ops.Relu(), h))
    h = apply(ops.Reshape((len(classes), 4, 8)), apply(ops.AvgPool(1), h))
    return classified(p, apply(ops.Mean((1,)), h), classes)


def _mixed(p, x, classes):
    """Concat, where, maximum: inputs of other scales, added without weights; a bias that arrives through a slice."""
    a, b = x @ p["w"], x @ p["v"]
    both = apply(ops.Concat(1), a, b)
    half = apply(ops.Slice(1, 4, 12), both)
    chosen = apply(ops.Where(), np.arange(8) % 2 == 0, half, -np.ones(8))
    h = apply(ops.Maximum(), chosen, a - b)
    return classified(p, apply(ops.Bias(), h, apply(ops.Slice(0, 2, 10), p["b"])), classes)


NORM = {"g": Spec("gain", (8,)), "b": BIAS}
MLP = {"w": W, "b": BIAS, "out": OUT}
IMAGES = {"w": Spec("weight", (3, 3, 8, 8)), **NORM, "out": OUT}
PROGRAMS = {
    "mlp": Trained(MLP, mlp),
    "residual": Trained({"w": W, **NORM, "v": W, "h": Spec("gain", (8,)), "out": OUT}, _residual),
    "gated": Trained({"w": W, "v": W, "u": W, "out": OUT}, _gated),
    "image": Trained(IMAGES, _image, shape=(4, 4, 8)),
    "mixed": Trained({"w": W, "v": W, "b": Spec("bias", (12,)), "out": OUT}, _mixed),
}
