"""Names such as ``h100:bf16``: sums computed by hand, and the published ones where their file is at hand.

REFSCALE_TENSOR_CORE_SUMS names an .npz of arrays ``GPU_FORMAT_a``, ``_b`` (cases × K, float32 values of the format),
``_c`` (start values) and ``_d`` (the sums), from ``model_validation`` of north-numerical-computing/MATLAB-tensor-core.
"""

import os
from collections.abc import Mapping

import numpy as np
import pytest

from refscale.errors import ArgumentError
from refscale.exact import HARDWARE, get_accumulator
from refscale.exact.hardware import COMPARED, Hardware
from refscale.formats import Cast, get_format
from refscale.testing.equality import assert_same_bits

FILE = os.environ.get("REFSCALE_TENSOR_CORE_SUMS", "")
PUBLISHED = pytest.mark.skipif(not FILE, reason="REFSCALE_TENSOR_CORE_SUMS names no file")
AS_PUBLISHED = {"bfloat16": "bf16", "float16": "fp16", "tf32": "tf32", "float8_e4m3fn": "E4M3", "float8_e5m2": "E5M2"}


def one(name: str, a: list[float], b: list[float], c: float = 0.0) -> float:
    """A single sum."""
    model = get_accumulator(name)
    return model.matmul(np.float32([a]), np.float32(b)[:, None], np.float32([[c]])).item()


def bits(words: str) -> list[float]:
    """float32 values of hexadecimal codes."""
    return np.array([int(w, 16) for w in words.split()], np.uint32).view(np.float32).tolist()


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_products_far_below_the_floor_are_dropped():
    """2^-149 − 2^-160: without a floor the sum lies below 2^-149 and is cut to 0."""
    a, b = [2.0**-74, -(2.0**-80)], [2.0**-75, 2.0**-80]
    assert one("truncated:25:16", a, b) == 0.0
    assert one("h100:bf16", a, b) == 2.0**-149  # multiples of 2^-158 are kept
    assert one("a100:bf16", a, b) == 2.0**-149  # of 2^-156
    # The smallest product that is kept leaves less than 2^-149; half of it is dropped.
    for name, last in (
        ("h100:bf16", 158),
        ("h200:bf16", 158),
        ("b200:bf16", 158),
        ("a100:bf16", 156),
        ("ada:bf16", 156),
    ):
        small = 2.0 ** -(last - 74)
        assert one(name, [2.0**-74, -(2.0**-74)], [2.0**-75, small]) == 0.0
        assert one(name, [2.0**-74, -(2.0**-74)], [2.0**-75, small / 2]) == 2.0**-149


def test_sixteen_tiny_products_of_an_h100():
    """Issue 7 of MATLAB-tensor-core: the hardware gives 0x1.6p-146."""
    a = bits("9b940000 19f30000 9a2e0000 1a670000 9a250000 9b4e0000 9b290000 9a330000 99e00000 1a140000 99140000 "
             "99d10000 9ae90000 1b1a0000 9a9c0000 1b3a0000")  # fmt: skip
    b = bits("9aaf0000 99f30000 9acc0000 1b7c0000 19ed0000 1b250000 9a1b0000 9a200000 9af70000 9a480000 1ae10000 "
             "1b320000 1b120000 1b0e0000 9a680000 17350000")  # fmt: skip
    assert one("h100:bf16", a, b) == float.fromhex("0x1.6p-146")
    assert one("truncated:25:16", a, b) == float.fromhex("0x1.4p-146")
    assert one("truncated:25:16:floor=-134:emin=-126", a, b) != float.fromhex("0x1.6p-146")


