"""Schemes: regular, unit, and the later ones, u-μP and µnit Scaling; every choice that depends on the scheme."""

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
"""Role of a parameter; a readout is a weight of an output layer."""

ScoresRule = Literal["1/sqrt(d)", "1/d"]
"""Damping of attention scores between vectors of length d."""

ReadoutRule = Literal["1/sqrt(m)", "1/m"]
"""Forward factor of an output layer with fan-in m, for schemes with factors."""

EmbeddingRule = Literal["sqrt(v/b)", "v/b"]
"""β of a table of v rows for b ids, for independent or equal terms of a row's gradient."""

NormPlacement = Literal["post", "pre", "branch", "none"]
"""Placement of the norm: norm(x + f(x)), x + f(norm(x)), x + norm(f(x)), or x + f(x)."""


RatesRule = Literal["unit", "regular"]
"""Learning rates of a model that is adapted from a trained regular one: see ``Unit``."""


class ScaledOp(Protocol):
    """The properties of an op that schemes read; every op of the engine has them."""

    @property
    def name(self) -> str:
        """Name of the op, such as "matmul"."""

    has_mean: ClassVar[bool]
    has_ids: ClassVar[bool]
    constants: ClassVar[tuple[int, ...]]
    scale: ClassVar[Callable[..., Scales]]
    rows: ClassVar[Callable[..., tuple[Shape, ...]]]

    def rows_beside(self, *shapes: Shape) -> tuple[float, ...]:
        """Return, for each input, the mean number of other terms that each term of its gradient is added to."""


@dataclass(slots=True)  # not frozen: one is made at every call, and that would take twice as long
class Call:
    """One use of an op: its shapes and position, without data; the argument of a scheme.

    Attributes:
        op: the op with its attributes.
        shapes: the shape of every input.
        constraint: the constraint of α and the β of the constrained inputs.
        constrained: positions of the constrained inputs.
        index: number of the call on its tape, from 0.
    """

    op: ScaledOp
    shapes: tuple[Shape, ...]
    constraint: Constraint = none
    constrained: tuple[int, ...] = ()
    index: int = 0


class Scheme(Protocol):
    """The interface of schemes, which engine, layers and optimizers call; models do not depend on the scheme."""

    @property
    def name(self) -> str:
        """Name shown in reports."""

    @property
    def attention_scores(self) -> ScoresRule:
        """Damping of attention scores, unless the model sets it."""

    @property
    def readout(self) -> ReadoutRule:
        """α of output layers as a function of the fan-in m, "1/sqrt(m)" or "1/m"."""

    @property
    def rows(self) -> float:
        """Assumed correlation of the terms that gradients sum over, 0 … 1; see ``Unit``."""

    @property
    def joins(self) -> bool:
        """Return whether products with a common input (queries, keys, values) or sum (gates) are scaled as one."""

    @property
    def multipliers(self) -> Multipliers:
        """Multipliers inside non-linearities; all 1 except under u-μP."""

    @property
    def trained(self) -> Mapping[str, float]:
        """Constants of a trained model, by place, see ``scales.trained``; empty for random initial weights."""

    def op(self, call: Call) -> ScaledOp:
        """Return the op that the engine runs: the op of the call, except under an adapted scheme, see ``adapt``."""

    def scales(self, call: Call) -> Scales:
        """Return the factors of one call."""

    def initial_std(self, regular: float) -> float:
        """Return the initial standard deviation of a weight; ``regular`` is that of a regular model (BERT: 0.02)."""

    def residual_weights(self, rule: ResidualRule, layer: int, depth: int) -> tuple[float, float]:
        """Return the weights (skip, branch) of the ``layer``-th of ``depth`` additions since the stream's last norm."""

    def norm_placement(self, placement: NormPlacement) -> NormPlacement:
        """Return the placement of norms in residual blocks, given the placement in the model's configuration."""

    def lr_scale(self, role: Role, shape: Shape, depth: int) -> float:
        """Return the factor of a parameter's learning rate; ``depth``: residual additions of its stack, 1 outside."""


