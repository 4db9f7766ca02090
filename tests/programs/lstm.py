"""An LSTM of basic ops: products, sigmoid, tanh.  Source: Hochreiter and Schmidhuber 1997; Gers et al. 2000."""

from __future__ import annotations

import numpy as np

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.engine import apply
from refscale.layers import Spec
from refscale.layers.blocks import linear_specs
from refscale.programs import Program

SYMBOLS, BACK, RANDOM = 8, 3, 0.2
"""How many symbols; each repeats the one BACK places before it, but for a share that are drawn at random."""

D, SEQ, BATCH = 32, 16, 32


class Lstm(Program):
    """Symbols to the next one; a state of D numbers has to remember the last three."""

    memoryless = True

    def __init__(self):
        self.specs = {
            "symbol": Spec("embedding", (SYMBOLS, D)),
            **linear_specs("input", D, 4 * D),
            **linear_specs("state", D, 4 * D, bias=False),
            **linear_specs("head", D, SYMBOLS, role="readout"),
        }

    def loss(self, p, batch, rng=None):
        symbols, following = batch
        gates = F.linear(F.embedding(p["symbol"], symbols.T), p["input.weight"], p["input.bias"])  # (seq, batch, 4·d)
        h = c = None
        states = []
        for t in range(SEQ):
            at = apply(ops.Reshape((len(symbols), 4 * D)), apply(ops.Slice(0, t, t + 1), gates))
            if h is not None:
                at = at + F.matmul(h, p["state.weight"])
            take, keep, show, candidate = F.split(at, 4)
            new = F.sigmoid(take) * F.tanh(candidate)
            c = new if c is None else F.sigmoid(keep) * c + new
            h = F.sigmoid(show) * F.tanh(c)
            states.append(apply(ops.Reshape((1, len(symbols), D)), h))
        h = apply(ops.Concat(0), *states)
        return F.cross_entropy(F.readout(h, p["head.weight"], p["head.bias"]), following.T)

    def draw(self, rng, n):
        """(n, SEQ) symbols, and as many that follow each."""
        text = rng.integers(0, SYMBOLS, (n, SEQ + 1))
        kept = rng.random(text.shape) >= RANDOM
        for t in range(BACK, SEQ + 1):
            text[:, t] = np.where(kept[:, t], text[:, t - BACK], text[:, t])
        return text[:, :-1], text[:, 1:]

    def batches(self, rng):
        while True:
            yield self.draw(rng, BATCH)

    def validation(self, rng):
        return [self.draw(rng, 256) for _ in range(4)]


model = Lstm()
