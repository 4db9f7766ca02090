"""What holds of every cast: Hypothesis looks for the counterexample."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refscale.formats import Cast, Format, decode, encode, quantize
from refscale.testing.strategies import arrays_in, casts, formats
from tests.formats.oracles import bits, by_specification

DOUBLES = hnp.arrays(np.float64, hnp.array_shapes(max_dims=2, max_side=6), elements=st.floats(allow_nan=False))
SCALED = st.builds(  # spread over the binades that formats have
    lambda m, e: np.ldexp(np.float64(m), np.asarray(e)),
    hnp.arrays(np.float64, (6,), elements=st.floats(-2, 2, allow_nan=False)),
    hnp.arrays(np.int32, (6,), elements=st.integers(-150, 130)),
)
INPUTS = DOUBLES | SCALED | hnp.arrays(np.float32, (5,), elements=st.floats(width=32, allow_nan=False))
ANY_FORMAT = formats(scales=True)


@given(INPUTS, casts(ANY_FORMAT))
def test_equal_to_the_specification(x: np.ndarray, cast: Cast) -> None:
    expected = by_specification(x, cast.format, cast.rounding, cast.overflow)
    assert np.array_equal(bits(cast(x)), bits(expected))


@given(INPUTS, casts(ANY_FORMAT, stochastic=True), st.integers(0, 2**32 - 1))
def test_idempotent(x: np.ndarray, cast: Cast, seed: int) -> None:
    """A value of the format is no longer changed, at random neither; e8m0's NaN for ≤ 0 stays NaN."""
    random = np.random.default_rng(seed).integers(0, 2**32, (2, *x.shape), np.uint32)
    r = random if cast.rounding == "stochastic" else (None, None)
    once = cast(x, r[0])
    assert np.array_equal(bits(cast(once, r[1])), bits(once))


@given(DOUBLES, casts(formats()))
def test_monotone(x: np.ndarray, cast: Cast) -> None:
    y = cast(np.sort(x.ravel())).astype(np.float64)
    finite = y[~np.isnan(y)]
    assert (finite[1:] >= finite[:-1]).all()


@given(INPUTS, casts(formats()))
def test_odd(x: np.ndarray, cast: Cast) -> None:
    """Q(-x) = -Q(x); up and down change places. Where -0 and NaN have no sign, up to that."""
    mirrored = {"up": "down", "down": "up"}.get(cast.rounding, cast.rounding)
    y, z = cast(x), Cast(cast.format, mirrored, cast.overflow)(-x)
    if cast.format.has_signed_zero:
        assert np.array_equal(bits(z), bits(-y))
    else:
        assert np.array_equal(z, -y, equal_nan=True)


@given(INPUTS, formats())
def test_down_and_up_enclose_and_the_rest_choose_between_them(x: np.ndarray, format: Format) -> None:
    x = np.clip(x.astype(np.float64), -format.max, format.max)
    down, up, zero, even, away = (
        quantize(x, format, rounding=r, overflow="saturate").astype(np.float64)
        for r in ("down", "up", "toward_zero", "nearest_even", "nearest_away")
    )
    assert (down <= x).all()
    assert (x <= up).all()
    assert (up - down <= format.spacing(x)).all()
    assert np.array_equal(zero, np.where(x > 0, down, up))
    distance = np.minimum(x - down, up - x)  # exact: a difference of neighbors' neighbors, or both are far apart
    for nearest in (even, away):
        assert ((nearest == down) | (nearest == up)).all()
        assert (np.abs(nearest - x) <= distance).all()


@given(st.data(), ANY_FORMAT)
def test_values_of_a_format_survive_encoding_and_every_cast(data: st.DataObject, format: Format) -> None:
    x = data.draw(arrays_in(format))
    assert np.array_equal(bits(decode(encode(x, format), format)), bits(x))
    cast = data.draw(casts(st.just(format)))
    if cast.overflow == "nonsaturate":
        assert np.array_equal(bits(cast(x)), bits(x))