@dataclass(frozen=True)
class Regular:
    """No scaling: every factor is 1, and initial weights are small; the paper's baseline."""

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
        """Return factors of 1 for any call."""
        return _plain(call, 1.0)

    def initial_std(self, regular: float) -> float:
        """Return ``regular``."""
        return regular

    def residual_weights(self, rule: ResidualRule, layer: int, depth: int) -> tuple[float, float]:
        """Return the weights of the rule."""
        return rule(layer)

    def norm_placement(self, placement: NormPlacement) -> NormPlacement:
        """Return the placement of the model."""
        return placement

    def lr_scale(self, role: Role, shape: Shape, depth: int) -> float:
        """Return 1."""
        return 1.0


def _plain(call: Call, factor: float) -> Scales:
    """One factor for the output and every gradient."""
    return _equal(factor, len(call.shapes), call.op.constants)


@lru_cache(maxsize=1024)
def _equal(factor: float, inputs: int, constants: tuple[int, ...]) -> Scales:
    return Scales(factor, tuple(None if i in constants else factor for i in range(inputs)))


@dataclass(frozen=True)
class Unit:
    """Unit scaling: each op's own factors, with the constraint of the call; initial weights have standard deviation 1.

    The gradient of a weight, bias, gain or table sums b terms, one for each row. If they are independent, its σ is √b,
    and β = b^-½. If any two have the correlation ρ, σ is √(b·(1 + (b − 1)·ρ)): b for equal terms.

    Attributes:
        statistic: "std" (the paper) or "rms": the statistic of the output that α sets to 1, for ops whose output has a
            mean (relu, gelu, sigmoid, …).
        rows: assumed correlation ρ of the terms, 0 … 1: 0 for independent terms (the paper's table), 1 for equal terms
            (the authors' code: b^-1).
        embeddings: β of a table by ids: "sqrt(v/b)", to which ``rows`` applies, or "v/b" (the authors' code).
        rates: "unit", or "regular" for a model adapted from a regular one: each learning rate is scaled by the
            parameter's divisor σ, so that a step changes the regular parameter as without adapting; see
            ``optim.at_regular_rates``.
        trained: constants of a trained model, by place, see ``scales.trained``; empty for random initial weights.

    Raises:
        ArgumentError: ``rows``, ``embeddings`` or ``rates`` has another value.
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
            raise ArgumentError(f"Unit(rows={self.rows}): expected a correlation, 0 … 1")
        if self.embeddings not in get_args(EmbeddingRule):
            raise ArgumentError(f"Unit(embeddings={self.embeddings!r}): expected one of {get_args(EmbeddingRule)}")
        if self.rates not in get_args(RatesRule):
            raise ArgumentError(f"Unit(rates={self.rates!r}): expected one of {get_args(RatesRule)}")

    def op(self, call: Call) -> ScaledOp:
        """Return the op of the call."""
        return call.op

    def scales(self, call: Call) -> Scales:
        """Return the factors of one call, constrained."""
        scales = self.unconstrained(call)
        return constrain(scales, call.constrained, call.constraint)

    def unconstrained(self, call: Call) -> Scales:
        """Return the factors of one call without its constraint.

        Source: paper, scaling for unit variance; its authors' code, scmm/uscale (b^-1, v/b).
        """
        op = call.op
        if op.has_ids and self.embeddings == "v/b":
            return op.scale(*call.shapes, embeddings=self.embeddings)
        scales = op.scale(*call.shapes, statistic=self.statistic) if op.has_mean else op.scale(*call.shapes)
        return of_likeness(scales, op.rows_beside(*call.shapes), self.rows) if self.rows else scales

    def initial_std(self, regular: float) -> float:
        """Return 1. Source: paper, recipe, step 1."""
        return 1.0

    def residual_weights(self, rule: ResidualRule, layer: int, depth: int) -> tuple[float, float]:
        """Return the weights of the rule; for a plain addition, those of ``PlainAdd.normalized``."""
        return rule.normalized(layer) if isinstance(rule, PlainAdd) else rule(layer)

    def norm_placement(self, placement: NormPlacement) -> NormPlacement:
        """Return the placement of the model."""
        return placement

    def lr_scale(self, role: Role, shape: Shape, depth: int) -> float:
        """Return n^-½ for a bias or gain of size n, 1 for matrices.

        Source: paper, settings of the character models.
        """
        return max(1, math.prod(shape)) ** -0.5 if len(shape) == 1 else 1.0


_SCALED = ("matmul", "readout", "conv1d", "bias", "layer_norm", "embedding", "fork", "softmax_cross_entropy")
"""Ops that the authors' models scale; forks are identities that exist for their factors."""


