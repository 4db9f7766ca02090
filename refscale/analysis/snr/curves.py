"""Signal-to-noise ratio of Gaussian numbers in a format, as a function of their scale (paper, Figure 2)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refscale.analysis.tables.formats import format_label
from refscale.arrays import plain
from refscale.blocks import BlockCast, quantize_blocks
from refscale.errors import ArgumentError
from refscale.formats import Cast, FormatLike, get_format, quantize

SNR_FORMATS = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
"""Formats of the default curves; the paper's FP8 formats are the fnuz ones."""

EXPONENTS = range(-30, 31)
SIGMAS: tuple[float, ...] = tuple(2.0**k for k in EXPONENTS)

REACH = 3 * math.pi
"""Limit of integration, 9.42 σ: beyond it are less than 1e-20 of the distribution and 1e-18 of its power."""

POINTS = 1 << 17


@cache
def _grid() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return points z in (0, REACH) and their weights, which sum to 1.

    The midpoint rule for N(0, 1), one side. The rounding error is a sawtooth; the ratio of the points' spacing to any
    format's is not rational, so that the points sample different places of each tooth.
    """
    z = (np.arange(POINTS, dtype=np.float64) + 0.5) * (REACH / POINTS)
    weights = np.exp(-0.5 * z * z)
    return z, weights / weights.sum()


def snr(format: FormatLike, sigmas: Sequence[float] = SIGMAS) -> NDArray[np.float64]:
    """Compute the signal-to-noise ratio of N(0, σ²) rounded to a format.

        10·log10( E x² / E (x − quantize(x))² ),    x ~ N(0, σ²)

    Computed by integration, not by sampling, so it is the same on every run. The cast is to nearest even, saturating.

    Args:
        format: a format with a sign, or its name.
        sigmas: standard deviations, positive.

    Returns:
        dB, one for each σ: 0 if all becomes zero; flat between the smallest normal and the largest value.

    Raises:
        ArgumentError: an unsigned format, or a σ that is not positive and finite.
        FormatError: an unknown format.

    Source: paper, Figure 2, whose script (the authors' code, examples/QuantisationSnr.ipynb) clips at the top of each
    binade instead of carrying into the next one: it has 31.0 dB for E4M3 and 24.5 dB for E5M2, where rounding to
    nearest gives 31.5 and 25.5.

    Example:
        >>> snr("float8_e4m3fn", [1.0]).round(1).tolist()
        [31.5]
    """
    f = get_format(format)
    if not f.signed:
        raise ArgumentError(f"snr({f.name!r}): expected a format with a sign")
    z, weights = _grid()
    result = []
    for sigma in sigmas:
        if not (sigma > 0 and math.isfinite(sigma)):
            raise ArgumentError(f"snr(sigmas): got {sigma}, expected positive finite standard deviations")
        x = z * sigma
        noise = x - quantize(x, f, rounding="nearest_even", overflow="saturate")
        power = float(weights @ np.square(noise / sigma))  # relative, so that squares stay in float64's range
        result.append(10 * math.log10(float(weights @ np.square(z)) / power) if power else math.inf)
    return np.array(result)


def cast_snr(x: ArrayLike, cast: Cast | BlockCast | str, scale: float = 1.0) -> float:
    """Compute the signal-to-noise ratio of a cast of given numbers.

        10·log10( Σ x² / Σ (x − q)² ),    q = cast(x·scale)/scale

    Args:
        x: array of any shape; for a block-scaled format in float32, with the format's axes.
        cast: cast to a format, or a block format or its name.
        scale: scale, a power of two; default: 1.

    Returns:
        dB; infinite without an error, 0 if all becomes zero, minus infinity if x or q is not finite.
    """
    exact = plain("cast_snr", "x", x).astype(np.float64) * scale
    q = cast(exact) if isinstance(cast, Cast) else quantize_blocks(exact.astype(np.float32), cast)
    noise, exact = (exact - q).reshape(-1), exact.reshape(-1)
    lost, signal = float(noise @ noise), float(exact @ exact)
    if not math.isfinite(lost):
        return -math.inf
    if signal == 0 or lost == 0:
        return math.inf
    return 10 * math.log10(signal / lost)


def curves(formats: Sequence[str] = SNR_FORMATS) -> dict[str, NDArray[np.float64]]:
    """Return ``snr`` for each format by its full name, at σ = 2^-30 … 2^30."""
    return {get_format(name).name: snr(name) for name in formats}


def plateau(values: NDArray[np.float64], within: float = 1.0) -> tuple[int, int]:
    """Return the first and last exponent k of EXPONENTS at which the SNR at σ = 2^k is within some dB of its best."""
    good = np.flatnonzero(values >= values.max() - within)
    return EXPONENTS[int(good[0])], EXPONENTS[int(good[-1])]


def render_snr(found: Mapping[str, NDArray[np.float64]], step: int = 2) -> Iterator[str]:
    """Yield a table of SNR in dB over σ, every ``step`` binades, and each format's plateau.

    Args:
        found: result of ``curves``.
        step: binades between lines.

    Returns:
        Lines of at most 120 columns for up to ten formats.
    """
    yield "SNR in dB of N(0, σ²) cast to each format, to nearest even, saturating"
    yield f"{'σ':<8}" + "".join(f"{format_label(name):>11}" for name in found)
    for i in range(0, len(EXPONENTS), step):
        k = EXPONENTS[i]
        cells = "".join(f"{values[i]:>11.1f}" for values in found.values())
        yield f"{f'2^{k}':<8}{cells}" + ("   ← unit scale" if k == 0 else "")
    yield ""
    for name, values in found.items():
        low, high = plateau(values)
        yield f"{format_label(name):<10} within 1 dB of its best, {values.max():.1f} dB, from σ = 2^{low} to 2^{high}"
