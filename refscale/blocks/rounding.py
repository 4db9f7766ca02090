"""The specification of a block-scaled conversion: one block in exact arithmetic.

    amax  →  the scale s  →  each element, cast(x / s)

Rules for scales that are powers of two, s = 2^k, computed from amax and the largest value of the element format,
max = M·2^emax, 1 ≤ M < 2, of m mantissa bits:

===========  ====================================  ===============================================================
rule         k                                     source
===========  ====================================  ===============================================================
``floor``    ⌊log2 amax⌋ − emax                    OCP MX 1.0, section 6.3; elements beyond max saturate
``ceil``     ⌈log2 amax⌉ − emax                    torchao CEIL
``rceil``    ⌈log2(amax/max)⌉                      cuBLAS, cuDNN, arXiv 2506.08027, torchao RCEIL; nothing saturates
``even``     ⌊log2 amax'⌋ − emax                   torchao EVEN, Quark; amax' is amax rounded to m mantissa bits (ties
                                                   up or to even: below a power of two both give the same)
``nearest``  log2(amax/max), to the nearest        MLX before 4353; saturates by up to 2^½
             integer (never a half-integer)
===========  ====================================  ===============================================================

k is clipped to the range of the scale format; a block of zeros has the smallest scale.

The other rule, ``amax``, is s = amax/max, rounded to the scale format, nearest even, saturating; in NVFP4 it is
amax/(max·T), where T, the scale of the tensor, is amax_tensor/(max·448) in float32. The bits then depend on the order
of operations. With fl(), a float32 operation, rounded to nearest and saturating, T = fl(amax_tensor/(max·448)), or,
where the table has E, E = fl(max·448/amax_tensor) and T = fl(1/E):

==============  ================================  ==================================================================
of scales       s is the cast of                  source
==============  ================================  ==================================================================
``exact``       amax/(max·T), real                refscale; libraries that compute in float64
``divide``      fl(fl(amax/max)/T)                torchao; DeepSeek-V3, where T = 1
``reciprocal``  fl(fl(amax/max)·E)                arXiv 2509.25149, appendix C; Transformer Engine
``inverse``     fl(E·fl(amax·fl(1/max)))          FlashInfer, vLLM, TensorRT-LLM
``product``     fl(fl(amax·E)/max)                a compiler's reordering of ``reciprocal``
==============  ================================  ==================================================================

==============  ================================  ==================================================================
of elements     an element is the cast of         source
==============  ================================  ==================================================================
``exact``       x/(s·T), real                     refscale
``divide``      fl(x/fl(s·T))                     DeepSeek-V3
``reciprocal``  fl(x·fl(1/fl(s·T)))               arXiv 2509.25149, appendix C
``inverse``     fl(x·fl(fl(1/T)/s))               torchao
``steps``       fl(fl(x/T)/s)                     a tensor scaled before its blocks
==============  ================================  ==================================================================

A tensor of zeros has T = E = 1; a T that would be zero is float32's smallest value. If s is zero, all elements of the
block are zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from refscale.arguments import number
from refscale.blocks.table import BlockCast, get_block_cast
from refscale.errors import ArgumentError
from refscale.formats import Format, get_format, round_exact
from refscale.formats.rounding import floor_log2

FLOAT32_MAX = get_format("float32").max
_SMALLEST = 2.0**-149


def exponent_exact(rule: str, amax: Fraction, element: Format) -> int:
    """Compute the exponent k of a scale by a rule of this module's table, before clipping; amax > 0."""
    top, ratio = Fraction(element.max), amax / Fraction(element.max)
    match rule:
        case "floor":
            return floor_log2(amax) - element.emax
        case "ceil":
            return -floor_log2(1 / amax) - element.emax
        case "rceil":
            return -floor_log2(top / amax)
        case "even":
            unit = Fraction(2) ** (floor_log2(amax) - element.mantissa_bits)
            return floor_log2(math.floor(amax / unit + Fraction(1, 2)) * unit) - element.emax
        case "nearest":
            k = floor_log2(ratio)
            return k + (ratio * ratio > Fraction(2) ** (2 * k + 1))
    raise ArgumentError(f"exponent_exact({rule!r}): expected a rule that makes powers of two")


def tensor_scale_exact(amax: float, cast: BlockCast) -> tuple[float, float]:
    """Compute (T, E) of a tensor: its scale T, and the reciprocal E from which some arithmetics compute T.

    Args:
        amax: largest magnitude of the tensor's blocks, finite.
        cast: the format; without ``tensor_scale`` T and E are 1.

    Raises:
        ArgumentError: ``amax`` is negative or not finite.
    """
    amax = _amax("tensor_scale_exact", amax)
    if not cast.tensor_scale or amax == 0:
        return 1.0, 1.0
    range_ = Fraction(cast.element.max) * Fraction(cast.scale.max)
    if cast.scale_arithmetic in ("exact", "divide"):
        return _float32(Fraction(amax) / range_) or _SMALLEST, math.nan
    encode = _float32(range_ / Fraction(amax))
    return _float32(1 / Fraction(encode)), encode


