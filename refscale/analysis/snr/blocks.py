"""Signal-to-noise ratio of block-scaled formats: at any scale, with heavy tails, with outliers, on trained matrices.

The scale of a block follows its numbers, so the ratio hardly depends on σ; this is the advantage of blocks. But it
depends on the numbers that share a block: one large number among many small ones takes their digits. Unlike Figure 2's
integral, the ratio is measured on fixed samples, the same on every run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median

import numpy as np
from numpy.typing import NDArray

from refscale.analysis.snr.curves import EXPONENTS, cast_snr, snr
from refscale.blocks import BLOCK_FORMATS, BlockCast, get_block_cast
from refscale.formats import Cast

Float32 = NDArray[np.float32]

SIDE = 1024
"""Side length of the sample matrices."""

ELEMENTS = ("float8_e4m3fn", "float8_e5m2", "float6_e3m2fn", "float4_e2m1fn")
"""Formats without blocks, for comparison, as unit scaling uses them."""

PLOTTED = ("float8_e4m3fn", "float4_e2m1fn", "mxfp8_e4m3", "mxfp6_e2m3", "mxfp4", "nvfp4")
"""Formats of the figure: two alone, and four in blocks."""


def samples() -> dict[str, Float32]:
    """Return matrices to convert, by name: normal of three scales; Student's t of 3 degrees of freedom; normal with one
    number in 1000 that is 32 times as large; normal with rows of scales from 2^-8 to 2^8."""
    rng = np.random.default_rng(20230311)
    shape = (SIDE, SIDE)
    x = rng.standard_normal(shape)
    heavy = x / np.sqrt(rng.chisquare(3, shape) / 3)
    outliers = np.where(rng.random(shape) < 1e-3, 32 * x, x)
    rows = x * 2.0 ** rng.uniform(-8, 8, (SIDE, 1))
    found = {"σ 2^-20": x * 2.0**-20, "σ 1": x, "σ 2^20": x * 2.0**20, "t, 3 dof": heavy, "outliers": outliers}
    return {name: y.astype(np.float32) for name, y in (found | {"rows": rows}).items()}


def conversions() -> dict[str, Cast | BlockCast]:
    """Return the compared conversions by name: elements alone, saturating; block formats, MX by two rules."""
    alone = {name: Cast(name, "nearest_even", "saturate") for name in ELEMENTS}
    blocks: dict[str, BlockCast] = dict(BLOCK_FORMATS)
    for name in ("mxfp8_e4m3", "mxfp4"):
        blocks[f"{name} rceil"] = get_block_cast(name, rule="rceil")
    return {**alone, **dict(sorted(blocks.items()))}


def block_curves(trained: Sequence[Float32] = ()) -> dict[str, dict[str, float]]:
    """Return dB by conversion and sample; "trained" is the median over the given matrices."""
    known = samples()
    found = {}
    for name, cast in conversions().items():
        found[name] = {what: cast_snr(x, cast) for what, x in known.items()}
        if trained:
            found[name]["trained"] = median(cast_snr(x, cast) for x in trained)
    return found


def curves_over_scale(formats: Sequence[str] = PLOTTED) -> dict[str, NDArray[np.float64]]:
    """Return the SNR of N(0, σ²) at σ = 2^-30 … 2^30, as ``snr.curves`` does, for elements alone and block formats."""
    x = np.random.default_rng(20230311).standard_normal((256, 256)).astype(np.float32)
    found = {}
    for name in formats:
        cast = get_block_cast(name) if name in BLOCK_FORMATS else None
        scaled = (x * np.float32(2.0**k) for k in EXPONENTS)
        found[name] = snr(name) if cast is None else np.array([cast_snr(y, cast) for y in scaled])
    return found


def render_block_snr(found: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Yield a table with a line for each conversion."""
    columns = list(next(iter(found.values())))
    yield f"SNR in dB of {SIDE} × {SIDE} numbers, to nearest even, saturating; blocks along the rows, or squares"
    yield f"{'':<18}" + "".join(f"{c:>10}" for c in columns)
    for name, values in found.items():
        yield f"{name:<18}" + "".join(f"{values[c]:>10.1f}" for c in columns)
