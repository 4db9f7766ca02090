"""The formats as data: a few integers each, from which their properties are computed.

A code of a format is, from the top, an optional sign bit s, an exponent field E and a mantissa field M of
``mantissa_bits`` = m bits. It stands for

    (-1)^s · 2^(E - bias) · (1 + M/2^m)        E > 0: a normal value
    (-1)^s · 2^(1 - bias) · (0 + M/2^m)        E = 0: zero, or a subnormal value

except for the codes of infinity and NaN, which are of one of four kinds (``nan``):

=================  ===============================  ==================================================
``top_exponent``   E all ones: M = 0 inf, else NaN  IEEE 754: float16, bfloat16, e5m2, e4m3, e3m4
``all_ones``       E and M all ones: NaN; no inf    the "fn" formats of 8 bits (finite and NaN)
``negative_zero``  the code of -0: NaN; no inf      the "fnuz" formats (finite, NaN, unsigned zero)
``none``           no NaN, no inf                   OCP MX elements of 6 and 4 bits
=================  ===============================  ==================================================

int8_q6, the integer element of OCP MX, is a format with one exponent bit, whose subnormals and normals have the same
spacing: 1/64 up to 127/64. Its codes are two's complement (``nan="twos_complement"``: no NaN, no inf, no -0). The code
of -2, without positive counterpart, is decoded, but no number is rounded to it, as MX 1.0 recommends.

float8_e8m0fnu represents powers of two only: no sign, no mantissa, and E = 0 is a normal value, so that it has no zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal, get_args

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike

from refscale.arguments import flag, integer
from refscale.arrays import plain
from refscale.errors import ArgumentError, FormatError

NanEncoding = Literal["top_exponent", "all_ones", "negative_zero", "none", "twos_complement"]


@dataclass(frozen=True)
class Format:
    """A binary floating-point format of at most 32 bits whose values are representable in float32.

        value = (-1)^s · 2^(max(E, 1) - bias) · ([E > 0] + M/2^mantissa_bits)

    Args:
        name: name of the format, as in ml_dtypes if it exists there.
        exponent_bits: width of the exponent field, 1 to 8.
        mantissa_bits: width of the mantissa field without the implicit bit, 0 to 23.
        bias: number subtracted from the exponent field.
        nan: the kind of NaN codes, see the table of this module.
        signed: True if codes have a sign bit.
        has_zero: True if E = 0 means zero and subnormals; False: E = 0 is an exponent like others.
        source: the definition of the format, for readers; ignored in comparisons.

    Raises:
        FormatError: a width is out of range, or a value is not representable in float32.
        ArgumentError: a field has another type.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int
    nan: NanEncoding
    signed: bool = True
    has_zero: bool = True
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        """Reject fields that make no format, and formats that float32 cannot carry."""
        if not isinstance(self.name, str):
            raise ArgumentError(f"Format: name is {self.name!r}, expected a string")
        call = f"Format({self.name!r})"
        for field_ in ("exponent_bits", "mantissa_bits", "bias"):
            object.__setattr__(self, field_, integer(call, field_, getattr(self, field_)))
        for field_ in ("signed", "has_zero"):
            object.__setattr__(self, field_, flag(call, field_, getattr(self, field_)))
        if self.nan not in get_args(NanEncoding):
            raise FormatError(f"Format({self.name!r}): nan is {self.nan!r}, expected one of {get_args(NanEncoding)}")
        if not (1 <= self.exponent_bits <= 8 and 0 <= self.mantissa_bits <= 23):
            raise FormatError(
                f"Format({self.name!r}): {self.exponent_bits} exponent and {self.mantissa_bits} mantissa bits, "
                "expected 1 to 8 and 0 to 23"
            )
        if (not self.signed and self.nan == "negative_zero") or self.signed != self.has_zero:
            raise FormatError(f"Format({self.name!r}): a format has a sign and a zero, or neither and no NaN at -0")
        if self.has_zero and self.mantissa_bits == 0:
            raise FormatError(f"Format({self.name!r}): a format with zero needs at least one mantissa bit")
        if self.nan == "twos_complement" and not (self.signed and self.exponent_bits == 1):
            raise FormatError(f"Format({self.name!r}): two's complement needs a sign, and values of one spacing")
        if self.exponent_bits == 1 and self.nan == "top_exponent":
            raise FormatError(f"Format({self.name!r}): one exponent bit, given to infinity and NaN, leaves no values")
        if self.emax > 127 or self.emin - self.mantissa_bits < -149:
            raise FormatError(
                f"Format({self.name!r}): spans 2^{self.emin - self.mantissa_bits} to 2^{self.emax}, "
                "expected within float32's 2^-149 to 2^127"
            )

    def __hash__(self) -> int:
        """The name's hash: equal formats have equal names, and every cast looks its format up."""
        return hash(self.name)

    def __str__(self) -> str:
        """Its name."""
        return self.name

    # --- special values --------------------------------------------------------------------------------------------

    @property
    def has_inf(self) -> bool:
        """Return whether the format has infinities."""
        return self.nan == "top_exponent"

    @property
    def has_nan(self) -> bool:
        """Return whether the format has NaN."""
        return self.nan not in ("none", "twos_complement")

    @property
    def has_signed_zero(self) -> bool:
        """Return whether -0 differs from +0."""
        return self.signed and self.nan not in ("negative_zero", "twos_complement")

    @property
    def has_signed_nan(self) -> bool:
        """Return whether NaN has a sign."""
        return self.signed and self.nan in ("top_exponent", "all_ones")

    # --- how far it reaches ----------------------------------------------------------------------------------------

    @cached_property
    def emin(self) -> int:
        """Exponent of the smallest normal value."""
        return (1 if self.has_zero else 0) - self.bias

    @cached_property
    def emax(self) -> int:
        """Exponent of the largest finite value."""
        top = (1 << self.exponent_bits) - 1
        lost = self.nan == "top_exponent" or (self.nan == "all_ones" and self.mantissa_bits == 0)
        return top - lost - self.bias

    @cached_property
    def max(self) -> float:
        """Largest finite value."""
        lost = 2 if self.nan == "all_ones" and self.mantissa_bits > 0 else 1
        return (2 - lost * 2.0**-self.mantissa_bits) * 2.0**self.emax

    @property
    def min(self) -> float:
        """Smallest finite value: -max, or for an unsigned format the smallest positive one."""
        return -self.max if self.signed else self.min_normal

    @property
    def min_normal(self) -> float:
        """Smallest positive normal value, 2^emin."""
        return 2.0**self.emin

    @property
    def min_subnormal(self) -> float:
        """Smallest positive value; ``min_normal`` if the format lacks subnormals, as in ml_dtypes.finfo."""
        return 2.0 ** (self.emin - self.mantissa_bits) if self.has_zero else self.min_normal

    @property
    def eps(self) -> float:
        """Distance from 1 to the next larger value, 2^-mantissa_bits."""
        return 2.0**-self.mantissa_bits

    @np.errstate(invalid="ignore")  # a signaling NaN is one
    def spacing(self, x: ArrayLike) -> Any:
        """Compute the distance between neighboring values in the binade of x: one ulp.

            2^(clip(⌊log2 |x|⌋, emin, emax) - mantissa_bits)

        Args:
            x: real numbers, any shape. Zero and subnormals have the spacing of the smallest normal binade, numbers
                beyond max that of the largest.

        Returns:
            float64 of the shape of x; NaN where x is NaN.
        """
        x = plain("spacing", "x", x).astype(np.float64, copy=False)
        exponent = np.where(np.isinf(x), self.emax, np.where(x == 0, self.emin, np.frexp(x)[1] - 1))
        ulp = np.ldexp(1.0, np.clip(exponent, self.emin, self.emax) - self.mantissa_bits)
        return np.where(np.isnan(x), np.nan, ulp)[()]

    # --- how it is stored ------------------------------------------------------------------------------------------

    @cached_property
    def bits(self) -> int:
        """Width of a code, in bits."""
        return self.signed + self.exponent_bits + self.mantissa_bits

    @property
    def code_count(self) -> int:
        """Number of codes, 2^bits."""
        return 1 << self.bits

    @property
    def sign_code(self) -> int:
        """The code of the sign bit alone; 0 in an unsigned format."""
        return 1 << (self.bits - 1) if self.signed else 0

    @property
    def inf_code(self) -> int | None:
        """Code of +inf, or None."""
        return ((1 << self.exponent_bits) - 1) << self.mantissa_bits if self.has_inf else None

    @property
    def nan_code(self) -> int | None:
        """Code of the canonical NaN (positive if NaN has a sign, quiet if the format has both kinds), or None."""
        ones = (1 << (self.exponent_bits + self.mantissa_bits)) - 1
        match self.nan:
            case "top_exponent":
                return ones ^ (ones >> (self.exponent_bits + 1))
            case "all_ones":
                return ones
            case "negative_zero":
                return self.sign_code
            case _:
                return None

    @property
    def itemsize(self) -> int:
        """Number of bytes of one code: 1, 2 or 4. Codes of 6 and 4 bits take a byte each."""
        return 1 if self.bits <= 8 else 2 if self.bits <= 16 else 4

    @cached_property
    def code_dtype(self) -> np.dtype[Any]:
        """Unsigned integer dtype of the codes."""
        return np.dtype(f"uint{8 * self.itemsize}")

    @cached_property
    def dtype(self) -> np.dtype[Any] | None:
        """Dtype of NumPy or ml_dtypes with the name of the format, or None (tf32, user-defined formats)."""
        found = getattr(ml_dtypes, self.name, None) or getattr(np, self.name, None)
        return np.dtype(found) if found is not None and FORMATS.get(self.name) == self else None


