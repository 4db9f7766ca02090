"""How a gradient is made: Tensor, Tape, Op, apply, backward.

In reading order: ``op`` (what an op is), ``record`` (what is recorded, and how each array is rounded), ``rows``
(gradients that are zero but for some rows), ``run`` (how it runs, and who owns an array).
"""

from refscale.engine.op import Array, Kernel, Op, kernel_of, op_name
from refscale.engine.record import CastRecord, Node, Probe, Tape, Tensor, Variable, tape_of
from refscale.engine.rows import Rows
from refscale.engine.run import apply, backward

__all__ = [
    "Array",
    "CastRecord",
    "Kernel",
    "Node",
    "Op",
    "Probe",
    "Rows",
    "Tape",
    "Tensor",
    "Variable",
    "apply",
    "backward",
    "kernel_of",
    "op_name",
    "tape_of",
]
