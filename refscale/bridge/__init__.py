"""PyTorch modules and ONNX models as programs, and back.

In reading order: ``evaluation`` and ``rules`` (each ATen op in refscale's ops), ``steps`` (a module as a list of
calls), ``patterns`` (functions composed of several ops), ``parity`` (against torch), ``program``, ``importing``;
``functions`` (each op in torch), ``module`` (the way back); ``onnx`` (ONNX models); ``sources``, ``bring`` and
``saving`` (the command).
"""

from refscale.bridge.bring import Brought, gradient_error
from refscale.bridge.importing import from_torch
from refscale.bridge.module import to_torch
from refscale.bridge.onnx import from_onnx, to_onnx
from refscale.bridge.parity import Difference, TorchParity
from refscale.bridge.program import TorchProgram
from refscale.bridge.saving import rebuild

__all__ = [
    "Brought",
    "Difference",
    "TorchParity",
    "TorchProgram",
    "from_onnx",
    "from_torch",
    "gradient_error",
    "rebuild",
    "to_onnx",
    "to_torch",
]
