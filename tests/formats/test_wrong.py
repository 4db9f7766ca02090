"""Quantizers that are wrong on purpose, each in one way, each rejected by the check that the real one passes."""

from collections.abc import Callable

import numpy as np
import pytest

from refscale.formats import FORMATS, Format, get_format, quantize
from tests.formats.oracles import check_all, is_rejected

E4M3FN = get_format("e4m3fn")


def away_at_ties(x, format, *, rounding, overflow):
    return quantize(x, format, rounding="nearest_away", overflow=overflow)


def toward_zero_always(x, format, *, rounding, overflow):
    return quantize(x, format, rounding="toward_zero", overflow=overflow)


def twice_through_float32(x, format, *, rounding, overflow):
    with np.errstate(all="ignore"):
        return quantize(x.astype(np.float32), format, rounding=rounding, overflow=overflow)


def twice_through_float16(x, format, *, rounding, overflow):
    with np.errstate(all="ignore"):
        return quantize(x.astype(np.float16), format, rounding=rounding, overflow=overflow)


def subnormals_flushed(x, format, *, rounding, overflow):
    y = quantize(x, format, rounding=rounding, overflow=overflow)
    return np.where(np.abs(y) < format.min_normal, np.copysign(np.float32(0), y), y)


def input_subnormals_flushed(x, format, *, rounding, overflow):
    with np.errstate(all="ignore"):
        x = x.astype(np.float64)
    tiny = np.where(np.abs(x) < 2.0**-126, np.copysign(0.0, x), x)
    return quantize(tiny, format, rounding=rounding, overflow=overflow)


def max_one_code_low(x, format, *, rounding, overflow):
    y = quantize(x, format, rounding=rounding, overflow=overflow)
    low = np.float32(format.max - format.spacing(format.max))
    return np.where(np.isfinite(y), np.clip(y, -low, low), y)


def max_one_code_high(x, format, *, rounding, overflow):
    """As if e4m3fn's NaN code were 480."""
    y = quantize(x, format, rounding=rounding, overflow=overflow)
    with np.errstate(all="ignore"):
        x = x.astype(np.float64)
    return np.where(np.abs(x) >= format.max * 1.05, np.copysign(np.float32(format.max * 15 / 14), x), y).astype(
        np.float32
    )


def carry_lost_at_binades(x, format, *, rounding, overflow):
    """The mantissa wraps to zero, and the exponent stays."""
    y = quantize(x, format, rounding=rounding, overflow=overflow)
    with np.errstate(all="ignore"):
        x = x.astype(np.float64)
        carried = np.isfinite(x) & np.isfinite(y) & (np.frexp(y)[1] > np.frexp(x)[1]) & (np.abs(x) > format.min_normal)
    return np.where(carried, y / 2, y).astype(np.float32)


def sign_of_zero_lost(x, format, *, rounding, overflow):
    return quantize(x, format, rounding=rounding, overflow=overflow) + np.float32(0)


def sign_of_nan_lost(x, format, *, rounding, overflow):
    y = quantize(x, format, rounding=rounding, overflow=overflow)
    return np.where(np.isnan(y), np.float32(np.nan), y)


def negative_zero_kept(x, format, *, rounding, overflow):
    y = quantize(x, format, rounding=rounding, overflow=overflow)
    with np.errstate(all="ignore"):
        return np.where(y == 0, np.copysign(y, x.astype(np.float32)), y)


def infinity_not_saturated(x, format, *, rounding, overflow):
    y = quantize(x, format, rounding=rounding, overflow=overflow)
    with np.errstate(all="ignore"):
        x = x.astype(np.float32)
        infinite = np.isinf(x)
    return np.where(infinite, x, y)


def always_saturates(x, format, *, rounding, overflow):
    return quantize(x, format, rounding=rounding, overflow="saturate")


def nan_becomes_zero(x, format, *, rounding, overflow):
    return np.nan_to_num(quantize(x, format, rounding=rounding, overflow=overflow), posinf=np.inf, neginf=-np.inf)


def overflow_decided_before_rounding(x, format, *, rounding, overflow):
    """464 < |x| is beyond e4m3fn; here everything above 448 is, the values that round down to it as well."""
    y = quantize(x, format, rounding=rounding, overflow=overflow)
    if overflow == "nonsaturate":
        with np.errstate(all="ignore"):
            x = x.astype(np.float64)
            y = np.where(np.abs(x) > format.max, np.copysign(np.float32(np.nan), x), y).astype(np.float32)
    return y


def as_another(name: str) -> Callable[..., np.ndarray]:
    def mixed_up(x, format, *, rounding, overflow):
        return quantize(x, name, rounding=rounding, overflow=overflow)

    return mixed_up


WRONG = [
    (away_at_ties, "e4m3fn"),
    (away_at_ties, "e5m2fnuz"),
    (toward_zero_always, "e4m3fn"),
    (twice_through_float32, "e4m3fn"),
    (twice_through_float32, "float16"),
    (twice_through_float16, "e4m3fn"),
    (twice_through_float16, "e3m2"),
    (subnormals_flushed, "e4m3fn"),
    (subnormals_flushed, "bf16"),
    (input_subnormals_flushed, "bf16"),
    (max_one_code_low, "e4m3fn"),
    (max_one_code_low, "e5m2"),
    (max_one_code_high, "e4m3fn"),
    (carry_lost_at_binades, "e4m3fn"),
    (carry_lost_at_binades, "float16"),
    (sign_of_zero_lost, "e4m3fn"),
    (sign_of_nan_lost, "e4m3fn"),
    (sign_of_nan_lost, "e4m3fnuz"),
    (negative_zero_kept, "e4m3fnuz"),
    (infinity_not_saturated, "e5m2"),
    (always_saturates, "e4m3fn"),
    (always_saturates, "e5m2fnuz"),
    (nan_becomes_zero, "e4m3fn"),
    (overflow_decided_before_rounding, "e4m3fn"),
    (as_another("e4m3fnuz"), "e4m3fn"),
    (as_another("float8_e4m3"), "e4m3fn"),
    (as_another("e4m3fn"), "float8_e4m3"),
    (as_another("e4m3fnuz"), "float8_e4m3"),
    (as_another("e4m3fn"), "e4m3fnuz"),
    (as_another("e5m2"), "e5m2fnuz"),
    (as_another("tf32"), "bf16"),
]


@pytest.mark.parametrize("format", [f for f in FORMATS.values() if f.dtype is not None and f.bits <= 16], ids=str)
def test_the_right_one_passes(format: Format) -> None:
    check_all(quantize, format)


@pytest.mark.parametrize(("wrong", "name"), WRONG, ids=lambda v: getattr(v, "__name__", v))
def test_wrong_quantizers_are_rejected(wrong: Callable[..., np.ndarray], name: str) -> None:
    assert is_rejected(wrong, get_format(name))


def test_the_search_for_wrong_ones_can_itself_fail() -> None:
    assert not is_rejected(quantize, E4M3FN)
