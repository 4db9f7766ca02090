"""What FP16 and FP8 can say: formats, rounding to them, and their bits.

In reading order:

1. ``table``: a ``Format`` is five integers and a few facts; everything else about it is computed. ``FORMATS`` holds
   those of IEEE 754, OCP, Microscaling and Noune et al., ``get_format`` finds one by name.
2. ``rounding``: ``round_exact`` says in exact arithmetic what it is to round one number: the specification.
3. ``cast``: ``quantize`` does the same to arrays, fast; a ``Cast`` is a format and two modes in a record.
4. ``codes``: ``encode`` and ``decode`` go between values and bits, ``values`` lists all values of a format.
5. ``conventions``: ``encode_by`` rounds by the conventions of other libraries where no standard decides.

A quantized array stays wide: it is float32, and holds only values of the format. Codes appear where data leave the
program. No rounding is implicit: format, rounding mode and overflow rule are named at every cast.

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
