"""The values of an ONNX model by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.errors import ProgramError, shown

__all__ = ["runtime_name", "runtime_values"]


def runtime_name() -> str:
    """Name and version of the runtime; "" where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return ""
    return f"onnxruntime {onnxruntime.__version__}"


def runtime_values(proto: Any, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Every value of a model, each made an output; graph optimizations are off.

    Args:
        proto: an ``onnx.ModelProto``.
        inputs: the inputs by name.

    Raises:
        ProgramError: the runtime cannot run it.
    """
    import onnx
    import onnxruntime

    whole = onnx.ModelProto()
    whole.CopyFrom(proto)
    present = {o.name for o in whole.graph.output}
    for node in proto.graph.node:
        for name in node.output:
            if name and name not in present and node.op_type != "Constant":
                whole.graph.output.append(onnx.ValueInfoProto(name=name))
                present.add(name)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(whole.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [o.name for o in session.get_outputs()]
        return {n: np.asarray(y) for n, y in zip(names, session.run(names, dict(inputs)), strict=True)}
    except Exception as error:  # its exceptions have no common class
        raise ProgramError(f"{runtime_name()} cannot run the model: {shown(error)}") from error
