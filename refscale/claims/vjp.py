"""Backward passes: each is the vector-Jacobian product of its forward pass, and the engine adds only the factors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from refscale import ops
from refscale.analysis.tables import ops as ops_table
from refscale.claims.claim import Figures, claim, near, none_wrong, same
from refscale.engine import Array, Example, Input, Op, Tape, Tensor, apply, backward, example
from refscale.errors import TapeError
from refscale.scales import Call, Regular, Scales, regular
from refscale.testing import assert_vjp
from refscale.testing.places import Place

SMALL = 5
"""Largest size: an error in one element shows in an inner product of few elements as well as of many."""
GOOD = 1e-6
"""Relative error of Richardson differences in float64; usually below 1e-9."""


def examples(place: Place, page: str | None = None) -> list[tuple[Op, list[Array]]]:
    """Return every op of the table, or of one page of it, at small sizes, with inputs."""
    p, rng = place.at_most(b=SMALL, m=SMALL, n=SMALL, s=SMALL), place.rng()
    found = ops_table.examples(p.sizes)
    here = [e for e in found if page is None or type(e.op).__module__ == f"refscale.ops.{page}"]
    return [(e.op, e.arrays(rng)) for e in here]


def check(op: Op, arrays: list[Array], rng: np.random.Generator) -> float:
    """Apply ``assert_vjp`` to one op through the engine, unscaled."""
    last: list[tuple[Tensor, list[Tensor]]] = []

    def forward(*xs: Array) -> Array:
        tape = Tape(regular, dtype=np.float64)
        leaves = [tape.tensor(x) for x in xs]
        last[:] = [(apply(op, *leaves), leaves)]
        return last[0][0].value

    def vjp(g: Array) -> list[Array | None]:
        output, leaves = last[0]
        backward(output, g)
        return [leaf.grad for leaf in leaves]

    return assert_vjp(forward, vjp, arrays, rng=rng, directions=2)


def _page(page: str, place: Place, *more: Example) -> Figures:
    """Yield figures of every op of a page, and of more uses of them."""
    others = [(e.op, e.arrays(place.rng())) for e in more]
    for op, arrays in examples(place, page) + others:
        what = f"{op.name} of {' '.join(str(a.shape) for a in arrays)}: relative error"
        yield near(what, 1 + check(op, arrays, place.rng()), 1.0, GOOD)


SOURCE = "inner products with differences of the forward pass, float64 (refscale.testing.assert_vjp)"


@claim(SOURCE, "bmns")
def claim_2_01_arithmetic(place: Place) -> Figures:
    """The backward passes of sums, biases, products, gated units, recurrent cells and dropout are their vjps."""
    for page in ("arithmetic", "scalars", "gates", "identities", "noise", "recurrent"):
        yield from _page(page, place)


@claim(SOURCE, "bmns")
def claim_2_02_contraction(place: Place) -> Figures:
    """The backward passes of matrix products, attention scores, mixtures and readouts are their vjps.

    Any number of leading axes is allowed.
    """
    b, m, n, s = place.at_most(b=2, m=3, n=4, s=3).sizes.values()
    yield from _page(
        "contraction",
        place,
        example(ops.Matmul(), (b, s, m), (m, n)),
        example(ops.Matmul(), (b, 1, s, m), (2, m, n)),
        example(ops.AttentionScores(), (2, b, s, m), (2, b, n, m)),
        example(ops.AttentionMix(), (2, b, s, n), (2, b, n, m)),
        example(ops.Readout(), (b, s, m), (m, n)),
    )


@claim(SOURCE, "bmns")
def claim_2_03_convolution(place: Place) -> Figures:
    """The backward passes of convolutions, with stride, padding, dilation and groups, and of pooling are their vjps."""
    yield from _page("convolution", place)
    yield from _page("pooling", place)
    p, rng = place.at_most(b=3, m=2, n=2, s=4), place.rng()
    for op, x, w in (
        (ops.Conv1d(2, (2, 1), 2, 2), (p.b, p.s + 4, 2 * p.m), (3, p.m, 2 * p.n)),
        (ops.Conv2d((2, 1), ((1, 0), 2), (1, 2), 2), (p.b, p.s + 2, p.s + 2, 2 * p.m), (2, 3, p.m, 2 * p.n)),
    ):
        error = check(op, [rng.standard_normal(x), rng.standard_normal(w)], rng)
        yield near(f"{op.name}, strided, dilated, in groups: relative error", 1 + error, 1.0, GOOD)


@claim(SOURCE, "bmns")
def claim_2_04_activations(place: Place) -> Figures:
    """The backward passes of activations and elementary functions are their vjps."""
    yield from _page("activations", place)


@claim(SOURCE, "bmns")
def claim_2_05_softmax(place: Place) -> Figures:
    """The backward passes of softmax, masked and causal, and of log softmax are their vjps."""
    b, _, n, s = place.at_most(b=2, n=4, s=3).sizes.values()
    yield from _page(
        "softmax",
        place,
        example(ops.Softmax(), (b, 2, s, n)),
        example(ops.MaskedSoftmax(), (b, 2, s, n), Input((b, 1, 1, n), "mask")),
        example(ops.LogSoftmax(), (b, s, n)),
    )


@claim(SOURCE, "bmns")
def claim_2_06_norms(place: Place) -> Figures:
    """The backward passes of layer norm and RMS norm are their vjps, for input, gain and bias."""
    b, m, _, s = place.at_most(b=2, m=5, s=3).sizes.values()
    width = (m + 3,)  # the norm of two numbers returns signs, with slope 0
    several = (b, s, *width)
    yield from _page(
        "norms", place, example(ops.LayerNorm(), several, width, width), example(ops.RmsNorm(), several, width)
    )


@claim(SOURCE, "bmns")
def claim_2_07_reduction_and_movement(place: Place) -> Figures:
    """The backward passes of sums, means and moves are their vjps, also for rows gathered or embedded repeatedly."""
    yield from _page("reduction", place)
    yield from _page("movement", place)
    yield from _page("resampling", place)


@claim(SOURCE, "bmns")
def claim_2_08_losses(place: Place) -> Figures:
    """The backward passes of cross-entropies, with all or some rows, of errors and of sums of losses are their vjps."""
    yield from _page("losses", place)
    yield from _page("regression", place)
    rng = place.rng()
    targets = rng.integers(0, SMALL, 6)
    targets[2::3] = -100
    for reduction in ("sum", "mean"):
        op = ops.SoftmaxCrossEntropy(reduction, -100, 4)
        error = check(op, [rng.standard_normal((6, SMALL)), targets], rng)
        yield near(f"{reduction} over 4 of 6 rows: relative error", 1 + error, 1.0, GOOD)


@dataclass(frozen=True)
class PowersOfTwo(Regular):
    """A scheme with factors that multiply without rounding."""

    def scales(self, call: Call) -> Scales:
        """Return α = 4, β = 1/2, 1/4, …"""
        betas = tuple(None if i in call.op.constants else 2.0 ** -(i + 1) for i in range(len(call.shapes)))
        return Scales(4.0, betas)


@claim("paper, definition of a scaled op", "bmns")
def claim_2_09_scaled_op(place: Place) -> Figures:
    """A scaled op computes α·f forward and β_i·vjp_i backward, to the last bit."""
    for op, arrays in examples(place):
        runs = []
        for scheme in (regular, PowersOfTwo()):
            tape = Tape(scheme, dtype=np.float64)
            leaves = [tape.tensor(x) for x in arrays]
            y = apply(op, *leaves)
            backward(y, np.random.default_rng(1).standard_normal(y.shape))
            runs.append((y.value, [leaf.grad for leaf in leaves]))
        (plain, gradients), (scaled, others) = runs
        wrong = int(not np.array_equal(4 * plain, scaled))
        for i, (g, h) in enumerate(zip(gradients, others, strict=True)):
            if g is not None and h is not None:
                wrong += int(not np.array_equal(2.0 ** -(i + 1) * g, h))
        yield none_wrong(f"{op.name}: results that are not scaled", wrong)


@claim("reverse accumulation; Griewank and Walther 2008, section 3.2", "bm")
def claim_2_10_engine(place: Place) -> Figures:
    """The gradients from all consumers of a tensor are added; a second backward pass over a tape is refused."""
    rng = place.rng()
    x = rng.integers(-8, 9, (place.b, place.m)).astype(np.float64)  # small integers, so that no sum is rounded
    tape = Tape(regular, dtype=np.float64)
    leaf = tape.tensor(x)
    y = apply(ops.Add(), apply(ops.Multiply(), leaf, leaf), leaf)
    backward(y, np.ones(x.shape))
    yield none_wrong("d(x·x + x)/dx is not 2x + 1", not np.array_equal(np.asarray(leaf.grad), 2 * x + 1))
    try:
        backward(y, np.ones(x.shape))
        refused = False
    except TapeError:
        refused = True
    yield none_wrong("a second backward was let through", not refused)
    total = apply(ops.Sum(), tape.tensor(x))
    yield same("sum", float(total.value), math.fsum(x.ravel()))


@claim(SOURCE, "bmns")
def claim_2_11_positions(place: Place) -> Figures:
    """The backward passes of rotary embedding and of scores by distance are their vjps."""
    yield from _page("positions", place)
