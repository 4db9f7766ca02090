"""A trained regular program as a unit-scaled one that computes the same function.

One scale for each tensor: s, by which a tensor of the regular program is larger than that of the adapted one.  One rule
for each class of ops, which the op declares (``Op.homogeneity``).

Which formats gain, and which lose: gradient errors of untrained programs by ``refscale fidelity MODEL`` (one seed; in
parentheses with the best loss scale; tests/adapt/folded.py has the first three):

=================================  ===================  =================  =================  ==================
program                            FP16 regular         FP16 adapted       FP8 regular        FP8 adapted
=================================  ===================  =================  =================  ==================
``folded.py:alike``                0.007                0.005              0.089 (0.092)      0.129
``folded.py:folded``               0.009                0.009              0.211 (0.244)      **0.722**
``folded.py:normed``               0.069                0.051              0.633 (0.621)      0.555
decoder-tiny                       0.0008               0.0008             0.138 (0.120)      0.097
charlm-conv                        0.011                0.011              0.171 (0.156)      0.129
=================================  ===================  =================  =================  ==================

FP16 is as good before as after, where its range was enough.  In FP8 the programs with norms gain, most by E5M2: the
error of casting incoming gradients alone falls from 0.123 to 0.071 (decoder-tiny).  Nets without norms may lose.  The
six layers of ``folded`` have channels of many scales, as batch norms leave them when they are folded into weights.  Its
activations are 2^-12 after adaptation, not 1, and its output error in FP8 rises from 0.08 to 0.74.  With channels of
one scale (``alike``) they are 2; with batch norms and the same spread (``normed``), 2.3.  The reason: σ of a weight is
that of its largest channels, and these meet the smallest inputs.  So expect a loss where many layers without a norm
follow each other and per-channel scales differ; ``refscale report MODEL --scheme adapted`` shows the drift.

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
