"""Inputs for which each factor must make something exactly 1, without statistics.

``CHECKS`` maps each op class to its checks.  A check runs one op under the unit scheme, through the engine, on inputs
for which the unscaled answer is known, and compares one number (the RMS, standard deviation or mean of the output or of
a gradient) with what it must be: 1, unless said otherwise.  ``test_factors.py`` asserts that the checks pass, that they
cover every factor of every op, and that they reject each factor changed by 3 %.

The constructions: columns of a Hadamard matrix times signs have an RMS of exactly √terms
(``refscale.testing.hadamard``); the quantile grid stands for N(0, 1); counting does the rest.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from refscale import ops
from refscale.engine import Op, Tape, apply, backward
from refscale.scales import SCHEMES
from refscale.testing import hadamard, quantile_grid, rms, signs, std
from tests.ops.cases import IGNORE

EXACT = 1e-12
"""Relative: a handful of roundings of 1e-16 each, with sums of at most a few thousand terms."""
GRID = 1e-3
"""Relative: the quantile grid of 65 536 points lacks the tails beyond 4.3."""
TAIL = 1e-2
"""Relative: as GRID, for e^x, whose second moment has 1 % of its weight beyond 4.3 (N(2, 1) in disguise)."""

MEASURES = {"rms": rms, "std": std, "mean": lambda x: float(np.mean(x))}


@dataclass(frozen=True)
class Check:
    """One number of one run.

    Attributes:
        op: what to run.
        place: "α" for the output, or the position of an input for its gradient.
        arrays: the inputs.
        gradient: of the output.
        measure: which number.
        expected, tolerance: what it must be, and how nearly (relative).
        statistic: of the scheme.
        ways: run the op so often on the first input, and add up the gradients.
    """

    op: Op
    place: Any
    arrays: tuple
    gradient: Any = None
    measure: str = "rms"
    expected: float = 1.0
    tolerance: float = EXACT
    statistic: str = "std"
    ways: int = 1

    def __str__(self):
        return f"{self.op}: {self.measure} at {self.place}, {self.statistic}"

    def run(self):
        """Raise AssertionError unless the number is what it must be."""
        tape = Tape(SCHEMES["unit" if self.statistic == "std" else "unit-rms"], dtype=np.float64)
        leaves = [tape.tensor(x) for x in self.arrays]
        outputs = [apply(self.op, *leaves) for _ in range(self.ways)]
        if self.place == "α":
            measured = outputs[0].value
        else:
            for k, y in enumerate(outputs):
                backward(y, self.gradient if self.ways == 1 else self.gradient[k])
            measured = leaves[self.place].grad
        value = MEASURES[self.measure](measured)
        assert abs(value / self.expected - 1) <= self.tolerance, f"{self}: {value}, expected {self.expected}"


CHECKS = defaultdict(list)


def check(op, place, *arrays, **rest):
    CHECKS[type(op)].append(Check(op, place, arrays, **rest))


RNG = np.random.default_rng(0)


def any_signs(*shape):
    """Signs, for inputs whose particular values must not matter."""
    return signs(shape, RNG)


H8, H16, H32 = map(hadamard, (8, 16, 32))
STACKED = np.concatenate([H16, H16], 1)
"""(16, 32): the sums of its columns have an RMS of exactly √16."""
QUADRANTS = np.array([[1.0, 1.0, -1.0, -1.0], [1.0, -1.0, 1.0, -1.0]])
"""Two rows of signs that meet in all four ways: Σ γ_i·row_i has an RMS of √(Σ γ_i²)."""


# Arithmetic.

for two in (ops.Add(), ops.Subtract()):
    check(two, "α", *QUADRANTS)
    for i in (0, 1):
        check(two, i, *QUADRANTS, gradient=any_signs(4))
    check(two, 1, any_signs(16, 32), any_signs(32), gradient=STACKED)
    check(two, 0, any_signs(32, 1), any_signs(32, 16), gradient=STACKED.T)
weighted = ops.WeightedAdd((0.75, 0.5))
check(weighted, "α", *QUADRANTS)
for i in (0, 1):
    check(weighted, i, *QUADRANTS, gradient=any_signs(4))
check(weighted, 1, any_signs(16, 32), any_signs(32), gradient=STACKED)
check(ops.Bias(), "α", any_signs(16, 32), np.zeros(32))
check(ops.Bias(), 0, any_signs(16, 32), np.zeros(32), gradient=any_signs(16, 32))
check(ops.Bias(), 1, any_signs(2, 8, 32), np.zeros(32), gradient=STACKED.reshape(2, 8, 32))
left, right = any_signs(16, 32), any_signs(32)
check(ops.Multiply(), "α", left, right)
check(ops.Multiply(), 0, left, right, gradient=any_signs(16, 32))
check(ops.Multiply(), 1, left, right, gradient=STACKED * left)
grid = quantile_grid(65_536)
glu = any_signs(65_536), grid
check(ops.SiluGlu(), "α", *glu, tolerance=GRID)
for i in (0, 1):
    check(ops.SiluGlu(), i, *glu, gradient=any_signs(65_536), tolerance=GRID)
keep = np.arange(16) % 4 > 0
check(ops.Dropout(0.25), "α", any_signs(16), keep)
check(ops.Dropout(0.25), 0, any_signs(16), keep, gradient=any_signs(16))
check(ops.Scaled(0.5, 3.0), "α", any_signs(16), expected=0.5)
check(ops.Scaled(0.5, 3.0), 0, any_signs(16), gradient=any_signs(16), expected=3.0)
check(ops.Fork(2**-0.5), "α", any_signs(4), ways=2)
check(ops.Fork(2**-0.5), 0, any_signs(4), gradient=QUADRANTS, ways=2)

# Contractions: x (b, m) with columns of a Hadamard matrix, so b·m·n = 32·12·20.


def matmul_gradients(op):
    """β of both operands; the sizes differ, so that no factor can be mistaken for another."""
    check(op, 0, any_signs(32, 12), any_signs(12, 20), gradient=H32[:, :20])
    check(op, 1, H32[:, :12].T, any_signs(32, 20), gradient=any_signs(12, 20))


matmul_gradients(ops.Matmul())
check(ops.Matmul(), "α", H32[:, :12], any_signs(12, 20))
check(ops.Matmul(), "α", H32[:, :12].reshape(4, 8, 12), any_signs(12, 20))
check(ops.Matmul(), 1, H32[:, :12].T.reshape(3, 4, 32), any_signs(32, 20), gradient=any_signs(3, 4, 20))
# Repeated operands: x by 4 products with 5 columns each, w by 3 with 4 rows each.
columns = H32[:, :20].reshape(32, 4, 5).swapaxes(0, 1)
check(ops.Matmul(), 0, any_signs(1, 32, 12), any_signs(4, 12, 5), gradient=columns)
check(ops.Matmul(), 1, H32[:, :12].T.reshape(3, 4, 32), any_signs(1, 32, 20), gradient=any_signs(3, 4, 20))
matmul_gradients(ops.Readout())
check(ops.Readout(), "α", H32[:, :12], any_signs(12, 20))
matmul_gradients(ops.Readout("1/m"))
check(ops.Readout("1/m"), "α", np.ones((32, 12)), np.ones((12, 20)))
matmul_gradients(ops.AttentionMix())
matmul_gradients(ops.AttentionMix("independent"))
check(ops.AttentionMix("independent"), "α", H32[:, :12], any_signs(12, 20))
mixture = RNG.random((5, 12))
check(ops.AttentionMix(), "α", mixture / mixture.mean(1, keepdims=True), np.tile(any_signs(1, 20), (12, 1)))
for rule, exponent in (("1/sqrt(d)", 0.5), ("1/d", 1)):
    scores = ops.AttentionScores(rule)
    # Damped on purpose by d^(½ − exponent), which is part of the function.
    check(scores, "α", H32[:, :12], any_signs(20, 12), expected=12 ** (0.5 - exponent))
    check(scores, 0, any_signs(32, 12), any_signs(20, 12), gradient=H32[:, :20])
    check(scores, 1, H32[:12], any_signs(20, 32), gradient=any_signs(12, 20))


# Convolutions.  Windows are rows of a matrix: a Hadamard weight makes outputs and gradients sums of known RMS.


def per_group(matrix, groups=2):
    """The same weights or gradients for each group of channels_out."""
    return np.concatenate([matrix] * groups, -1)


conv1d = ops.Conv1d(stride=2, dilation=2, groups=2)
taps_forward = per_group(H8[:6].reshape(3, 2, 8))  # kernel 3 · channels_in/groups 2 = 6 terms
check(conv1d, "α", any_signs(2, 9, 4), taps_forward)
check(conv1d, 1, any_signs(2, 9, 4), taps_forward, gradient=per_group(H8[:6].reshape(2, 3, 8)))  # 2·3 positions
# Padding of kernel − stride at both ends: every element of x is seen by kernel/stride = 2 windows of 2 outputs.
seen_twice = per_group(H8.reshape(4, 2, 8).swapaxes(1, 2))
check(ops.Conv1d(2, 2, groups=2), 0, any_signs(2, 6, 16), seen_twice, gradient=any_signs(2, 4, 4))
conv2d = ops.Conv2d(stride=(1, 2), groups=2)
check(conv2d, "α", any_signs(2, 3, 4, 4), per_group(H8.reshape(2, 2, 2, 8)))
check(conv2d, 1, any_signs(2, 3, 4, 4), per_group(H8.reshape(2, 2, 2, 8)), gradient=per_group(H8.reshape(2, 2, 2, 8)))
seen_2d = per_group(H8.reshape(2, 2, 2, 8).swapaxes(2, 3))
check(
    ops.Conv2d((1, 2), ((1, 1), (0, 0)), groups=2), 0, any_signs(1, 3, 4, 16), seen_2d, gradient=any_signs(1, 4, 2, 4)
)
for kernel in ((3,), (2, 2)):
    k, windows = math.prod(kernel), 2**14
    # One element of each window is at the quantiles of Φ(x)^k, the distribution of the largest of k.
    largest = [NormalDist().inv_cdf(((i + 0.5) / windows) ** (1 / k)) for i in range(windows)]
    plane = np.full((windows, k), -10.0)
    plane[np.arange(windows), np.arange(windows) % k] = largest
    pooled = plane.reshape(1, -1, 1) if k == 3 else plane.reshape(windows, 2, 2, 1)
    for statistic in ("std", "rms"):
        check(ops.MaxPool(kernel), "α", pooled, measure=statistic, statistic=statistic, tolerance=GRID)
        shape = (1, windows, 1) if k == 3 else (windows, 1, 1, 1)
        check(ops.MaxPool(kernel), 0, pooled, gradient=any_signs(*shape), statistic=statistic)
rising = np.arange(9.0).reshape(1, 9, 1)  # overlapping windows, each with a largest element of its own
check(ops.MaxPool((3,), (2,)), 0, rising, gradient=any_signs(1, 4, 1))

# Activations.

for op, arrays, forward_tolerance, gradient_tolerance in (
    (ops.Relu(), grid, GRID, GRID),
    (ops.LeakyRelu(), grid, GRID, GRID),
    (ops.LeakyRelu(0.3), grid, GRID, GRID),
    (ops.Gelu(), grid, GRID, GRID),
    (ops.Gelu("tanh"), grid, GRID, GRID),
    (ops.Silu(), grid, GRID, GRID),
    (ops.Tanh(), grid, GRID, GRID),
    (ops.Sigmoid(), grid, GRID, GRID),
    (ops.Softplus(), grid, GRID, GRID),
    (ops.Exp(), grid, TAIL, TAIL),
    (ops.Log(), np.exp(grid), GRID, TAIL),
    (ops.Sqrt(), np.exp(grid), GRID, GRID),
):
    for statistic in ("std", "rms") if op.has_mean else ("std",):
        check(op, "α", arrays, measure=statistic, statistic=statistic, tolerance=forward_tolerance)
        gradient = any_signs(65_536)
        check(op, 0, arrays, gradient=gradient, statistic=statistic, tolerance=gradient_tolerance)

# Softmax: the paper's rule makes the mean 1, and the gradient's RMS at uniform logits where g has mean zero; the rule
# by RMS is the limit of wide rows of N(0, 1) logits.

row = grid[None]
alternating = np.where(np.arange(65_536) % 2, 1.0, -1.0)[None]
for op, more in ((ops.Softmax(), ()), (ops.MaskedSoftmax(), (np.ones((1, 1), bool),))):
    check(op, "α", RNG.standard_normal((3, 7)), *more, measure="mean")
    check(op, 0, np.zeros((31, 32)), *more, gradient=H32[1:])
    check(op, "α", row, *more, statistic="rms", tolerance=TAIL)
    check(op, 0, row, *more, gradient=alternating, statistic="rms", tolerance=TAIL)
check(ops.LogSoftmax(), "α", row, measure="std", tolerance=GRID)
check(ops.LogSoftmax(), 0, np.zeros((8, 8)), gradient=H8)  # the first row is constant: all of it is removed
check(ops.LogSoftmax(), "α", row, statistic="rms", tolerance=GRID)
check(ops.LogSoftmax(), 0, np.zeros((8, 8)), gradient=H8, statistic="rms")

# Norms: normalized rows of signs of mean zero are themselves; g orthogonal to them and to 1 passes whole.

balanced, one, zero = H16[1] * any_signs(16, 1), np.ones(16), np.zeros(16)
for norm, parameters in ((ops.LayerNorm(0.0), (one, zero)), (ops.RmsNorm(0.0), (one,))):
    check(norm, "α", 7 * balanced, *parameters)
    check(norm, 0, balanced[2:], *parameters, gradient=H16[2:])
    check(norm, 1, balanced[:8], *parameters, gradient=H8[:, np.arange(16) % 8] * balanced[:8])
check(ops.LayerNorm(0.0), 2, balanced[:8], one, zero, gradient=H8[:, np.arange(16) % 8])

# Reductions.

for op in (ops.Sum((-1,)), ops.Mean((-1,))):
    check(op, "α", np.concatenate([H16, H16], 0))
    check(op, 0, any_signs(32, 16), gradient=any_signs(32))

# Movement.

values = any_signs(6, 8)
for op, shape in ((ops.Reshape((4, 12)), (4, 12)), (ops.Transpose((1, 0)), (8, 6)), (ops.Slice(1, 2, 5), (6, 3))):
    check(op, "α", values)
    check(op, 0, values, gradient=any_signs(*shape))
check(ops.Concat(0), "α", values, any_signs(3, 8))
for i in (0, 1):
    check(ops.Concat(0), i, values, any_signs(3, 8), gradient=any_signs(9, 8))
distinct = np.array([[4, 0], [2, 1]])
check(ops.Gather(), "α", any_signs(2, 5, 3), distinct)
check(ops.Gather(), 0, any_signs(2, 5, 3), distinct, gradient=any_signs(2, 2, 3))
check(ops.Embedding(), "α", any_signs(8, 5), np.array([[3, 1]]))
check(ops.Embedding(), 0, any_signs(8, 5), np.array([[3, 1]]), gradient=any_signs(1, 2, 5))  # some rows, once
# Every row 16 times: row r of the gradient sums 16 rows of columns of H16.
often = np.repeat(np.arange(8), 16)
check(ops.Embedding(), 0, any_signs(8, 16), often, gradient=np.tile(H16, (8, 1)))

# Losses: α = 1, for the value is the loss; the gradients at uniform logits and at independent signs.

uniform, targets = np.zeros((2, 3, 5)), np.array([[0, 1, 2], [3, 4, 0]])
some = np.where([[True, False, True], [False, True, True]], targets, IGNORE)
for reduction, share in (("sum", 1), ("mean", 0)):
    every = ops.SoftmaxCrossEntropy(reduction)
    check(every, "α", uniform, targets, expected=math.log(5) * 6**share)
    check(every, 0, uniform, targets, gradient=1.0)
    check(every, 0, np.zeros((6, 2)), targets.ravel() % 2, gradient=1.0)
    check(ops.SoftmaxCrossEntropy(reduction, IGNORE, 4), "α", uniform, some, expected=math.log(5) * 4**share)
    check(ops.SoftmaxCrossEntropy(reduction, IGNORE, 4), 0, uniform, some, gradient=1.0)
check(ops.MseLoss(), "α", *QUADRANTS, expected=2.0)
for i in (0, 1):
    check(ops.MseLoss(), i, *QUADRANTS, gradient=1.0)
check(ops.LossSum(), "α", *map(np.asarray, (1.0, 2.0, 4.0)), expected=7.0)
for i in range(3):
    check(ops.LossSum(), i, *map(np.asarray, (1.0, 2.0, 4.0)), gradient=1.0)


def assert_unit(op_class):
    """All checks of one op."""
    for one_check in CHECKS[op_class]:
        one_check.run()


def places(op_class):
    """Every factor that the checks of one op must see: "α" and the positions of the inputs with a gradient."""
    example = CHECKS[op_class][0]
    scales = example.op.scale(*(x.shape for x in example.arrays))
    return ["α", *(i for i, beta in enumerate(scales.beta) if beta is not None)]
