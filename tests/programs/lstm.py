"""An LSTM that repeats symbols.  Source: Hochreiter and Schmidhuber 1997; Gers et al. 2000."""

from __future__ import annotations

import numpy as np

from refscale import functional as F  # noqa: N812
from refscale.layers import Spec, linear_specs, lstm, lstm_specs
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
            **lstm_specs("lstm", D, D),
            **linear_specs("head", D, SYMBOLS, role="readout"),
        }

    def loss(self, p, batch, rng=None):
        symbols, following = batch
        h = lstm(p, "lstm", F.embedding(p["symbol"], symbols))
        return F.cross_entropy(F.readout(h, p["head.weight"], p["head.bias"]), following)

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
