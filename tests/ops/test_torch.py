"""PyTorch as an oracle where it has the same op: forward and gradients in float64, to 1e-12 of the largest element.

Both sides sum at most a few dozen products of N(0, 1) numbers, so errors of order 1e-14; a wrong index is of order 1.
"""

import numpy as np
import pytest

from refscale import ops
from tests.ops.cases import IGNORE, run

torch = pytest.importorskip("torch")
F = torch.nn.functional
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape)


def integers(n, *shape):
    return RNG.integers(0, n, shape)


def conv(function):
    """Channels to the front, as torch wants them, and back."""

    def call(x, w, **attributes):
        axes = x.ndim - 2
        y = function(x.movedim(-1, 1), w.permute(axes + 1, axes, *range(axes)), **attributes)
        return y.movedim(1, -1)

    return call


def transposed(function):
    """The same; torch has the channels in first, and the channels out of one group."""

    def call(x, w, groups=1, **attributes):
        axes = x.ndim - 2
        parts = w.permute(axes, axes + 1, *range(axes)).chunk(groups, 1)
        return function(x.movedim(-1, 1), torch.cat(parts), groups=groups, **attributes).movedim(1, -1)

    return call


def pool(function, *arguments, **attributes):
    return lambda x: function(x.movedim(-1, 1), *arguments, **attributes).movedim(1, -1)


conv1d, conv2d, conv3d = conv(F.conv1d), conv(F.conv2d), conv(F.conv3d)
conv_transpose1d, conv_transpose2d = transposed(F.conv_transpose1d), transposed(F.conv_transpose2d)
ROW = 6
MASK = RNG.integers(0, 2, (2, 5, 7)) == 1
MASK[:, :, 3] = True
CAUSAL = np.tri(5, 7, 2, dtype=bool)
IDS, TARGETS = integers(9, 3, 4), integers(ROW, 3, 4)
SOME = np.where(IDS > 3, TARGETS, IGNORE)
KEPT = int(np.count_nonzero(SOME != IGNORE))


def flat_cross_entropy(logits, targets, **attributes):
    return F.cross_entropy(logits.reshape(-1, ROW), targets.ravel(), **attributes)


