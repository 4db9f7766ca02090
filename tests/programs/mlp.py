"""A small MLP that learns a function of three numbers, as a user's file has it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refscale import functional
from refscale.layers import Spec
from refscale.programs import Program


@dataclass(eq=False)
class Mlp(Program):
    """tanh(x₁)·x₂ + x₃ from (x₁, x₂, x₃), by two hidden layers; the loss is the mean square."""

    width: int = 16
    rows: int = 32

    def __post_init__(self):
        n = self.width
        self.specs = {
            "up.weight": Spec("weight", (3, n)),
            "up.bias": Spec("bias", (n,)),
            "middle.weight": Spec("weight", (n, n), std=0.25),
            "middle.bias": Spec("bias", (n,)),
            "down.weight": Spec("readout", (n, 1)),
        }

    def loss(self, p, batch, rng=None):
        x, y = batch
        h = functional.gelu(functional.linear(x, p["up.weight"], p["up.bias"]))
        h = functional.gelu(functional.linear(h, p["middle.weight"], p["middle.bias"]))
        return functional.mse_loss(functional.readout(h, p["down.weight"]), y)

    def draw(self, rng, rows):
        x = rng.standard_normal((rows, 3))
        return x, (np.tanh(x[:, 0]) * x[:, 1] + x[:, 2])[:, None]

    def batches(self, rng):
        while True:
            yield self.draw(rng, self.rows)

    def validation(self, rng):
        return [self.draw(rng, self.rows), self.draw(rng, 5)]  # the last batch is smaller


model = Mlp()
