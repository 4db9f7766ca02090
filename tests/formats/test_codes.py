"""``encode``, ``decode``, ``values``: every code there is."""

import numpy as np
import pytest

from refscale.claims.formats import PUBLISHED, magnitudes
from refscale.errors import CarrierError, FormatError
from refscale.formats import FORMATS, Format, decode, encode, get_format, quantize, values
from tests.formats.oracles import OWN, SOURCES, bits, by_formula, by_ml_dtypes, edge_points, widened

UP_TO_16 = [f for f in FORMATS.values() if f.bits <= 16]


def some_codes(format: Format) -> np.ndarray:
    """All codes of a format, or for 32 bits a million spread over them and the ends of the fields."""
    if format.bits < 32:
        return np.arange(format.code_count, dtype=format.code_dtype)
    ends = np.uint32([0, 1, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0x7F800000, 0x7FC00000])
    return np.concatenate([ends, ends | np.uint32(1 << 31), np.arange(0, 1 << 32, 4099, dtype=np.uint32)])


@pytest.mark.parametrize("format", [*FORMATS.values(), OWN], ids=str)
def test_every_code_decodes_as_ml_dtypes_and_comes_back(format: Format) -> None:
    codes = some_codes(format)
    x = decode(codes, format)
    if format.dtype is not None:
        assert np.array_equal(bits(x), bits(widened(codes.view(format.dtype))))
    elif format.nan == "twos_complement":
        assert np.array_equal(x, codes.view(np.int8) / np.float32(64))
    elif format.name == "tf32":
        assert np.array_equal(bits(x), bits((codes << 13).view(np.float32)))  # the top of float32
    else:
        finite = np.isfinite(x)
        assert x[finite].tolist() == [float(by_formula(c, format)) for c in codes[finite].tolist()]
    back = encode(x, format)
    assert back.dtype == format.code_dtype
    nan = np.isnan(x)
    assert np.array_equal(back[~nan], codes[~nan])
    if format.has_nan:
        sign = np.where(np.signbit(x[nan]) & format.has_signed_nan, format.sign_code, 0)
        assert np.array_equal(back[nan], format.nan_code | sign)


