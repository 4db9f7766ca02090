"""Rows of tables, and sums of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale import ops
from refscale.engine import Tensor, apply

__all__ = ["embedding", "embedding_sum"]


def embedding(table: Tensor, ids: NDArray[np.integer[Any]]) -> Tensor:
    """Rows of a table: table[ids]; see ``ops.Embedding``.

    Args:
        table: (v, d).
        ids: integers from 0 to v − 1, any shape.

    Returns:
        (…, d).
    """
    return apply(ops.Embedding(), table, ids)


def embedding_sum(*parts: tuple[Tensor, NDArray[np.integer[Any]]], weights: tuple[float, ...] | None = None) -> Tensor:
    """Σ weight_i·table_i[ids_i], broadcast, at unit variance.

    Args:
        parts: pairs of a table (v_i, d) and ids, e.g. words (batch, seq), positions (seq,), segments (batch, seq).
        weights: of the parts; equal ones if None.

    Returns:
        (batch, seq, d). Source: paper, BERT (a weighted add with equal weights).
    """
    rows = [embedding(table, ids) for table, ids in parts]
    return apply(ops.WeightedAdd(weights or (1.0,) * len(rows)), *rows)
