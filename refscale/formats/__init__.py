"""Floating-point formats such as FP16 and FP8: their values, rounding to them, and their codes.

In reading order:

1. ``table``: a ``Format`` is five integers and a few flags, from which its properties are computed. ``FORMATS`` lists
   those of IEEE 754, OCP, Microscaling and Noune et al.; ``get_format`` finds one by name.
2. ``rounding``: ``round_exact`` rounds one number in exact arithmetic: the specification.
3. ``cast``: ``quantize`` rounds arrays, fast; a ``Cast`` is a record of a format, a rounding mode and an overflow rule.
4. ``codes``: ``encode`` and ``decode`` convert between values and codes; ``values`` lists all values of a format.
5. ``conventions``: ``encode_by`` rounds by the conventions of other libraries, for cases that no standard defines.

A quantized array stays wide: it is float32, and its elements are values of the format. Codes are for data that leave
the program. No rounding is implicit: every cast names format, rounding mode and overflow rule.

    >>> from refscale.formats import encode, quantize
    >>> y = quantize([0.3, 500.0], "e4m3fn", rounding="nearest_even", overflow="saturate")
    >>> y.tolist(), [hex(c) for c in encode(y, "e4m3fn")]
    ([0.3125, 448.0], ['0x2a', '0x7e'])
"""

from refscale.formats.cast import Cast, quantize
from refscale.formats.codes import decode, encode, values
from refscale.formats.conventions import CONVENTIONS, encode_by
from refscale.formats.rounding import OVERFLOWS, RANDOM_BITS, ROUNDINGS, Overflow, Rounding, round_exact
from refscale.formats.table import FORMATS, Format, FormatLike, NanEncoding, get_format

__all__ = [
    "CONVENTIONS",
    "FORMATS",
    "OVERFLOWS",
    "RANDOM_BITS",
    "ROUNDINGS",
    "Cast",
    "Format",
    "FormatLike",
    "NanEncoding",
    "Overflow",
    "Rounding",
    "decode",
    "encode",
    "encode_by",
    "get_format",
    "quantize",
    "round_exact",
    "values",
]
