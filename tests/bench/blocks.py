"""How fast a block-scaled conversion is, against the same through ml_dtypes and NumPy calls; and an exact product.

    python tests/bench/blocks.py

Not a test. Both ways take turns within a round, so that a busy machine slows both; each figure is a median over rounds.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import ml_dtypes
import numpy as np

from refscale.blocks import BLOCK_FORMATS, BlockCast, block_matmul, get_block_cast, quantize_blocks, split_blocks
from refscale.formats import Cast

SIDE, ROUNDS = 1024, 15


def by_calls(x: np.ndarray, cast: BlockCast) -> np.ndarray:
    """MX along an axis in eight calls, as one writes it."""
    y = np.moveaxis(x, cast.axis, -1)
    tiles = y.reshape(*y.shape[:-1], -1, cast.block[0])
    amax = np.abs(tiles).max(-1, keepdims=True)
    k = np.floor(np.log2(amax)) - cast.element.emax
    s = np.exp2(np.clip(k, -127, 127)).astype(np.float32)
    top = cast.element.max
    q = np.clip(tiles / s, -top, top).astype(getattr(ml_dtypes, cast.element.name)).astype(np.float32) * s
    return np.moveaxis(q.reshape(y.shape), -1, cast.axis)


def medians(*ways: Callable[[], object]) -> list[float]:
    """Seconds of each, in turns."""
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(ROUNDS + 1):
        for taken, way in zip(times, ways, strict=True):
            start = time.perf_counter()
            way()
            taken.append(time.perf_counter() - start)
    return [median(taken[1:]) for taken in times]


def main() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((SIDE, SIDE)).astype(np.float32)
    print(f"numpy {np.__version__}, ml_dtypes {ml_dtypes.__version__}; {SIDE} x {SIDE} float32, medians of {ROUNDS}")
    print(f"{'':16}{'ns/element':>12}{'by calls':>12}{'ratio':>8}")
    for name in ("mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e2m3", "mxfp4"):
        for axis in (-1, 0):
            cast = get_block_cast(name, axis=axis)
            assert np.array_equal(quantize_blocks(x, cast), by_calls(x, cast))
            ours, theirs = medians(lambda c=cast: quantize_blocks(x, c), lambda c=cast: by_calls(x, c))
            print(f"{name:12}{axis:4}{ours / x.size * 1e9:12.2f}{theirs / x.size * 1e9:12.2f}{theirs / ours:8.1f}")
    for name in ("mxint8", "nvfp4", "nvfp4_16x16", "fp8_1x128", "fp8_128x128"):
        (ours,) = medians(lambda c=BLOCK_FORMATS[name]: quantize_blocks(x, c))
        print(f"{name:16}{ours / x.size * 1e9:12.2f}")
    print("a product of MXFP8 in multiples of one in float32:")
    for n in (256, 512, 1024):
        a, b = x[:n, :n], x[-n:, -n:]
        left, right = split_blocks(a, "mxfp8_e4m3"), split_blocks(b, get_block_cast("mxfp8_e4m3", axis=-2))
        plain, *rest = medians(
            lambda a=a, b=b: a @ b,
            *(
                lambda f=f, how=how, left=left, right=right: block_matmul(
                    left, right, Cast(f, "nearest_even", "nonsaturate"), how
                )
                for f, how in (("bfloat16", "exact"), ("float32", "exact"), ("bfloat16", "blocks:exact"))
            ),
        )
        figures = [f"{t / plain:.1f}" for t in rest]
        print(f"{n:5}: exact to bfloat16 {figures[0]}, to float32 {figures[1]}; blocks:exact {figures[2]}")


if __name__ == "__main__":
    main()
