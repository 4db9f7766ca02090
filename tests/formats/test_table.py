"""The formats as data, and their names."""

import ml_dtypes
import numpy as np
import pytest

from refscale.errors import ArgumentError, FormatError
from refscale.formats import FORMATS, Format, get_format, quantize, values


@pytest.mark.parametrize("format", [f for f in FORMATS.values() if f.dtype is not None], ids=str)
def test_computed_quantities_equal_finfo(format: Format) -> None:
    info = ml_dtypes.finfo(format.dtype)
    assert format.bits == info.bits
    assert format.itemsize == format.dtype.itemsize == format.code_dtype.itemsize
    assert format.max == float(info.max)
    assert format.min == float(info.min) or not format.signed
    assert format.min_normal == float(info.smallest_normal)
    assert format.min_subnormal == float(info.smallest_subnormal)
    assert format.eps == float(info.eps)
    assert (format.emin, format.emax) == (np.frexp(format.min_normal)[1] - 1, np.frexp(format.max)[1] - 1)


@pytest.mark.parametrize("format", [f for f in FORMATS.values() if f.bits <= 16], ids=str)
def test_computed_quantities_equal_the_table_of_values(format: Format) -> None:
    table = values(format).astype(np.float64)
    finite = table[np.isfinite(table)]
    assert finite.size + np.isnan(table).sum() + np.isinf(table).sum() == format.code_count == 1 << format.bits
    lowest = 2 * format.min_normal if format.nan == "twos_complement" else -format.min  # a code no cast returns
    assert (finite.max(), finite.min()) == (format.max, -lowest)
    assert finite[finite > 0].min() == format.min_subnormal
    assert bool(np.isinf(table).any()) == format.has_inf
    assert bool(np.isnan(table).any()) == format.has_nan
    assert bool((np.signbit(finite) & (finite == 0)).any()) == format.has_signed_zero
    assert bool((finite == 0).any()) == format.has_zero
    positive = np.sort(finite[finite > 0])
    assert np.array_equal(np.diff(positive), format.spacing(positive[:-1]))


def test_tf32() -> None:
    f = get_format("tf32")
    assert (f.bits, f.emin, f.emax, f.eps, f.dtype, f.code_dtype) == (19, -126, 127, 2.0**-10, None, np.uint32)
    assert f.max == float(quantize(1e39, f, rounding="nearest_even", overflow="saturate"))


def test_spacing() -> None:
    f = get_format("e4m3fn")
    x = [0.0, -0.0, 2.0**-9, 0.01, 2.0**-6, 1.0, -1.99, 2.0, 448, 1e9, np.inf, -np.inf]
    expected = [2.0**-9] * 5 + [0.125, 0.125, 0.25, 32, 32, 32, 32]
    assert f.spacing(x).tolist() == expected
    assert np.isnan(f.spacing(np.nan))
    assert f.spacing(1.0) == f.eps
    assert get_format("fp32").spacing(1e-45) == 2.0**-149


def test_every_format_cites_its_source() -> None:
    assert all(f.source for f in FORMATS.values())


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("fp32", "float32"), ("single", "float32"), ("fp16", "float16"), ("half", "float16"), ("bf16", "bfloat16"),
        ("BF16", "bfloat16"), ("e4m3fn", "float8_e4m3fn"), ("e4m3fnuz", "float8_e4m3fnuz"),
        ("e4m3b11fnuz", "float8_e4m3b11fnuz"), ("E5M2", "float8_e5m2"), ("e5m2fnuz", "float8_e5m2fnuz"),
        ("e3m4", "float8_e3m4"), ("e8m0", "float8_e8m0fnu"), ("e8m0fnu", "float8_e8m0fnu"),
        ("e2m3", "float6_e2m3fn"), ("e3m2fn", "float6_e3m2fn"), ("e2m1", "float4_e2m1fn"), ("fp4", "float4_e2m1fn"),
        ("float8_e4m3", "float8_e4m3"), ("TF32", "tf32"),
    ],
)  # fmt: skip
def test_aliases(alias: str, name: str) -> None:
    assert get_format(alias) is FORMATS[name] is get_format(FORMATS[name])


