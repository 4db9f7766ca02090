"""What accumulation and clipping do to gradients at initialization: ``python -m tests.bench.gradients``, a minute.

For each scheme and number of accumulated batches: the median RMS of the parameters' computed gradients, and the norm of
the true ones, before and after they are clipped to 1.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import median

import numpy as np

from refscale.train import Run, TrainConfig, clip_by_norm
from refscale.train.step import add_gradients, forward_backward

CONFIG = TrainConfig("bert-tiny", batch=8, seq=64)
COUNTS = (1, 4, 16)


def rows(scheme: str) -> list[tuple[int, float, float, float]]:
    """(batches, median RMS, norm, median RMS after clipping)."""
    run = Run.of(replace(CONFIG, scheme=scheme, accumulate=max(COUNTS)))
    state, found = run.initial_state(), []
    parts = (forward_backward(run, state, batch, part=i) for i, batch in enumerate(next(run.batches(0))))
    first = next(parts)
    total = first.gradients
    for count in range(1, max(COUNTS) + 1):
        if count > 1:
            total = add_gradients(total, first.factors, next(parts))
        if count in COUNTS:
            mean = {name: g / np.float32(count) for name, g in total.items()}
            clipped, norm = clip_by_norm(mean, first.factors, 1.0)
            found.append((count, rms(mean), norm, rms(clipped)))
    return found


def rms(gradients: dict[str, np.ndarray]) -> float:
    """The median over parameters; a key's bias has a gradient of 0."""
    return median(float(np.sqrt(np.mean(np.square(g)))) for name, g in gradients.items() if "key.bias" not in name)


def main() -> None:
    """Print the table as Markdown."""
    print(
        "| scheme | batches | median RMS | norm of true gradients | median RMS, clipped to 1 |\n|---|---|---|---|---|"
    )
    for scheme in ("regular", "unit", "unit:rows=alike,embeddings=v/b"):
        for count, before, norm, after in rows(scheme):
            print(f"| {scheme} | {count} | {before:.3g} | {norm:.3g} | {after:.3g} |")


if __name__ == "__main__":
    main()
