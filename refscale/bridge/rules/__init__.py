"""A rule for each ATen op and ONNX node: the same function in refscale's ops.

Pages: ``registry`` (the table, and what rules share), ``products``, ``elementwise``, ``norms``, ``movement``,
``reductions``, ``recurrent``, ``onnx`` (nodes of ONNX).  Rules are plain Python: torch is not imported here.
"""

from refscale.bridge.rules import elementwise, movement, norms, onnx, products, recurrent, reductions  # noqa: F401
from refscale.bridge.rules.registry import RULES, Rule

__all__ = ["RULES", "Rule"]
