"""Kernels of the matrix products: the factor is applied to the smallest array.

A product is linear in both operands, so α·(a @ b) = (α·a) @ b = a @ (α·b). The factor is applied to the smallest of
the three arrays; if several have its size, to the result. For a power of two all three have the same bits (within the
carrier's range). Another factor is rounded into each element of an operand, with an error of at most half an ulp in
each term of the sum; applied to the result, its error is half an ulp of the result.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from refscale.engine import Array, Op
from refscale.ops.kernels.blocks import Betas, by_row
from refscale.ops.shapes import broadcast
from refscale.ops.sums import unbroadcast


def product(a: Array, b: Array, factor: float, like: Array | None = None) -> Array:
    """Compute factor · a @ b for a (…, s, m) and b (…, m, n), in the memory layout of ``like`` if the shapes agree."""
    shape = (*broadcast("product", a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
    out = None
    if like is not None and like.ndim == len(shape) and not like.flags.c_contiguous:
        out = np.empty_like(like, shape=shape)
    least = math.prod(shape)
    if factor != 1 and min(a.size, b.size) < least:
        a, b = (a * factor, b) if a.size <= b.size else (a, b * factor)
        factor = 1
    y = np.matmul(a, b, out=out)
    if factor != 1:
        y *= factor
    return y


def matmul(op: Any, alpha: float, x: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
    """α · x @ w, for a matrix w or a w with leading axes."""
    shape = op.check(x.shape, w.shape)
    if w.ndim == 2:  # one large product instead of a batch of small ones
        return product(by_row(x), w, alpha).reshape(shape), (x, w)
    return product(x, w, alpha, like=w), (x, w)


def matmul_backward(op: Op, betas: Betas, g: Array, x: Array, w: Array) -> tuple[Array | None, Array | None]:
    """β_x · g @ wᵀ, and β_w · xᵀ @ g in the memory layout of w."""
    for_x, for_w = betas
    if w.ndim == 2:
        rows = by_row(g)
        return (
            None if for_x is None else product(rows, w.T, for_x).reshape(x.shape),
            None if for_w is None else product(by_row(x).T, rows, for_w, like=w),
        )
    return (
        None if for_x is None else unbroadcast(product(g, w.swapaxes(-1, -2), for_x, like=x), x.shape),
        None if for_w is None else unbroadcast(product(x.swapaxes(-1, -2), g, for_w, like=w), w.shape),
    )


def scores(op: Any, alpha: float, q: Array, k: Array) -> tuple[Array, tuple[Array, Array]]:
    """α · damping · q @ kᵀ."""
    op.check(q.shape, k.shape)
    return product(q, k.swapaxes(-1, -2), alpha * op.damping(q.shape)), (q, k)


def scores_backward(op: Any, betas: Betas, g: Array, q: Array, k: Array) -> tuple[Array | None, Array | None]:
    """β_q · damping · g @ k and β_k · damping · gᵀ @ q."""
    damping, (for_q, for_k) = op.damping(q.shape), betas
    return (
        None if for_q is None else unbroadcast(product(g, k, for_q * damping, like=q), q.shape),
        None if for_k is None else unbroadcast(product(g.swapaxes(-1, -2), q, for_k * damping, like=k), k.shape),
    )