_IEEE = "IEEE 754-2019, section 3.4"
_OCP8 = "OCP 8-bit Floating Point Specification (OFP8) 1.0, 2023; Micikevicius et al. 2022, arXiv 2209.05433"
_MX = "OCP Microscaling Formats (MX) Specification 1.0, 2023, section 5.3"
_NOUNE = "Noune et al. 2022, arXiv 2206.02915 (Graphcore, AMD)"

_ALL = (
    Format("float32", 8, 23, 127, "top_exponent", source=_IEEE),
    Format("tf32", 8, 10, 127, "top_exponent", source="NVIDIA A100 Tensor Core GPU Architecture, 2020: TF32"),
    Format("bfloat16", 8, 7, 127, "top_exponent", source="Kalamkar et al. 2019, arXiv 1905.12322"),
    Format("float16", 5, 10, 15, "top_exponent", source=_IEEE),
    Format("float8_e5m2", 5, 2, 15, "top_exponent", source=_OCP8),
    Format("float8_e4m3fn", 4, 3, 7, "all_ones", source=_OCP8),
    Format("float8_e5m2fnuz", 5, 2, 16, "negative_zero", source=_NOUNE),
    Format("float8_e4m3fnuz", 4, 3, 8, "negative_zero", source=_NOUNE),
    Format("float8_e4m3b11fnuz", 4, 3, 11, "negative_zero", source="LLVM APFloat Float8E4M3B11FNUZ; ml_dtypes README"),
    Format("float8_e4m3", 4, 3, 7, "top_exponent", source="LLVM APFloat Float8E4M3; ml_dtypes README"),
    Format("float8_e3m4", 3, 4, 3, "top_exponent", source="LLVM APFloat Float8E3M4; ml_dtypes README"),
    Format("float8_e8m0fnu", 8, 0, 127, "all_ones", signed=False, has_zero=False, source=_MX + " and 5.4: scales"),
    Format("float6_e2m3fn", 2, 3, 1, "none", source=_MX),
    Format("float6_e3m2fn", 3, 2, 3, "none", source=_MX),
    Format("float4_e2m1fn", 2, 1, 1, "none", source=_MX),
    Format("int8_q6", 1, 6, 1, "twos_complement", source=_MX),
)

