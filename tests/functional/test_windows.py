"""Convolutions, pooling, padding, resizing and choices: the ops that they run, and torch's order of arguments."""

import numpy as np
import pytest

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.engine import Tape, apply, backward
from refscale.errors import ArgumentError
from refscale.scales import regular, unit

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((2, 2, 4, 6, 3))
W, B = RNG.standard_normal((2, 3, 3, 5)), RNG.standard_normal(5)
MASK = RNG.random((4, 1, 3)) > 0.5

CALLS = {
    "conv2d": (
        lambda x, y, w, b: F.conv2d(x, w, b, stride=2, padding=(1, (0, 2)), dilation=(1, 2)),
        ops.Conv2d((2, 2), (1, (0, 2)), (1, 2)),
    ),
    "conv3d": (
        lambda x, y, w, b: F.conv3d(
            apply(ops.Reshape((2, 4, 1, 6, 3)), x), apply(ops.Reshape((2, 1, 3, 3, 5)), w), padding=(1, 0, 0)
        ),
        ops.Conv3d(padding=(1, 0, 0)),
    ),
    "conv_transpose": (
        lambda x, y, w, b: F.conv_transpose(x, w, b, stride=2, padding=1, output_padding=(1, 0)),
        ops.ConvTranspose(2, 1, 1, (1, 0)),
    ),
    "max_pool": (lambda x, y, w, b: F.max_pool(x, 2, 1, 1, (1, 2)), ops.MaxPool(2, 1, 1, (1, 2))),
    "avg_pool": (lambda x, y, w, b: F.avg_pool(x, (2, 3), 1, 1, False), ops.AvgPool((2, 3), 1, 1, 1, False)),
    "pad": (
        lambda x, y, w, b: F.pad(x, (0, 0, 1, 2, 3, 0), "reflect"),
        ops.Pad(((0, 0), (3, 0), (1, 2), (0, 0)), "reflect"),
    ),
    "pad with a number": (
        lambda x, y, w, b: F.pad(x, (1, 0), value=2.0),
        ops.Pad(((0, 0),) * 3 + ((1, 0),), value=2.0),
    ),
    "interpolate": (lambda x, y, w, b: F.interpolate(x, scale_factor=2), ops.NearestResize(2)),
    "interpolate to a size of NumPy": (
        lambda x, y, w, b: F.interpolate(x, np.array((4, 18))),
        ops.NearestResize((1, 3)),
    ),
    "interpolate to a size": (lambda x, y, w, b: F.interpolate(x, (4, 18)), ops.NearestResize((1, 3))),
    "interpolate linearly": (
        lambda x, y, w, b: F.interpolate(x, (3, 7), mode="bilinear", align_corners=True),
        ops.LinearResize((3, 7), True),
    ),
    "interpolate linearly by factors": (
        lambda x, y, w, b: F.interpolate(x, scale_factor=(2, 3), mode="bilinear"),
        ops.LinearResize((8, 18)),
    ),
    "interpolate linearly by a factor": (
        lambda x, y, w, b: F.interpolate(x, scale_factor=2, mode="bilinear"),
        ops.LinearResize((8, 12)),
    ),
    "where": (lambda x, y, w, b: F.where(MASK, x, y), ops.Where()),
    "where not constant": (lambda x, y, w, b: F.where(MASK, x, 0.5), ops.Where()),
    "maximum": (lambda x, y, w, b: F.maximum(x, y), ops.Maximum()),
    "minimum": (lambda x, y, w, b: F.minimum(x, y), ops.Minimum()),
    "clip": (lambda x, y, w, b: F.clip(x, -0.5, 2.0), ops.Clip(-0.5, 2.0)),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_op_with_its_attributes(name):
    """On a tape that records; α is tied to the β of every input that is not a weight."""
    call, op = CALLS[name]
    tape = Tape(unit, dtype=np.float64)
    y = call(*(tape.tensor(v, n) for v, n in zip((X, Y, W, B), "xywb", strict=True)))
    node = next(n for n in tape.nodes if type(n.op) is type(op))
    assert (node.op, y.tape) == (op, tape)
    tied = [i for i, b in enumerate(node.scales.beta) if b is not None and not (op.contraction and i == 1)]
    assert all(node.scales.beta[i] == node.scales.alpha for i in tied if node.inputs[i].requires_grad)


def test_bias_is_added_after_the_factor():
    tape = Tape(unit, dtype=np.float64)
    x, w, b = (tape.tensor(v, n) for v, n in zip((X, W, B), "xwb", strict=True))
    for function in (F.conv2d, F.conv_transpose):
        difference = function(x, w, b).value - function(x, w).value
        assert np.allclose(difference, B, rtol=0, atol=1e-12)


def test_transposed_is_the_gradient_of_the_convolution():
    """With channels in and out exchanged in the weight."""
    tape = Tape(regular, dtype=np.float64)
    x, w = tape.tensor(X, "x"), tape.tensor(W, "w")
    y = F.conv2d(x, w, stride=(2, 1), padding=1)
    g = RNG.standard_normal(y.shape)
    backward(y, g)
    other = Tape(regular, dtype=np.float64)
    back = F.conv_transpose(
        other.tensor(g, "g"), other.tensor(W.swapaxes(-1, -2), "w"), stride=(2, 1), padding=1, output_padding=(0, 0)
    )
    assert np.max(np.abs(back.value[:, : x.shape[1]] - x.grad[:, : back.shape[1]])) <= 1e-13


REFUSED = {
    "pad\\(pad=\\(1,\\)\\): expected pairs": lambda x: F.pad(x, (1,)),
    "at most one for each axis": lambda x: F.pad(x, (0,) * 10),
    "expected mode 'nearest' or 'bilinear'": lambda x: F.interpolate(x, scale_factor=2, mode="linear"),
    "scale_factor=\\(2,\\), .*expected one of size and scale_factor, one number or 2": lambda x: F.interpolate(
        x, scale_factor=(2,), mode="bilinear"
    ),
    "scale_factor=1.5, .*expected one of size and scale_factor, one number or 2": lambda x: F.interpolate(
        x, scale_factor=1.5, mode="bilinear"
    ),
    "size=None, scale_factor=None, mode='nearest'\\): expected one of": lambda x: F.interpolate(x),
    "expected one of size and scale_factor": lambda x: F.interpolate(x, 8, 2),
    "mode='nearest'\\): align_corners applies to linear interpolation only": lambda x: F.interpolate(
        x, 8, align_corners=True
    ),
    "expected a multiple of \\(4, 6\\) on each axis": lambda x: F.interpolate(x, (8, 15)),
    "expected a multiple of": lambda x: F.interpolate(x, (8,)),
    "size=8.0, .*expected a multiple of": lambda x: F.interpolate(x, 8.0),
    "size=0, .*expected a multiple of": lambda x: F.interpolate(x, 0),
}


@pytest.mark.parametrize("problem", REFUSED)
def test_refused(problem):
    with pytest.raises(ArgumentError, match=problem):
        REFUSED[problem](Tape(regular).tensor(X, "x"))
