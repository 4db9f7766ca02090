"""Every float32 there is, against ml_dtypes: 2^32 patterns, every format, both overflow rules.

Eleven to thirteen minutes on one core: python -m pytest -m slow tests/formats/test_exhaustive.py
"""

import numpy as np
import pytest

from refscale.formats import Format, quantize
from tests.formats.oracles import OVERFLOWS, WITH_DTYPE, by_ml_dtypes, first_difference

CHUNK = 1 << 22


@pytest.mark.slow
@pytest.mark.parametrize("format", WITH_DTYPE, ids=str)
def test_every_float32(format: Format) -> None:
    for start in range(0, 1 << 32, CHUNK):
        x = np.arange(start, start + CHUNK, dtype=np.uint32).view(np.float32)
        if not format.has_nan:
            x = x[~np.isnan(x)]
        if not x.size:
            continue
        expected = by_ml_dtypes(x, format, "nonsaturate")
        untouched = bool((np.abs(x) <= format.max).all())  # then both rules are one: spare the slow oracle
        for overflow in OVERFLOWS:
            clips = overflow == "saturate" and not untouched
            wanted = by_ml_dtypes(x, format, overflow) if clips else expected
            actual = quantize(x, format, rounding="nearest_even", overflow=overflow)
            same = np.array_equal(actual.view(np.uint32), wanted.view(np.uint32))
            problem = None if same else first_difference(x, actual, wanted)
            assert problem is None, f"{format}/{overflow}: {problem}"