FORMATS: Mapping[str, Format] = MappingProxyType({f.name: f for f in _ALL})
"""Formats by full name: floating point, widest first, then fixed point."""

_ALIASES = {
    "fp32": "float32",
    "single": "float32",
    "tensorfloat32": "tf32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
    "fp4": "float4_e2m1fn",
    "e2m1": "float4_e2m1fn",
    "e2m3": "float6_e2m3fn",
    "e3m2": "float6_e3m2fn",
    "e8m0": "float8_e8m0fnu",
} | {name.partition("_")[2]: name for name in FORMATS if "_" in name and name != "float8_e4m3"}


def _say(name: str) -> str:
    f = FORMATS[name]
    return f"max {f.max:g}, {'has' if f.has_inf else 'no'} inf"


_E4M3 = (
    f"is three different formats: 'float8_e4m3fn' ({_say('float8_e4m3fn')}: OCP, what NVIDIA hardware calls E4M3), "
    f"'float8_e4m3' ({_say('float8_e4m3')}: IEEE-like) "
    f"or 'float8_e4m3fnuz' ({_say('float8_e4m3fnuz')}, no -0: Graphcore, AMD MI300)"
)
_AMBIGUOUS = {
    "e4m3": _E4M3,
    "fp8_e4m3": _E4M3,
    "float8": "is several formats: " + ", ".join(n for n in FORMATS if n.startswith("float8")),
    "float6": "is two formats: float6_e2m3fn, float6_e3m2fn",
}
_AMBIGUOUS |= {"fp8": _AMBIGUOUS["float8"], "fp6": _AMBIGUOUS["float6"]}


FormatLike = str | Format | np.dtype[Any] | type[np.generic]
"""A format: its name, an alias, a Format, or a dtype or scalar type of NumPy or ml_dtypes."""


def get_format(format: FormatLike) -> Format:
    """Return the format of a name or dtype.

        get_format("e4m3fn") is get_format(ml_dtypes.float8_e4m3fn) is FORMATS["float8_e4m3fn"]

    Args:
        format: a full name ("float8_e5m2"), an alias in either case ("fp16", "half", "bf16", "e5m2", "E2M1"), a dtype
            or scalar type of NumPy or ml_dtypes, or a Format, which is returned unchanged.

    Raises:
        FormatError: the name or dtype is unknown, or the name is ambiguous, such as "e4m3": formats of this name differ
            in range by a factor of almost two.
    """
    if isinstance(format, Format):
        return format
    if isinstance(format, np.dtype) or (isinstance(format, type) and issubclass(format, np.generic)):
        dtype = format.name if isinstance(format, np.dtype) else format.__name__
        if dtype not in FORMATS:
            raise FormatError(f"get_format: no format has the dtype {dtype}; known: {', '.join(FORMATS)}")
        return FORMATS[dtype]
    if not isinstance(format, str):
        raise FormatError(f"get_format: expected a name, a dtype or a Format, got {format!r}")
    name = format.lower()
    found = FORMATS.get(name) or FORMATS.get(_ALIASES.get(name, ""))
    if found is not None:
        return found
    if name in _AMBIGUOUS:
        raise FormatError(f"format {format!r} {_AMBIGUOUS[name]}; use a full name")
    raise FormatError(f"unknown format {format!r}; known: {', '.join(FORMATS)}; aliases: {', '.join(sorted(_ALIASES))}")
