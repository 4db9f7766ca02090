"""Statistics of an array for narrow formats: moments, exponents, overflow and underflow of a cast.

One pass over blocks that fit in cache computes everything, so an array of any size needs no second copy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from refscale.arrays import plain
from refscale.errors import ArgumentError, CarrierError
from refscale.formats import FormatLike, get_format
from refscale.scales import Shape, Statistic

Kind = Literal["weight", "activation", "activation gradient", "weight gradient"]
KINDS: tuple[Kind, ...] = ("weight", "activation", "activation gradient", "weight gradient")

REPORT_FORMATS = ("float16", "float8_e4m3fn", "float8_e5m2")
"""Default formats of reports."""

LOW, HIGH = 0.25, 4.0
"""Interval of scales that count as unit scale.

Two binades either way, of the 30 that FP16 and E5M2 have and the 15 of E4M3; the paper aims at about 1.
"""

BLOCK = 1 << 16
"""Number of elements of a block: 512 KiB of float64."""


@dataclass(frozen=True)
class Lost:
    """Numbers of elements that a cast to one format, to nearest even, would change beyond rounding.

    Attributes:
        underflow: number of non-zero elements cast to zero.
        subnormal: number of elements cast to a subnormal value, with fewer significant bits.
        overflow: number of elements rounded beyond the largest value, infinities included.
    """

    underflow: int
    subnormal: int
    overflow: int


@dataclass(frozen=True)
class Measurement:
    """Statistics of one array. Moments are those of its finite elements, in float64.

    Attributes:
        elements: number of elements.
        mean, std, rms, amax: mean, standard deviation σ, √(mean of squares), largest magnitude; 0 if none is finite.
        zeros: number of elements ±0.
        infinite, nan: numbers of non-finite elements.
        exponents: number of finite non-zero elements with ⌊log2 |x|⌋ = e, for every e that occurs, ascending.
        lost: elements that a cast to each format would change, by full name.
    """

    elements: int
    mean: float
    std: float
    rms: float
    amax: float
    zeros: int
    infinite: int
    nan: int
    exponents: Mapping[int, int]
    lost: Mapping[str, Lost]

    @property
    def nonzero(self) -> int:
        """Number of elements that are neither zero nor NaN, the denominator of shares."""
        return self.elements - self.zeros - self.nan

    def share(self, count: int) -> float:
        """Return ``count`` as a share of the non-zero elements; 0 if there are none."""
        return count / self.nonzero if self.nonzero else 0.0


@dataclass(frozen=True)
class TensorUse:
    """One use of a tensor by an op.

    Attributes:
        op: name of the op.
        output: name of its output, as in the row of that value or, for a gradient, of that gradient.
        beta: factor of the gradient of this use; None if it has none.
    """

    op: str
    output: str
    beta: float | None


@dataclass(frozen=True)
class TensorStats(Measurement):
    """One tensor of a model, with its statistics.

    Attributes:
        name: path in the model; ``#2`` for the second of the same name.
        kind: weight, activation, activation gradient or weight gradient.
        layer: "embeddings", "encoder.0", …, "mlm", "nsp".
        role: role of a parameter (weight, embedding, bias, gain), else the op that computed the tensor.
        shape: shape of the array.
        c: for a gradient, its ratio to the true one (``graph.gradient_factors``); else None.
        zero_because: reason why the tensor is zero at any scale; empty if it is not.
        damped: whether it is small by design (the output of a readout with α = 1/fan-in).
        statistic: statistic by which it is judged, "std" or "rms".
        predicted: σ by ``predict``, from factors and shapes alone; None unless weights are initial ones.
        alpha: factor of the op that computed the value; None for a parameter.
        uses: ops that read the value, in order; the gradient is the sum of their gradients.
    """

    name: str
    kind: Kind
    layer: str
    role: str
    shape: Shape
    c: float | None = None
    zero_because: str = ""
    damped: bool = False
    statistic: Statistic = "std"
    predicted: float | None = None
    alpha: float | None = None
    uses: tuple[TensorUse, ...] = ()

    @property
    def over_predicted(self) -> float | None:
        """σ over the predicted one; None without a prediction, or if it is 0 or tiny."""
        small = self.predicted is None or self.predicted < 1e-6 * self.rms or self.zero_because
        return None if small or not self.predicted else self.std / self.predicted

    @property
    def scale(self) -> float:
        """Statistic by which the tensor is judged: σ; RMS if requested, if all elements are equal, or for a gain.

        Gains start at 1, all equal, and change little, so their σ is not informative.
        """
        return self.rms if self.judged_by_rms else self.std

    @property
    def judged_by_rms(self) -> bool:
        """Whether ``scale`` is the RMS."""
        return self.statistic == "rms" or self.std == 0 or (self.kind == "weight" and self.role == "gain")

    @property
    def is_judged(self) -> bool:
        """Whether the tensor should have unit scale under unit scaling."""
        return not self.zero_because and not self.damped


@dataclass(frozen=True)
class Limits:
    """Magnitudes at which the result of a cast to a format, to nearest even, changes.

    |x| ≤ ``zero`` becomes zero; below ``normal``, subnormal; ``overflow`` or more, too large.
    """

    zero: float
    normal: float
    overflow: float

    @classmethod
    def of(cls, format: FormatLike) -> Limits:
        """Return the limits of a format.

        A tie goes to the even significand: half the smallest subnormal to zero, the tie below the smallest normal to
        the smallest normal, the tie above the largest value to the even one of its neighbors.

        Raises:
            ArgumentError: the format has no zero.
        """
        f = get_format(format)
        if not f.has_zero:
            raise ArgumentError(f"Limits.of({f.name!r}): expected a format with zero")
        spacing = f.eps * 2.0**f.emax
        tie = f.max + spacing / 2
        max_is_odd = (f.max / spacing) % 2 == 1
        return cls(
            zero=f.min_subnormal / 2,
            normal=f.min_normal - f.min_subnormal / 2,
            overflow=tie if max_is_odd else math.nextafter(tie, math.inf),
        )

    def counts(self, magnitudes: NDArray[np.float64], zeros: int, amax: float) -> tuple[int, int, int]:
        """Count (underflow, subnormal, overflow) in a block of magnitudes with ``zeros`` zeros; NaN does not count."""
        to_zero = int(np.count_nonzero(magnitudes <= self.zero))
        below = int(np.count_nonzero(magnitudes < self.normal))
        beyond = 0 if amax < self.overflow else int(np.count_nonzero(magnitudes >= self.overflow))
        return to_zero - zeros, below - to_zero, beyond


class _Sums:
    """Running totals of one array.

    Moments are taken about the array's own first finite element s: with d = x − s, the variance is
    mean(d²) − mean(d)². As s belongs to the array, mean(d)² ≤ n·variance, so that the difference loses at most a
    factor n of float64's 2^-53 for any mean; and constant arrays give exactly zero.
    """

    def __init__(self, formats: Sequence[str]) -> None:
        self.shift: float | None = None
        self.finite = self.zeros = self.infinite = self.nan = 0
        self.d = self.d2 = self.amax = 0.0
        self.exponents = np.zeros(2048, np.int64)
        self.limits = [Limits.of(name) for name in formats]
        self.lost = np.zeros((len(formats), 3), np.int64)

    def add(self, block: NDArray[np.float64]) -> None:
        magnitudes = np.abs(block)
        amax = float(magnitudes.max())
        zeros = block.size - int(np.count_nonzero(block))
        self.zeros += zeros
        for row, limits in zip(self.lost, self.limits, strict=True):
            row += limits.counts(magnitudes, zeros, math.inf if math.isnan(amax) else amax)
        if not math.isfinite(amax):
            self.nan += int(np.count_nonzero(np.isnan(block)))
            self.infinite += int(np.count_nonzero(np.isinf(block)))
            block = block[np.isfinite(block)]
            if not block.size:
                return
            magnitudes = np.abs(block)
            amax = float(magnitudes.max())
        if self.shift is None:
            self.shift = float(block[0])
        self.amax = max(self.amax, amax)
        self.finite += block.size
        # The sign is removed: above the 52 bits of the mantissa only the exponent field remains.
        self.exponents += np.bincount(magnitudes.view(np.int64) >> 52, minlength=2048)
        difference = np.subtract(block, self.shift, out=magnitudes)
        self.d += float(difference.sum())
        self.d2 += float(np.square(difference, out=difference).sum())

    def moments(self) -> tuple[float, float, float]:
        """Return mean, standard deviation and RMS."""
        if self.shift is None:
            return 0.0, 0.0, 0.0
        d = self.d / self.finite
        mean = self.shift + d
        variance = max(0.0, self.d2 / self.finite - d * d)
        return mean, math.sqrt(variance), math.sqrt(mean * mean + variance)


def measure(x: NDArray[Any], formats: Sequence[str] = REPORT_FORMATS) -> Measurement:
    """Measure an array: moments, exponents, and elements that casts would change.

    Args:
        x: float16, bfloat16, float32, or float64 within float32's range; any shape, strides and size.
        formats: full names of formats whose casts are evaluated.

    Returns:
        Moments in float64, exponents and counts; see ``Measurement``. They equal the counts after actual casts to
        nearest even, which take ten times as long.

    Raises:
        CarrierError: x is not a real floating-point array.
        ArgumentError: a format has no zero.
        FormatError: a format is unknown.
    """
    x = plain("measure", "x", x)
    if x.dtype.kind not in "fV" or x.dtype.itemsize > 8:
        raise CarrierError(f"measure: got an array of {x.dtype}, expected a floating-point one of at most 64 bits")
    names = [get_format(f).name for f in formats]
    sums = _Sums(names)
    for block in _blocks(x):
        sums.add(block)
    mean, std, rms = sums.moments()
    # Field 0 belongs to zero only: the smallest float32 is 2^-149.
    exponents = {int(e) - 1023: int(sums.exponents[e]) for e in np.flatnonzero(sums.exponents) if e}
    lost = {name: Lost(*map(int, row)) for name, row in zip(names, sums.lost, strict=True)}
    return Measurement(
        elements=x.size,
        mean=mean,
        std=std,
        rms=rms,
        amax=sums.amax,
        zeros=sums.zeros,
        infinite=sums.infinite,
        nan=sums.nan,
        exponents=exponents,
        lost=lost,
    )


def _blocks(x: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    """Yield the elements as float64, in the order of memory, a block at a time; each is valid until the next."""
    if not x.size:
        return
    if x.dtype.kind == "V":  # bfloat16: NumPy's iterator does not support it
        x = x.astype(np.float32)
    yield from np.nditer(
        x,
        flags=["external_loop", "buffered"],
        op_dtypes=[np.float64],
        casting="safe",
        order="K",
        buffersize=BLOCK,
    )
