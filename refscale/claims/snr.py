"""Signal-to-noise ratio: at σ = 1 every format is within 1 dB of its best over all σ."""

from __future__ import annotations

import math

import numpy as np

from refscale.analysis.snr.curves import EXPONENTS, snr
from refscale.claims.claim import Figures, at_most, between, claim, sampled
from refscale.formats import Cast
from refscale.testing.places import Place

BEST = {
    "float16": 73.7,
    "bfloat16": 55.6,
    "float8_e4m3fn": 31.5,
    "float8_e5m2": 25.5,
    "float8_e4m3fnuz": 31.5,
    "float8_e5m2fnuz": 25.5,
}
"""Signal-to-noise ratio in dB, by integration over N(0, σ²) (``refscale snr``)."""


@claim("paper, Figure 2; refscale snr")
def claim_10_01_flat_at_one(place: Place) -> Figures:
    """At σ = 1, FP16, BF16 and each FP8 format have a signal-to-noise ratio within 1 dB of their best over all σ."""
    for name, best in BEST.items():
        curve = snr(name)
        at_one = float(curve[EXPONENTS.index(0)])
        yield at_most(f"{name}: dB below the best", float(curve.max()) - at_one, 1)
        yield between(f"{name}: dB at σ = 1", at_one, best - 0.06, best + 0.06)


@claim("uniform rounding error over a binade: 1/12 ulp²; logarithmic mean over binades")
def claim_10_02_its_value(place: Place) -> Figures:
    """One more mantissa bit adds 6.02 dB: E4M3 over E5M2, FP16 over E4M3 by seven bits."""
    at_one = {name: float(snr(name, [1.0])[0]) for name in BEST}
    bit = 20 * math.log10(2)
    for wide, narrow, bits in (("float8_e4m3fn", "float8_e5m2", 1), ("float16", "float8_e4m3fn", 7)):
        gain = at_one[wide] - at_one[narrow]
        yield between(f"{wide} over {narrow}: dB", gain, bits * bit - 0.15, bits * bit + 0.15)


@claim("paper, Figure 2, by sampling")
def claim_10_03_by_sampling(place: Place) -> Figures:
    """The signal-to-noise ratio of samples of N(0, 1), cast to each format, equals the integrated one."""
    x = place.rng().standard_normal(1 << 16)
    for name in BEST:
        noise = x - Cast(name, "nearest_even", "saturate")(x)
        ratio = float(np.mean(x * x) / np.mean(noise * noise))
        # Of each mean square the relative standard error is √((κ − 1)/N), κ = 3 of x; errors are uniform in spacings
        # that follow |x|, so that κ of them is at most 9/5 · 3.
        se = 10 / math.log(10) * math.sqrt((2 + 4.4) / x.size)
        yield sampled(f"{name}: dB", 10 * math.log10(ratio), float(snr(name, [1.0])[0]), se)
