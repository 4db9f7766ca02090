"""What ops say to shapes, values and attributes that do not fit: under both schemes, the same words."""

import math

import numpy as np
import pytest

from refscale import ops
from refscale.engine import Tape, apply
from refscale.errors import ArgumentError, RefscaleError, ShapeError
from refscale.scales import regular, unit

ATTRIBUTES = {
    "LeakyRelu(slope=1): expected 0 < slope < 1": lambda: ops.LeakyRelu(1),
    "LeakyRelu(slope=-0.1): expected 0 < slope < 1": lambda: ops.LeakyRelu(-0.1),
    "Swish(beta=0): expected 0 < beta ≤ 32": lambda: ops.Swish(0),
    "Swish(beta=32.01): expected 0 < beta ≤ 32": lambda: ops.Swish(32.01),
    "Swish(beta=nan): expected 0 < beta ≤ 32": lambda: ops.Swish(float("nan")),
    "ScalarMultiply(factor=0): expected a number, 2^-126 ≤ |c| ≤ 2^126": lambda: ops.ScalarMultiply(0),
    "ScalarMultiply(factor='2'): expected a number, 2^-126 ≤ |c| ≤ 2^126": lambda: ops.ScalarMultiply("2"),
    "ScalarMultiply(factor=1e-38): expected a number, 2^-126 ≤ |c| ≤ 2^126": lambda: ops.ScalarMultiply(1e-38),
    "ScalarDivide(divisor=nan): expected a number, 2^-126 ≤ |c| ≤ 2^126": lambda: ops.ScalarDivide(float("nan")),
    "ScalarDivide(divisor=True): expected a number, 2^-126 ≤ |c| ≤ 2^126": lambda: ops.ScalarDivide(True),
    "ScalarDivide(divisor=1e+38): expected a number, 2^-126 ≤ |c| ≤ 2^126": lambda: ops.ScalarDivide(1e38),
    "Clip(low=1.0, high=1.0): expected finite low < high, P(low ≤ X ≤ high) ≥ 2^-20": lambda: ops.Clip(1.0, 1.0),
    "Clip(low=0.0, high=inf): expected finite low < high, P(low ≤ X ≤ high) ≥ 2^-20": lambda: ops.Clip(
        0.0, float("inf")
    ),
    "Clip(low=4.8, high=9.0): expected finite low < high, P(low ≤ X ≤ high) ≥ 2^-20": lambda: ops.Clip(4.8, 9.0),
    "Gelu(form='exact'): expected 'erf' or 'tanh'": lambda: ops.Gelu("exact"),
    "WeightedAdd(weights=(1.0, 0.0)): expected positive finite weights": lambda: ops.WeightedAdd((1.0, 0.0)),
    "WeightedAdd(weights=()): expected positive finite weights": lambda: ops.WeightedAdd(()),
    "Scaled(alpha=0.0, beta=1.0): expected positive finite factors": lambda: ops.Scaled(0.0),
    "Scaled(alpha=1.0, beta=inf): expected positive finite factors": lambda: ops.Scaled(1.0, float("inf")),
    "Fork(beta=0.0): expected a positive finite factor": lambda: ops.Fork(0.0),
    "Dropout(p=1): expected 0 ≤ p < 1": lambda: ops.Dropout(1),
    "Readout(rule='m'): expected one of ('1/sqrt(m)', '1/m')": lambda: ops.Readout("m"),
    "AttentionScores(rule='d'): expected one of ('1/sqrt(d)', '1/d'), or a positive number": (
        lambda: ops.AttentionScores("d")
    ),
    "AttentionScores(rule=0): expected one of ('1/sqrt(d)', '1/d'), or a positive number": (
        lambda: ops.AttentionScores(0)
    ),
    "AttentionScores(keys=0): expected an integer ≥ 1": lambda: ops.AttentionScores(keys=0),
    "AttentionMix(keys=1.5): expected an integer ≥ 1": lambda: ops.AttentionMix(keys=1.5),
    "MaskedSoftmax(window=0): expected an integer ≥ 1": lambda: ops.MaskedSoftmax(window=0),
    "SoftCap(cap=0.0): expected a finite number ≥ 1/16": lambda: ops.SoftCap(0.0),
    "SoftCap(cap=0.062): expected a finite number ≥ 1/16": lambda: ops.SoftCap(0.062),
    "SoftCap(cap=inf): expected a finite number ≥ 1/16": lambda: ops.SoftCap(math.inf),
    "AttentionMix(values='same'): expected one of ('correlated', 'independent', 'causal')": lambda: ops.AttentionMix(
        "same"
    ),
    "layer_norm(eps=-1): expected 0 ≤ eps < ∞": lambda: ops.LayerNorm(-1),
    "rms_norm(eps=nan): expected 0 ≤ eps < ∞": lambda: ops.RmsNorm(float("nan")),
    "rms_norm(eps=inf): expected 0 ≤ eps < ∞": lambda: ops.RmsNorm(float("inf")),
    "SoftmaxCrossEntropy(reduction='max'): expected 'mean', 'sum' or 'none'": lambda: ops.SoftmaxCrossEntropy("max"),
    "SoftTargetCrossEntropy(kept=0): expected at least one row that counts": lambda: ops.SoftTargetCrossEntropy(kept=0),
    "SoftTargetCrossEntropy(divisor=0): expected a positive finite number": lambda: ops.SoftTargetCrossEntropy(
        divisor=0
    ),
    "SoftTargetCrossEntropy(gradient_rms=inf): expected a positive finite number": lambda: ops.SoftTargetCrossEntropy(
        gradient_rms=float("inf")
    ),
    "BinaryCrossEntropy(gradient_rms=0): expected a positive finite number": lambda: ops.BinaryCrossEntropy(
        gradient_rms=0
    ),
    "HuberLoss(delta=0): expected 2^-10 ≤ delta < ∞": lambda: ops.HuberLoss(0),
    "HuberLoss(delta=0.0009): expected 2^-10 ≤ delta < ∞": lambda: ops.HuberLoss(0.0009),
    "SmoothL1Loss(beta=0.0009): expected 0, or 2^-10 ≤ beta < ∞": lambda: ops.SmoothL1Loss(0.0009),
    "SmoothL1Loss(beta=-1): expected 0, or 2^-10 ≤ beta < ∞": lambda: ops.SmoothL1Loss(-1),
    "HuberLoss(reduction='max'): expected 'mean', 'sum' or 'none'": lambda: ops.HuberLoss(1.0, "max"),
    "ThresholdedSoftplus(beta=33, threshold=20.0): expected 0 < beta ≤ 32 and 0 ≤ threshold < ∞": lambda: (
        ops.ThresholdedSoftplus(33)
    ),
    "ThresholdedSoftplus(beta=1.0, threshold=-1): expected 0 < beta ≤ 32 and 0 ≤ threshold < ∞": lambda: (
        ops.ThresholdedSoftplus(threshold=-1)
    ),
    "SoftmaxCrossEntropy(kept=0): expected at least one row that counts": lambda: ops.SoftmaxCrossEntropy(kept=0),
    "Conv1d(stride=0): expected an integer ≥ 1": lambda: ops.Conv1d(stride=0),
    "Conv1d(stride=(2,)): expected an integer ≥ 1": lambda: ops.Conv1d(stride=(2,)),
    "Conv1d(dilation=1.5): expected an integer ≥ 1": lambda: ops.Conv1d(dilation=1.5),
    "Conv1d(groups=0): expected an integer ≥ 1": lambda: ops.Conv1d(groups=0),
    "Conv1d(padding=-1): expected an integer ≥ 0 or a pair (before, after)": lambda: ops.Conv1d(padding=-1),
    "Conv1d(padding=(0, 0, 0)): expected an integer ≥ 0 or a pair (before, after)": lambda: ops.Conv1d(
        padding=(0, 0, 0)
    ),
    "Conv1d(stride=True): expected an integer ≥ 1": lambda: ops.Conv1d(stride=True),
    "Conv1d(padding='same'): expected an integer ≥ 0 or a pair (before, after)": lambda: ops.Conv1d(padding="same"),
    "Conv2d(stride=0): expected an integer ≥ 1, or one for each of 2 axes": lambda: ops.Conv2d(stride=0),
    "Conv2d(stride=(2,)): expected an integer ≥ 1, or one for each of 2 axes": lambda: ops.Conv2d(stride=(2,)),
    "Conv2d(dilation=(1, 0)): expected an integer ≥ 1, or one for each of 2 axes": lambda: ops.Conv2d(dilation=(1, 0)),
    "Conv2d(padding=-1): expected an integer ≥ 0, or for each of 2 axes one or a pair (before, after)": lambda: (
        ops.Conv2d(padding=-1)
    ),
    "Conv2d(groups=-1): expected an integer ≥ 1": lambda: ops.Conv2d(groups=-1),
    "MaxPool(kernel=(2, 2, 2, 2)): expected a number, or one for each of 1, 2 or 3 axes": lambda: ops.MaxPool(
        (2, 2, 2, 2)
    ),
    "MaxPool(kernel=()): expected a number, or one for each of 1, 2 or 3 axes": lambda: ops.MaxPool(()),
    "MaxPool(stride=()): expected a number, or one for each of 1, 2 or 3 axes": lambda: ops.MaxPool(2, ()),
    "MaxPool(kernel=2.0): expected an integer ≥ 1, or one for each of 1 axis": lambda: ops.MaxPool(2.0),
    "MaxPool(kernel=(2, 0)): expected an integer ≥ 1, or one for each of 2 axes": lambda: ops.MaxPool((2, 0)),
    "MaxPool(stride=(1,)): expected an integer ≥ 1, or one for each of 2 axes": lambda: ops.MaxPool((2, 2), (1,)),
    "MaxPool(padding=(0, -1)): expected an integer ≥ 0, or for each of 2 axes one or a pair (before, after)": lambda: (
        ops.MaxPool((2, 2), None, (0, -1))
    ),
    "MaxPool(padding=2): expected less than the kernel 2": lambda: ops.MaxPool(2, None, 2),
    "AvgPool(kernel=(2, 2, 2, 2)): expected a number, or one for each of 1, 2 or 3 axes": lambda: ops.AvgPool(
        (2, 2, 2, 2)
    ),
    "AvgPool(padding=2): expected less than the kernel 2": lambda: ops.AvgPool(2, None, 2),
    "MaxPool(dilation=0): expected an integer ≥ 1, or one for each of 1 axis": lambda: ops.MaxPool(2, dilation=0),
    "ConvTranspose(stride=0): expected an integer ≥ 1, or one for each of 1 axis": lambda: ops.ConvTranspose(0),
    "ConvTranspose(output_padding=-1): expected an integer ≥ 0, or one for each of 1 axis": lambda: ops.ConvTranspose(
        output_padding=-1
    ),
    "ConvTranspose(groups=0): expected an integer ≥ 1": lambda: ops.ConvTranspose(groups=0),
    "NearestResize(factor=0): expected an integer ≥ 1, or one for each of 1 axis": lambda: ops.NearestResize(0),
    "LinearResize(size=0): expected an integer ≥ 1, or one for each of 1 axis": lambda: ops.LinearResize(0),
    "Pad(widths=((1, -1),)): expected (before, after) of each axis, integers ≥ 0": lambda: ops.Pad(((1, -1),)),
    "Pad(widths=2): expected (before, after) of each axis, integers ≥ 0": lambda: ops.Pad(2),
    "Pad(mode='edge'): expected 'constant', 'reflect' or 'replicate'": lambda: ops.Pad(((1, 1),), "edge"),
    "Pad(value=inf): expected a finite number, 0 unless mode is 'constant'": lambda: ops.Pad(
        ((1, 1),), value=float("inf")
    ),
    "Pad(value=1.0): expected a finite number, 0 unless mode is 'constant'": lambda: ops.Pad(((1, 1),), "reflect", 1.0),
    "Glu(activation='swish'): expected one of gelu, gelu-tanh, relu, silu, tanh, sigmoid, or an elementwise op": (
        lambda: ops.Glu("swish")
    ),
    "Expand(shape='2'): expected an integer or a tuple of integers": lambda: ops.Expand("2"),
    "batch_norm(eps=-1): expected 0 ≤ eps < ∞": lambda: ops.BatchNorm(-1),
    "frozen_batch_norm(eps=-1): expected 0 ≤ eps < ∞": lambda: ops.FrozenBatchNorm(-1),
    "group_norm(eps=-1): expected 0 ≤ eps < ∞": lambda: ops.GroupNorm(1, -1),
    "GroupNorm(groups=0): expected an integer ≥ 1": lambda: ops.GroupNorm(0),
    "Sum(axes=1.5): expected an integer or a tuple of integers": lambda: ops.Sum(1.5),
    "Mean(axes=(0, True)): expected an integer or a tuple of integers": lambda: ops.Mean((0, True)),
    "Transpose(axes=(1, 0.0)): expected an integer or a tuple of integers": lambda: ops.Transpose((1, 0.0)),
    "Reshape(shape='2'): expected an integer or a tuple of integers": lambda: ops.Reshape("2"),
    "Slice(start=0.5): expected an integer": lambda: ops.Slice(0, 0.5, 1),
    "Concat(axis=(0,)): expected an integer": lambda: ops.Concat((0,)),
    "MaxPool(padding=((0, 2),)): expected less than the kernel (2,)": lambda: ops.MaxPool((2,), None, ((0, 2),)),
}


