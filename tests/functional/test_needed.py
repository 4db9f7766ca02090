"""Hard activations and norms of channels: which op runs, and that α and β_x are tied."""

import numpy as np
import pytest

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.engine import Tape
from refscale.scales import unit

X = np.random.default_rng(0).standard_normal((3, 5, 4))
ONE, ZERO = np.ones(4), np.zeros(4)
CALLS = {
    "hardsigmoid": (F.hardsigmoid, (), ops.HardSigmoid()),
    "hardswish": (F.hardswish, (), ops.HardSwish()),
    "hardtanh": (lambda x: F.hardtanh(x, -2.0, 0.5), (), ops.Clip(-2.0, 0.5)),
    "relu6": (F.relu6, (), ops.Clip(0.0, 6.0)),
    "batch_norm": (F.batch_norm, (ONE, ZERO), ops.BatchNorm(1e-5)),
    "batch_norm, frozen": (
        lambda x, gain, bias: F.batch_norm(x, gain, bias, (ZERO, ONE), 0.5),
        (ONE, ZERO),
        ops.FrozenBatchNorm(0.5),
    ),
    "group_norm": (lambda x, gain, bias: F.group_norm(x, 2, gain, bias), (ONE, ZERO), ops.GroupNorm(2)),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls(name):
    call, more, op = CALLS[name]
    tape = Tape(unit, dtype=np.float64)
    y = call(tape.tensor(X), *[tape.tensor(a) for a in more])
    node = y.variable.node
    constants = (ZERO, ONE) if op.constants else ()
    assert node.op == op
    assert node.scales.alpha == node.scales.beta[0]
    assert y.value == pytest.approx(node.scales.alpha * op.forward(X, *more, *constants)[0], rel=1e-12)
