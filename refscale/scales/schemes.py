"""Schemes: regular, unit, and the later ones, u-μP and µnit Scaling. All that depends on the scheme is asked here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol, get_args

from refscale.errors import ArgumentError
from refscale.scales.factors import Constraint, Scales, Shape, Statistic, constrain, none, to_output_scale
from refscale.scales.multipliers import Multipliers, attention_factor
from refscale.scales.residuals import PlainAdd, ResidualRule, equal_parts, fixed, ratio, running_mean

Role = Literal["weight", "embedding", "readout", "bias", "gain"]
"""Of a parameter; a readout is a weight of an output layer."""

ScoresRule = Literal["1/sqrt(d)", "1/d"]
"""Damping of attention scores between vectors of length d."""

ReadoutRule = Literal["1/sqrt(m)", "1/m"]
"""Forward factor of an output layer with fan-in m, where the scheme scales."""

EmbeddingRule = Literal["sqrt(v/b)", "v/b"]
"""β of a table of v rows for b ids: terms of a row's gradient independent, or alike."""

NormPlacement = Literal["post", "pre", "branch", "none"]
"""norm(x + f(x)), x + f(norm(x)), x + norm(f(x)), or x + f(x)."""


RatesRule = Literal["unit", "regular"]
"""Learning rates of a model that is adapted from a trained regular one: see ``Unit``."""


class ScaledOp(Protocol):
    """An op as a scheme sees it; every op of the engine is one."""

    @property
    def name(self) -> str:
        """Such as "matmul"."""

    has_mean: ClassVar[bool]
    has_ids: ClassVar[bool]
    constants: ClassVar[tuple[int, ...]]
    scale: ClassVar[Callable[..., Scales]]
    rows: ClassVar[Callable[..., tuple[Shape, ...]]]

    def rows_beside(self, *shapes: Shape) -> tuple[float, ...]:
        """For each input, how many terms each term of its gradient is added to, in the mean."""


@dataclass(slots=True)  # not frozen: one is made at every call, and that would take twice as long
class Call:
    """One use of an op, as a scheme sees it: shapes and position, no data.

    Attributes:
        op: the op with its attributes.
        shapes: the shape of every input.
        constraint: how α and the β of the constrained inputs are tied.
        constrained: positions of the constrained inputs.
        index: number of the call on its tape, from 0.
    """

    op: ScaledOp
    shapes: tuple[Shape, ...]
    constraint: Constraint = none
    constrained: tuple[int, ...] = ()
    index: int = 0


class Scheme(Protocol):
    """All that depends on the scheme; engine, blocks and optimizers ask, models never do."""

    @property
    def name(self) -> str:
        """Name shown in reports."""

    @property
    def attention_scores(self) -> ScoresRule:
        """How attention scores are damped, unless the model says so itself."""

    @property
    def readout(self) -> ReadoutRule:
        """How output layers are scaled."""

    @property
    def rows(self) -> float:
        """The likeness of the terms that gradients sum over, 0 … 1; see ``Unit``."""

    @property
    def joins(self) -> bool:
        """Whether products with one input (queries, keys, values) or one sum (gates) are scaled as one product."""

    @property
    def multipliers(self) -> Multipliers:
        """Multipliers inside non-linearities; all 1 but under u-μP."""

    @property
    def trained(self) -> Mapping[str, float]:
        """Constants of a trained model, by place, see ``scales.trained``; none where weights start at random."""

    def op(self, call: Call) -> ScaledOp:
        """The op that the engine runs in a call: that of the call, except under an adapted scheme, see ``adapt``."""

    def scales(self, call: Call) -> Scales:
        """Factors of one call."""

    def initial_std(self, regular: float) -> float:
        """Standard deviation of an initial weight whose customary one is ``regular`` (BERT: 0.02)."""

    def residual_weights(self, rule: ResidualRule, layer: int, depth: int) -> tuple[float, float]:
        """(skip, branch) weights of the ``layer``-th of ``depth`` additions since the stream was last normalized."""

    def norm_placement(self, placement: NormPlacement) -> NormPlacement:
        """Where residual blocks have their norm, given where the model has it."""

    def lr_scale(self, role: Role, shape: Shape, depth: int) -> float:
        """What a parameter's learning rate is multiplied by; ``depth``: residual additions of its stack, 1 outside."""