@pytest.mark.parametrize("message", ATTRIBUTES)
def test_attributes(message):
    with pytest.raises(ArgumentError) as error:
        ATTRIBUTES[message]()
    assert str(error.value) == message


CONV1D = "expected (batch, length, channels_in) and (kernel, channels_in/groups, channels_out)"
CONV2D = "expected (batch, height, width, channels_in) and (kernel, kernel, channels_in/groups, channels_out)"
SHAPES = [
    (ops.Add(), [(2, 3), (4,)], "add: shapes (2, 3), (4,) do not broadcast together"),
    (ops.Subtract(), [(2, 3), (4,)], "subtract: shapes (2, 3), (4,) do not broadcast together"),
    (ops.Multiply(), [(2, 3), (4,)], "multiply: shapes (2, 3), (4,) do not broadcast together"),
    (ops.Maximum(), [(2, 3), (4,)], "maximum: shapes (2, 3), (4,) do not broadcast together"),
    (ops.Minimum(), [(2, 3), (4,)], "minimum: shapes (2, 3), (4,) do not broadcast together"),
    (ops.Expand((2, 3)), [(2, 2, 3)], "expand: x (2, 2, 3), expected a shape that broadcasts to (2, 3)"),
    (ops.Expand((2, 3)), [(2,)], "expand: shapes (2,), (2, 3) do not broadcast together"),
    (ops.AvgPool((2,)), [(2, 3, 4, 5)], "avg_pool(kernel=(2,)): x (2, 3, 4, 5), expected (batch, length, channels)"),
    (
        ops.GroupNorm(2),
        [(2, 3), (3,), (3,)],
        "group_norm(groups=2): x (2, 3), expected (batch, …, n), n a multiple of groups",
    ),
    (
        ops.BatchNorm(),
        [(2, 3), (3,), (2,)],
        "batch_norm: x (2, 3) and parameters (3,), (2,), expected (…, n) and (n,)",
    ),
    (ops.WeightedAdd((1.0, 2.0)), [(2, 3), (4,)], "weighted_add: shapes (2, 3), (4,) do not broadcast together"),
    (ops.WeightedAdd((1.0, 2.0)), [(2, 3)], "weighted_add: 2 weights for 1 inputs"),
    (ops.Bias(), [(2, 3), (2, 2, 3)], "bias: shape (2, 2, 3) does not fit x of shape (2, 3)"),
    (ops.Glu(), [(2, 3), (2, 1)], "glu: x (2, 3) and gate (2, 1) must have one shape"),
    (ops.SiluGlu(), [(2, 3), (2, 1)], "silu_glu: x (2, 3) and gate (2, 1) must have one shape"),
    (
        ops.LstmState(),
        ((2, 3), (2, 9)),
        "lstm_state: c (2, 3) and gates (2, 9), expected (…, d) and (…, 4·d)",
    ),
    (
        ops.LstmOutput(),
        ((2, 3), (3, 12)),
        "lstm_output: c (2, 3) and gates (3, 12), expected (…, d) and (…, 4·d)",
    ),
    (
        ops.GruState(),
        ((2, 3), (2, 12), (2, 3), (2, 3)),
        "gru_state: h (2, 3) and gates (2, 12), expected (…, d) and (…, 2·d)",
    ),
    (
        ops.GruState(),
        ((2, 3), (2, 6), (2, 3), (1, 3)),
        "gru_state: h (2, 3), candidate (2, 3) and recurrent (1, 3) must have one shape",
    ),
    (
        ops.Highway(),
        [(2, 3), (2, 3), (2, 1)],
        "highway: h (2, 3), candidate (2, 3) and update (2, 1) must have one shape",
    ),
    (
        ops.Rotary(),
        [(2, 3, 5), (3, 2), (3, 2)],
        "rotary: x (2, 3, 5), cos (3, 2), sin (3, 2), expected (…, s, d) with d even and twice (s, d/2)",
    ),
    (
        ops.Rotary(),
        [(4,), (1, 2), (1, 2)],
        "rotary: x (4,), cos (1, 2), sin (1, 2), expected (…, s, d) with d even and twice (s, d/2)",
    ),
    (ops.RelativeShift(), [(3,)], "relative_shift: x (3,), expected (…, s, s)"),
    (ops.RelativeShift(), [(2, 0, 0)], "relative_shift: x (2, 0, 0), expected (…, s, s)"),
    (ops.RelativeShift(), [(2, 3, 4)], "relative_shift: x (2, 3, 4), expected (…, s, s)"),
    (ops.AttentionScores(), [(2, 3, 4), (3, 5, 4)], "attention_scores: shapes (2,), (3,) do not broadcast together"),
    (ops.Matmul(), [(2, 3), (4, 5)], "matmul: x (2, 3) and w (4, 5), expected (…, b, m) and (…, m, n)"),
    (ops.Matmul(), [(3,), (3, 5)], "matmul: x (3,) and w (3, 5), expected (…, b, m) and (…, m, n)"),
    (ops.Matmul(), [(2, 2, 3), (4, 3, 5)], "matmul: shapes (2,), (4,) do not broadcast together"),
    (ops.AttentionMix(), [(2, 3), (4, 5)], "attention_mix: x (2, 3) and w (4, 5), expected (…, b, m) and (…, m, n)"),
    (ops.Readout(), [(2, 3), (4, 5)], "readout: x (2, 3) and w (4, 5), expected (…, b, m) and (…, m, n)"),
    (ops.Readout(), [(2, 3), (1, 3, 5)], "readout: w (1, 3, 5), expected (m, n)"),
    (ops.Readout(), [(2, 3), ()], "readout: w (), expected (m, n)"),
    (
        ops.AttentionScores(),
        [(2, 3, 4), (2, 3, 5)],
        "attention_scores: q (2, 3, 4) and k (2, 3, 5), expected (…, s, d) and (…, t, d)",
    ),
    (ops.Conv1d(), [(2, 8), (3, 4, 5)], f"conv1d(groups=1): x (2, 8) and weight (3, 4, 5), {CONV1D}"),
    (ops.Conv1d(), [(2, 8, 4), (3, 2, 5)], f"conv1d(groups=1): x (2, 8, 4) and weight (3, 2, 5), {CONV1D}"),
    (
        ops.Conv1d(groups=2),
        [(2, 8, 4), (3, 2, 5)],
        f"conv1d(groups=2): x (2, 8, 4) and weight (3, 2, 5), {CONV1D}",
    ),
    (
        ops.Conv1d(padding=(1, 0), dilation=4),
        [(2, 7, 4), (3, 4, 5)],
        "conv1d: space (7,) padded to (8,), expected at least (9,)",
    ),
    (
        ops.Conv2d(),
        [(2, 8, 8, 4), (3, 4, 5)],
        f"conv2d(groups=1): x (2, 8, 8, 4) and weight (3, 4, 5), {CONV2D}",
    ),
    (
        ops.Conv2d(padding=(1, 0)),
        [(2, 8, 2, 4), (3, 3, 4, 5)],
        "conv2d: space (8, 2) padded to (10, 2), expected at least (3, 3)",
    ),
    (ops.MaxPool((2,)), [(2, 8)], "max_pool(kernel=(2,)): x (2, 8), expected (batch, length, channels)"),
    (
        ops.MaxPool((2, 2)),
        [(2, 8, 3)],
        "max_pool(kernel=(2, 2)): x (2, 8, 3), expected (batch, height, width, channels)",
    ),
    (
        ops.MaxPool(2),
        [(2, 8)],
        "max_pool(kernel=2): x (2, 8), expected (batch, length, channels) or (batch, height, width, channels) or "
        "(batch, depth, height, width, channels)",
    ),
    (
        ops.MaxPool(2, padding=1, dilation=2),
        [(2, 1, 3)],
        "max_pool: a window of (1,) has only padding, expected an element of x in each",
    ),
    (
        ops.ConvTranspose(2, 3),
        [(2, 2, 3), (3, 3, 4)],
        "conv_transpose: space (2,), kernel (3,), padding ((3, 3),) and output_padding (0,) give (-1,), expected at "
        "least one place, and output_padding less than stride or dilation",
    ),
    (
        ops.ConvTranspose(2, output_padding=2),
        [(2, 2, 3), (3, 3, 4)],
        "conv_transpose: space (2,), kernel (3,), padding ((0, 0),) and output_padding (2,) give (7,), expected at "
        "least one place, and output_padding less than stride or dilation",
    ),
    (
        ops.ConvTranspose(groups=2),
        [(2, 2, 4), (3, 4, 4)],
        "conv_transpose(groups=2): x (2, 2, 4) and weight (3, 4, 4), expected (batch, length, channels) or (batch, "
        "height, width, channels) or (batch, depth, height, width, channels) and (*kernel, channels_in/groups, "
        "channels_out)",
    ),
    (ops.Pad(((1, 1),)), [(2, 3)], "pad: 1 widths of x (2, 3), expected one for each axis"),
    (
        ops.Pad(((0, 0), (0, 3)), "reflect"),
        [(2, 3)],
        "pad(mode='reflect'): widths (0, 3) of a side of 3, expected a longer side",
    ),
    (
        ops.LinearResize((2,)),
        [(2, 3)],
        "linear_resize(size=(2,)): x (2, 3), expected (batch, length, channels) with elements",
    ),
    (
        ops.LinearResize(2),
        [(2, 0, 3)],
        "linear_resize(size=2): x (2, 0, 3), expected (batch, length, channels) or (batch, height, width, channels) or "
        "(batch, depth, height, width, channels) with elements",
    ),
    (ops.NearestResize((2,)), [(2, 3)], "nearest_resize(factor=(2,)): x (2, 3), expected (batch, length, channels)"),
    (
        ops.BinaryCrossEntropy(),
        [(2, 3), (2, 3), (3,)],
        "binary_cross_entropy: logits (2, 3), positive (2, 3) and negative (3,), expected one shape with at least one "
        "element",
    ),
    (
        ops.SoftTargetCrossEntropy(),
        [(2, 3), (2,)],
        "soft_target_cross_entropy: logits (2, 3), targets (2,), expected one shape (…, s)",
    ),
    (
        ops.HuberLoss(),
        [(2, 3), (3,)],
        "huber_loss: x (2, 3) and target (3,), expected one shape with at least one element",
    ),
    (ops.MaxPool((4,)), [(2, 3, 3)], "max_pool: space (3,) padded to (3,), expected at least (4,)"),
    (ops.Softmax(), [()], "softmax: x (), expected (…, s) with s ≥ 1"),
    (ops.LogSoftmax(), [(3, 0)], "log_softmax: x (3, 0), expected (…, s) with s ≥ 1"),
    (
        ops.LayerNorm(),
        [(2, 3), (3,), (2,)],
        "layer_norm: x (2, 3) and parameters (3,), (2,), expected (…, n) and (n,)",
    ),
    (ops.RmsNorm(), [(2, 3), (1, 3)], "rms_norm: x (2, 3) and parameters (1, 3), expected (…, n) and (n,)"),
    (ops.Sum((2,)), [(2, 3)], "sum: axis 2 of an array with 2 dimensions"),
    (ops.Sum((0, -2)), [(2, 3)], "sum: axes (0, -2) of (2, 3) name one axis twice"),
    (ops.Mean((-3,)), [(2, 3)], "mean: axis -3 of an array with 2 dimensions"),
    (ops.Mean((0,)), [(0, 3)], "mean: x (0, 3) along axes (0,), expected at least one element"),
    (ops.Mean(), [(2, 0)], "mean: x (2, 0) along axes (0, 1), expected at least one element"),
    (
        ops.MseLoss(),
        [(0, 3), (0, 3)],
        "mse_loss: x (0, 3) and target (0, 3), expected one shape with at least one element",
    ),
    (ops.Reshape((4, 2)), [(2, 3)], "reshape: (2, 3) (6 elements) into (4, 2)"),
    (ops.Reshape((-1, 4)), [(2, 3)], "reshape: (2, 3) (6 elements) into (-1, 4)"),
    (ops.Transpose((0, 0)), [(2, 3)], "transpose: axes (0, 0), expected a permutation of the 2 axes of x (2, 3)"),
    (ops.Slice(1, 2, 5), [(2, 3)], "slice: 2:5 of axis 1 of (2, 3)"),
    (ops.Slice(1, 2, 2), [(2, 3)], "slice: 2:2 of axis 1 of (2, 3)"),
    (ops.Slice(2, 0, 1), [(2, 3)], "slice: axis 2 of an array with 2 dimensions"),
    (ops.Concat(0), [(2, 3), (2, 4)], "concat: shapes (2, 3), (2, 4) differ in axes other than 0"),
    (ops.MseLoss(), [(2, 3), (3,)], "mse_loss: x (2, 3) and target (3,), expected one shape with at least one element"),
    (ops.LossSum(), [(), (1,)], "loss_sum: shapes (), (1,), expected scalars"),
]