@dataclass(frozen=True)
class Authors(Unit):
    """Unit scaling as in the authors' character models, which scale fewer ops.

    Products with weights, convolutions, biases, gains, tables and the loss are scaled. Activations, gates, the softmax,
    scores, mixtures and plain sums have factors of 1. Gradients are assumed to sum equal terms: b^-1, and v/b for a
    table by ids. Queries, keys and values are scaled as one product, and so are the gates of input and state:
    ``joins``. β of the loss counts all rows, also ignored ones. A plain residual addition, which the authors' layer
    does not accept, is replaced as under ``Unit``.

    Source: the authors' code, scmm/uscale/ops.py and scmm/uscale/layers.py.
    """

    name: str = "authors"
    rows: float = 1.0
    embeddings: EmbeddingRule = "v/b"
    joins: ClassVar[bool] = True

    def scales(self, call: Call) -> Scales:
        """Return the factors of one call: those of unit scaling for the ops that the authors scale, else 1."""
        op: Any = call.op
        if op.name == "softmax_cross_entropy" and op.reduction == "mean" and op.kept is not None:
            scales, rows = super().scales(call), math.prod(call.shapes[0][:-1])  # β = √(rows·kept)·s/√(s−1)
            return Scales(scales.alpha, tuple(b and b * math.sqrt(rows / op.kept) for b in scales.beta))
        weighted = op.name == "weighted_add" and math.isclose(sum(w * w for w in op.weights), 1)  # a residual addition
        return super().scales(call) if weighted or op.name in _SCALED else _plain(call, 1.0)


def of_likeness(scales: Scales, beside: Sequence[float], likeness: float | Sequence[float]) -> Scales:
    """Compute factors for rows with a given correlation of any two: β_i·(1 + n_i·ρ_i)^-½.

    Args:
        scales: factors for independent rows.
        beside: n_i, the mean number of other terms that each term of a gradient is added to, see ``Op.rows_beside``.
        likeness: correlation ρ, 0 … 1, one for all inputs or one for each.

    Returns:
        α unchanged, and the new β. Source: the variance of a sum of n + 1 terms, (n + 1)·(1 + n·ρ).
    """
    rho = (likeness,) * len(beside) if isinstance(likeness, int | float) else likeness
    betas = zip(scales.beta, beside, rho, strict=True)
    return Scales(scales.alpha, tuple(None if b is None else b * (1 + n * r) ** -0.5 for b, n, r in betas))