@pytest.mark.parametrize("source", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("format", [f for f in UP_TO_16 if f.dtype is not None], ids=str)
def test_codes_of_quantized_arrays_are_those_of_ml_dtypes(format: Format, source: str) -> None:
    x = edge_points(format, "float32", 200)
    y = quantize(x, format, rounding="nearest_even", overflow="nonsaturate")
    rounded = by_ml_dtypes(x, format, "nonsaturate")
    expected = rounded.astype(format.dtype).view(format.code_dtype)
    if format.has_nan:  # whose payload bits NumPy's float16 keeps or not, as the processor does
        sign = np.where(np.signbit(rounded) & format.has_signed_nan, format.sign_code, 0)
        expected = np.where(np.isnan(rounded), format.nan_code | sign, expected)
    with np.errstate(all="ignore"):
        held = y.astype(SOURCES[source])
        kept = (held.astype(np.float32) == y) | np.isnan(y)
    assert np.array_equal(encode(held[kept], format), expected[kept])


@pytest.mark.parametrize("format", UP_TO_16, ids=str)
def test_values_is_the_table_in_code_order(format: Format) -> None:
    table = values(format)
    assert table.shape == (format.code_count,)
    assert not table.flags.writeable
    assert np.array_equal(bits(table), bits(decode(np.arange(format.code_count, dtype=format.code_dtype), format)))


@pytest.mark.parametrize("shape", [(), (0,), (2, 3), (40_000, 2)])
def test_shapes_are_kept(shape: tuple[int, ...]) -> None:
    x = np.full(shape, -1.5, np.float32)
    for name in ("e4m3fn", "fp32", "tf32"):
        codes = encode(x, name)
        assert codes.shape == shape
        y = decode(codes, name)
        assert (y.shape, y.dtype) == (shape, np.float32)
        assert (y == x).all()


@pytest.mark.parametrize(
    ("x", "format", "text"),
    [
        (
            [[1.0, 2.0], [1.06, 3.3]],
            "e4m3fn",
            "encode to float8_e4m3fn: x is 1.06 at index (1, 0), which it cannot hold",
        ),
        ([480.0], "e4m3fn", "encode to float8_e4m3fn: x is 480.0 at index (0,), which it cannot hold"),
        ([2.0**-10], "e4m3fn", "encode to float8_e4m3fn: x is 0.0009765625 at index (0,), which it cannot hold"),
        ([np.inf], "e4m3fn", "encode to float8_e4m3fn: x is inf at index (0,), which it cannot hold"),
        ([0.0, -0.0], "e4m3fnuz", "encode to float8_e4m3fnuz: x is -0.0 at index (1,), which it cannot hold"),
        ([np.nan], "e2m1", "encode to float4_e2m1fn: x is nan at index (0,), which it cannot hold"),
        ([0.0], "e8m0", "encode to float8_e8m0fnu: x is 0.0 at index (0,), which it cannot hold"),
        ([-2.0], "e8m0", "encode to float8_e8m0fnu: x is -2.0 at index (0,), which it cannot hold"),
        (
            [2.0**-128],
            "e8m0",
            "encode to float8_e8m0fnu: x is 2.938735877055719e-39 at index (0,), which it cannot hold",
        ),
        ([1e300], "fp32", "encode to float32: x is 1e+300 at index (0,), which it cannot hold"),
        ([5e-324], "fp32", "encode to float32: x is 5e-324 at index (0,), which it cannot hold"),
    ],
)
def test_what_cannot_be_held_is_refused(x: list[float], format: str, text: str) -> None:
    with pytest.raises(FormatError) as caught:
        encode(x, format)
    assert str(caught.value) == text


def test_other_refusals() -> None:
    with pytest.raises(CarrierError) as caught:
        encode(np.arange(3), "fp16")
    assert str(caught.value) == (
        "encode to float16: x is an array of int64, expected float16, bfloat16, float32 or float64"
    )
    with pytest.raises(CarrierError) as caught:
        decode(np.zeros(3, np.int64), "e4m3fn")
    assert str(caught.value) == "decode from float8_e4m3fn: codes is an array of int64, expected uint8"
    with pytest.raises(FormatError) as caught:
        decode(np.uint8([[1, 64]]), "e2m3")
    assert str(caught.value) == "decode from float6_e2m3fn: code 0x40 at index (0, 1), expected below 0x40"
    with pytest.raises(FormatError) as caught:
        values("tf32")
    assert str(caught.value) == "values: tf32 has 2^19 codes, expected a format of at most 16 bits"


def test_the_special_codes() -> None:
    """Of formats that standards and papers define; those of the others follow from ``nan``."""
    expected = {
        "float8_e5m2": (0x7C, 0x7E),
        "float8_e4m3fn": (None, 0x7F),
        "float8_e5m2fnuz": (None, 0x80),
        "float8_e4m3fnuz": (None, 0x80),
        "float8_e4m3b11fnuz": (None, 0x80),
        "float8_e4m3": (0x78, 0x7C),
        "float8_e3m4": (0x70, 0x78),
        "float8_e8m0fnu": (None, 0xFF),
        "float6_e2m3fn": (None, None),
        "float6_e3m2fn": (None, None),
        "float4_e2m1fn": (None, None),
        "int8_q6": (None, None),
    }
    assert {name: (FORMATS[name].inf_code, FORMATS[name].nan_code) for name in expected} == expected
    assert get_format("e5m2").nan_code == encode(np.float32([np.nan]), "e5m2")[0]


def test_a_format_that_ml_dtypes_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """The claims enumerate its values by the formula, up to its published largest value."""
    monkeypatch.setitem(PUBLISHED, OWN.name, (384.0, 2.0**-6, 2.0**-7))
    found = magnitudes(OWN).tolist()
    assert found == [float(by_formula(c, OWN)) for c in range(32)]
    assert (found[1], found[2], found[3], found[-1]) == (2.0**-7, 2.0**-6, 1.5 * 2.0**-6, OWN.max)
