import math
from dataclasses import replace

import numpy as np
import pytest

from refscale.analysis import curves, render_snr, snr
from refscale.analysis.snr import blocks
from refscale.analysis.snr.blocks import (
    ELEMENTS,
    block_curves,
    conversions,
    curves_over_scale,
    render_block_snr,
    samples,
)
from refscale.analysis.snr.curves import EXPONENTS, SIGMAS, SNR_FORMATS, plateau
from refscale.analysis.tables.formats import format_label
from refscale.blocks import BLOCK_FORMATS
from refscale.errors import ArgumentError, FormatError
from refscale.formats import FORMATS, values

AT_ONE = EXPONENTS.index(0)

SCALES = ("σ 2^-20", "σ 1", "σ 2^20")


def exact_snr(format, sigma):
    """The same by closed form: over the cell of each value v, ∫ (x − v)²·density, in terms of erf and exp.

    Cancellation costs about (spacing/value)^-2 units of 2^-53, next to nothing at 8 bits.
    """
    v = np.unique(values(format)[np.isfinite(values(format))].astype(np.float64))
    edges = np.concatenate([[-np.inf], (v[1:] + v[:-1]) / 2, [np.inf]]) / sigma
    density = np.exp(-0.5 * edges**2) / math.sqrt(2 * math.pi)
    # The distribution from the nearer end, so that tails keep their digits.
    below = np.array([0.5 * math.erfc(-e / math.sqrt(2)) for e in edges])
    above = np.array([0.5 * math.erfc(e / math.sqrt(2)) for e in edges])
    mass = np.where(edges[1:] < 0, np.diff(below), -np.diff(above))
    weighted = np.where(np.isinf(edges), 0, edges) * density
    z = v / sigma
    noise = (1 + z * z) * mass - np.diff(weighted) + 2 * z * np.diff(density)
    return -10 * math.log10(noise.sum())


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e3m4"])
def test_equals_the_closed_form(name):
    # 131 072 points; each cell that matters holds hundreds, and a sawtooth over k points errs by about 1/k².
    exponents = range(-18, 19)
    found = snr(name, [2.0**k for k in exponents])
    assert found == pytest.approx([exact_snr(name, 2.0**k) for k in exponents], abs=0.005)


def test_closed_form_tells_formats_apart():
    assert abs(snr("float8_e4m3fn", [256.0])[0] - exact_snr("float8_e4m3fnuz", 256.0)) > 1


@pytest.mark.parametrize("name", SNR_FORMATS)
def test_flat_near_one_and_falling_at_both_ends(name):
    found = snr(name)
    assert found[AT_ONE] >= found.max() - 0.05
    low, high = plateau(found)
    assert low <= -4
    assert high >= 5
    left, right = found[: EXPONENTS.index(low) + 1], found[EXPONENTS.index(high) :]
    assert (np.diff(left) >= -0.01).all()
    assert (np.diff(right) <= 0.01).all()
    if name != "bfloat16":
        assert found[0] < 0.01
        assert found[-1] < 0.01


def test_known_values():
    # Uniform rounding error in a binade: noise 2^-2p/12 times E 4^⌊log2 |x|⌋; each mantissa bit is worth 6.02 dB.
    found = {name: values[AT_ONE] for name, values in curves().items()}
    assert found["float16"] - found["bfloat16"] == pytest.approx(18.06, abs=0.05)
    assert found["float8_e4m3fn"] - found["float8_e5m2"] == pytest.approx(6.02, abs=0.2)
    assert found["bfloat16"] - found["float8_e5m2"] == pytest.approx(30.1, abs=0.1)
    assert found["float16"] == pytest.approx(73.65, abs=0.05)


def test_the_tails_count():
    # At σ = 2^14 clipping happens beyond 4σ only, and yet decides.
    assert snr("float16", [2.0**14])[0] == pytest.approx(52.0, abs=0.2)


def test_everything_lost():
    assert snr("float8_e4m3fn", [2.0**-40]) == pytest.approx([0.0], abs=1e-12)


def test_plateau():
    found = np.full(len(SIGMAS), 0.0)
    found[10:21] = 30
    found[9] = 29.5
    assert plateau(found) == (EXPONENTS[9], EXPONENTS[20])


def test_errors():
    with pytest.raises(ArgumentError, match=r"snr\('float8_e8m0fnu'\): expected a format with a sign"):
        snr("e8m0")
    with pytest.raises(ArgumentError, match=r"snr\(sigmas\): got 0, expected positive finite standard deviations"):
        snr("float16", [0])
    with pytest.raises(FormatError, match="unknown format"):
        curves(["float17"])


def test_table():
    lines = list(render_snr(curves(["float16", "float8_e4m3fn"])))
    assert lines[1].split() == ["σ", "FP16", "E4M3"]
    assert "2^0            73.7       31.5   ← unit scale" in lines
    assert lines[-1] == "E4M3       within 1 dB of its best, 31.5 dB, from σ = 2^-5 to 2^7"
    assert max(map(len, render_snr(curves()))) <= 120


def test_far_outside_all_ranges():
    """Where all becomes zero the noise is the signal; where all saturates, nearly so. Squares would leave float64."""
    assert snr("float16", [1e-170, 1e-300, 1e160, 1e300]) == pytest.approx([0, 0, 0, 0], abs=1e-9)


