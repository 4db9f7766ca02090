"""Coefficients of the fits of the Gaussian functions; tests/fit_special.py computes them."""

from __future__ import annotations

from typing import NamedTuple


class Rational(NamedTuple):
    """A rational function P(z)/Q(z), with coefficients in ascending order."""

    numerator: tuple[float, ...]
    denominator: tuple[float, ...]


def _rational(numerator: str, denominator: str) -> Rational:
    """A rational function from coefficients as hexadecimal floats, which define their bits."""
    p, q = (tuple(map(float.fromhex, text.split())) for text in (numerator, denominator))
    return Rational(p, q)


# erf(x)/x in z = x², degrees (5, 5), for |x| ≤ 3.92: relative error 1.9e-8, or 2⁻²⁵·⁶.
ERF32 = _rational(
    """
        0x1.20dd74abf1938p+0 0x1.85c85bec9f418p-3 0x1.b007c5371bbc2p-5 0x1.ed1d9364d653ep-9
        0x1.2aa9ea8ef3167p-12 0x1.13489c61a81bep-19
    """,
    """
        0x1.0000000000000p+0 0x1.01067c958be7ap-1 0x1.d34076e1039b1p-4 0x1.ea4896d2b47c7p-7
        0x1.308b51b6e165ap-10 0x1.3f97f4e968bf8p-15
    """,
)
# erf(x)/x in z = x², degrees (12, 12), for |x| ≤ 5.92: 3.1e-17; 8.6e-17 with coefficients rounded to float64.
ERF64 = _rational(
    """
        0x1.20dd750429b6dp+0 0x1.c2eb024832527p-3 0x1.0ed5eac1f8c28p-4 0x1.c385d803ee005p-8
        0x1.c09e5f804c745p-11 0x1.ddb13487797c1p-15 0x1.05c21e8d6d762p-18 0x1.6bf881732a4e3p-23
        0x1.d08be11b05a20p-28 0x1.7a33142eeeee4p-33 0x1.d58d5fef17894p-39 0x1.9119021e4db08p-46
        0x1.21ca18706d097p-56
    """,
    """
        0x1.0000000000000p+0 0x1.0e9211e6b5097p-1 0x1.13f8c08055886p-3 0x1.683b5648d098dp-6
        0x1.502bcd5ac9339p-9 0x1.da2a6b85bca54p-13 0x1.0407d0bb96243p-16 0x1.c05023cb9fe58p-21
        0x1.2dfe1a9288bbcp-25 0x1.3521059a7fc0bp-30 0x1.c08117af95fdfp-36 0x1.75ab6acb4684dp-42
        0x1.fe2065a130d04p-51
    """,
)
# R(a), degrees (4, 5), for a ≤ 14.2: 5.9e-9, or 2⁻²⁷·³.
TAIL32 = _rational(
    """
        0x1.000000194cdc5p-1 0x1.c0cf36cb74f42p-2 0x1.77420a53d8a1cp-3 0x1.4cdb33424aea9p-5
        0x1.0dc04b45bd83cp-8
    """,
    """
        0x1.0000000000000p+0 0x1.aca9cc0e45ca3p+0 0x1.33d64a6a12821p+0 0x1.e0ba518c92da3p-2
        0x1.a133297ff9637p-4 0x1.521439a38debbp-7
    """,
)
# R(a), degrees (3, 4), for a ≤ 2.84: 3.7e-9, or 2⁻²⁸·⁰.
TAIL32_NEAR = _rational(
    """
        0x1.ffffffe3752a3p-2 0x1.3a10d26774efbp-2 0x1.732ca0508ef1cp-4 0x1.60778d6feac67p-7
    """,
    """
        0x1.0000000000000p+0 0x1.694a8e10c008dp+0 0x1.9d55365fd74bcp-1 0x1.ceb63fbe6ff21p-3
        0x1.bac13ca679028p-6
    """,
)
# R(a), degrees (9, 10), for a ≤ 38.6: 5.1e-17; 1.2e-16 with coefficients rounded to float64.
TAIL64 = _rational(
    """
        0x1.0000000000000p-1 0x1.8cbf900198beap-1 0x1.302ba8e91c188p-1 0x1.284dcba2da140p-2
        0x1.9039e1b71e5e8p-4 0x1.8317555dc845ap-6 0x1.0c0ccf85c6d12p-8 0x1.012e8f64070a6p-11
        0x1.389a1b71d9b4dp-15 0x1.741ab3800cd8fp-20
    """,
    """
        0x1.0000000000000p+0 0x1.2c80dcd01d372p+1 0x1.47da2e7e2bdd8p+1 0x1.b6e9481417f45p+0
        0x1.90713d5e58577p-1 0x1.051c962061005p-2 0x1.ef29a59777176p-5 0x1.5303024ad2364p-7
        0x1.433d9479c593ap-10 0x1.87c9d9fcc637ap-14 0x1.d25d13ae8f924p-19
    """,
)
