"""Whole models, measured and predicted: every tensor's RMS over several runs, beside ``analysis.predict``.

The sampling error of a measured RMS follows from the construction. A model's tensors come from independent normal
arrays (inputs, weights, the incoming gradient) by products. The mean square of a product of x (b, m) and w (m, n) has
the relative variance 2·(1/bm + 1/mn + 1/bn + 1/bmn) (``refscale.testing.effective_samples_matmul``). The variances of
consecutive products add up, and those of the branches of a sum at most add up. So with k products on the path, all
products of two of their sides at least q, and p elements of its own, a mean square over R runs has a relative variance
of at most 2·(3k/q + 1/p)·κ/R, its root a quarter of that; κ = 2 allows for elements that are products of normal
numbers.

With z standard errors to either side and a model error of ε, a figure fails by chance at the rate of z (1e-13), and
misses an error of ε + 2z standard errors no more often.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from refscale.analysis import predict
from refscale.claims.claim import Figure, sampled
from refscale.data import Batch
from refscale.engine import Array, Tape, Tensor, Variable, backward
from refscale.errors import ArgumentError
from refscale.models.bert import BertConfig
from refscale.scales import Scheme, unit
from refscale.stats.trace import SAME_VALUES

KAPPA = 2.0
"""Kurtosis factor of products of two normal numbers: (9 − 1)/(3 − 1) = 4 at most; nearer to 1 for sums of them."""

Model = Callable[[Tape, np.random.Generator], Tensor]
"""Function that records a run on new inputs and weights; the graph is the same at every call."""


@dataclass(frozen=True)
class TensorRms:
    """One tensor of a model: its RMS over several runs, and the predicted RMS.

    Attributes:
        name: name in the model.
        way: "forward" or "backward".
        shape: shape of the tensor.
        measured, predicted: RMS.
        std: measured standard deviation about the mean over all elements.
    """

    name: str
    way: str
    shape: tuple[int, ...]
    measured: float
    predicted: float
    std: float


def rows(
    model: Model,
    runs: int,
    rng: np.random.Generator,
    scheme: Scheme = unit,
    agreement: Mapping[str, float] | None = None,
    *,
    gradients: bool = True,
) -> list[TensorRms]:
    """Return every tensor whose predicted scale is not 0, forward, then backward if requested; leaves are N(0, 1).

    Tensors with the values of another one are left out (``analysis.trace.SAME_VALUES``).
    """
    squares: dict[tuple[str, int | str], list[tuple[float, float]]] = {}

    def key(way: str, variable: Variable) -> tuple[str, int | str]:
        return way, variable.node.index if variable.node else variable.name

    def probe(way: str, variable: Variable, array: Array) -> None:
        if array.ndim:
            flat = array.reshape(-1)  # float32 sums err by at most 1e-4, the figures by chance by 1e-2
            distances = flat - flat[0]  # same variance, which may be far below the mean square
            square, mean = float(flat @ flat) / flat.size, float(distances.sum()) / flat.size
            variance = float(distances @ distances) / flat.size - mean * mean
            squares.setdefault(key(way, variable), []).append((square, max(0.0, variance)))

    for _ in range(runs):
        tape = Tape(scheme, probe=probe)
        output = model(tape, rng)
        if gradients:
            backward(output, rng.standard_normal(output.shape) if output.shape else None)
    prediction = predict(output, agreement=agreement)
    if prediction.without_rule:
        raise ArgumentError(f"rows: no prediction rule for {', '.join(prediction.without_rule)}")
    found = []
    for way, kernels in (("forward", prediction.values), ("backward", prediction.gradients)):
        for variable, kernel in kernels.items():
            moved = variable.node is not None and isinstance(variable.node.op, SAME_VALUES)
            if kernel.rms > 1e-6 and not moved and key(way, variable) in squares:
                measured, about = np.sqrt(np.mean(squares[key(way, variable)], axis=0))
                found.append(TensorRms(variable.name, way, variable.shape, measured, kernel.rms, about))
    return found


def standard_error(products: int, pair: int, elements: int, runs: int) -> float:
    """Return the relative standard error of a measured RMS, as derived in the module's docstring (k, q, p, R)."""
    return 0.5 * math.sqrt(2 * (3 * products / pair + 1 / elements) * KAPPA / runs)


def compared(row: TensorRms, products: int, pair: int, runs: int, relative: float, most: float = 1.0) -> Figure:
    """Return the figure measured/predicted for a tensor computed by a number of products with given sides."""
    elements = max(1, math.prod(row.shape))
    return over_predicted(row, standard_error(products, pair, min(elements, pair), runs), relative, most)


def over_predicted(row: TensorRms, standard_error: float, relative: float, most: float) -> Figure:
    """Return the figure measured/predicted: from 1 to ``most``, plus a model error and standard errors at both ends."""
    middle = (1 + most) / 2
    allowed = (most - 1) / 2 + relative * most
    what = f"{row.way} {row.name} {row.shape}"
    return sampled(what, row.measured / row.predicted, middle, standard_error, allowed / middle)


def uniform_batch(config: BertConfig, rng: np.random.Generator, size: int, seq: int, predictions: int) -> Batch:
    """Return a batch with ids, labels and positions uniform and independent, one segment, no padding."""
    positions = np.sort(
        rng.permuted(np.tile(np.arange(seq, dtype=np.int32), (size, 1)), axis=1)[:, :predictions], axis=1
    )
    return Batch(
        ids=rng.integers(0, config.vocabulary, (size, seq), np.int32),
        segments=np.zeros((size, seq), np.int32),
        mask=np.ones((size, seq), np.bool_),
        positions=positions,
        labels=rng.integers(0, config.vocabulary, positions.shape, np.int32),
        is_next=rng.integers(0, 2, size, np.int32),
    )


def worst(figures: Iterator[Figure]) -> Figure:
    """Return the figure nearest to failing."""
    return max(figures, key=lambda f: f.strain)


ONE_SEGMENT = {"embeddings.segment": 1.0}
"""Input of ``predict`` for such a batch: the probability that two tokens have the same segment."""
