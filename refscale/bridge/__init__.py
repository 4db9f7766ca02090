"""Models of PyTorch as programs.

In reading order: ``rules`` (each ATen op in refscale's ops), ``steps`` (a module as a list of calls), ``patterns``
(functions composed of several ops), ``program``.
"""

from refscale.bridge.program import Deviation, Parity, TorchProgram, from_torch

__all__ = ["Deviation", "Parity", "TorchProgram", "from_torch"]
