"""Matrix products: sums over a shared axis, the ops that hardware runs on narrow operands."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from refscale.engine import Array, Example, Op, Sizes, example
from refscale.errors import ArgumentError, ShapeError
from refscale.ops.kernels import products
from refscale.ops.kernels.blocks import by_row
from refscale.ops.shapes import broadcast, integer_attributes, repeats, size
from refscale.ops.sums import unbroadcast
from refscale.scales import ReadoutRule, Scales, ScoresRule, Shape
from refscale.scales.second_moments import SecondMoments, contracted

Kept = tuple[Any, ...]
ValuesRule = Literal["correlated", "independent", "causal"]


def _check_keys(op: Op, keys: int | None) -> None:
    if keys is not None:
        integer_attributes(op, "keys", least=1)


def _share(keys: int | None, t: int) -> float:
    """The fraction of t keys that a query sees."""
    return 1.0 if keys is None else min(1.0, keys / max(1, t))


def _is_positive(number: object) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and 0 < number < math.inf


def _product_shape(name: str, x: Shape, w: Shape) -> Shape:
    if len(x) < 2 or len(w) < 2 or x[-1] != w[-2]:
        raise ShapeError(f"{name}: x {x} and w {w}, expected (…, b, m) and (…, m, n)")
    return (*broadcast(name, x[:-2], w[:-2]), x[-2], w[-1])


class Matmul(Op):
    """Matrix product of x (…, b, m) and w (…, m, n); leading axes broadcast.

    Each output sums m products: α = m^-½. The gradient of x sums n products, that of w sums b; an operand that
    broadcasting repeats r times sums r times as many: β_x = (n·r_x)^-½, β_w = (b·r_w)^-½. For a weight w (m, n)
    shared by all leading axes of x, b·r_w is the number of rows of x.
    """

    inputs = ("x", "w")
    homogeneity = (1, 1)
    source = "Table A.2"
    contraction = True
    multiplies = (0, 1)
    weight_inputs = (1,)
    fast_forward, fast_backward = products.matmul, products.matmul_backward

    def forward(self, x: Array, w: Array) -> tuple[Array, Kept]:
        shape = self.check(x.shape, w.shape)
        if w.ndim == 2:  # one large product instead of a batch of small ones
            return (by_row(x) @ w).reshape(shape), (x, w)
        return x @ w, (x, w)

    def backward(self, g: Array, x: Array, w: Array) -> tuple[Array, Array]:
        if w.ndim == 2:
            rows = by_row(g)
            return (rows @ w.T).reshape(x.shape), by_row(x).T @ rows
        return unbroadcast(g @ w.swapaxes(-1, -2), x.shape), unbroadcast(x.swapaxes(-1, -2) @ g, w.shape)

    def scale(self, x: Shape, w: Shape) -> Scales:
        batch = size(self.check(x, w)[:-2])
        repeats_x, repeats_w = batch / size(x[:-2]), batch / size(w[:-2])
        b, m, n = (max(1, k) for k in (x[-2], x[-1], w[-1]))
        return Scales(m**-0.5, ((n * repeats_x) ** -0.5, (b * repeats_w) ** -0.5))

    def rows(self, x: Shape, w: Shape) -> tuple[Shape, Shape]:
        """Return the rows of x if w is a matrix or repeated by broadcasting; () for any other w, which is data."""
        repeated = repeats(w[:-2], self.check(x, w)[:-2])
        return (), (*repeated, x[-2], 1) if len(w) == 2 or size(repeated) > 1 else ()

    def products(self, x: Shape, w: Shape) -> int:
        return math.prod(self.check(x, w)) * x[-1]

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), (at.b, at.m), (at.m, at.n)),)

    def predict(self, out: Shape, x: SecondMoments, w: SecondMoments) -> SecondMoments:
        return contracted(x, w)

    def predict_gradients(self, g: SecondMoments, x: SecondMoments, w: SecondMoments) -> tuple[SecondMoments, ...]:
        return contracted(g, w.swapped()).unbroadcast(x.shape), contracted(x.swapped(), g).unbroadcast(w.shape)

    def check(self, x: Shape, w: Shape) -> Shape:
        """Return the shape of the result, or raise ShapeError."""
        return _product_shape(self.name, x, w)


@dataclass(frozen=True)
class AttentionScores(Op):
    """q·kᵀ·damping for queries q (…, s, d) and keys k (…, t, d); the damping is d^-½, 1/d, or a number.

    The damping is part of the function under every scheme, because it sets the temperature of the softmax that follows:
    d^-½ gives logits of variance 1 (Vaswani et al. 2017), 1/d gives smaller ones (u-μP, arXiv 2407.17465). Hence
    α = 1. The gradient of q sums t damped products, that of k sums s: β_q = t^-½/damping, β_k = s^-½/damping; repeated
    leading axes count as for matmul. If a query sees only some of the keys, the other scores have no gradient, and a
    fraction keys/t of the terms remains in both sums.

    Attributes:
        rule: "1/sqrt(d)", "1/d", or the damping, a positive number.
        keys: maximum number of keys that a query sees (sliding windows), ≥ 1; None: all.
    """

    rule: ScoresRule | float = "1/sqrt(d)"
    keys: int | None = None
    inputs = ("q", "k")
    homogeneity = (1, 1)
    source = "Table A.2 (matmul, with the damping in the function)"
    contraction = True
    fast_forward, fast_backward = products.scores, products.scores_backward

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_keys(self, self.keys)
        if self.rule not in get_args(ScoresRule) and not _is_positive(self.rule):
            raise ArgumentError(
                f"AttentionScores(rule={self.rule!r}): expected one of {get_args(ScoresRule)}, or a positive number"
            )

    def forward(self, q: Array, k: Array) -> tuple[Array, Kept]:
        self.check(q.shape, k.shape)
        y = q @ k.swapaxes(-1, -2)
        y *= self.damping(q.shape)
        return y, (q, k)

    def backward(self, g: Array, q: Array, k: Array) -> tuple[Array, Array]:
        g = g * self.damping(q.shape)
        return unbroadcast(g @ k, q.shape), unbroadcast(g.swapaxes(-1, -2) @ q, k.shape)

    def scale(self, q: Shape, k: Shape) -> Scales:
        batch, damping = size(self.check(q, k)[:-2]), self.damping(q)
        repeats_q, repeats_k = batch / size(q[:-2]), batch / size(k[:-2])
        share = _share(self.keys, k[-2])
        t, s = max(1, k[-2]) * repeats_q * share, max(1, q[-2]) * repeats_k * share
        return Scales(1.0, (t**-0.5 / damping, s**-0.5 / damping))

    def products(self, q: Shape, k: Shape) -> int:
        return math.prod(self.check(q, k)) * q[-1]

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return tuple(example(cls(rule), (at.b, at.s, at.m), (at.b, at.s, at.m)) for rule in get_args(ScoresRule))

    def predict(self, out: Shape, q: SecondMoments, k: SecondMoments) -> SecondMoments:
        return contracted(q, k.swapped()).times(self.damping(q.shape))

    def predict_gradients(self, g: SecondMoments, q: SecondMoments, k: SecondMoments) -> tuple[SecondMoments, ...]:
        g = g.times(self.damping(q.shape))
        return contracted(g, k).unbroadcast(q.shape), contracted(g.swapped(), q).unbroadcast(k.shape)

    def damping(self, q: Shape) -> float:
        """Return the damping of the scores of queries of a given shape."""
        d = max(1, q[-1])
        if isinstance(self.rule, str):
            return d**-0.5 if self.rule == "1/sqrt(d)" else 1 / d
        return self.rule

    def check(self, q: Shape, k: Shape) -> Shape:
        """Return the shape of the result, or raise ShapeError."""
        if len(q) < 2 or len(k) < 2 or q[-1] != k[-1]:
            raise ShapeError(f"attention_scores: q {q} and k {k}, expected (…, s, d) and (…, t, d)")
        return (*broadcast(self.name, q[:-2], k[:-2]), q[-2], k[-2])


@dataclass(frozen=True)
class AttentionMix(Op):
    """weights·v: for each query, a mixture of the values v (…, t, d) by weights (…, s, t) that are scaled to mean 1.

    A mixture of t independent values has σ = √t, so α = t^-½, the matmul rule ("independent"). The values of one
    sequence are correlated, for example by the mean of gelu's output: their common part grows by t, their differences
    by √t only, and after a few layers all tokens are alike. α = 1/t ("correlated") makes the mixture a weighted mean,
    for any correlation. Under a causal mask query i mixes i values by weights of mean t/i. For independent values
    σ² = t·H_t, averaged over queries, H_t = 1 + ½ + … + 1/t, so α = (t·H_t)^-½ ("causal"). β as for matmul.

    If a query sees n < t keys, their weights have mean 1, and n replaces t: α = 1/n, n^-½, or
    ((n²·H_n + (t − n)·n)/t)^-½, because the first n queries see 1 … n keys; the gradient of v sums s·n/t terms.

    Attributes:
        values: assumed correlation of the values: "correlated", "independent", or "causal".
        keys: n, the maximum number of keys that a query sees (sliding windows), ≥ 1; None: all.
    """

    values: ValuesRule = "correlated"
    keys: int | None = None
    inputs = ("weights", "v")
    homogeneity = (1, 1)
    source = "Table A.2 (matmul); correlated: mean of t equal values; causal: of 1 … t independent ones"
    contraction = True
    fast_forward, fast_backward = products.matmul, products.matmul_backward

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_keys(self, self.keys)
        if self.values not in get_args(ValuesRule):
            raise ArgumentError(f"AttentionMix(values={self.values!r}): expected one of {get_args(ValuesRule)}")

    def forward(self, weights: Array, v: Array) -> tuple[Array, Kept]:
        self.check(weights.shape, v.shape)
        return Matmul().forward(weights, v)

    def backward(self, g: Array, weights: Array, v: Array) -> tuple[Array, Array]:
        return Matmul().backward(g, weights, v)

    def scale(self, weights: Shape, v: Shape) -> Scales:
        self.check(weights, v)
        matmul, t = Matmul().scale(weights, v), max(1, v[-2])
        n = t if self.keys is None else min(self.keys, t)
        match self.values:
            case "correlated":
                alpha = 1 / n
            case "independent":
                alpha = n**-0.5
            case "causal":
                alpha = (n * sum(1 / i for i in range(1, n + 1)) * (n / t) + (t - n) * (n / t)) ** -0.5
        for_weights, for_v = matmul.beta
        return Scales(alpha, (for_weights, for_v and for_v * _share(self.keys, t) ** -0.5))

    def products(self, weights: Shape, v: Shape) -> int:
        return math.prod(self.check(weights, v)) * weights[-1]

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return tuple(example(cls(rule), (at.b, at.s, at.s), (at.b, at.s, at.m)) for rule in get_args(ValuesRule))

    def predict(self, out: Shape, weights: SecondMoments, v: SecondMoments) -> SecondMoments:
        return Matmul().predict(out, weights, v)

    def predict_gradients(
        self, g: SecondMoments, weights: SecondMoments, v: SecondMoments
    ) -> tuple[SecondMoments, ...]:
        return Matmul().predict_gradients(g, weights, v)

    def check(self, weights: Shape, v: Shape) -> Shape:
        """Return the shape of the result, or raise ShapeError."""
        return _product_shape(self.name, weights, v)


@dataclass(frozen=True)
class Readout(Op):
    """Matrix product of x (…, m) and w (m, n) for an output layer; on a cut-edge it needs no constraint.

    As for matmul, α = m^-½ and the initial logits have σ = 1. With α = 1/m they start near 0 for any width, and grow as
    w and x become correlated in training; w then needs a learning rate √m times as large, or the loss falls later.
    β as for matmul.

    Attributes:
        rule: α as a function of m, "1/sqrt(m)" or "1/m".
    """

    rule: ReadoutRule = "1/sqrt(m)"
    inputs = ("x", "w")
    homogeneity = (1, 1)
    source = "Table A.2 (matmul); 1/m: u-μP (arXiv 2407.17465), output layer"
    contraction = True
    multiplies = (0, 1)
    weight_inputs = (1,)
    fast_forward, fast_backward = products.matmul, products.matmul_backward

    def __post_init__(self) -> None:
        if self.rule not in get_args(ReadoutRule):
            raise ArgumentError(f"Readout(rule={self.rule!r}): expected one of {get_args(ReadoutRule)}")

    def forward(self, x: Array, w: Array) -> tuple[Array, Kept]:
        self.check(x.shape, w.shape)
        return Matmul().forward(x, w)

    def backward(self, g: Array, x: Array, w: Array) -> tuple[Array, Array]:
        return Matmul().backward(g, x, w)

    def scale(self, x: Shape, w: Shape) -> Scales:
        self.check(x, w)
        matmul = Matmul().scale(x, w)
        return matmul if self.rule == "1/sqrt(m)" else Scales(1 / max(1, w[0]), matmul.beta)

    def rows(self, x: Shape, w: Shape) -> tuple[Shape, Shape]:
        return Matmul().rows(x, w)

    def products(self, x: Shape, w: Shape) -> int:
        return math.prod(self.check(x, w)) * x[-1]

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), (at.b, at.m), (at.m, at.s)),)

    def predict(self, out: Shape, x: SecondMoments, w: SecondMoments) -> SecondMoments:
        return Matmul().predict(out, x, w)

    def predict_gradients(self, g: SecondMoments, x: SecondMoments, w: SecondMoments) -> tuple[SecondMoments, ...]:
        return Matmul().predict_gradients(g, x, w)

    def check(self, x: Shape, w: Shape) -> Shape:
        """Return the shape of the result, or raise ShapeError."""
        if len(w) != 2:
            raise ShapeError(f"readout: w {w}, expected (m, n)")
        return _product_shape(self.name, x, w)
