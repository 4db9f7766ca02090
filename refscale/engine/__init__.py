"""Automatic differentiation with scale factors: Tensor, Tape, Op, apply, backward.

In reading order: ``op`` (the interface of ops), ``example`` (examples of ops), ``record`` (tape, tensors, calls),
``run`` (the specification of forward and backward, one page), ``factors`` (the check of the factors); then
``operators`` (operators of tensors, and NumPy functions), ``fast`` (the computation of ``run`` in fewer passes over
memory) and ``rows`` (sparse gradients, used by ``fast`` only).
"""

from refscale.engine.example import Input, Sizes
from refscale.engine.factors import Edge, ancestors, call_name, edges, settle
from refscale.engine.op import Array, Degree, Example, Op, example, op_name
from refscale.engine.record import Node, Probe, Tape, Tensor, Variable, tape_of
from refscale.engine.rows import Rows
from refscale.engine.run import apply, backward
from refscale.precision import CastRecord

__all__ = [
    "Array",
    "CastRecord",
    "Degree",
    "Edge",
    "Example",
    "Input",
    "Node",
    "Op",
    "Probe",
    "Rows",
    "Sizes",
    "Tape",
    "Tensor",
    "Variable",
    "ancestors",
    "apply",
    "backward",
    "call_name",
    "edges",
    "example",
    "op_name",
    "settle",
    "tape_of",
]
