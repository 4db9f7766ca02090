"""Factors of ops that know places and steps of a sequence."""

from __future__ import annotations

import numpy as np

from refscale import ops
from refscale.claims.claim import Figures, claim
from refscale.claims.one_op import GRID, grid, unit
from refscale.testing import rms, signs
from refscale.testing.places import Place


@claim("a rotation keeps lengths; arXiv 2104.09864", "ms")
def claim_3_34_rotary(place: Place) -> Figures:
    """Rotary embedding by any angles: α = β = 1."""
    p, rng = place.at_most(m=64, s=64), place.rng()
    angles = rng.uniform(-np.pi, np.pi, (p.s, p.m))
    x, g = signs((2, 2, 3, p.s, 2 * p.m), rng)
    arrays = (x, np.cos(angles), np.sin(angles))
    yield unit("α", ops.Rotary(), arrays)
    yield unit("β", ops.Rotary(), arrays, 0, g)


@claim("share of elements with a gradient; arXiv 1901.02860, Appendix B", "s")
def claim_3_35_relative_shift(place: Place) -> Figures:
    """Scores by distance to scores by place: α = 1 where a query can see; β = √(2s/(s+1)), for s(s+1)/2 are used."""
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
