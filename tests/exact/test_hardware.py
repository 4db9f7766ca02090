"""``truncated`` accumulators, held to the sums of a GPU: h200.npz, made by ``python -m tests.which_accumulator``."""

from pathlib import Path

import numpy as np
import pytest

from refscale import exact
from refscale.testing.equality import assert_same_bits
from tests.which_accumulator import KEPT, PRODUCTS, SIZES, operands

SUMS = Path(__file__).with_name("h200.npz")


def measured(name: str, inner: int) -> np.ndarray:
    with np.load(SUMS, allow_pickle=False) as sums:
        return sums[f"{name}, {inner}"]


@pytest.mark.parametrize("inner", SIZES)
@pytest.mark.parametrize("name", PRODUCTS)
def test_tensor_cores_are_truncated_sums(name: str, inner: int) -> None:
    left, right, model = PRODUCTS[name]
    a, b = operands(left, right, inner)
    assert_same_bits(exact.get_accumulator(model).matmul(a[:KEPT], b[:, :KEPT]), measured(name, inner))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("e4m3 × e4m3, fast", "truncated:14:32"),
        ("e4m3 × e4m3, fast", "truncated:13:16"),
        ("e4m3 × e4m3, fast", "truncated:13:32:128"),
        ("e4m3 × e4m3", "truncated:13:32"),
        ("fp16 × fp16", "truncated:24:16"),
        ("fp16 × fp16", "truncated:25:32"),
        ("bf16 × bf16", "float32"),
    ],
)
def test_other_sizes_are_not(name: str, wrong: str) -> None:
    left, right, _ = PRODUCTS[name]
    a, b = operands(left, right, 256)
    assert (exact.get_accumulator(wrong).matmul(a[:KEPT], b[:, :KEPT]) != measured(name, 256)).mean() > 0.5
