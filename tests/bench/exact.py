"""Correctly rounded matrix products against one float32 product of the same shape.

    OPENBLAS_NUM_THREADS=1 python tests/bench/exact.py

(1024 × 768) · (768 × 3072), nearly normal operands, medians of interleaved rounds; quartiles of the rounds' ratios.
"""

import time

import numpy as np

from refscale import exact
from refscale.formats import Cast, quantize

CASES = (
    ("float8_e4m3fn", "float8_e4m3fn", "float16"),
    ("float8_e4m3fn", "float8_e5m2", "float16"),
    ("float8_e5m2", "float8_e5m2", "float16"),
    ("float16", "float16", "float16"),
    ("float16", "float16", "float32"),
    ("float32", "float32", "float32"),
)


def seconds(f, *arguments):
    start = time.perf_counter()
    f(*arguments)
    return time.perf_counter() - start


def row(name, a, b, cast, rounds):
    pairs = []
    for i in range(rounds + 1):
        plain = seconds(np.matmul, a, b)
        ours = seconds(exact.matmul, a, b, cast)
        if i:  # the first round warms up
            pairs.append((ours / plain, plain))
    ratios = np.array([r for r, _ in pairs])
    low, median, high = np.percentile(ratios, [25, 50, 75])
    milliseconds = 1e3 * np.median([p for _, p in pairs])
    print(f"| {name} | {milliseconds:.0f} | {median:.2f} ({low:.2f} … {high:.2f}) |")


def main():
    rng = np.random.default_rng(0)
    print("| operands → output | float32 product, ms | exact / float32 |\n|---|---|---|")
    for left, right, output in CASES:
        a = quantize(rng.standard_normal((1024, 768)), left, rounding="nearest_even", overflow="saturate")
        b = quantize(rng.standard_normal((768, 3072)), right, rounding="nearest_even", overflow="saturate")
        cast = Cast(output, "nearest_even", "nonsaturate")
        row(f"{left} · {right} → {output}", a, b, cast, 7)
        if (left, output) == ("float16", "float16"):
            half = np.concatenate([a[:, :384], a[:, :384]], 1), np.concatenate([b[:384], -b[:384]])
            row("the same, all sums cancel to 0", *half, cast, 5)
            ragged = half[0].copy()
            ragged[:, 0] += np.float32(2.0**-9)
            row("the same, but for a last bit", ragged, half[1], cast, 5)


if __name__ == "__main__":
    main()
