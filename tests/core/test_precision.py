"""Policies by name and by mix."""

from __future__ import annotations

import pytest

from refscale.errors import ArgumentError, FormatError
from refscale.precision import POLICIES, get_precision


def names(policy):
    return tuple(
        None if c is None else (c.format.name, c.rounding, c.overflow)
        for c in (policy.store, policy.operand, policy.operand_gradient)
    )


HALF = ("float16", "nearest_even", "nonsaturate")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fp32", (None, None, None)),
        ("fp16", (HALF, None, None)),
        ("bf16", (("bfloat16", "nearest_even", "nonsaturate"), None, None)),
        (
            "fp8",
            (HALF, ("float8_e4m3fn", "nearest_even", "saturate"), ("float8_e5m2", "nearest_even", "saturate")),
        ),
        (
            "fp8-fnuz",
            (HALF, ("float8_e4m3fnuz", "nearest_even", "saturate"), ("float8_e5m2fnuz", "nearest_even", "saturate")),
        ),
    ],
)
def test_named_policies(name, expected):
    assert names(get_precision(name)) == expected
    assert POLICIES[name].name == name


def test_mix():
    policy = get_precision("store=bf16,operand=e4m3fn,operand_gradient=e5m2")
    assert names(policy) == (
        ("bfloat16", "nearest_even", "nonsaturate"),
        ("float8_e4m3fn", "nearest_even", "saturate"),
        ("float8_e5m2", "nearest_even", "saturate"),
    )
    assert names(get_precision("operand=float4_e2m1fn")) == (None, ("float4_e2m1fn", "nearest_even", "saturate"), None)


@pytest.mark.parametrize(
    "text", ["fp7", "", "store", "weights=fp16", "store=fp16;operand=e5m2x", "store=fp16,store=bf16"]
)
def test_unknown(text):
    with pytest.raises((ArgumentError, FormatError)) as caught:
        get_precision(text)
    assert "expected one of fp32, fp16" in str(caught.value) or "e5m2x" in str(caught.value)


def test_ambiguous_format_is_refused():
    with pytest.raises(FormatError, match="e4m3"):
        get_precision("operand=e4m3")
