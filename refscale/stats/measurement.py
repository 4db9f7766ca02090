"""Statistics of an array for narrow formats: moments, exponents, overflow and underflow of a cast.

Everything is gathered in one pass over blocks that fit in cache, so that an array of any size needs no second copy.
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
"""What reports judge by, unless told otherwise."""

LOW, HIGH = 0.25, 4.0
"""A tensor whose scale is within [LOW, HIGH] counts as of unit scale.

Two binades either way, out of the 30 that FP16 and E5M2 have and the 15 of E4M3; the paper asks for about 1.
"""

BLOCK = 1 << 16
"""Elements per block: 512 KiB of float64."""


@dataclass(frozen=True)
class Lost:
    """How many elements a cast to one format, to nearest even, would change beyond rounding.

    Attributes:
        underflow: not zero, but cast to zero.
        subnormal: cast to a subnormal value, with fewer significant bits.
        overflow: rounded beyond the largest value, infinities included.
    """

    underflow: int
    subnormal: int
    overflow: int


@dataclass(frozen=True)
class Measurement:
    """One array in figures.  Moments are those of its finite elements, in float64.

    Attributes:
        elements: of the array.
        mean, std, rms, amax: mean, standard deviation σ, √(mean of squares), largest magnitude; 0 if none is finite.
        zeros: elements that are ±0.
        infinite, nan: elements that are not finite.
        exponents: how many finite non-zero elements have ⌊log2 |x|⌋ = e, for every e that occurs, ascending.
        lost: what a cast to each format would lose, by full name.
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
        """Elements that are neither zero nor NaN: what shares refer to."""
        return self.elements - self.zeros - self.nan

    def share(self, count: int) -> float:
        """``count`` as a share of the non-zero elements; 0 if there are none."""
        return count / self.nonzero if self.nonzero else 0.0


@dataclass(frozen=True)
class TensorUse:
    """One use of a tensor by an op.

    Attributes:
        op: name of the op.
        output: name of its output, as the row of that value or, for a gradient, of that gradient has it.
        beta: factor of the gradient that this use sends back to the tensor; None if it sends none.
    """

    op: str
    output: str
    beta: float | None


@dataclass(frozen=True)
class TensorStats(Measurement):
    """One tensor of a model: what it is, and what it looks like.

    Attributes:
        name: path in the model; ``#2`` for the second of the same name.
        kind: weight, activation, activation gradient or weight gradient.
        layer: "embeddings", "encoder.0", …, "mlm", "nsp".
        role: of a parameter (weight, embedding, bias, gain), else the op that made it.
        shape: of the array.
        c: of a gradient, the constant by which it differs from the true one (``graph.gradient_factors``); else None.
        zero_because: why the tensor is zero whatever its scale; empty if it is not.
        damped: whether it is made small on purpose (the output of a readout with α = 1/fan-in).
        statistic: what it is judged by, "std" or "rms".
        predicted: σ by ``predict``, from factors and shapes alone; None if weights are not initial ones.
        alpha: factor of the op that computed the value; None of a parameter.
        uses: the ops that take the value, in order; the gradient is the sum of what they send back.
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
        """σ over the predicted one; None where there is none, or it is 0 or next to it."""
        small = self.predicted is None or self.predicted < 1e-6 * self.rms or self.zero_because
        return None if small or not self.predicted else self.std / self.predicted

    @property
    def scale(self) -> float:
        """What the tensor is judged by: σ, or RMS if so asked, if all elements are the same, or if it is a gain.

        Gains start at 1, all alike, and move little: their σ would say nothing.
        """
        return self.rms if self.judged_by_rms else self.std

    @property
    def judged_by_rms(self) -> bool:
        """Whether ``scale`` is the RMS."""
        return self.statistic == "rms" or self.std == 0 or (self.kind == "weight" and self.role == "gain")

    @property
    def is_judged(self) -> bool:
        """Whether the tensor is one that unit scaling means to have unit scale."""
        return not self.zero_because and not self.damped


@dataclass(frozen=True)
class Limits:
    """Where a cast to a format, to nearest even, changes what becomes of a magnitude.

    |x| ≤ ``zero`` becomes zero; less than ``normal``, subnormal; ``overflow`` or more, too large.
    """

    zero: float
    normal: float
    overflow: float

    @classmethod
    def of(cls, format: FormatLike) -> Limits:
        """Those of a format.

        A tie goes to the even significand: half the smallest subnormal to zero, the tie below the smallest normal to
        that, the tie above the largest value to whichever of the two is even.

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
        """(underflow, subnormal, overflow) in a block of magnitudes, of which ``zeros`` are zero; NaN is none."""
        to_zero = int(np.count_nonzero(magnitudes <= self.zero))
        below = int(np.count_nonzero(magnitudes < self.normal))
        beyond = 0 if amax < self.overflow else int(np.count_nonzero(magnitudes >= self.overflow))
        return to_zero - zeros, below - to_zero, beyond


class _Sums:
    """Running totals of one array.

    Moments are taken about the array's own first finite element s: with d = x − s, the variance is
    mean(d²) − mean(d)².  As s belongs to the array, mean(d)² ≤ n·variance, so that the difference loses at most a
    factor n of float64's 2^-53, whatever the mean; and constant arrays give exactly zero.
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
        # The sign is gone: what is left above the 52 bits of the mantissa is the exponent field.
        self.exponents += np.bincount(magnitudes.view(np.int64) >> 52, minlength=2048)
        difference = np.subtract(block, self.shift, out=magnitudes)
        self.d += float(difference.sum())
        self.d2 += float(np.square(difference, out=difference).sum())

    def moments(self) -> tuple[float, float, float]:
        """Mean, standard deviation, RMS."""
        if self.shift is None:
            return 0.0, 0.0, 0.0
        d = self.d / self.finite
        mean = self.shift + d
        variance = max(0.0, self.d2 / self.finite - d * d)
        return mean, math.sqrt(variance), math.sqrt(mean * mean + variance)


def measure(x: NDArray[Any], formats: Sequence[str] = REPORT_FORMATS) -> Measurement:
    """An array in figures.

    Args:
        x: float16, bfloat16, float32, or float64 within float32's range; any shape, strides and size.
        formats: full names; what a cast to each would lose is counted.

    Returns:
        Moments in float64, exponents and counts; see ``Measurement``.  Casting to nearest even and counting says
        the same, at ten times the cost.

    Raises:
        CarrierError: no real floating-point array.
        ArgumentError: a format without zero.
        FormatError: an unknown format.
    """
    x = plain("measure", "x", x)
    if x.dtype.kind not in "fV" or x.dtype.itemsize > 8:
        raise CarrierError(f"measure: got an array of {x.dtype}, expected a floating-point one of at most 64 bits")
    names = [get_format(f).name for f in formats]
    sums = _Sums(names)
    for block in _blocks(x):
        sums.add(block)
    mean, std, rms = sums.moments()
    # Field 0 holds zero, and no float32 else: the smallest is 2^-149.
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
    """The elements as float64, in the order of memory, a block at a time; each is valid until the next."""
    if not x.size:
        return
    if x.dtype.kind == "V":  # bfloat16: NumPy's iterator does not know it
        x = x.astype(np.float32)
    yield from np.nditer(
        x,
        flags=["external_loop", "buffered"],
        op_dtypes=[np.float64],
        casting="safe",
        order="K",
        buffersize=BLOCK,
    )
