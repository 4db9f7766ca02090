"""Residual rules: how much of a branch is added to the stream."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from refscale.errors import ArgumentError

ResidualRule = Callable[[int], tuple[float, float]]
"""``rule(l)`` for the l-th residual addition since the stream was last normalized gives the weights (skip, branch)."""


def running_mean(layer: int) -> tuple[float, float]:
    """√(l/(l+1))·x + √(1/(l+1))·f(x), l = 1, 2, …: the stream's start and every branch in equal parts.

    Source: paper, residual rules (running mean). The authors' code (scmm/models.py) counts l from 0, so that the first
    branch replaces the stream, and goes on counting where a post-norm has normalized it.
    """
    if layer < 1:
        raise ArgumentError(f"running_mean(layer={layer}): expected layer ≥ 1")
    return math.sqrt(layer / (layer + 1)), math.sqrt(1 / (layer + 1))


@dataclass(frozen=True)
class CountedOn:
    """A rule whose count goes on through the whole model: a norm on the stream does not start it anew.

    Attributes:
        rule: of the count, from 1.
    """

    rule: ResidualRule

    def __call__(self, layer: int) -> tuple[float, float]:
        """Weights by the rule."""
        return self.rule(layer)


def _mean_of_branches(layer: int) -> tuple[float, float]:
    if layer < 1:
        raise ArgumentError(f"mean_of_branches(layer={layer}): expected layer ≥ 1")
    return math.sqrt((layer - 1) / layer), math.sqrt(1 / layer)


mean_of_branches = CountedOn(_mean_of_branches)
"""√((l−1)/l)·x + √(1/l)·f(x), l = 1, 2, … through the whole model: every branch in equal parts; the first replaces x.

Source: the authors' code, scmm/models.py (alpha = 1/(1 + index), index = 0, 1, …, also in post-norm).
"""


@dataclass(frozen=True)
class PlainAdd:
    """x + f(x), whose variance grows with depth; under unit scaling, ``normalized`` stands in for it.

    Attributes:
        normalized: with the running mean, the same function up to a divisor that the next norm removes:
            x₀ + f₁ + … + f_l over √(l+1). That presumes branches as strong as the stream; ``fixed(τ)`` says how much
            weaker they are in the regular model.
    """

    normalized: ResidualRule = running_mean

    def __call__(self, layer: int) -> tuple[float, float]:
        """Weights 1 and 1. Source: paper, residual rules (default)."""
        return 1.0, 1.0


default = PlainAdd()


def branch_only(layer: int) -> tuple[float, float]:
    """f(x): no residual connection. Source: paper, character models (residual none)."""
    return 0.0, 1.0


@cache
def fixed(tau: float) -> ResidualRule:
    """√(1−τ)·x + √τ·f(x), 0 < τ < 1: unit variance, every branch alike. Source: paper, residual rules."""
    if not 0 < tau < 1:
        raise ArgumentError(f"fixed(tau={tau}): expected 0 < tau < 1")

    def rule(layer: int) -> tuple[float, float]:
        return math.sqrt(1 - tau), math.sqrt(tau)

    rule.__name__ = f"fixed({tau:g})"
    return rule


@cache
def ratio(tau: float) -> ResidualRule:
    """(x + τ·f(x))/√(1+τ²), τ > 0. Source: u-μP (arXiv 2407.17465), section on residuals."""
    if not tau > 0:
        raise ArgumentError(f"ratio(tau={tau}): expected tau > 0")

    def rule(layer: int) -> tuple[float, float]:
        return 1 / math.sqrt(1 + tau**2), tau / math.sqrt(1 + tau**2)

    rule.__name__ = f"ratio({tau:g})"
    return rule


RULES: dict[str, ResidualRule] = {
    "default": default,
    "running-mean": running_mean,
    "mean-of-branches": mean_of_branches,
    "none": branch_only,
}
"""Rules without a parameter, by name."""

_WITH_TAU = {"fixed": fixed, "ratio": ratio}


def get_residual(rule: str | ResidualRule) -> ResidualRule:
    """A residual rule by name.

    ``default``, ``running-mean``, ``mean-of-branches``, ``none``; ``fixed(0.5)``, ``ratio(0.5)``.

    A rule is returned as it is.

    Raises:
        ArgumentError: anything else, or τ out of range.
    """
    if callable(rule):
        return rule
    name = str(rule)
    kind, _, rest = name.partition("(")
    try:
        return RULES[name] if name in RULES else _WITH_TAU[kind](float(rest.removesuffix(")")))
    except (KeyError, ValueError) as error:
        if isinstance(error, ArgumentError):
            raise
        expected = ", ".join([*RULES, *(f"{kind}(NUMBER)" for kind in _WITH_TAU)])
        raise ArgumentError(f"get_residual({rule!r}): expected one of {expected}, or a function") from error


def equal_parts(layer: int, depth: int, multiplier: float = 1.0, attention_ratio: float = 1.0) -> float:
    """τ = a_l·(depth/2 + Σ_{k<l} a_k²)^-½ for ``ratio``, a_k the strength of the k-th branch.

    The stream after l additions is x₀·√(depth/2) + a₁·f₁ + … + a_l·f_l, normalized. Attention and feed-forward take
    turns, attention first; with m the multiplier and ρ the ratio, a is m·ρ·√(2/(1 + ρ²)) of attention and
    m·√(2/(1 + ρ²)) of feed-forward. With both 1, attention, feed-forward and embeddings have equal parts.

    Args:
        layer: number of the addition, from 1.
        depth: how many there are.
        multiplier: strength of the branches over the embeddings.
        attention_ratio: strength of attention over feed-forward.

    Returns:
        The branch's weight over the skip connection's. Source: u-μP (arXiv 2407.17465), Appendix G; the library
        ``unit-scaling``, core/functional.py (transformer_residual_scaling_rule).
    """
    if not 1 <= layer <= depth:
        raise ArgumentError(f"equal_parts(layer={layer}, depth={depth}): expected 1 ≤ layer ≤ depth")
    ffn = multiplier * math.sqrt(2 / (1 + attention_ratio**2))
    attention = attention_ratio * ffn
    before = (layer // 2) * attention**2 + ((layer - 1) // 2) * ffn**2
    return float((attention if layer % 2 else ffn) * (depth / 2 + before) ** -0.5)
