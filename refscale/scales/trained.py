"""The constants of a trained model: what unit scaling cannot know of weights that were not drawn at random.

A regular model with weights W = σ·W′ computes the same function with W′, of RMS 1, if σ is multiplied somewhere else.
Most of a network does not ask where: what is linear passes a scale on, and a norm takes it away. A scale matters at
few places, and each gets one constant:

=====================  ===============================================================================================
place                  its constant
=====================  ===============================================================================================
a linear layer whose   the factor of its product, forward and to its input: its output has the scale of the regular
output is not linear   model, for gelu, tanh and a loss do not pass a scale on
scores of attention    the same, for the softmax: the temperature that was trained
a residual branch      its weight over that of the stream, each in its own unit
a norm                 what its eps is multiplied by: its input is a multiple of the regular one
a part of a sum of     its weight
embeddings
=====================  ===============================================================================================

Everything else keeps the factors of unit scaling. ``published.adapt`` finds the constants;
``Scheme.trained`` holds them.
"""

from __future__ import annotations

from refscale.errors import ArgumentError
from refscale.scales.factors import Constraint, get_constraint
from refscale.scales.named import get_scheme
from refscale.scales.residuals import ResidualRule, get_residual, ratio
from refscale.scales.schemes import Scheme


def exactly(value: float) -> Constraint:
    """The constraint by which α and the constrained β are this value, whatever the op's own factors.

    Raises:
        ArgumentError: it is not positive.
    """
    if not value > 0:
        raise ArgumentError(f"exactly({value}): expected a positive factor")
    return lambda alpha, betas: value


def constraint_at(scheme: str | Scheme, place: str, constraint: str | Constraint) -> Constraint:
    """How factors are tied at a place: by the model's constraint, unless the scheme has a trained constant for it."""
    value = get_scheme(scheme).trained.get(place)
    return get_constraint(constraint) if value is None else exactly(value)


def residual_at(scheme: str | Scheme, place: str, rule: str | ResidualRule) -> ResidualRule:
    """How a branch is added: by the model's rule, unless the scheme has its trained weight over the stream's."""
    value = get_scheme(scheme).trained.get(place)
    return get_residual(rule) if value is None else ratio(value)
