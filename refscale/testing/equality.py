"""Two of the three kinds of equality: the same bits, and a distance of at most a number of ulp.

Both compare codes. The codes of a binary floating-point format, read as sign and magnitude, number its values in order:
the *ordered-integer line*. Neighbors on the line are neighboring representable values, across every binade and across
zero. So the distance of two values in ulp is the difference of two integers, and no tolerance depends on magnitude.
"""

import operator
from dataclasses import dataclass
from typing import Any, NamedTuple, SupportsIndex

import ml_dtypes
import numpy as np
import numpy.typing as npt

from refscale.arrays import plain
from refscale.errors import ArgumentError, CarrierError, FormatError
from refscale.formats import FormatLike, encode, get_format

Array = npt.NDArray[Any]
Codes = npt.NDArray[np.unsignedinteger[Any]]


def assert_same_bits(actual: npt.ArrayLike, expected: npt.ArrayLike) -> None:
    """Assert that two arrays have the same dtype, the same shape and the same bits.

        codes(actual) = codes(expected)

    The sign of zero counts, and so do the sign and the payload of every NaN. Golden vectors use this equality, and so
    do claims of "in any order" and "at any thread count".

    Args:
        actual: array under test, any shape; elements of 1, 2, 4 or 8 bytes (ml_dtypes' formats included).
        expected: expected array. Nothing is broadcast or promoted.

    Raises:
        AssertionError: an element differs; the message has the first one (index, values, codes, distance) and the
            count.
        CarrierError: elements have another size, or are Python objects.

    Example:
        >>> assert_same_bits(np.float32([0.0, 1.0]) + np.float32(0.0), np.float32([0.0, 1.0]))
        >>> assert_same_bits(np.float32([0.0]), np.float32([-0.0]))
        Traceback (most recent call last):
        ...
        AssertionError: 1 of 1 elements has other bits, first at index (0,):
          actual    0.0  0x00000000
          expected -0.0  0x80000000
          0 ulp apart on the line of float32: the sign of zero differs
    """
    actual, expected = plain("assert_same_bits", "actual", actual), plain("assert_same_bits", "expected", expected)
    _require_same("dtype", actual.dtype, expected.dtype)
    _require_same("shape", actual.shape, expected.shape)
    actual_codes, expected_codes = _codes(actual), _codes(expected)
    wrong = np.flatnonzero(actual_codes != expected_codes)
    if not wrong.size:
        return
    pair = _Pair(actual, actual_codes, expected, expected_codes, _line_of(actual.dtype))
    first = int(wrong[0])
    count = _count(wrong.size, actual.size, "has", "have")
    raise AssertionError("\n".join([f"{count} other bits, first at index {pair.index(first)}:", *pair.describe(first)]))


def assert_within_ulp(
    actual: npt.ArrayLike, expected: npt.ArrayLike, ulps: SupportsIndex, *, format: FormatLike | None = None
) -> None:
    """Assert that every element is within a number of ulp of the expected one.

        |line(actual) - line(expected)| <= ulps,    line(x) = (-1)^sign * magnitude bits of x, an integer

    The bound is a claim. **Derive** it next to the call by counting the roundings between the inputs and the result
    (one correctly rounded operation: 0; a faithful one against the exact value rounded: 1; a sum of n terms of one
    sign: n - 1), or measure it over the whole domain and state that. Raising a bound until the test passes proves
    nothing. Infinities and NaN must coincide: NaN with NaN of any sign and payload, infinity with infinity of the same
    sign. The largest finite value is *not* one ulp from infinity, and -0 is 0 ulp from +0; `assert_same_bits`
    distinguishes these.

    Args:
        actual: array under test, any shape: float16, float32, float64, bfloat16 or another ml_dtypes float.
        expected: expected array, of the same shape and dtype.
        ulps: largest allowed distance, an integer >= 0.
        format: format whose ulp are counted, for wide arrays that carry narrow values; the dtypes may then differ, and
            both arrays must contain values of the format. Default: the format of the dtype.

    Raises:
        AssertionError: an element is too far; the message has the first one (index, values, codes, distance), the
            farthest one and the count. Also if `format` cannot represent an actual value.
        ArgumentError: `ulps` is not an integer >= 0.
        FormatError: `format` cannot represent an expected value, or is unknown.
        CarrierError: the dtype has no ordered-integer line.

    Source:
        The order of the codes: IEEE 754-2019, section 3.4, where the exponent stands above the significand so that
        magnitudes compare as integers.

    Example:
        >>> assert_within_ulp(np.float32(0.1) + np.float32(0.2), np.float32(0.3), 1)
        >>> assert_within_ulp(np.nextafter(np.float32(2), np.float32(3)), np.float32(2), 0)
        Traceback (most recent call last):
        ...
        AssertionError: 1 of 1 elements is not within 0 ulp, first at index ():
          actual    2.0000002  0x40000001
          expected  2.0        0x40000000
          1 ulp apart on the line of float32
    """
    limit = _checked_ulps(ulps)
    actual, expected = plain("assert_within_ulp", "actual", actual), plain("assert_within_ulp", "expected", expected)
    if format is None:
        _require_same("dtype", actual.dtype, expected.dtype)
        line = _line_of(actual.dtype)
        if line is None:
            raise CarrierError(
                f"assert_within_ulp: {actual.dtype} has no line of ulp; expected float16, float32, float64, bfloat16 "
                "or another float format of ml_dtypes (for integers use assert_same_bits)"
            )
        actual_codes, expected_codes = _codes(actual), _codes(expected)
    else:
        format = get_format(format)
        line = _Line(format.name, format.bits, format.signed)
        expected_codes = encode(expected, format).reshape(-1)
        try:
            actual_codes = encode(actual, format).reshape(-1)
        except FormatError as error:
            raise AssertionError(f"actual does not hold values of {format}: {error}") from error
    _require_same("shape", actual.shape, expected.shape)
    distance = _distance(actual_codes, expected_codes, line)
    # A non-finite value has no distance: it coincides or it deviates.
    with np.errstate(invalid="ignore"):  # a signaling NaN raises the flag
        finite = (np.isfinite(actual) & np.isfinite(expected)).reshape(-1)
        same = ((actual == expected) | (np.isnan(actual) & np.isnan(expected))).reshape(-1)
    wrong = np.flatnonzero(np.where(finite, distance > np.uint64(limit), ~same))
    if not wrong.size:
        return
    pair = _Pair(actual, actual_codes, expected, expected_codes, line)
    first = int(wrong[0])
    report = [
        f"{_count(wrong.size, actual.size, 'is', 'are')} not within {limit} ulp, first at index {pair.index(first)}:",
        *pair.describe(first),
    ]
    measurable = wrong[finite[wrong]]
    if wrong.size > 1 and measurable.size:
        far = int(measurable[np.argmax(distance[measurable])])
        report.append(f"  farthest: {distance[far]} ulp at index {pair.index(far)}")
    raise AssertionError("\n".join(report))


