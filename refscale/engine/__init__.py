"""How a gradient is made: Tensor, Tape, Op, apply, backward.

In reading order: ``op`` (what an op is), ``example`` (what its examples are made of), ``record`` (what is recorded),
``run`` (how it runs, on a page), ``factors`` (when the gradient is right); then ``operators`` (tensors in expressions
and in NumPy), ``fast``, which does the same as ``run`` in fewer passes, and ``rows``, the sparse gradients that only
``fast`` makes.
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
