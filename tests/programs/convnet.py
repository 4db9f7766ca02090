"""A small convolution net that tells vertical from horizontal stripes, as a user's file has it."""

from __future__ import annotations

import numpy as np

from refscale import functional, ops
from refscale.engine import apply
from refscale.layers import Spec
from refscale.programs import Program

SIDE, IMAGES, BATCH = 8, 48, 8


def images(rng, n):
    """Striped images (n, SIDE, SIDE, 1) with noise, and which way the stripes run (n,)."""
    stripes = np.where(np.arange(SIDE) % 4 < 2, 1.0, -1.0)
    label = rng.integers(0, 2, n)
    x = np.where(label[:, None, None] == 0, stripes[:, None], stripes[None, :])
    return (x + 0.5 * rng.standard_normal((n, SIDE, SIDE)))[..., None], label


class ConvNet(Program):
    """Two convolutions and a readout of all places; epochs of a fixed set of images, the last batch of each smaller."""

    def __init__(self):
        self.specs = {
            "first.kernel": Spec("weight", (3, 3, 1, 4)),
            "second.kernel": Spec("weight", (3, 3, 4, 8)),
            "out.weight": Spec("readout", (2 * 2 * 8, 2)),
        }
        self.buffers = {"shift": np.full((1,), 0.5)}
        self.x, self.label = images(np.random.default_rng(7), IMAGES - 3)

    def loss(self, p, batch, rng=None):
        x, label = batch
        h = apply(ops.Add(), x, p["shift"])
        h = functional.relu(apply(ops.Conv2d((2, 2), ((1, 1), (1, 1))), h, p["first.kernel"]))
        h = functional.relu(apply(ops.Conv2d((2, 2), ((1, 1), (1, 1))), h, p["second.kernel"]))
        h = apply(ops.Reshape((len(x), -1)), h)
        return Scored(functional.cross_entropy(functional.readout(h, p["out.weight"]), label))

    def batches(self, rng):
        while True:  # an epoch: each batch depends on the order drawn at its start
            order = rng.permutation(len(self.x))
            for start in range(0, len(order), BATCH):
                rows = order[start : start + BATCH]
                yield self.x[rows], self.label[rows]

    def validation(self, rng):
        return [images(rng, 16)]

    def observe(self, batch, loss):
        return float(loss.total.value), len(batch[1])

    def score(self, observed):
        losses, sizes = np.transpose(observed)
        return {"nats": float(losses @ sizes / sizes.sum())}


class Scored:
    """A loss with its parts."""

    def __init__(self, total):
        self.total, self.parts = total, {"stripes": total}


model = ConvNet()
