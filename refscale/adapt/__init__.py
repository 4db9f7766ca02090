"""Adaptation: a trained regular program becomes a unit-scaled program of the same function.

Each tensor has a scale s: the tensor of the regular program is s times that of the adapted program. Each op declares
how its result depends on the scales of its inputs (``Op.homogeneity``).

Gradient errors of untrained programs by ``refscale fidelity MODEL`` (one seed; in parentheses with the best loss scale;
tests/adapt/folded.py defines the first three):

=================================  ===================  =================  =================  ==================
program                            FP16 regular         FP16 adapted       FP8 regular        FP8 adapted
=================================  ===================  =================  =================  ==================
``folded.py:alike``                0.007                0.005              0.089 (0.092)      0.129
``folded.py:folded``               0.009                0.009              0.211 (0.244)      **0.722**
``folded.py:normed``               0.069                0.051              0.633 (0.621)      0.555
decoder-tiny                       0.0008               0.0008             0.138 (0.120)      0.097
charlm-conv                        0.011                0.011              0.171 (0.156)      0.129
=================================  ===================  =================  =================  ==================

In FP16 no error rises. In FP8 the error of programs with norms falls, most by E5M2:
that of casting incoming gradients alone falls from 0.123 to 0.071 (decoder-tiny). Without norms it may rise. The six
layers of ``folded`` have channels of many scales, as folding batch norms into weights produces them. Its activations
are 2^-12 after adaptation, not 1, and its output error in FP8 rises from 0.08 to 0.74. With channels of one scale
(``alike``) activations are 2; with batch norms and the same spread (``normed``), 2.3. σ of a weight is dominated by
its largest channels, and these multiply the smallest inputs. The error may rise where many layers without a norm
follow each other and per-channel scales differ; ``refscale report MODEL --scheme adapted`` shows the drift.

In reading order:

1. ``solution``: the scale of every tensor of a recorded graph, and α of every call.
2. ``scheme``: a scheme with the factors of every call.
3. ``parity``: comparison of every tensor and gradient of the two programs.
4. ``adaptation``: ``adapt``, which solves, builds the scheme and compares.
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
