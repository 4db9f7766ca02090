"""A trained regular program as a unit-scaled one that computes the same function.

One scale for each tensor: s, by which a tensor of the regular program is larger than that of the adapted one.  One rule
for each class of ops, which the op declares (``Op.homogeneity``).

In reading order:

1. ``solution``: the scale of every tensor of a recorded graph, and α of every call.
2. ``scheme``: the factors as a scheme, call by call.
3. ``parity``: the two programs compared, every tensor and every gradient.
4. ``adaptation``: ``adapt``, which does all three.
"""

from refscale.adapt.adaptation import AdaptedProgram, adapt, adapted_program
from refscale.adapt.parity import Parity, parity
from refscale.adapt.scheme import Adapted, AdaptedScheme
from refscale.adapt.solution import Recording, Solution, Solved, finite_sigma, solve

__all__ = [
    "Adapted",
    "AdaptedProgram",
    "AdaptedScheme",
    "Parity",
    "Recording",
    "Solution",
    "Solved",
    "adapt",
    "adapted_program",
    "finite_sigma",
    "parity",
    "solve",
]
