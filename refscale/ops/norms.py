"""Normalization over the last axis, over rows, or over groups of channels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from refscale.engine import Array, Example, Input, Op, Sizes, example
from refscale.errors import ArgumentError, ShapeError
from refscale.ops.kernels import rows
from refscale.ops.moments import centered, mean, normalized
from refscale.ops.shapes import integer_attributes, leading, size
from refscale.ops.sums import total
from refscale.scales import Scales, Shape
from refscale.scales.second_moments import SecondMoments, constant, without_mean

Kept = tuple[Any, ...]


def _rows(name: str, x: Shape, *parameters: Shape) -> int:
    if not x or x[-1] < 1 or any(p != x[-1:] for p in parameters):
        raise ShapeError(f"{name}: x {x} and parameters {', '.join(map(str, parameters))}, expected (…, n) and (n,)")
    return size(x[:-1])


def _to_row(g: Array) -> Array:
    return total(g, tuple(range(g.ndim - 1)))


def _at_scale(norm: Any, scales: tuple[float, ...]) -> tuple[Op, float]:
    """The op for x/s has eps/s², as eps is added to a mean square; gain and bias over t give the result over t."""
    return replace(norm, eps=norm.eps / scales[0] ** 2), scales[1]


def _lost(n: int, square: float) -> float:
    """The mean square of a gradient (g − mean g − y·mean(g·y))/s over that of g, from the mean square of x.

    Two directions of n are lost, and E 1/s² is (n − 1)/(n − 3) of 1/E s².
    """
    few = (n - 1) / (n - 3) if n > 3 else 1.0
    return (1 - 1 / n) * few / square


@dataclass(frozen=True)
class LayerNorm(Op):
    """gain·(x − mean)/√(var + eps) + bias over the n elements of the last axis; b rows.

    The output has unit variance for any x: α = 1; for x of unit variance β_x = 1 (exactly √((n−3)/(n−2)) for
    Gaussian x, 1 in the paper); the parameters' gradients sum b rows: β_gain = β_bias = b^-½.

    The error of the readable form's z = (x − mean)/√(var + eps) is at most u·(3|z_0| + 2 + |z_i|·(3|z_0| + 11)), to
    first order, with u half an ulp of 1, for any mean and magnitude of a row with finite differences; a row of equal
    elements gives 0, for eps > 0.

    Attributes:
        eps: number added to the variance.
    """

    eps: float = 1e-12
    inputs = ("x", "gain", "bias")
    homogeneity = ("any", "together", "together")
    source = "Table A.2"
    fast_forward, fast_backward = rows.layer_norm, rows.layer_norm_backward

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_eps(self.name, self.eps)

    def forward(self, x: Array, gain: Array, bias: Array) -> tuple[Array, Kept]:
        self.check(x.shape, gain.shape, bias.shape)
        normal, inverse = normalized(x, self.eps, with_mean=True)
        return normal * gain + bias, (normal, inverse, gain)

    def backward(self, g: Array, normal: Array, inverse: Array, gain: Array) -> tuple[Array, Array, Array]:
        d = centered(g * gain)
        gradient = (d - normal * mean(d * normal)) * inverse
        return gradient, _to_row(g * normal), _to_row(g)

    def scale(self, x: Shape, gain: Shape, bias: Shape) -> Scales:
        beta = 1 / math.sqrt(self.check(x, gain, bias))
        return Scales(1.0, (1.0, beta, beta))

    def rows(self, x: Shape, gain: Shape, bias: Shape) -> tuple[Shape, ...]:
        return (), leading(x), leading(x)

    def at_scales(self, *scales: float) -> tuple[Op, float]:
        return _at_scale(self, scales)

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), (at.b, at.m), (at.m,), (at.m,)),)

    def predict(self, out: Shape, x: SecondMoments, *parameters: SecondMoments) -> SecondMoments:
        v, square = self._spread(x)
        return constant(out, 0.0) if square <= 0 else without_mean(v / square, out)

    def predict_gradients(
        self, g: SecondMoments, x: SecondMoments, *parameters: SecondMoments
    ) -> tuple[SecondMoments, ...]:
        for_x = without_mean(self._spread(g)[0] * _lost(x.shape[-1], self._spread(x)[1]), x.shape)
        for_gain = SecondMoments(g.shape, g.k * self.predict(g.shape, x).k)
        return for_x, for_gain.unbroadcast(x.shape[-1:]), g.unbroadcast(x.shape[-1:])

    def _spread(self, x: SecondMoments) -> tuple[Array, float]:
        """Second moments of the rows without their means, and the mean square of one row, plus eps."""
        n = x.shape[-1]
        v = np.asarray(x.k[..., 1] - (x.k[..., 1] + (n - 1) * x.k[..., 0]) / n)
        return v, float(v[(1,) * v.ndim]) + self.eps

    def check(self, x: Shape, gain: Shape, bias: Shape) -> int:
        """Return the number of rows, or raise ShapeError."""
        return _rows(self.name, x, gain, bias)


@dataclass(frozen=True)
class RmsNorm(Op):
    """gain·x/√(mean x² + eps) over the n elements of the last axis. Factors as for the layer norm.

    The error of the readable form's z = x/√(mean x² + eps) is at most 5u·|z_i|, with u half an ulp of 1.

    Attributes:
        eps: number added to the mean square.
    """

    eps: float = 1e-6
    inputs = ("x", "gain")
    homogeneity = ("any", 1)
    source = "as Table A.2, layer norm; arXiv 1910.07467"
    fast_forward, fast_backward = rows.rms_norm, rows.rms_norm_backward

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_eps(self.name, self.eps)

    def forward(self, x: Array, gain: Array) -> tuple[Array, Kept]:
        self.check(x.shape, gain.shape)
        normal, inverse = normalized(x, self.eps, with_mean=False)
        return normal * gain, (normal, inverse, gain)

    def backward(self, g: Array, normal: Array, inverse: Array, gain: Array) -> tuple[Array, Array]:
        d = g * gain
        return (d - normal * mean(d * normal)) * inverse, _to_row(g * normal)

    def scale(self, x: Shape, gain: Shape) -> Scales:
        return Scales(1.0, (1.0, 1 / math.sqrt(self.check(x, gain))))

    def rows(self, x: Shape, gain: Shape) -> tuple[Shape, Shape]:
        return (), leading(x)

    def at_scales(self, *scales: float) -> tuple[Op, float]:
        return _at_scale(self, scales)

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), (at.b, at.m), (at.m,)),)

    def predict(self, out: Shape, x: SecondMoments, *parameters: SecondMoments) -> SecondMoments:
        square = x.square + self.eps
        return constant(out, 0.0) if square <= 0 else SecondMoments(out, x.k / square)

    def predict_gradients(
        self, g: SecondMoments, x: SecondMoments, *parameters: SecondMoments
    ) -> tuple[SecondMoments, ...]:
        for_x = SecondMoments(g.shape, g.k * _lost(x.shape[-1], x.square + self.eps))
        for_gain = SecondMoments(g.shape, g.k * self.predict(g.shape, x).k)
        return for_x, for_gain.unbroadcast(x.shape[-1:])

    def check(self, x: Shape, gain: Shape) -> int:
        """Return the number of rows, or raise ShapeError."""
        return _rows(self.name, x, gain)


@dataclass(frozen=True)
class BatchNorm(Op):
    """gain·(x − mean)/√(var + eps) + bias, with mean and variance of each channel over all R rows (training).

    x (…, n), channels last. The output has unit variance for any x: α = 1, and β_x = 1 as for the layer norm; the
    parameters' gradients sum R rows: β_gain = β_bias = R^-½. The variance divides by R, not R − 1.

    Attributes:
        eps: added to the variance.
    """

    eps: float = 1e-5
    inputs = ("x", "gain", "bias")
    homogeneity = ("any", "together", "together")
    source = "as Table A.2, layer norm; arXiv 1502.03167"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_eps(self.name, self.eps)

    def forward(self, x: Array, gain: Array, bias: Array) -> tuple[Array, Kept]:
        _rows(self.name, x.shape, gain.shape, bias.shape)
        normal, inverse = normalized(_by_channel(x), self.eps, with_mean=True)
        return _from_channels(normal, x.shape) * gain + bias, (normal, inverse, gain)

    def backward(self, g: Array, normal: Array, inverse: Array, gain: Array) -> tuple[Array, Array, Array]:
        d = centered(_by_channel(g * gain))
        gradient = (d - normal * mean(d * normal)) * inverse
        return _from_channels(gradient, g.shape), total(_by_channel(g) * normal, -1), _to_row(g)

    def scale(self, x: Shape, gain: Shape, bias: Shape) -> Scales:
        beta = 1 / math.sqrt(_rows(self.name, x, gain, bias))
        return Scales(1.0, (1.0, beta, beta))

    def rows(self, x: Shape, gain: Shape, bias: Shape) -> tuple[Shape, ...]:
        return (), leading(x), leading(x)

    def at_scales(self, *scales: float) -> tuple[Op, float]:
        return _at_scale(self, scales)

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), (at.b, at.s, at.m), (at.m,), (at.m,)),)

    def predict(self, out: Shape, x: SecondMoments, *parameters: SecondMoments) -> SecondMoments:
        rows = _rows_last(x)
        return LayerNorm(self.eps).predict(rows.shape, rows).swapped().reshaped(out)

    def predict_gradients(
        self, g: SecondMoments, x: SecondMoments, *parameters: SecondMoments
    ) -> tuple[SecondMoments, ...]:
        for_x = LayerNorm(self.eps).predict_gradients(_rows_last(g), _rows_last(x))[0].swapped().reshaped(x.shape)
        for_gain = SecondMoments(g.shape, g.k * self.predict(g.shape, x).k)
        return for_x, for_gain.unbroadcast(x.shape[-1:]), g.unbroadcast(x.shape[-1:])


@dataclass(frozen=True)
class FrozenBatchNorm(Op):
    """gain·(x − mean)/√(variance + eps) + bias with constant statistics of each channel (evaluation).

    x (…, n), R rows; the other inputs (n,). The statistics are assumed to be those of x, so that the output has unit
    variance; for x of unit variance β_x = 1; the parameters' gradients sum R rows: α = β_x = 1, β_gain = β_bias = R^-½.

    Attributes:
        eps: added to the variance.
    """

    eps: float = 1e-5
    inputs = ("x", "gain", "bias", "mean", "variance")
    homogeneity = ("own", "together", "together", None, None)
    source = "as Table A.2, layer norm; arXiv 1502.03167"
    constants = (3, 4)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_eps(self.name, self.eps)

    def forward(self, x: Array, gain: Array, bias: Array, mean: Array, variance: Array) -> tuple[Array, Kept]:
        _rows(self.name, x.shape, gain.shape, bias.shape, mean.shape, variance.shape)
        if not np.all(variance >= 0):
            raise ArgumentError(f"{self.name}: smallest variance is {np.min(variance)}, expected all ≥ 0")
        inverse = 1 / np.sqrt(variance + self.eps)
        normal = (x - mean) * inverse
        return normal * gain + bias, (normal, inverse, gain)

    def backward(self, g: Array, normal: Array, inverse: Array, gain: Array) -> tuple[Array | None, ...]:
        return g * gain * inverse, _to_row(g * normal), _to_row(g), None, None

    def scale(self, x: Shape, gain: Shape, bias: Shape, mean: Shape, variance: Shape) -> Scales:
        beta = 1 / math.sqrt(_rows(self.name, x, gain, bias, mean, variance))
        return Scales(1.0, (1.0, beta, beta, None, None))

    def rows(self, x: Shape, gain: Shape, bias: Shape, mean: Shape, variance: Shape) -> tuple[Shape, ...]:
        return (), leading(x), leading(x), (), ()

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        n = (at.m,)
        return (example(cls(), (at.b, at.m), n, n, n, Input(n, "positive")),)


@dataclass(frozen=True)
class GroupNorm(Op):
    """gain·(x − mean)/√(var + eps) + bias, mean and variance over positions and channels of each group of a sample.

    x (batch, *space, n), channels last, R = x.size/n rows. α = β_x = 1 as for the layer norm; the parameters'
    gradients sum R rows: β_gain = β_bias = R^-½. groups = n is the instance norm.

    Attributes:
        groups: number of groups of channels; divides n.
        eps: added to the variance.
    """

    groups: int
    eps: float = 1e-5
    inputs = ("x", "gain", "bias")
    homogeneity = ("any", "together", "together")
    source = "as Table A.2, layer norm; arXiv 1803.08494"

    def __post_init__(self) -> None:
        super().__post_init__()
        integer_attributes(self, "groups", least=1)
        _check_eps(self.name, self.eps)

    def forward(self, x: Array, gain: Array, bias: Array) -> tuple[Array, Kept]:
        self._check(x.shape, gain.shape, bias.shape)
        normal, inverse = normalized(self._by_group(x), self.eps, with_mean=True)
        spread = self._from_groups(normal, x.shape)
        return spread * gain + bias, (normal, inverse, gain)

    def backward(self, g: Array, normal: Array, inverse: Array, gain: Array) -> tuple[Array, Array, Array]:
        d = centered(self._by_group(g * gain))
        gradient = (d - normal * mean(d * normal)) * inverse
        return self._from_groups(gradient, g.shape), _to_row(g * self._from_groups(normal, g.shape)), _to_row(g)

    def scale(self, x: Shape, gain: Shape, bias: Shape) -> Scales:
        beta = 1 / math.sqrt(self._check(x, gain, bias))
        return Scales(1.0, (1.0, beta, beta))

    def rows(self, x: Shape, gain: Shape, bias: Shape) -> tuple[Shape, ...]:
        return (), leading(x), leading(x)

    def at_scales(self, *scales: float) -> tuple[Op, float]:
        return _at_scale(self, scales)

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(2), (at.b, at.s, 2 * at.m), (2 * at.m,), (2 * at.m,)),)

    def _by_group(self, x: Array) -> Array:
        """(batch, *space, n) → (batch, groups, elements of a group)."""
        places = math.prod(x.shape[1:-1])
        parts = x.reshape(x.shape[0], places, self.groups, x.shape[-1] // self.groups)
        return parts.swapaxes(1, 2).reshape(x.shape[0], self.groups, places * (x.shape[-1] // self.groups))

    def _from_groups(self, y: Array, shape: Shape) -> Array:
        places = math.prod(shape[1:-1])
        parts = y.reshape(shape[0], self.groups, places, shape[-1] // self.groups)
        return parts.swapaxes(1, 2).reshape(shape)

    def _check(self, x: Shape, gain: Shape, bias: Shape) -> int:
        rows = _rows(self.name, x, gain, bias)
        if len(x) < 2 or x[-1] % self.groups or math.prod(x[1:]) < 1:
            raise ShapeError(f"group_norm(groups={self.groups}): x {x}, expected (batch, …, n), n a multiple of groups")
        return rows


def _by_channel(x: Array) -> Array:
    """(…, n) → (n, rows)."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1]).swapaxes(0, 1)


def _from_channels(y: Array, shape: Shape) -> Array:
    return y.swapaxes(0, 1).reshape(shape)


def _rows_last(x: SecondMoments) -> SecondMoments:
    """(…, n) → (n, rows)."""
    return x.reshaped((math.prod(x.shape[:-1]), x.shape[-1])).swapped()


def _check_eps(name: str, eps: float) -> None:
    if not 0 <= eps < math.inf:
        raise ArgumentError(f"{name}(eps={eps}): expected 0 ≤ eps < ∞")