@dataclass(frozen=True)
class Regular:
    """No scaling: every factor is 1, weights start small. The paper's base line."""

    name: str = "regular"
    rows: ClassVar[float] = 0.0
    joins: ClassVar[bool] = False
    multipliers: ClassVar[Multipliers] = Multipliers()
    attention_scores: ClassVar[ScoresRule] = "1/sqrt(d)"
    readout: ClassVar[ReadoutRule] = "1/sqrt(m)"
    trained: ClassVar[Mapping[str, float]] = MappingProxyType({})

    def op(self, call: Call) -> ScaledOp:
        """Return the op of the call."""
        return call.op

    def scales(self, call: Call) -> Scales:
        """Factors of one call: all 1."""
        return _plain(call, 1.0)

    def initial_std(self, regular: float) -> float:
        """The customary one."""
        return regular

    def residual_weights(self, rule: ResidualRule, layer: int, depth: int) -> tuple[float, float]:
        """What the rule says."""
        return rule(layer)

    def norm_placement(self, placement: NormPlacement) -> NormPlacement:
        """The model's."""
        return placement

    def lr_scale(self, role: Role, shape: Shape, depth: int) -> float:
        """1."""
        return 1.0


def _plain(call: Call, factor: float) -> Scales:
    """One factor for the output and every gradient."""
    return _equal(factor, len(call.shapes), call.op.constants)


@lru_cache(maxsize=1024)
def _equal(factor: float, inputs: int, constants: tuple[int, ...]) -> Scales:
    return Scales(factor, tuple(None if i in constants else factor for i in range(inputs)))


@dataclass(frozen=True)
class Unit:
    """Unit scaling: each op's own factors, tied by the call's constraint; weights start at standard deviation 1.

    The gradient of a weight, bias, gain or table sums b terms, one for each row. If they are independent, its σ is √b,
    and β has b^-½. If any two have the correlation ρ, the likeness, σ is √(b·(1 + (b − 1)·ρ)): b if all are alike.

    Attributes:
        statistic: "std" (the paper: mean removed) or "rms", for ops whose output has a mean (relu, gelu, sigmoid, …).
        rows: the likeness of the terms, 0 … 1: 0 for independent rows (the paper's table), 1 for rows that are alike
            (the authors' code: b^-1).
        embeddings: β of a table by ids: "sqrt(v/b)", to which ``rows`` applies, or "v/b" (the authors' code).
        rates: "unit", or for a model that is adapted from a regular one "regular": each learning rate is scaled by the
            parameter's divisor σ, so that a step moves the regular parameter as it would be moved without adapting;
            see ``optim.at_regular_rates``.
        trained: constants of a trained model, by place, see ``scales.trained``; empty where weights start at random.

    Raises:
        ArgumentError: ``rows``, ``embeddings`` or ``rates`` is anything else.
    """

    name: str = "unit"
    statistic: Statistic = "std"
    rows: float = 0.0
    embeddings: EmbeddingRule = "sqrt(v/b)"
    rates: RatesRule = "unit"
    joins: ClassVar[bool] = False
    attention_scores: ClassVar[ScoresRule] = "1/sqrt(d)"
    readout: ClassVar[ReadoutRule] = "1/sqrt(m)"
    multipliers: Multipliers = field(default=Multipliers(), kw_only=True)
    trained: Mapping[str, float] = field(default_factory=dict, kw_only=True, repr=False, hash=False)

    def __post_init__(self) -> None:
        if not 0 <= self.rows <= 1:
            raise ArgumentError(f"Unit(rows={self.rows}): expected a likeness, 0 … 1")
        if self.embeddings not in get_args(EmbeddingRule):
            raise ArgumentError(f"Unit(embeddings={self.embeddings!r}): expected one of {get_args(EmbeddingRule)}")
        if self.rates not in get_args(RatesRule):
            raise ArgumentError(f"Unit(rates={self.rates!r}): expected one of {get_args(RatesRule)}")

    def op(self, call: Call) -> ScaledOp:
        """Return the op of the call."""
        return call.op

    def scales(self, call: Call) -> Scales:
        """Factors of one call, constrained."""
        scales = self.unconstrained(call)
        return constrain(scales, call.constrained, call.constraint)

    def unconstrained(self, call: Call) -> Scales:
        """Factors of one call as if every edge were a cut-edge.

        Source: paper, scaling for unit variance; its authors' code, scmm/uscale (b^-1, v/b).
        """
        op = call.op
        if op.has_ids and self.embeddings == "v/b":
            return op.scale(*call.shapes, embeddings=self.embeddings)
        scales = op.scale(*call.shapes, statistic=self.statistic) if op.has_mean else op.scale(*call.shapes)
        return of_likeness(scales, op.rows_beside(*call.shapes), self.rows) if self.rows else scales

    def initial_std(self, regular: float) -> float:
        """Always 1. Source: paper, recipe, step 1."""
        return 1.0

    def residual_weights(self, rule: ResidualRule, layer: int, depth: int) -> tuple[float, float]:
        """What the rule says; for a plain add, what stands in for it."""
        return rule.normalized(layer) if isinstance(rule, PlainAdd) else rule(layer)

    def norm_placement(self, placement: NormPlacement) -> NormPlacement:
        """The model's."""
        return placement

    def lr_scale(self, role: Role, shape: Shape, depth: int) -> float:
        """n^-½ for a bias or gain of size n, 1 for matrices. Source: paper, settings of the character models."""
        return max(1, math.prod(shape)) ** -0.5 if len(shape) == 1 else 1.0


