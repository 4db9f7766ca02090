"""The multipliers of u-μP: hyperparameters inside non-linearities, and the factors that depend on them.

=====================  =======================================  ========================================================
multiplier             function                                 factor, forward and backward
=====================  =======================================  ========================================================
``activation``         x·g·sigmoid(m·g), the gated unit         2 → √2 as m grows: share 1/(1 + 1/m²)
``attention``          softmax(m·q·kᵀ/d)·v                      √(t/u) → 1 as m grows: share 1/(1 + 4·d/m²), with u = 1,
                                                                or log t under a causal mask
``loss``               cross-entropy of m·logits                m forward, 1 backward
``residual``           branches over the embedding              ``equal_parts``
``attention_ratio``    attention over feed-forward branches     ``equal_parts``
=====================  =======================================  ========================================================

Between its two limits a factor is interpolated logarithmically with the given share. With all multipliers 1 the factors
are those of the scheme without multipliers.

Source: arXiv 2407.17465, Table 3 and Appendix B, G; the library ``unit-scaling`` (functional.py, core/functional.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from refscale.errors import ArgumentError


@dataclass(frozen=True)
class Multipliers:
    """The five multipliers of u-μP, each positive, default 1; the table of this module defines them.

    Raises:
        ArgumentError: a multiplier is not a positive finite number.
    """

    activation: float = 1.0
    attention: float = 1.0
    loss: float = 1.0
    residual: float = 1.0
    attention_ratio: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 < value < math.inf:
                raise ArgumentError(f"Multipliers({field.name}={value}): expected a positive finite number")

    def __str__(self) -> str:
        """The multipliers that are not 1, such as ``residual=2,loss=0.5``."""
        return ",".join(f"{f.name}={getattr(self, f.name):g}" for f in fields(self) if getattr(self, f.name) != 1)


def between(share: float, lower: float, upper: float) -> float:
    """Interpolate logarithmically: lower^(1 − share)·upper^share."""
    return math.exp(share * math.log(upper) + (1 - share) * math.log(lower))


def gated_unit_factor(multiplier: float) -> float:
    """Compute the factor of x·g·sigmoid(m·g): 2 for m → 0, √2 for m → ∞."""
    return between(1 / (1 + 1 / multiplier**2), 2.0, math.sqrt(2))


def attention_factor(multiplier: float, t: int, d: int, *, causal: bool) -> float:
    """Compute the factor of softmax(m·q·kᵀ/d)·v for t keys of size d: √(t/u) for m → 0, 1 for m → ∞.

    u = log t if causal, else 1.
    """
    flat = math.log(t) if causal and t > 1 else 1.0
    return 1 / between(1 / (1 + 4 * d / multiplier**2), math.sqrt(flat / t), 1.0)
