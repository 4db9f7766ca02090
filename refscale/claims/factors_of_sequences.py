"""Factors of ops that depend on positions or on steps of a sequence."""

from __future__ import annotations

import math

import numpy as np

from refscale import ops
from refscale.claims.claim import Figures, claim
from refscale.claims.one_op import GRID, columns, grid, unit
from refscale.engine import Array
from refscale.testing import quantile_grid, rms, signs
from refscale.testing.places import Place


@claim("a rotation keeps lengths; arXiv 2104.09864", "ms")
def claim_3_34_rotary(place: Place) -> Figures:
    """Rotary embedding by arbitrary angles: α = β = 1."""
    p, rng = place.at_most(m=64, s=64), place.rng()
    angles = rng.uniform(-np.pi, np.pi, (p.s, p.m))
    x, g = signs((2, 2, 3, p.s, 2 * p.m), rng)
    arrays = (x, np.cos(angles), np.sin(angles))
    yield unit("α", ops.Rotary(), arrays)
    yield unit("β", ops.Rotary(), arrays, 0, g)


@claim("share of elements with a gradient; arXiv 1901.02860, Appendix B", "s")
def claim_3_35_relative_shift(place: Place) -> Figures:
    """Scores by distance to scores by position: α = 1 where a query sees a key; β = √(2s/(s+1)).

    s(s+1)/2 of the scores are used.
    """
    s, rng = place.at_most(s=256).s, place.rng()
    x, g = signs((2, 3, s, s), rng)
    seen = np.tri(s, dtype=np.bool_)
    yield unit(f"α over {s} places", ops.RelativeShift(), (x,), measure=lambda y: rms(y[:, seen]))
    yield unit(f"β over {s} places", ops.RelativeShift(), (x,), 0, g)


@claim("quadrature; arXiv 1607.03474; a state that is kept")
def claim_3_36_highway(place: Place) -> Figures:
    """The cell of a recurrent highway network: α = 1, a mean of equal values; β by the RMS of gate and of its slope."""
    rng, update = place.rng(), grid()
    value, g = signs((2, update.size), rng)
    half = np.full(update.size, 0.5**0.5)  # a difference of √2, that of two independent N(0, 1)
    for bias in (-1.0, 0.0, 2.0):
        op = ops.Highway(bias)
        yield unit(f"α of equal values, bias {bias:g}", op, (value, value, update))
        for i, what in enumerate(("the state", "the candidate", "the update")):
            yield unit(f"β of {what}, bias {bias:g}", op, (-half, half, update), i, g, relative=GRID)


@claim("quadrature; Hochreiter and Schmidhuber 1997; a state that is kept")
def claim_3_45_lstm(place: Place) -> Figures:
    """State and output of an LSTM cell: α = 1 for the preserved state, and every other factor by RMS."""
    quantiles, rng = quantile_grid(512), place.rng()
    first, second = (np.array(a)[..., None] for a in np.broadcast_arrays(quantiles[:, None], quantiles[None]))
    gates = np.concatenate([first, first, second, first], -1)  # i and f; g, which i multiplies; o
    c, g = signs((2, *first.shape), rng)
    kept = np.zeros_like(gates)
    kept[..., 0], kept[..., 1] = -50, 50
    state, output = ops.LstmState(), ops.LstmOutput()
    yield unit("α of a preserved state", state, (c, kept))
    yield unit("α", output, (second, gates), relative=GRID)
    for op, cell in ((state, c), (output, second)):
        for i, what in enumerate(("the state", "the gates")):
            yield unit(f"β of {what}", op, (cell, gates), i, g, relative=10 * GRID)


@claim("quadrature; arXiv 1406.1078; a state that is kept")
def claim_3_46_gru(place: Place) -> Figures:
    """The state of a GRU: α = 1 for the preserved state, every β by RMS, including the sum in the candidate."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(18)
    r, z, x, a = (v[..., None] for v in np.meshgrid(*[nodes] * 4, indexing="ij"))
    weight = np.prod(np.meshgrid(*[weights / weights.sum()] * 4, indexing="ij"), 0)[..., None]

    def measure(y: Array) -> float:
        return math.sqrt(float(np.sum(weight * y**2)) / y.shape[-1])

    h, g = np.ones(r.shape), signs(r.shape, place.rng())  # their products with odd functions have mean 0
    op, gates = ops.GruState(), np.concatenate([r, z], -1)
    yield unit("α of a preserved state", op, (h, np.concatenate([r, 0 * z + 50], -1), x, a))
    for i, what in enumerate(("the state", "the gates", "the candidate", "the recurrent part")):
        yield unit(f"β of {what}", op, (h, gates, x, a), i, g, measure=measure, relative=10 * GRID)


@claim("matmul; means of the keys in a window", "s")
def claim_3_47_windows(place: Place) -> Figures:
    """A query that sees n of t keys: scores β = (t·n/t)^-½, softmax α = n, mixtures 1/n or n^-½, values (s·n/t)^-½."""
    t, rng = max(4, place.at_most(s=256).s // 4 * 4), place.rng()
    n, d = t // 4, 8
    blocks = np.kron(np.eye(4), np.ones((n, n)))  # each query sees the keys of its own block
    scores = ops.AttentionScores(keys=n)
    terms = blocks * np.tile(columns(n)[:n], (4, 4)) if n == len(columns(n)) else blocks * signs((t, t), rng)
    ones = np.ones((t, d))
    if n == len(columns(n)):  # rows and columns of a whole Hadamard matrix
        for i, what in enumerate(("q", "k")):
            flat = signs((t, d), rng) if n == 1 else ones
            yield unit(f"β of {what}, {n} of {t} keys", scores, (flat, flat), i, terms)
        alike = ops.AttentionMix("independent", n)
        yield unit(f"α of {n} of {t} values", alike, (terms, ones))
        yield unit(f"β of {n} of {t} values", alike, (terms, ones), 1, ones)
    yield unit(f"α of {n} of {t} equal values", ops.AttentionMix(keys=n), (blocks, ones))
    softmax = ops.MaskedSoftmax(causal=True, window=n)
    yield unit(
        f"α over {n} of {t} keys", softmax, (np.zeros((t, t)), np.ones((1, 1), bool)), measure=lambda y: rms(y[-1, -n:])
    )