def scale_exact(amax: float, cast: str | BlockCast, tensor: tuple[float, float] = (1.0, 1.0)) -> float:
    """Compute the scale s of a block.

    Args:
        amax: largest magnitude of the block by the rule ``nonfinite``: a float ≥ 0, or NaN for a block that becomes
            NaN; infinite for ``nonfinite="largest"`` only.
        cast: the format, or its name.
        tensor: (T, E) of ``tensor_scale_exact``.

    Returns:
        A value of the scale format; NaN if amax is NaN.

    Raises:
        ArgumentError: ``amax`` is negative, or infinite without ``nonfinite="largest"``.
    """
    cast = get_block_cast(cast)
    scale = cast.scale
    if math.isnan(amax):
        return math.nan
    if amax == math.inf and cast.nonfinite == "largest":
        return scale.max
    amax = _amax("scale_exact", amax)
    if cast.rule != "amax":
        k = exponent_exact(cast.rule, Fraction(amax), cast.element) if amax else scale.emin
        return math.ldexp(1.0, min(max(k, scale.emin), scale.emax))
    (t, e), top = tensor, Fraction(cast.element.max)
    match cast.scale_arithmetic:
        case "exact":
            s = Fraction(amax) / (top * Fraction(t))
        case "divide":
            s = Fraction(_float32(Fraction(_float32(Fraction(amax) / top)) / Fraction(t)))
        case "reciprocal":
            s = Fraction(_float32(Fraction(_float32(Fraction(amax) / top)) * Fraction(e)))
        case "inverse":
            s = Fraction(_float32(Fraction(e) * Fraction(_float32(Fraction(amax) * Fraction(_float32(1 / top))))))
        case "product":
            s = Fraction(_float32(Fraction(_float32(Fraction(amax) * Fraction(e))) / top))
    return max(round_exact(s, scale, rounding="nearest_even", overflow="saturate"), cast.least)


def element_exact(x: float, s: float, cast: BlockCast, t: float = 1.0, random_bits: int | None = None) -> float:
    """Compute one element, a value of the element format; zero if the scale s is NaN or s·T is zero."""
    if math.isnan(s):
        return 0.0
    q: float | Fraction = x
    if math.isfinite(x):
        total = Fraction(s) * Fraction(t)
        arithmetic = cast.element_arithmetic if cast.rule == "amax" else "exact"
        if arithmetic in ("divide", "reciprocal"):
            total = Fraction(_float32(total))
        if total == 0 or x == 0:
            q = math.copysign(0.0, x)
        else:
            match arithmetic:
                case "exact":
                    q = Fraction(x) / total
                case "divide":
                    q = _float32(Fraction(x) / total)
                case "reciprocal":
                    q = _float32(Fraction(x) * Fraction(_float32(1 / total)))
                case "inverse":
                    factor = _float32(Fraction(_float32(1 / Fraction(t))) / Fraction(s))
                    q = _float32(Fraction(x) * Fraction(factor))
                case "steps":
                    q = _float32(Fraction(_float32(Fraction(x) / Fraction(t))) / Fraction(s))
            q = math.copysign(q, x) if q == 0 else q
    return round_exact(q, cast.element, rounding=cast.rounding, overflow=cast.overflow, random_bits=random_bits)


def round_block_exact(
    values: Sequence[float],
    cast: str | BlockCast,
    tensor_amax: float | None = None,
    random_bits: Sequence[int] | None = None,
) -> tuple[float, list[float], float]:
    """Convert one block.

    Args:
        values: floats, finite or not.
        cast: the format or its name; its ``block`` and ``axis`` are ignored.
        tensor_amax: largest magnitude of the tensor, for formats with a ``tensor_scale``; None: that of this block.
        random_bits: one integer in [0, 2^32) for each value, for stochastic rounding only.

    Returns:
        (s, elements, T).

    Raises:
        FormatError: a value is NaN, the element format has none, and ``nonfinite`` is "ignore".
        ArgumentError: ``tensor_amax`` is negative or not finite; random bits are missing, superfluous or out of range.
    """
    cast = get_block_cast(cast)
    values = [float(x) for x in values]  # also those of NumPy
    amax = amax_exact(values, cast)
    if tensor_amax is None:
        tensor_amax = amax if math.isfinite(amax) else 0.0
    tensor = tensor_scale_exact(tensor_amax, cast)
    s = scale_exact(amax, cast, tensor)
    words = [None] * len(values) if random_bits is None else random_bits
    return s, [element_exact(x, s, cast, tensor[0], w) for x, w in zip(values, words, strict=True)], tensor[0]


def amax_exact(values: Sequence[float], cast: BlockCast) -> float:
    """Return the largest magnitude of a block by the rule ``nonfinite``; NaN for a block that becomes NaN."""
    sizes = [abs(x) for x in values]
    if cast.nonfinite == "ignore":
        return max((x for x in sizes if math.isfinite(x)), default=0.0)
    if any(map(math.isnan, sizes)) or (cast.nonfinite == "nan" and any(map(math.isinf, sizes))):
        return math.nan
    if cast.nonfinite == "largest":
        return max(sizes, default=0.0)
    return max((FLOAT32_MAX if math.isinf(x) else x for x in sizes), default=0.0)


def _amax(call: str, amax: float) -> float:
    """A largest magnitude, checked."""
    amax = number(call, "amax", amax)
    if not 0 <= amax < math.inf:
        raise ArgumentError(f"{call}: amax is {amax}, expected a finite number ≥ 0")
    return amax


def _float32(x: Fraction) -> float:
    """A float32 operation: the real result, rounded to nearest even, saturating; what underflows keeps its sign."""
    return round_exact(x, "float32", rounding="nearest_even", overflow="saturate")
