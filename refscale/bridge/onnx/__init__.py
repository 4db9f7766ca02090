"""ONNX models as programs, and programs as ONNX models.

In reading order: ``reading`` (a model as a list of steps), ``elementwise`` and ``patterns`` (functions composed of
several nodes), ``running`` (onnxruntime), ``importing``; ``nodes`` (each op as nodes), ``writing``.
"""

from refscale.bridge.onnx.importing import from_onnx
from refscale.bridge.onnx.writing import to_onnx

__all__ = ["from_onnx", "to_onnx"]