@pytest.mark.parametrize(
    ("name", "kept", "lost"),
    [
        ("v100:fp16", 23, 24),
        ("a100:fp16", 24, 25),
        ("l40s:bf16", 24, 25),
        ("h100:fp16", 25, 26),
        ("h100:e4m3fn", 13, 14),
        ("ada:e5m2", 13, 14),
    ],
)
def test_bits_below_the_largest_exponent(name, kept, lost):
    """1 − 1 + 2^-n in one block."""
    for n, right in ((kept, 2.0**-kept), (lost, 0.0)):
        half = 2.0 ** -(n // 2)
        assert one(name, [1.0, -1.0, half], [1.0, 1.0, 2.0**-n / half]) == right


@pytest.mark.parametrize(
    ("name", "block"),
    [("v100:fp16", 4), ("a100:fp16", 8), ("h100:bf16", 16), ("l40s:e4m3fn", 16), ("h200:e4m3fn", 32)],
)
def test_products_of_a_block_are_aligned_together(name, block):
    """1 − 1, and a product too small to be kept beside 1: lost in their block, kept in the next."""
    n = get_accumulator(name).bits + 1
    for place, right in ((block - 1, 0.0), (block, 2.0**-n)):
        a, b = [0.0] * (2 * block), [0.0] * (2 * block)
        a[:2], b[:2] = [1.0, -1.0], [1.0, 1.0]
        a[place], b[place] = 2.0 ** -(n // 2), 2.0 ** -(n - n // 2)
        assert one(name, a, b) == right


def test_c_is_aligned_with_the_products():
    """1 + 2^-25: c and the product in one block; added afterwards, to nearest, 1 − 2^-25 would be 1."""
    assert one("h100:bf16", [-(2.0**-12)], [2.0**-13], 1.0) == 1 - 2.0**-24  # 1 − 2^-25, cut to 24 bits
    assert one("h100:e4m3fn", [1.0], [1.0], 2.0**-13) == 1 + 2.0**-13
    assert one("h100:e4m3fn", [1.0], [1.0], 2.0**-14) == 1.0
    assert one("h100:e4m3fn", [1.0], [1.0], -(2.0**-14)) == 1.0
    assert one("h100:e4m3fn", [2.0**-7], [2.0**-7], 1.0) == 1.0
    assert one("b200:e4m3fn", [2.0**-7], [2.0**-7], 1.0) == 1 + 2.0**-14


def test_subnormal_operands_have_the_exponent_of_their_encoding():
    """fp16's 2^-24 counts as 2^-14: beside 2^-24·1, 2^-24·2^-16 lies 26 places below 2^-14."""
    a, b = [2.0**-24, 2.0**-24], [1.0, 2.0**-15]
    assert one("h100:fp16", a, b) == 2.0**-24 + 2.0**-39
    assert one("h100:fp16", a, [1.0, 2.0**-16]) == 2.0**-24
    assert one("truncated:25:16", a, [1.0, 2.0**-16]) == 2.0**-24 + 2.0**-40


def test_a_subnormal_sum_has_the_exponent_of_its_encoding():
    """2^-140 counts as 2^-126: beside it multiples of 2^-151 are kept, and 2^-152, eight times, is lost."""
    assert one("h100:bf16", [2.0**-75] * 4, [2.0**-76] * 4, 2.0**-140) == 2.0**-140 + 2.0**-149
    assert one("h100:bf16", [2.0**-76] * 8, [2.0**-76] * 8, 2.0**-140) == 2.0**-140
    assert one("truncated:25:16:floor=-133", [2.0**-76] * 8, [2.0**-76] * 8, 2.0**-140) == 2.0**-140 + 2.0**-149


def test_b200_fp8_is_rounded_once_to_nearest():
    """1 + 2^-24 is a tie, and goes to 1; a little more goes to 1 + 2^-23."""
    quarter, tie = [1.0, 2.0**-9], [1.0, 2.0**-15]
    assert one("b200:e5m2", quarter, tie) == 1.0
    assert one("b200:e5m2", [*quarter, 2.0**-16], [*tie, 2.0**-16]) == 1 + 2.0**-23
    assert one("h100:e5m2", [*quarter, 2.0**-16], [*tie, 2.0**-16]) == 1.0


def test_a_chain_of_fused_multiply_adds():
    """(1 + 2^-23)² − (1 + 2^-22) is 2^-46: a product that is rounded before it is added leaves 0."""
    a, b = [-(1 + 2.0**-22), 1 + 2.0**-23], [1.0, 1 + 2.0**-23]
    assert one("rounded:1", a, b) == 2.0**-46
    assert one("float32", a, b) == 0.0


# --- names -----------------------------------------------------------------------------------------------------------


def test_names_are_parameters():
    assert get_accumulator("h100:bf16").name == "truncated:25:16:floor=-133:emin=-126"
    assert get_accumulator("h100:bfloat16") == get_accumulator("b200:bf16") == get_accumulator("h200:bf16")
    assert get_accumulator("a100:fp16").name == "truncated:24:8:floor=-132:emin=-14"
    assert get_accumulator("v100:fp16").name == "truncated:23:4:emin=-14"
    assert get_accumulator("l40s:e4m3fn").name == "truncated:13:16:floor=-132:emin=-6"
    assert get_accumulator("b200:e5m2").name == "rounded:32"
    assert len(HARDWARE) == 32
    for name, entry in HARDWARE.items():
        assert name == entry.name
        assert get_accumulator(name).name == entry.model
        assert str(entry.inner) in entry.compared
    with pytest.raises(ArgumentError, match=r"expected one of v100:float16$"):
        get_accumulator("v100:bf16")
    with pytest.raises(ArgumentError, match="use a full name"):
        get_accumulator("h100:e4m3")


def test_each_name_states_its_range():
    assert HARDWARE["h100:bfloat16"].compared == (
        "1500 published sums of 16 products: operands of 2^-16 to 2^3, products of 2^-17 to 2^3, c of 2^-15 to 2^0"
    )
    assert HARDWARE["h100:float8_e4m3fn"].compared.endswith("products of 2^-18 to 2^4, c = 0")


# --- the published sums ----------------------------------------------------------------------------------------------


def published(sums: Mapping[str, np.ndarray], entry: Hardware) -> list[np.ndarray]:
    gpu = next(n for n in ("A100", "A2", "Ada", "B200", "H100", "H200", "L40S", "V100") if n.lower() == entry.gpu)
    return [sums[f"{gpu}_{AS_PUBLISHED[entry.format]}_{x}"] for x in "abcd"]


@PUBLISHED
@pytest.mark.parametrize("entry", HARDWARE.values(), ids=str)
def test_every_published_sum(entry):
    with np.load(FILE, allow_pickle=False) as sums:
        a, b, c, d = published(sums, entry)
    assert a.shape == (1500, entry.inner)
    y = get_accumulator(entry.name).matmul(a[:, None], b[:, :, None], c[:, None, None])
    assert_same_bits(y[:, 0, 0], d)


@PUBLISHED
@pytest.mark.parametrize("entry", HARDWARE.values(), ids=str)
def test_the_published_sums_lie_in_the_stated_range(entry):
    with np.load(FILE, allow_pickle=False) as sums:
        a, b, c, _ = (x.astype(np.float64) for x in published(sums, entry))
    cast = Cast(get_format(entry.format), "nearest_even", "nonsaturate")
    assert_same_bits(cast(a), a.astype(np.float32))
    assert entry.start == bool(c.any())
    for x, (low, high) in zip(([a, b], [a * b], [c]), COMPARED[entry.format], strict=True):
        size = np.abs(np.concatenate([part.ravel() for part in x]))
        size = size[size > 0]
        assert not size.size or 2.0**low <= size.min() <= size.max() < 2.0**high


@PUBLISHED
def test_other_parameters_disagree():
    """One bit, half or twice the block, another rounding: each differs from hundreds of the published sums."""
    with np.load(FILE, allow_pickle=False) as sums:
        for name, wrong in (
            ("h100:bf16", "truncated:24:16"),
            ("h100:bf16", "truncated:26:16"),
            ("h100:bf16", "truncated:25:8"),
            ("a100:fp16", "truncated:24:4"),
            ("ada:e4m3fn", "truncated:13:32"),
            ("h200:e5m2", "truncated:13:16"),
            ("v100:fp16", "truncated:24:4"),
            ("b200:e4m3fn", "truncated:25:32"),
            ("b200:e5m2", "rounded:16"),
        ):
            gpu, _, format = name.partition(":")
            a, b, c, d = published(sums, HARDWARE[f"{gpu}:{get_format(format).name}"])
            y = get_accumulator(wrong).matmul(a[:, None], b[:, :, None], c[:, None, None])[:, 0, 0]
            assert (y != d).sum() > 20, (name, wrong)