@pytest.mark.parametrize("name", ["e4m3", "E4M3", "fp8_e4m3"])
def test_e4m3_is_never_guessed(name: str) -> None:
    with pytest.raises(FormatError) as caught:
        get_format(name)
    assert str(caught.value) == (
        f"format {name!r} is three different formats: "
        "'float8_e4m3fn' (max 448, no inf: OCP, what NVIDIA hardware calls E4M3), "
        "'float8_e4m3' (max 240, has inf: IEEE-like) "
        "or 'float8_e4m3fnuz' (max 240, no inf, no -0: Graphcore, AMD MI300); use a full name"
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("fp8", "format 'fp8' is several formats: float8_e5m2, float8_e4m3fn, "),
        ("fp6", "format 'fp6' is two formats: float6_e2m3fn, float6_e3m2fn; use a full name"),
        ("fp64", "unknown format 'fp64'; known: float32, tf32, bfloat16, float16, float8_e5m2, "),
        (8, "get_format: expected a name, a dtype or a Format, got 8"),
    ],
)
def test_other_names_are_refused(name: object, text: str) -> None:
    with pytest.raises(FormatError) as caught:
        get_format(name)
    assert str(caught.value).startswith(text)


def test_widths_of_numpy_are_integers() -> None:
    """Those of 8 bits would wrap round."""
    f = Format("x", np.uint8(4), np.uint8(3), np.int8(7), "all_ones", np.True_, True)
    assert f == Format("x", 4, 3, 7, "all_ones")
    assert (f.max, f.min_subnormal) == (448.0, 2.0**-9)
    assert {type(v) for v in (f.exponent_bits, f.mantissa_bits, f.bias)} == {int}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"mantissa_bits": 1.5}, "Format('x'): mantissa_bits is 1.5, expected an integer"),
        ({"bias": float("nan")}, "Format('x'): bias is nan, expected an integer"),
        ({"exponent_bits": "4"}, "Format('x'): exponent_bits is '4', expected an integer"),
        ({"signed": "no", "has_zero": "no"}, "Format('x'): signed is 'no', expected True or False"),
        ({"has_zero": 1}, "Format('x'): has_zero is 1, expected True or False"),
        ({"name": None}, "Format: name is None, expected a string"),
    ],
)
def test_fields_of_another_type(fields: dict, text: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        Format(**{"name": "x", "exponent_bits": 4, "mantissa_bits": 3, "bias": 7, "nan": "all_ones"} | fields)
    assert str(caught.value) == text


def test_a_format_of_your_own() -> None:
    f = Format("float8_e2m5", 2, 5, 1, "none")
    assert (f.max, f.min_subnormal, f.dtype, f.code_count) == (7.875, 2.0**-5, None, 256)
    assert quantize([0.02, 1.02, 9.0], f, rounding="nearest_even", overflow="saturate").tolist() == [
        0.03125,
        1.03125,
        7.875,
    ]
    assert Format("float16", 5, 10, 15, "top_exponent") == FORMATS["float16"]
    imposter = Format("float16", 5, 10, 16, "top_exponent")
    assert imposter != FORMATS["float16"]
    assert imposter.dtype is None


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ((9, 3, 7, "none"), "Format('x'): 9 exponent and 3 mantissa bits, expected 1 to 8 and 0 to 23"),
        ((4, 3, 7, "some"), "Format('x'): nan is 'some', expected one of ('top_exponent', 'all_ones', "),
        ((4, 3, 7, "none", False), "Format('x'): a format has a sign and a zero, or neither and no NaN at -0"),
        ((4, 0, 7, "none"), "Format('x'): a format with zero needs at least one mantissa bit"),
        ((1, 3, 0, "top_exponent"), "Format('x'): one exponent bit, given to infinity and NaN, leaves no values"),
        ((8, 3, 126, "none"), "Format('x'): spans 2^-128 to 2^129, expected within float32's 2^-149 to 2^127"),
    ],
)
def test_impossible_formats_are_refused(fields: tuple, text: str) -> None:
    with pytest.raises(FormatError) as caught:
        Format("x", *fields)
    assert str(caught.value).startswith(text)
