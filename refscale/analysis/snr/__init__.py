"""The signal-to-noise ratio of a cast.

In reading order:

1. ``curves``: the ratio of N(0, σ²) in each format, by integration; the ratio of an array.
2. ``blocks``: the ratio in block-scaled formats, on samples.
3. ``plots``: the ratio over σ, as a figure.
"""

from refscale.analysis.snr.blocks import block_curves, curves_over_scale, render_block_snr
from refscale.analysis.snr.curves import EXPONENTS, SIGMAS, SNR_FORMATS, cast_snr, curves, plateau, render_snr, snr
from refscale.analysis.snr.plots import plot_snr

__all__ = [
    "EXPONENTS",
    "SIGMAS",
    "SNR_FORMATS",
    "block_curves",
    "cast_snr",
    "curves",
    "curves_over_scale",
    "plateau",
    "plot_snr",
    "render_block_snr",
    "render_snr",
    "snr",
]