_SCALED = ("matmul", "readout", "conv1d", "bias", "layer_norm", "embedding", "fork", "softmax_cross_entropy")
"""Ops that the authors' models scale; forks are identities that exist for their factors."""


@dataclass(frozen=True)
class Authors(Unit):
    """Unit scaling as in the authors' character models, which scale fewer ops.

    Scaled are products with weights, convolutions, biases, gains, tables and the loss; activations, gates, the softmax,
    scores, mixtures and plain sums have the factor 1. Gradients sum over rows that are alike: b^-1, and v/b for a
    table by ids. Queries, keys and values are one product, and so are the gates of input and state: ``joins``. The
    loss's β counts all rows, also those that the mean leaves out. A plain residual addition, which their layer
    refuses, has the stand-in that it has under unit scaling.

    Source: the authors' code, scmm/uscale/ops.py and scmm/uscale/layers.py.
    """

    name: str = "authors"
    rows: float = 1.0
    embeddings: EmbeddingRule = "v/b"
    joins: ClassVar[bool] = True

    def scales(self, call: Call) -> Scales:
        """Factors of one call: unit scaling's where the authors scale, else 1."""
        op: Any = call.op
        if op.name == "softmax_cross_entropy" and op.reduction == "mean" and op.kept is not None:
            scales, rows = super().scales(call), math.prod(call.shapes[0][:-1])  # β = √(rows·kept)·s/√(s−1)
            return Scales(scales.alpha, tuple(b and b * math.sqrt(rows / op.kept) for b in scales.beta))
        weighted = op.name == "weighted_add" and math.isclose(sum(w * w for w in op.weights), 1)  # a residual addition
        return super().scales(call) if weighted or op.name in _SCALED else _plain(call, 1.0)


def of_likeness(scales: Scales, beside: Sequence[float], likeness: float | Sequence[float]) -> Scales:
    """Factors for rows of which any two have a given correlation: β_i·(1 + n_i·ρ_i)^-½.

    Args:
        scales: factors for independent rows.
        beside: n, for each input how many terms each term of its gradient is added to, see ``Op.rows_beside``.
        likeness: ρ, 0 … 1, of all inputs or of each.

    Returns:
        α, and the new β. Source: the variance of a sum of n + 1 terms, (n + 1)·(1 + n·ρ).
    """
    rho = (likeness,) * len(beside) if isinstance(likeness, int | float) else likeness
    betas = zip(scales.beta, beside, rho, strict=True)
    return Scales(scales.alpha, tuple(None if b is None else b * (1 + n * r) ** -0.5 for b, n, r in betas))


