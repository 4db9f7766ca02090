"""What claims about whole models measure, against the same arrays measured otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from refscale import functional as F  # noqa: N812
from refscale.claims.measure import rows
from refscale.testing import rms


@pytest.mark.parametrize("gradients", [True, False])
def test_rows(gradients):
    """Root mean squares over runs, each with a mean of its own; gradients if they are asked for."""
    draws = []

    def model(tape, rng):
        x, w = (rng.standard_normal(shape).astype(np.float32) + 0.5 for shape in ((700, 30), (30, 90)))
        draws.append((x, w))
        return F.linear(tape.tensor(x, "x"), tape.tensor(w, "weight"))

    found = {(r.way, r.name): r for r in rows(model, 3, np.random.default_rng(0), gradients=gradients)}
    assert {way for way, _ in found} == ({"forward", "backward"} if gradients else {"forward"})
    y = found["forward", "matmul"]
    wide = [x.astype(np.float64) @ w.astype(np.float64) for x, w in draws]
    factor = y.measured / rms(np.stack(wide))
    assert factor == pytest.approx((30 * 90) ** -0.25, rel=1e-5)  # tied: the geometric mean of 30^-½ and 90^-½
    assert y.std == pytest.approx(factor * np.sqrt(np.mean([np.var(v) for v in wide])), rel=1e-4)


def test_a_standard_deviation_far_below_the_mean():
    """±2^-12 about 1: in float32, the mean square less the squared mean is all rounding."""
    signs = np.resize(np.float32([-1, 1, 1]), (30, 100))

    def model(tape, rng):
        return F.linear(tape.tensor(1 + signs * 2.0**-12, "x"), tape.tensor(rng.standard_normal((100, 2)), "weight"))

    (x,) = [r for r in rows(model, 1, np.random.default_rng(0), gradients=False) if r.name == "x"]
    assert x.std == pytest.approx(2.0**-12 * np.sqrt(8) / 3, rel=1e-5)
    assert x.measured == pytest.approx(1 + 2.0**-12 / 3, rel=1e-5)