ORACLES = {
    "matmul": (ops.Matmul(), torch.matmul, [normal(3, 4, 5), normal(5, 6)]),
    "matmul, broadcast": (ops.Matmul(), torch.matmul, [normal(2, 1, 4, 5), normal(3, 5, 6)]),
    "softmax": (ops.Softmax(), lambda x: F.softmax(x, -1), [normal(3, 4, ROW)]),
    "softmax, large": (ops.Softmax(), lambda x: F.softmax(x, -1), [700 * normal(3, ROW)]),
    "masked_softmax": (
        ops.MaskedSoftmax(),
        lambda x, mask: F.softmax(x.masked_fill(~mask, -torch.inf), -1),
        [normal(2, 5, 7), MASK],
    ),
    "masked_softmax, causal": (
        ops.MaskedSoftmax(causal=True),
        lambda x, mask: F.softmax(x.masked_fill(~torch.tensor(CAUSAL), -torch.inf), -1),
        [normal(2, 5, 7), np.ones((1, 1), bool)],
    ),
    "log_softmax": (ops.LogSoftmax(), lambda x: F.log_softmax(x, -1), [normal(3, 4, ROW)]),
    "layer_norm": (
        ops.LayerNorm(1e-5),
        lambda x, gain, bias: F.layer_norm(x, (ROW,), gain, bias, 1e-5),
        [normal(3, 4, ROW), normal(ROW), normal(ROW)],
    ),
    "rms_norm": (
        ops.RmsNorm(1e-5),
        lambda x, gain: F.rms_norm(x, (ROW,), gain, 1e-5),
        [normal(3, 4, ROW), normal(ROW)],
    ),
    "conv1d": (ops.Conv1d(), conv1d, [normal(2, 9, 3), normal(4, 3, 5)]),
    "conv1d, all attributes": (
        ops.Conv1d(2, 3, 2, 2),
        lambda x, w: conv1d(x, w, stride=2, padding=3, dilation=2, groups=2),
        [normal(2, 9, 4), normal(3, 2, 6)],
    ),
    "conv1d, causal": (
        ops.Conv1d(padding=(6, 0), groups=4),
        lambda x, w: conv1d(F.pad(x, (0, 0, 6, 0)), w, groups=4),
        [normal(2, 9, 8), normal(7, 2, 8)],
    ),
    "conv1d, depthwise, stride beyond the kernel": (
        ops.Conv1d(stride=3, groups=4),
        lambda x, w: conv1d(x, w, stride=3, groups=4),
        [normal(2, 9, 4), normal(2, 1, 8)],
    ),
    "conv2d": (ops.Conv2d(), conv2d, [normal(2, 5, 6, 3), normal(3, 2, 3, 4)]),
    "conv2d, all attributes": (
        ops.Conv2d((2, 1), (1, 2), (1, 2), 2),
        lambda x, w: conv2d(x, w, stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2),
        [normal(2, 7, 6, 4), normal(3, 2, 2, 6)],
    ),
    "conv3d": (
        ops.Conv3d((2, 1, 1), (1, 0, 2), (1, 1, 2), 2),
        lambda x, w: conv3d(x, w, stride=(2, 1, 1), padding=(1, 0, 2), dilation=(1, 1, 2), groups=2),
        [normal(2, 5, 4, 6, 4), normal(2, 3, 2, 2, 6)],
    ),
    "conv_transpose 1d": (
        ops.ConvTranspose(2, 1, 1, 1, 2),
        lambda x, w: conv_transpose1d(x, w, stride=2, padding=1, output_padding=1, groups=2),
        [normal(2, 5, 6), normal(4, 3, 4)],
    ),
    "conv_transpose 2d": (
        ops.ConvTranspose((2, 3), (0, 1), (2, 1), 0, 2),
        lambda x, w: conv_transpose2d(x, w, stride=(2, 3), padding=(0, 1), dilation=(2, 1), groups=2),
        [normal(2, 5, 4, 6), normal(2, 3, 3, 4)],
    ),
    "conv_transpose 1d, output_padding beyond the stride": (
        ops.ConvTranspose(1, 0, 3, 2),
        lambda x, w: conv_transpose1d(x, w, dilation=3, output_padding=2),
        [normal(2, 4, 3), normal(2, 3, 4)],
    ),
    "max_pool 2d, dilated": (
        ops.MaxPool((3, 2), (2, 1), (1, 0), (2, 3)),
        pool(F.max_pool2d, (3, 2), (2, 1), (1, 0), (2, 3)),
        [normal(2, 7, 8, 3)],
    ),
    "max_pool 3d": (ops.MaxPool(2, 1, 1), pool(F.max_pool3d, 2, 1, 1), [normal(2, 4, 5, 6, 3)]),
    "avg_pool 2d, padding not counted": (
        ops.AvgPool((3, 2), (2, 1), (1, 1), count_include_pad=False),
        pool(F.avg_pool2d, (3, 2), (2, 1), (1, 1), count_include_pad=False),
        [normal(2, 7, 8, 3)],
    ),
    "avg_pool 3d": (ops.AvgPool(2, 1, 1), pool(F.avg_pool3d, 2, 1, 1), [normal(2, 4, 5, 6, 3)]),
    "pad": (
        ops.Pad(((0, 0), (2, 1), (0, 3)), value=0.5),
        lambda x: F.pad(x, (0, 3, 2, 1), value=0.5),
        [normal(2, 3, 4)],
    ),
    "pad, reflect": (
        ops.Pad(((0, 0), (0, 0), (2, 1), (0, 3)), "reflect"),
        lambda x: F.pad(x, (0, 3, 2, 1), "reflect"),
        [normal(2, 3, 4, 5)],
    ),
    "pad, replicate": (
        ops.Pad(((0, 0), (0, 0), (2, 1), (0, 3)), "replicate"),
        lambda x: F.pad(x, (0, 3, 2, 1), "replicate"),
        [normal(2, 3, 4, 5)],
    ),
    "nearest_resize": (ops.NearestResize((2, 3)), pool(F.interpolate, scale_factor=(2, 3)), [normal(2, 3, 4, 5)]),
    "linear_resize": (
        ops.LinearResize((7, 3)),
        pool(F.interpolate, size=(7, 3), mode="bilinear"),
        [normal(2, 3, 4, 5)],
    ),
    "linear_resize, aligned": (
        ops.LinearResize(7, True),
        pool(F.interpolate, size=7, mode="linear", align_corners=True),
        [normal(2, 3, 5)],
    ),
    "linear_resize of volumes": (
        ops.LinearResize((2, 4, 6)),
        pool(F.interpolate, size=(2, 4, 6), mode="trilinear"),
        [normal(2, 3, 4, 2, 3)],
    ),
    "sum, keepdims": (ops.Sum((0, -1), True), lambda x: torch.sum(x, (0, -1), keepdim=True), [normal(2, 3, 4)]),
    "mean, keepdims": (ops.Mean((1,), True), lambda x: torch.mean(x, 1, keepdim=True), [normal(2, 3, 4)]),
    "batch_norm": (
        ops.BatchNorm(),
        lambda x, g, b: F.batch_norm(x.movedim(-1, 1), None, None, g, b, training=True).movedim(1, -1),
        [normal(3, 5, 4), normal(4), normal(4)],
    ),
    "frozen_batch_norm": (
        ops.FrozenBatchNorm(),
        lambda x, g, b, m, v: F.batch_norm(x, m, v, g, b),
        [normal(6, 4), normal(4), normal(4), normal(4), np.exp(normal(4))],
    ),
    "group_norm": (
        ops.GroupNorm(2),
        lambda x, g, b: F.group_norm(x.movedim(-1, 1), 2, g, b).movedim(1, -1),
        [normal(3, 5, 2, 6), normal(6), normal(6)],
    ),
    "avg_pool 1d": (
        ops.AvgPool((3,), (2,), (1,)),
        lambda x: F.avg_pool1d(x.movedim(-1, 1), 3, 2, 1).movedim(1, -1),
        [normal(2, 9, 3)],
    ),
    "avg_pool 2d": (
        ops.AvgPool((2, 3), (1, 2), (1, 1)),
        lambda x: F.avg_pool2d(x.movedim(-1, 1), (2, 3), (1, 2), (1, 1)).movedim(1, -1),
        [normal(2, 5, 6, 3)],
    ),
    "abs": (ops.Abs(), torch.abs, [normal(3, 4)]),
    "clip": (ops.Clip(-0.5, 0.75), lambda x: torch.clamp(x, -0.5, 0.75), [np.array([-1.0, -0.5, 0.3, 0.75, 2.0])]),
    # F.hardsigmoid multiplies float64 gradients by the float32 number next to 1/6.
    "hard_sigmoid": (ops.HardSigmoid(), lambda x: F.relu6(x + 3) / 6, [2 * normal(5, 6)]),
    "hard_swish": (ops.HardSwish(), F.hardswish, [2 * normal(5, 6)]),
    "maximum": (ops.Maximum(), torch.maximum, [np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, -1.0])]),
    "minimum": (ops.Minimum(), torch.minimum, [np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, -1.0])]),
    "where": (ops.Where(), torch.where, [MASK[0], normal(5, 7), normal(7)]),
    "max_pool 1d": (
        ops.MaxPool((3,), (2,), (1,)),
        lambda x: F.max_pool1d(x.movedim(-1, 1), 3, 2, 1).movedim(1, -1),
        [normal(2, 9, 3)],
    ),
    "max_pool 2d": (
        ops.MaxPool((2, 3), (1, 2), (1, 1)),
        lambda x: F.max_pool2d(x.movedim(-1, 1), (2, 3), (1, 2), (1, 1)).movedim(1, -1),
        [normal(2, 5, 6, 3)],
    ),
    "cross_entropy, mean": (ops.SoftmaxCrossEntropy(), flat_cross_entropy, [normal(3, 4, ROW), TARGETS]),
    "cross_entropy, sum": (
        ops.SoftmaxCrossEntropy("sum"),
        lambda x, t: flat_cross_entropy(x, t, reduction="sum"),
        [normal(3, 4, ROW), TARGETS],
    ),
    "cross_entropy, ignoring, mean": (
        ops.SoftmaxCrossEntropy("mean", IGNORE, KEPT),
        lambda x, t: flat_cross_entropy(x, t, ignore_index=IGNORE),
        [normal(3, 4, ROW), SOME],
    ),
    "cross_entropy, ignoring, sum": (
        ops.SoftmaxCrossEntropy("sum", IGNORE, KEPT),
        lambda x, t: flat_cross_entropy(x, t, ignore_index=IGNORE, reduction="sum"),
        [normal(3, 4, ROW), SOME],
    ),
    "cross_entropy, none": (
        ops.SoftmaxCrossEntropy("none", IGNORE, KEPT),
        lambda x, t: flat_cross_entropy(x, t, ignore_index=IGNORE, reduction="none").reshape(3, 4),
        [normal(3, 4, ROW), SOME],
    ),
    "softplus, threshold": (ops.ThresholdedSoftplus(2.0, 3.0), lambda x: F.softplus(x, 2.0, 3.0), [normal(50)]),
    "masked_log_softmax": (
        ops.MaskedLogSoftmax(),
        lambda x, mask: torch.where(mask, F.log_softmax(x.masked_fill(~mask, -torch.inf), -1), 0.0),
        [normal(2, 5, 7), MASK],
    ),
    **{
        f"huber_loss, {r}": (
            ops.HuberLoss(0.7, r),
            lambda x, t, r=r: F.huber_loss(x, t, reduction=r, delta=0.7),
            [normal(3, 4), normal(3, 4)],
        )
        for r in ("mean", "sum", "none")
    },
    **{
        f"smooth_l1_loss, {beta}": (
            ops.SmoothL1Loss(beta, r),
            lambda x, t, beta=beta, r=r: F.smooth_l1_loss(x, t, reduction=r, beta=beta),
            [normal(3, 4), normal(3, 4)],
        )
        for beta, r in ((0.7, "mean"), (0.3, "none"), (0.0, "sum"))
    },
    "mse_loss": (ops.MseLoss(), F.mse_loss, [normal(3, 4), normal(3, 4)]),
    "glu": (ops.Glu(), lambda x, gate: F.glu(torch.cat([x, gate], -1)), [normal(3, 4), normal(3, 4)]),
    "geglu": (ops.Glu("gelu"), lambda x, gate: x * F.gelu(gate), [normal(3, 4), normal(3, 4)]),
    "reglu": (ops.Glu("relu"), lambda x, gate: x * F.relu(gate), [normal(3, 4), normal(3, 4)]),
    "relu": (ops.Relu(), F.relu, [normal(50)]),
    "leaky_relu": (ops.LeakyRelu(0.2), lambda x: F.leaky_relu(x, 0.2), [normal(50)]),
    "gelu, erf": (ops.Gelu(), F.gelu, [3 * normal(50)]),
    "gelu, tanh": (ops.Gelu("tanh"), lambda x: F.gelu(x, approximate="tanh"), [3 * normal(50)]),
    "silu": (ops.Silu(), F.silu, [3 * normal(50)]),
    "tanh": (ops.Tanh(), torch.tanh, [3 * normal(50)]),
    "sigmoid": (ops.Sigmoid(), torch.sigmoid, [3 * normal(50)]),
    # Beyond its threshold torch takes x itself for softplus.
    "softplus": (ops.Softplus(), lambda x: F.softplus(x, threshold=1000), [3 * normal(50)]),
    "exp": (ops.Exp(), torch.exp, [normal(50)]),
    "embedding": (ops.Embedding(), lambda table, ids: F.embedding(ids, table), [normal(9, 5), IDS]),
    "gather": (
        ops.Gather(),
        lambda x, p: torch.gather(x, 1, p[..., None].expand(-1, -1, 5)),
        [normal(3, 9, 5), IDS],
    ),
}


@pytest.mark.parametrize("name", ORACLES)
def test_forward_and_gradients(name):
    op, oracle, arrays = ORACLES[name]
    tensors = [
        torch.tensor(a, requires_grad=a.dtype == np.float64 and i not in op.constants) for i, a in enumerate(arrays)
    ]
    expected = oracle(*tensors)
    g = normal(*expected.shape)
    expected.backward(torch.tensor(g))
    y, gradients = run(op, arrays, g)
    assert_near(y, expected.detach().numpy())
    for gradient, tensor in zip(gradients, tensors, strict=True):
        if tensor.requires_grad:
            assert_near(gradient, tensor.grad.numpy())
        else:
            assert gradient is None


def assert_near(actual, expected):
    assert actual.shape == expected.shape
    assert np.max(np.abs(actual - expected)) <= 1e-12 * np.max(np.abs(expected))


def test_a_wrong_op_is_rejected():
    with pytest.raises(AssertionError):
        assert_near(run(ops.Gelu("tanh"), [np.ones(3)])[0], run(ops.Gelu("erf"), [np.ones(3)])[0])