def test_no_two_formats_share_a_label():
    labels = [format_label(name) for name in FORMATS]
    assert len(set(labels)) == len(labels)
    assert max(map(len, labels)) <= 9


def test_curves_of_blocks_and_of_elements_alone():
    found = curves_over_scale(["mxfp8_e4m3", "float8_e4m3fn"])
    assert np.array_equal(found["float8_e4m3fn"], snr("float8_e4m3fn"))
    assert np.ptp(found["mxfp8_e4m3"]) < 0.2
    assert np.ptp(found["float8_e4m3fn"]) > 20


def test_samples_are_what_their_names_say():
    """A million numbers each: a share q of them is off by √(q/10⁶), here within seven of these."""
    found = samples()
    assert list(found) == ["σ 2^-20", "σ 1", "σ 2^20", "t, 3 dof", "outliers", "rows"]
    assert {(x.shape, x.dtype.name) for x in found.values()} == {((1024, 1024), "float32")}
    assert np.std(found["σ 1"]) == pytest.approx(1, rel=7 / math.sqrt(2 << 20))
    for name, factor in (("σ 2^-20", 2.0**-20), ("σ 2^20", 2.0**20)):
        assert np.array_equal(found[name], found["σ 1"] * np.float32(factor)), name
    for name, beyond, share in (
        ("σ 1", 2.5758293, 0.01),
        ("t, 3 dof", 5.8409093, 0.01),  # the quantile of Student's t at 0.995
        ("outliers", 8.0, 1e-3 * math.erfc(0.25 / math.sqrt(2))),  # one in 1000 is 32 times as large
    ):
        assert np.mean(np.abs(found[name]) > beyond) == pytest.approx(share, abs=7 * math.sqrt(share) / 1024), name
    kept = np.abs(found["outliers"]) == np.abs(found["σ 1"])
    assert np.array_equal(found["outliers"][~kept], 32 * found["σ 1"][~kept])
    scales = np.log2(np.sqrt(np.mean(np.square(found["rows"], dtype=np.float64), axis=1)))  # each to log2(1 ± 7/45)
    assert (scales.min(), scales.max()) == (pytest.approx(-8, abs=0.25), pytest.approx(8, abs=0.25))
    assert np.mean(np.abs(scales) < 4) == pytest.approx(1 / 2, abs=7 / 64)


def test_conversions_are_what_their_names_say():
    found = conversions()
    assert [name for name in found if name.startswith("float")] == list(ELEMENTS)
    assert {(found[name].format.name, found[name].overflow) for name in ELEMENTS} == {(n, "saturate") for n in ELEMENTS}
    assert found.keys() - {*ELEMENTS, *BLOCK_FORMATS} == {"mxfp8_e4m3 rceil", "mxfp4 rceil"}
    for name, cast in BLOCK_FORMATS.items():
        assert found[name] == cast
    for name in ("mxfp8_e4m3", "mxfp4"):
        assert found[f"{name} rceil"] == replace(BLOCK_FORMATS[name], rule="rceil")


def test_of_trained_matrices_the_median_counts(monkeypatch):
    """E4M3 by hand: 1 is exact; 1.0625 goes to 1 and leaves 1/16; 2^-11 becomes zero."""
    monkeypatch.setattr(blocks, "samples", lambda: {"σ 1": np.float32([[1.0625]])})
    trained = [np.float32([[x]]) for x in (1.0, 1.0625, 2.0**-11)]
    found = block_curves(trained)
    assert found["float8_e4m3fn"] == {
        "σ 1": pytest.approx(20 * math.log10(17)),
        "trained": found["float8_e4m3fn"]["σ 1"],
    }
    assert "trained" not in block_curves()["float8_e4m3fn"]
    table = list(render_block_snr({"a": {"σ 1": 1.25, "rows": -3.0}, "mxfp4 rceil": {"σ 1": 22.06, "rows": 0.0}}))
    assert table == [
        "SNR in dB of 1024 × 1024 numbers, to nearest even, saturating; blocks along the rows, or squares",
        "                         σ 1      rows",
        "a                        1.2      -3.0",
        "mxfp4 rceil             22.1       0.0",
    ]


def test_block_formats_do_not_see_the_scale():
    """Within 0.1 dB over forty binades; at σ = 1 E4M3 alone has what MXFP8 has, one step of the scale apart."""
    found = block_curves([np.eye(4, dtype=np.float32)])
    for name, row in found.items():
        if not name.startswith("float"):
            assert max(row[s] for s in SCALES) - min(row[s] for s in SCALES) < 0.1, name
        assert row["trained"] > 30  # zeros and ones lose nothing, or, as 1/448 rounded, little
    assert abs(found["float8_e4m3fn"]["σ 1"] - float(snr("float8_e4m3fn", [1.0])[0])) < 0.1
    assert abs(found["mxfp8_e4m3 rceil"]["σ 1"] - found["float8_e4m3fn"]["σ 1"]) < 0.1
    assert found["nvfp4"]["σ 1"] > found["mxfp4"]["σ 1"] + 1 > found["float4_e2m1fn"]["σ 1"] + 3
    lines = list(render_block_snr(found))
    assert len(lines) == 2 + len(found)
    assert max(map(len, lines)) <= 100
