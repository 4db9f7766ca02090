"""Residual rules: the weights of the skip connection and the branch in a residual addition."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from refscale.errors import ArgumentError

ResidualRule = Callable[[int], tuple[float, float]]
"""``rule(l)`` returns the weights (skip, branch) of the l-th residual addition since the stream's last norm."""


def running_mean(layer: int) -> tuple[float, float]:
    """Return the weights of √(l/(l+1))·x + √(1/(l+1))·f(x), l = 1, 2, …: equal parts of the input and every branch.

    Source: paper, residual rules (running mean). The authors' code (scmm/models.py) counts l from 0, so that the first
    branch replaces the stream, and does not restart the count at a post-norm.
    """
    if layer < 1:
        raise ArgumentError(f"running_mean(layer={layer}): expected layer ≥ 1")
    return math.sqrt(layer / (layer + 1)), math.sqrt(1 / (layer + 1))


@dataclass(frozen=True)
class CountedOn:
    """A rule that counts additions through the whole model: a norm on the stream does not restart the count.

    Attributes:
        rule: weights as a function of the count, ≥ 1.
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
"""√((l−1)/l)·x + √(1/l)·f(x), l = 1, 2, … through the whole model: equal parts of all branches; the first replaces x.

Source: the authors' code, scmm/models.py (alpha = 1/(1 + index), index = 0, 1, …, also in post-norm).
"""


@dataclass(frozen=True)
class PlainAdd:
    """The plain addition x + f(x), whose variance grows with depth; unit scaling uses ``normalized`` in its place.

    Attributes:
        normalized: the rule under unit scaling. The running mean, (x₀ + f₁ + … + f_l)/√(l+1), is the same function up
            to a divisor that the next norm removes, if branches have the scale of the stream in the regular model. If
            they are weaker, use ``fixed(τ)``, with τ their part of the variance.
    """

    normalized: ResidualRule = running_mean

    def __call__(self, layer: int) -> tuple[float, float]:
        """Weights 1 and 1. Source: paper, residual rules (default)."""
        return 1.0, 1.0


default = PlainAdd()


def branch_only(layer: int) -> tuple[float, float]:
    """Return the weights of f(x), without skip connection. Source: paper, character models (residual none)."""
    return 0.0, 1.0


@cache
def fixed(tau: float) -> ResidualRule:
    """Make the rule √(1−τ)·x + √τ·f(x), 0 < τ < 1: the same weights for every branch. Source: paper, residual rules."""
    if not 0 < tau < 1:
        raise ArgumentError(f"fixed(tau={tau}): expected 0 < tau < 1")

    def rule(layer: int) -> tuple[float, float]:
        return math.sqrt(1 - tau), math.sqrt(tau)

    rule.__name__ = f"fixed({tau:g})"
    return rule


@cache
def ratio(tau: float) -> ResidualRule:
    """Make the rule (x + τ·f(x))/√(1+τ²), τ > 0. Source: u-μP (arXiv 2407.17465), section on residuals."""
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
    """Return the residual rule of a name; a rule is returned unchanged.

    Names: ``default``, ``running-mean``, ``mean-of-branches``, ``none``; ``fixed(0.5)``, ``ratio(0.5)``.

    Raises:
        ArgumentError: the name is unknown, or τ is out of range.
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
    """Compute τ = a_l·(depth/2 + Σ_{k<l} a_k²)^-½ for ``ratio``, with a_k the scale of the k-th branch.

    The stream after l additions is x₀·√(depth/2) + a₁·f₁ + … + a_l·f_l, normalized. Attention and feed-forward branches
    alternate, attention first. With the multiplier m and the ratio ρ, a is m·ρ·√(2/(1 + ρ²)) for attention and
    m·√(2/(1 + ρ²)) for feed-forward. With m = ρ = 1 attention, feed-forward and embeddings have equal parts.

    Args:
        layer: number l of the addition, ≥ 1.
        depth: total number of additions.
        multiplier: m, scale of the branches over that of the embeddings.
        attention_ratio: ρ, scale of attention over that of feed-forward.

    Returns:
        The weight of the branch over that of the skip connection. Source: u-μP (arXiv 2407.17465), Appendix G; the
        library ``unit-scaling``, core/functional.py (transformer_residual_scaling_rule).
    """
    if not 1 <= layer <= depth:
        raise ArgumentError(f"equal_parts(layer={layer}, depth={depth}): expected 1 ≤ layer ≤ depth")
    ffn = multiplier * math.sqrt(2 / (1 + attention_ratio**2))
    attention = attention_ratio * ffn
    before = (layer // 2) * attention**2 + ((layer - 1) // 2) * ffn**2
    return float((attention if layer % 2 else ffn) * (depth / 2 + before) ** -0.5)
