"""PyTorch modules as programs, and back.

In reading order: ``rules`` and ``recurrent`` (each ATen op in refscale's ops), ``steps`` (a module as a list of calls),
``patterns`` (functions composed of several ops), ``program``; ``functions`` (each op in torch), ``module`` (the way
back); ``bring`` (the command).
"""

from refscale.bridge import recurrent  # noqa: F401 (adds its rules)
from refscale.bridge.bring import Brought, gradient_error
from refscale.bridge.module import to_torch
from refscale.bridge.program import Difference, TorchParity, TorchProgram, from_torch

__all__ = ["Brought", "Difference", "TorchParity", "TorchProgram", "from_torch", "gradient_error", "to_torch"]
