"""Embeddings: rows of tables by ids, and weighted sums of several."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale import ops
from refscale.engine import Tensor, apply

__all__ = ["embedding", "embedding_sum"]


def embedding(table: Tensor, ids: NDArray[np.integer[Any]]) -> Tensor:
    """Look up rows of a table by ids: table[ids]; see ``ops.Embedding``.

    Args:
        table: (v, d).
        ids: integers from 0 to v − 1, any shape.

    Returns:
        (…, d).
    """
    return apply(ops.Embedding(), table, ids)


def embedding_sum(*parts: tuple[Tensor, NDArray[np.integer[Any]]], weights: tuple[float, ...] | None = None) -> Tensor:
    """Compute Σ weight_i·table_i[ids_i], broadcast, with unit variance.

    Args:
        parts: pairs of a table (v_i, d) and ids, e.g. words (batch, seq), positions (seq,), segments (batch, seq).
        weights: weights of the parts, > 0; None: equal weights.

    Returns:
        (batch, seq, d). Source: paper, BERT (a weighted add with equal weights).
    """
    rows = [embedding(table, ids) for table, ids in parts]
    return apply(ops.WeightedAdd(weights or (1.0,) * len(rows)), *rows)
