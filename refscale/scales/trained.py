"""The constants of a trained model, whose weights unit scaling cannot assume to be random.

A regular model with weights W = σ·W′ computes the same function with W′, of RMS 1, if σ is multiplied elsewhere. The
place usually does not matter: linear ops pass a scale on, and norms remove it. A scale matters at a few places, and
each of them has one constant:

=====================  ===============================================================================================
place                  constant
=====================  ===============================================================================================
a linear layer before  the factor of its product, forward and to its input: its output has the scale of the regular
a non-linear op        model, because gelu, tanh and losses do not pass a scale on
scores of attention    the factor of their product: the trained temperature of the softmax
a residual branch      its weight over that of the stream, each in its own unit
a norm                 the factor of its eps: its input is a multiple of the regular one
a part of a sum of     its weight
embeddings
=====================  ===============================================================================================

All other factors are those of unit scaling. ``published.adapt`` computes the constants; ``Scheme.trained`` stores
them.
"""

from __future__ import annotations

from refscale.errors import ArgumentError
from refscale.scales.factors import Constraint, get_constraint
from refscale.scales.named import get_scheme
from refscale.scales.residuals import ResidualRule, get_residual, ratio
from refscale.scales.schemes import Scheme


def exactly(value: float) -> Constraint:
    """Make the constraint that sets α and the constrained β to a given value, for any factors of the op.

    Raises:
        ArgumentError: the value is not positive.
    """
    if not value > 0:
        raise ArgumentError(f"exactly({value}): expected a positive factor")
    return lambda alpha, betas: value


def constraint_at(scheme: str | Scheme, place: str, constraint: str | Constraint) -> Constraint:
    """Return the constraint at a place: the scheme's trained constant if it has one, else the model's constraint."""
    value = get_scheme(scheme).trained.get(place)
    return get_constraint(constraint) if value is None else exactly(value)


def residual_at(scheme: str | Scheme, place: str, rule: str | ResidualRule) -> ResidualRule:
    """Return the residual rule at a place: the scheme's trained weight if it has one, else the model's rule."""
    value = get_scheme(scheme).trained.get(place)
    return get_residual(rule) if value is None else ratio(value)
