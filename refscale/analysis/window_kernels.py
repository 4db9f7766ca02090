"""Second moments of a convolution along one axis, and of its gradients."""

from __future__ import annotations

import numpy as np

from refscale import ops
from refscale.analysis.kernels import Kernel, of_axes
from refscale.engine import Node


def _seen(op: ops.Conv1d, node: Node) -> float:
    """How many pairs of an output and an element of its window there are on the axis; those in the padding aside."""
    length, kernel, outputs = node.inputs[0].shape[1], node.inputs[1].shape[0], node.output.shape[1]
    before = op.padding if isinstance(op.padding, int) else op.padding[0]
    places = np.arange(outputs)[:, None] * op.stride + np.arange(kernel) * op.dilation - before
    return float(np.count_nonzero((places >= 0) & (places < length)))


def convolved(op: ops.Conv1d, node: Node, x: Kernel, w: Kernel) -> Kernel:
    """Of x (batch, length, channels) with independent weights: what two places share, they share tap by tap."""
    shape, channels = node.output.shape, node.inputs[1].shape[1]
    k = np.zeros((2, 2, 2))
    k[..., 1] = x.k[..., 1] * (_seen(op, node) / shape[1] * channels * w.square)
    return of_axes(shape, k)


def convolution_gradients(op: ops.Conv1d, node: Node, g: Kernel, x: Kernel, w: Kernel) -> tuple[Kernel, Kernel]:
    """Of x and of the weight: the transposed convolution, and sums over the windows of a batch."""
    seen = _seen(op, node)
    batch, length, _ = x.shape
    taps = w.shape[0]
    dx = np.zeros((2, 2, 2))
    dx[..., 1] = g.k[..., 1] * (seen / length * (w.shape[2] / op.groups) * w.square)
    rows = seen / taps  # windows of one sequence whose element at a tap is none of the padding
    dw = np.empty((2, 2, 2))
    for tap, i, o in np.ndindex(2, 2, 2):
        # Of two windows: the same one; two of a sequence; one each of two sequences.  Two taps see two places.
        same = x.k[1, tap, i] * g.k[1, 1, o]
        near = x.k[1, 0, i] * g.k[1, 0, o] * (rows - 1)
        far = (x.k[0, tap, i] * g.k[0, 1, o] + x.k[0, 0, i] * g.k[0, 0, o] * (rows - 1)) * (batch - 1)
        dw[tap, i, o] = batch * rows * (same + near + far)
    return of_axes(x.shape, dx), of_axes(w.shape, dw)