@dataclass(frozen=True)
class UMup(Unit):
    """u-μP: unit scaling with one learning rate for every width and depth.

    Differences from unit scaling: constrained factors are α; readouts have α = 1/fan-in, so that logits start near 0;
    attention scores are damped by 1/d; a plain addition becomes (x + τ·f(x))/√(1+τ²) with the depth rule
    ``equal_parts``; and learning rates (of Adam) are scaled by role, shape and depth. Gated units, attention, the loss
    and residual branches have multipliers, default 1, see ``Multipliers``; other activations have none.

    u-μP does not define three cases. Its linear layers have no biases, its norms no gains: their learning rates have
    the factor n^-½·depth^-½ here. (With the library's rule for them, η·depth^-½ and η of about 1, each step would
    change them by a sizable part of 1.) It has no depth rule for post-norm stacks: the rule of the model applies (BERT:
    ``fixed(0.1)``). A tied embedding has the learning rate of an embedding.

    Two rules differ from the library. Depth counts residual additions; the library counts layers, and its learning
    rates in a stack are √2 times as large. The model chooses the rule of attention's mixture; the library uses that of
    independent values, "independent" or "causal" here, up to a factor of t^(1/(8d)). With an attention multiplier the
    factor is the library's.

    Source: arXiv 2407.17465, Tables 1 and 2, Appendix G; the library ``unit-scaling``.
    """

    name: str = "u-mup"
    attention_scores: ClassVar[ScoresRule] = "1/d"
    readout: ClassVar[ReadoutRule] = "1/m"

    def scales(self, call: Call) -> Scales:
        """Return the factors of one call; all constrained factors are α, for any constraint but ``none``."""
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
        """Return the weights of the rule; for a plain addition, the depth rule in place of the running mean."""
        if isinstance(rule, PlainAdd) and rule.normalized is running_mean:
            m = self.multipliers
            return ratio(equal_parts(layer, depth, m.residual, m.attention_ratio))(layer)
        return super().residual_weights(rule, layer, depth)

    def lr_scale(self, role: Role, shape: Shape, depth: int) -> float:
        """Return fan_in^-½ for a weight, d^-½ for an embedding (rows, d), 1 for a readout, n^-½ for a bias or gain.

        In a stack each is multiplied by depth^-½.
        """
        width = {"weight": math.prod(shape[:-1]), "readout": 1}.get(role, shape[-1])
        return float((max(1, width) * depth) ** -0.5)


_WITH_WEIGHT = ("matmul", "readout", "conv1d", "conv2d", "conv3d", "conv_transpose")
"""Ops that µnit Scaling gives a factor."""


@dataclass(frozen=True)
class Munit(Regular):
    """µnit Scaling: one static factor for every linear layer, the same forward and backward.

    Initial weights have σ = 1. A linear layer multiplies output and gradients by fan_in^-½, a readout by 1/fan_in;
    other ops have no factors, so that every gradient is the true one. Activations stay in range by residual additions
    √(1−τ)·x + √τ·norm(f(x)), with the norm on the branch's output. Gradients have the scale that the loss gives them.
    Only hidden linear layers run in FP8: ``precision.fp8_hidden``.

    Attention has no factor. The square root of its weights would keep the variance of independent values, but those of
    real text are correlated, and σ would grow along the sequence instead (section 2.1). The norm on the branch removes
    either change of scale. A norm at the end of the stack stays where the model has it.

    Attributes:
        tau: τ of the residual additions, if the model adds plainly; smaller for deeper models (0.4 for 4 layers:
            section 3.1 and Appendix A.3).

    Source: arXiv 2502.05967, Table 2 (factors, initial variance, learning rates), equation 11 (residual additions).
    """

    name: str = "munit"
    tau: float = 0.3
    readout: ClassVar[ReadoutRule] = "1/m"

    def scales(self, call: Call) -> Scales:
        """Return α of a linear layer for its output and both gradients; 1 for any other op."""
        return _plain(call, call.op.scale(*call.shapes).alpha if call.op.name in _WITH_WEIGHT else 1.0)

    def initial_std(self, regular: float) -> float:
        """Return 1."""
        return 1.0

    def residual_weights(self, rule: ResidualRule, layer: int, depth: int) -> tuple[float, float]:
        """Return the weights of the rule; √(1−τ) and √τ for a plain addition."""
        return (fixed(self.tau) if isinstance(rule, PlainAdd) else rule)(layer)

    def norm_placement(self, placement: NormPlacement) -> NormPlacement:
        """Return the placement on the branch's output, for any placement in the model's configuration."""
        return placement if placement == "none" else "branch"

    def lr_scale(self, role: Role, shape: Shape, depth: int) -> float:
        """Return fan_in^-½ for a weight, 1 for other parameters."""
        return float(max(1, math.prod(shape[:-1])) ** -0.5) if role == "weight" else 1.0


regular = Regular()
unit = Unit()
authors = Authors()
u_mup = UMup()
munit = Munit()