@dataclass(frozen=True)
class UMup(Unit):
    """u-μP: unit scaling whose learning rate is the same for every width and depth.

    Beside unit scaling: where anything is constrained, α is taken; readouts start near 0, by 1/fan-in; attention scores
    are damped by 1/d; a plain add becomes (x + τ·f(x))/√(1+τ²) with the depth rule ``equal_parts``; and learning rates
    (of Adam) are scaled by role, shape and depth. Its multipliers, 1 by default, are those of gated units, attention,
    the loss and residual branches, see ``Multipliers``; other activations have none.

    Three things that u-μP does not know are taken from unit scaling. Its linear layers have no biases, its norms no
    gains (the library's rule for them, η·depth^-½, would move them by a sizable part of 1 at every step, for η is about
    1): theirs is n^-½·depth^-½. For a post-norm stack it has no depth rule: the model's own stands (BERT:
    ``fixed(0.1)``). And a tied embedding is trained at the rate of an embedding.

    Two things differ from the library. Depth is counted in residual additions; it counts layers, so that its rates in
    a stack are √2 times these. And attention mixes values as the model says: the library's factor on the mixture is
    that of independent values, "independent" or "causal" here, to within t^(1/(8d)); with a multiplier of
    attention, it is the library's.

    Source: arXiv 2407.17465, Tables 1 and 2, Appendix G; the library ``unit-scaling``.
    """

    name: str = "u-mup"
    attention_scores: ClassVar[ScoresRule] = "1/d"
    readout: ClassVar[ReadoutRule] = "1/m"

    def scales(self, call: Call) -> Scales:
        """Factors of one call; those that are constrained take α, unless the call says that nothing is."""
        op: Any = call.op
        m = self.multipliers.attention
        if m != 1 and op.name == "attention_mix" and op.values != "correlated":
            t, d = call.shapes[1][-2:]
            n = t if op.keys is None else min(op.keys, t)  # the weights come times n, the factor of their softmax
            factor = attention_factor(m, n, d, causal=op.values == "causal") / n
            return Scales(factor, (factor, factor))
        constraint = none if call.constraint is none else to_output_scale
        return constrain(self.unconstrained(call), call.constrained, constraint)

    def residual_weights(self, rule: ResidualRule, layer: int, depth: int) -> tuple[float, float]:
        """What the rule says; for a plain add, the depth rule in place of the running mean."""
        if isinstance(rule, PlainAdd) and rule.normalized is running_mean:
            m = self.multipliers
            return ratio(equal_parts(layer, depth, m.residual, m.attention_ratio))(layer)
        return super().residual_weights(rule, layer, depth)

    def lr_scale(self, role: Role, shape: Shape, depth: int) -> float:
        """fan_in^-½ for a weight, d^-½ for an embedding (rows, d), 1 for a readout; all times depth^-½ in a stack.

        n^-½, times the same, for biases and gains.
        """
        width = {"weight": math.prod(shape[:-1]), "readout": 1}.get(role, shape[-1])
        return float((max(1, width) * depth) ** -0.5)


_WITH_WEIGHT = ("matmul", "readout", "conv1d", "conv2d", "conv3d", "conv_transpose")
"""Ops that µnit Scaling gives a factor."""


@dataclass(frozen=True)
class Munit(Regular):
    """µnit Scaling: one static factor for every linear layer, forward and backward alike.

    Weights start at σ = 1; a linear layer multiplies output and gradients by fan_in^-½, a readout by 1/fan_in; all else
    is plain, so that every gradient is the true one. Activations stay in range by other means: residual additions
    √(1−τ)·x + √τ·norm(f(x)), with the norm on the branch's output. Gradients are as small as the loss makes them.
    Its FP8 is in the hidden linear layers only: ``precision.fp8_hidden``.

    Attention is plain: the square root of its weights would keep the variance of independent values, but those of real
    text are alike, and σ would grow along the sequence instead (section 2.1). The norm on the branch settles both.
    A norm at the end of the stack stays as the model has it.

    Attributes:
        tau: of the residual additions, if the model adds plainly; the deeper the model, the smaller (0.4 for 4 layers:
            section 3.1 and Appendix A.3).

    Source: arXiv 2502.05967, Table 2 (factors, initial variance, learning rates), equation 11 (residual additions).
    """

    name: str = "munit"
    tau: float = 0.3
    readout: ClassVar[ReadoutRule] = "1/m"

    def scales(self, call: Call) -> Scales:
        """α of a linear layer for its output and both gradients; 1 for any other op."""
        return _plain(call, call.op.scale(*call.shapes).alpha if call.op.name in _WITH_WEIGHT else 1.0)

    def initial_std(self, regular: float) -> float:
        """Always 1."""
        return 1.0

    def residual_weights(self, rule: ResidualRule, layer: int, depth: int) -> tuple[float, float]:
        """What the rule says; √(1−τ) and √τ for a plain add."""
        return (fixed(self.tau) if isinstance(rule, PlainAdd) else rule)(layer)

    def norm_placement(self, placement: NormPlacement) -> NormPlacement:
        """On the branch's output, wherever the model has it."""
        return placement if placement == "none" else "branch"

    def lr_scale(self, role: Role, shape: Shape, depth: int) -> float:
        """fan_in^-½ for a weight, 1 for the rest."""
        return float(max(1, math.prod(shape[:-1])) ** -0.5) if role == "weight" else 1.0


regular = Regular()
unit = Unit()
authors = Authors()
u_mup = UMup()
munit = Munit()