# Arrays as codes, codes as integers on a line.


class _Line(NamedTuple):
    """The order of a format's codes: sign and magnitude, or unsigned integers."""

    name: str
    bits: int
    signed: bool

    def integers(self, codes: Codes) -> npt.NDArray[np.int64]:
        """Return the integer of each code: its magnitude bits, negative if the sign bit is set; both zeros are 0."""
        wide = codes.astype(np.uint64)
        if not self.signed:
            return wide.astype(np.int64)
        magnitude = (wide & np.uint64(2 ** (self.bits - 1) - 1)).astype(np.int64)
        return np.where(wide >> np.uint64(self.bits - 1) == 1, -magnitude, magnitude)


def _line_of(dtype: np.dtype[Any]) -> _Line | None:
    """Return the line of a dtype, or None if its codes are not ordered so, or are wider than 8 bytes."""
    if dtype.kind not in "fV" or dtype.itemsize > 8:
        return None
    try:
        bits = int(ml_dtypes.finfo(dtype).bits)  # type: ignore[no-untyped-call]
    except ValueError:
        return None
    return _Line(dtype.name, bits, signed=dtype.name != "float8_e8m0fnu")


def _codes(x: Array) -> Codes:
    """Return the bits of x as unsigned integers, flat, in C order."""
    size = x.dtype.itemsize
    if x.dtype.hasobject or size not in (1, 2, 4, 8):
        raise CarrierError(f"cannot compare the bits of {x.dtype}: expected elements of 1, 2, 4 or 8 bytes")
    unsigned = np.dtype(f"u{size}").newbyteorder(x.dtype.byteorder)
    codes: Codes = np.ascontiguousarray(x).reshape(-1).view(unsigned)
    return codes


def _distance(actual: Codes, expected: Codes, line: _Line) -> npt.NDArray[np.uint64]:
    """Return |line(actual) - line(expected)|: up to 2^64 - 2^54 in float64, so the difference is taken in uint64."""
    a, b = line.integers(actual), line.integers(expected)
    return np.maximum(a, b).view(np.uint64) - np.minimum(a, b).view(np.uint64)


# Reports.


@dataclass(frozen=True)
class _Pair:
    """Two arrays and their codes, to describe an element in which they differ."""

    actual: Array
    actual_codes: Codes
    expected: Array
    expected_codes: Codes
    line: _Line | None

    def index(self, where: int) -> tuple[int, ...]:
        return _index(where, self.actual.shape)

    def describe(self, where: int) -> list[str]:
        """Return lines with the two aligned values, their codes in hexadecimal, and their distance."""
        digits = (self.line.bits if self.line else 8 * self.actual.dtype.itemsize) + 3 >> 2
        values = [str(x.reshape(-1)[where]) for x in (self.actual, self.expected)]
        values = [v if v.startswith("-") else f" {v}" for v in values]
        width = max(map(len, values))
        codes = [f"0x{int(c[where]):0{digits}x}" for c in (self.actual_codes, self.expected_codes)]
        return [
            f"  actual   {values[0]:<{width}}  {codes[0]}",
            f"  expected {values[1]:<{width}}  {codes[1]}",
            *([f"  {self._apart(where, self.line)}"] if self.line else []),
        ]

    def _apart(self, where: int, line: _Line) -> str:
        pair = [x.reshape(-1)[where] for x in (self.actual, self.expected)]
        with np.errstate(invalid="ignore"):
            nan, finite = np.isnan(pair), np.isfinite(pair)
        if nan.all():
            return "both are NaN: sign or payload differs"
        if not finite.all():
            return "not both finite: no distance in ulp"
        here = slice(where, where + 1)
        ulps = int(_distance(self.actual_codes[here], self.expected_codes[here], line)[0])
        return f"{ulps} ulp apart on the line of {line.name}{': the sign of zero differs' if ulps == 0 else ''}"


def _require_same(what: str, actual: object, expected: object) -> None:
    if actual != expected:
        raise AssertionError(f"the {what} is {actual}, expected {expected}")


def _checked_ulps(ulps: SupportsIndex) -> int:
    try:
        limit = operator.index(ulps)
    except TypeError:
        limit = -1
    if not 0 <= limit < 2**64:
        raise ArgumentError(f"ulps is {ulps!r}, expected an integer >= 0: distances on the line are integers")
    return limit


def _count(wrong: int, total: int, one: str, many: str) -> str:
    return f"{wrong} of {total} elements {one if wrong == 1 else many}"


def _index(where: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(where, shape))
