"""Convolution nets of one function and two forms: with batch norm, and with its gains folded into the weights.

Folding leaves each channel a scale of its own: a channel that is a times larger meets weights that are a times smaller.
Without a norm, nothing takes the scales away.
"""

from __future__ import annotations

import numpy as np

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.engine import apply
from refscale.layers import Spec
from refscale.programs import Program

LAYERS, WIDTH, SIDE, CLASSES, BATCH = 6, 32, 8, 10, 16


class Folded(Program):
    """Relu of 3 × 3 convolutions, a mean over places, a readout.

    Args:
        spread: standard deviation of the logarithm of the channels' scales; 0: all alike.
        normed: with a batch norm in each layer.
    """

    def __init__(self, spread: float, normed: bool = False) -> None:
        self.spread, self.normed = spread, normed
        self._specs = {}
        for i in range(LAYERS):
            self._specs[f"{i}.weight"] = Spec("weight", (3, 3, WIDTH if i else 4, WIDTH))
            self._specs |= {f"{i}.gain": Spec("gain", (WIDTH,))} if normed else {}
            self._specs[f"{i}.bias"] = Spec("bias", (WIDTH,))
        self._specs["out"] = Spec("readout", (WIDTH, CLASSES))

    @property
    def specs(self):
        return self._specs

    def loss(self, p, batch, rng=None):
        h, classes = batch
        for i in range(LAYERS):
            h = apply(ops.Conv2d(padding=1), h, p[f"{i}.weight"])
            if self.normed:
                h = apply(ops.BatchNorm(), h, p[f"{i}.gain"], p[f"{i}.bias"])
            else:
                h = apply(ops.Bias(), h, p[f"{i}.bias"])
            h = apply(ops.Relu(), h)
        return F.cross_entropy(apply(ops.Matmul(), apply(ops.Mean((1, 2)), h), p["out"]), classes)

    def batches(self, rng):
        while True:
            yield rng.random((BATCH, SIDE, SIDE, 4)), rng.integers(0, CLASSES, BATCH)

    def initial_parameters(self, scheme, rng):
        """As if trained: variance kept by every layer, each channel at its own scale."""
        found, before = {}, np.ones(4)
        for i in range(LAYERS):
            scales = np.exp(self.spread * rng.standard_normal(WIDTH))
            fan_in = 9 * len(before)
            weight = rng.standard_normal(self.specs[f"{i}.weight"].shape) * (2 / fan_in) ** 0.5
            found[f"{i}.weight"] = weight / before[:, None] * scales
            found[f"{i}.bias"] = 0.1 * rng.standard_normal(WIDTH) * (1.0 if self.normed else scales)
            if self.normed:
                found[f"{i}.gain"], scales = scales, scales
            before = scales
        found["out"] = rng.standard_normal((WIDTH, CLASSES)) * WIDTH**-0.5 / before[:, None]
        return {name: found[name].astype(np.float32) for name in self.specs}


alike = Folded(0.0)
folded = Folded(1.0)
normed = Folded(1.0, normed=True)
