"""Whole models, measured and predicted: every tensor's RMS over several runs, beside what ``analysis.predict`` says.

How far a measured RMS may be from its expectation by chance.  A model's tensors come from independent normal arrays
(inputs, weights, the incoming gradient) by products.  The mean square of a product of x (b, m) and w (m, n) has the
relative variance 2·(1/bm + 1/mn + 1/bn + 1/bmn) (``refscale.testing.effective_samples_matmul``), those of consecutive
products add up, and so do those of the branches of a sum, at most.  So with k products on the way, no two sides
of which have a product below q, and p elements of its own, a mean square over R runs has a relative variance of at most
2·(3k/q + 1/p)·κ/R, its root a quarter of that; κ = 2 allows for elements that are products of normal numbers.

What a figure promises: with z standard errors to either side, and a model error of ε, it fails by chance at the rate of
z (1e-13), and misses an error of ε + 2z standard errors no more often.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from refscale.analysis import predict
from refscale.analysis.trace import SAME_VALUES
from refscale.claims.claim import Figure, sampled
from refscale.data import Batch
from refscale.engine import Array, Tape, Tensor, Variable, backward
from refscale.errors import ArgumentError
from refscale.models.bert import BertConfig
from refscale.scales import Scheme, unit

KAPPA = 2.0
"""Of elements that are products of two normal numbers, (9 − 1)/(3 − 1) = 4 at most; of sums of them, nearer to 1."""

Model = Callable[[Tape, np.random.Generator], Tensor]
"""Records a run on new inputs and weights; the same graph at every call."""


@dataclass(frozen=True)
class TensorRms:
    """One tensor of a model: its RMS over several runs, and the predicted one.

    Attributes:
        name: in the model.
        way: "forward" or "backward".
        shape: of the tensor.
        measured, predicted: RMS.
        std: measured, about the mean over all elements.
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
    """Every tensor that is not zero by prediction, forward, then backward if asked for; leaves are N(0, 1).

    Those that hold the values of another are left out (``analysis.trace.SAME_VALUES``).
    """
    squares: dict[tuple[str, int | str], list[tuple[float, float]]] = {}

    def key(way: str, variable: Variable) -> tuple[str, int | str]:
        return way, variable.node.index if variable.node else variable.name

    def probe(way: str, variable: Variable, array: Array) -> None:
        if array.ndim:
            flat = array.reshape(-1)  # sums in float32 err by 1e-4 at most, figures by chance by 1e-2
            distances = flat - flat[0]  # of the same variance, which may be far below the mean square
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
    """Of a measured RMS over the expected one: see the head of this module, where k, q, p and R are these."""
    return 0.5 * math.sqrt(2 * (3 * products / pair + 1 / elements) * KAPPA / runs)


def compared(row: TensorRms, products: int, pair: int, runs: int, relative: float, most: float = 1.0) -> Figure:
    """Measured over predicted, after so many products of such sides."""
    elements = max(1, math.prod(row.shape))
    return over_predicted(row, standard_error(products, pair, min(elements, pair), runs), relative, most)


def over_predicted(row: TensorRms, standard_error: float, relative: float, most: float) -> Figure:
    """Measured over predicted: from 1 to ``most``, a model error and so many standard errors to either side."""
    middle = (1 + most) / 2
    allowed = (most - 1) / 2 + relative * most
    what = f"{row.way} {row.name} {row.shape}"
    return sampled(what, row.measured / row.predicted, middle, standard_error, allowed / middle)


def uniform_batch(config: BertConfig, rng: np.random.Generator, size: int, seq: int, predictions: int) -> Batch:
    """Ids, labels and positions uniform and independent; one segment, no padding."""
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
    """The one nearest to failing."""
    return max(figures, key=lambda f: f.strain)


ONE_SEGMENT = {"embeddings.segment": 1.0}
"""What ``predict`` is told of such a batch: the chance that two tokens have the same segment."""
