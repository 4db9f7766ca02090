"""Rules of ONNX nodes, by the rules of ATen ops where both compute the same.

A rule is called by the names of the node's inputs in the standard, and by its attributes, with the standard's defaults.
An input that the node lacks, and an attribute that it lacks and that has no default in its version of the standard, is
not passed.  A number in a name, such as "onnx.Softmax-1", is the version of the standard that introduced an older
definition of the op.

Pages: ``registry`` (what these rules share), and those of the ATen ops.
"""

from refscale.bridge.rules.onnx import elementwise, movement, norms, products, recurrent, reductions  # noqa: F401
from refscale.bridge.rules.registry import RULES

__all__ = ["RULES"]