def run(op, scheme, arrays):
    tape = Tape(scheme)
    apply(op, *(tape.tensor(a) for a in arrays))


@pytest.mark.parametrize("scheme", [regular, unit], ids=["regular", "unit"])
@pytest.mark.parametrize(("op", "shapes", "message"), SHAPES, ids=[message for _, _, message in SHAPES])
def test_shapes(op, shapes, message, scheme):
    with pytest.raises(ShapeError) as error:
        run(op, scheme, [np.ones(shape) for shape in shapes])
    assert str(error.value) == message


LOGITS = np.zeros((2, 3))
VALUES = [
    (ops.Log(), [np.array([1.0, 0.0])], "log: smallest element is 0.0, expected all > 0"),
    (ops.Sqrt(), [np.array([1.0, -2.0])], "sqrt: smallest element is -2.0, expected all > 0"),
    (ops.Dropout(0.5), [np.ones(3), np.ones(3)], "dropout: keep is float32(3,), expected bool(3,)"),
    (ops.Dropout(0.5), [np.ones(3), np.ones((), bool)], "dropout: keep is bool(), expected bool(3,)"),
    (
        ops.MaskedSoftmax(),
        [LOGITS, np.ones((2, 3))],
        "masked_softmax: mask is float32, expected bool",
    ),
    (
        ops.MaskedSoftmax(),
        [LOGITS, np.ones((2, 2, 3), bool)],
        "masked_softmax: x (2, 3) and mask (2, 2, 3), expected (…, s, t) and a shape that fits it",
    ),
    (
        ops.MaskedSoftmax(),
        [np.ones(3), np.ones(3, bool)],
        "masked_softmax: x (3,) and mask (3,), expected (…, s, t) and a shape that fits it",
    ),
    (ops.Gather(), [LOGITS, np.array([0, 2])], "gather: indices from 0 to 2, expected 0 … 1"),
    (ops.Gather(), [LOGITS, np.array([0.0])], "gather: indices are float32, expected integers"),
    (ops.Gather(), [LOGITS, np.array(0)], "gather: x (2, 3) and positions (), expected (…, n, d) and (…, k)"),
    (ops.Embedding(), [LOGITS, np.array([-1, 1])], "embedding: indices from -1 to 1, expected 0 … 1"),
    (ops.Embedding(), [LOGITS, np.array([0.0])], "embedding: indices are float32, expected integers"),
    (ops.Embedding(), [np.ones(()), np.array([0])], "embedding: table (), expected (v, d)"),
    (
        ops.SoftmaxCrossEntropy(),
        [LOGITS, np.array([0, 3])],
        "softmax_cross_entropy: targets from 0 to 3, expected 0 … 2",
    ),
    (
        ops.SoftmaxCrossEntropy(),
        [LOGITS, np.array([0, -100])],
        "softmax_cross_entropy: targets from -100 to 0, expected 0 … 2",
    ),
    (
        ops.SoftmaxCrossEntropy(),
        [LOGITS, np.array([0.0, 1.0])],
        "softmax_cross_entropy: targets are float32, expected integers",
    ),
    (
        ops.SoftmaxCrossEntropy(),
        [LOGITS, np.array([0])],
        "softmax_cross_entropy: logits (2, 3), targets (1,), expected (…, s) and (…)",
    ),
    (
        ops.SoftmaxCrossEntropy(ignore_index=-100),
        [LOGITS, np.array([0, -100])],
        "softmax_cross_entropy: kept=2, but 1 rows count",
    ),
    (
        ops.SoftmaxCrossEntropy(kept=3),
        [LOGITS, np.array([0, 1])],
        "softmax_cross_entropy: 3 rows count of 2, expected at least one",
    ),
]


@pytest.mark.parametrize("scheme", [regular, unit], ids=["regular", "unit"])
@pytest.mark.parametrize(("op", "arrays", "message"), VALUES, ids=[message for _, _, message in VALUES])
def test_values(op, arrays, message, scheme):
    with pytest.raises(RefscaleError) as error:
        run(op, scheme, arrays)
    assert isinstance(error.value, ValueError)
    assert str(error.value) == message


def test_split_points():
    assert ops.split_points(6, 3) == [(0, 2), (2, 4), (4, 6)]
    assert ops.split_points(6, (1, 5)) == [(0, 1), (1, 6)]
    for parts, shown in ((4, "4"), ((1, 4), r"\(1, 4\)"), ((0, 6), r"\(0, 6\)")):
        with pytest.raises(ShapeError, match=rf"^split: 6 elements into parts {shown}$"):
            ops.split_points(6, parts)
