"""Normalization over the last axis."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from refscale.engine import Array, Op
from refscale.errors import ArgumentError, ShapeError
from refscale.ops.kernels import rows
from refscale.ops.shapes import size
from refscale.scales import Scales, Shape

Kept = tuple[Any, ...]


def _rows(name: str, x: Shape, *parameters: Shape) -> int:
    if not x or x[-1] < 1 or any(p != x[-1:] for p in parameters):
        raise ShapeError(f"{name}: x {x} and parameters {', '.join(map(str, parameters))}, expected (…, n) and (n,)")
    return size(x[:-1])


def _to_row(g: Array) -> Array:
    return np.asarray(g.reshape(-1, g.shape[-1]).sum(0))


@dataclass(frozen=True)
class LayerNorm(Op):
    """gain·(x − mean)/√(var + eps) + bias over the n elements of the last axis; b rows.

    The output has unit variance whatever x is (while its squares stay within the carrier's range): α = 1; for x of
    unit variance β_x = 1 (exactly √((n−3)/(n−2)) for Gaussian x, 1 in the paper); the parameters' gradients sum b
    rows: β_gain = β_bias = b^-1/2.

    Attributes:
        eps: added to the variance.
    """

    eps: float = 1e-12
    inputs = ("x", "gain", "bias")
    source = "Table A.2"
    fast_forward, fast_backward = rows.layer_norm, rows.layer_norm_backward

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_eps(self.name, self.eps)

    def forward(self, x: Array, gain: Array, bias: Array) -> tuple[Array, Kept]:
        self.check(x.shape, gain.shape, bias.shape)
        n = x.shape[-1]
        centered = x - x.sum(-1, keepdims=True) / n
        inverse = 1 / np.sqrt(np.einsum("...i,...i->...", centered, centered)[..., None] / n + self.eps)
        centered *= inverse
        return centered * gain + bias, (centered, inverse, gain)

    def backward(self, g: Array, normal: Array, inverse: Array, gain: Array) -> tuple[Array, Array, Array]:
        n = normal.shape[-1]
        d = g * gain
        slope = np.einsum("...i,...i->...", d, normal)[..., None] / n
        gradient = (d - d.sum(-1, keepdims=True) / n - normal * slope) * inverse
        return gradient, _to_row(g * normal), _to_row(g)

    def scale(self, x: Shape, gain: Shape, bias: Shape) -> Scales:
        beta = 1 / math.sqrt(self.check(x, gain, bias))
        return Scales(1.0, (1.0, beta, beta))

    def check(self, x: Shape, gain: Shape, bias: Shape) -> int:
        """Number of rows, or a ShapeError."""
        return _rows(self.name, x, gain, bias)


@dataclass(frozen=True)
class RmsNorm(Op):
    """gain·x/√(mean x² + eps) over the n elements of the last axis.  Factors as for the layer norm.

    Attributes:
        eps: added to the mean square.
    """

    eps: float = 1e-6
    inputs = ("x", "gain")
    source = "as Table A.2, layer norm; arXiv 1910.07467"
    fast_forward, fast_backward = rows.rms_norm, rows.rms_norm_backward

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_eps(self.name, self.eps)

    def forward(self, x: Array, gain: Array) -> tuple[Array, Kept]:
        self.check(x.shape, gain.shape)
        inverse = 1 / np.sqrt(np.einsum("...i,...i->...", x, x)[..., None] / x.shape[-1] + self.eps)
        normal = x * inverse
        return normal * gain, (normal, inverse, gain)

    def backward(self, g: Array, normal: Array, inverse: Array, gain: Array) -> tuple[Array, Array]:
        d = g * gain
        slope = np.einsum("...i,...i->...", d, normal)[..., None] / normal.shape[-1]
        return (d - normal * slope) * inverse, _to_row(g * normal)

    def scale(self, x: Shape, gain: Shape) -> Scales:
        return Scales(1.0, (1.0, 1 / math.sqrt(self.check(x, gain))))

    def check(self, x: Shape, gain: Shape) -> int:
        """Number of rows, or a ShapeError."""
        return _rows(self.name, x, gain)


def _check_eps(name: str, eps: float) -> None:
    if not eps >= 0:
        raise ArgumentError(f"{name}(eps={eps}): expected eps ≥ 0")
