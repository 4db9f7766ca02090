"""An ONNX model as a list of steps: one for each node that depends on an input or a parameter.

Nodes of constants alone are computed here.  A step whose value does not depend on parameters is computed by
``onnx.reference``, node by node.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.bridge.steps import AtenCall, Exported, Ref
from refscale.errors import ProgramError, counted, shown

__all__ = ["HIDDEN", "ReadModel", "copied_node", "read"]

Array = NDArray[Any]

HIDDEN = -1e4
"""Largest number that an added mask hides a score by; a choice: e^−10⁴ is 0 in float32 and float64."""
_CONTROL = frozenset({"If", "Loop", "Scan", "SequenceMap"})
_LISTS = frozenset({"Split", "LSTM", "GRU", "RNN"})
"""Nodes whose value is a list; later steps take its elements."""
_FIRST = frozenset({"BatchNormalization", "Dropout", "LayerNormalization", "MaxPool"})
"""Nodes of which only the first output is computed."""
_RENAMED = {"input_mean": "mean", "input_var": "var", "value": "constant_value"}
"""Names of inputs and attributes that differ between versions of the standard."""
_MOVES = frozenset({"Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten"})
_MISTAKEN = frozenset({"onnx.Softmax-1", "onnx.LogSoftmax-1", "onnx.Hardmax-1"})
"""Nodes that ``onnx.reference`` computes by today's definition."""
_NUMERIC = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Clip", "Max", "Min"})
_MEASURED = frozenset({"Shape", "Size"})
_FLOAT_SLOTS = frozenset(
    {("BatchNormalization", "mean"), ("BatchNormalization", "var"), ("Pow", "Y"), ("Where", "X"), ("Where", "Y")}
    | {("Clip", "min"), ("Clip", "max"), ("Pad", "constant_value"), ("Resize", "roi"), ("Resize", "scales")}
    | {("Upsample", "scales"), ("Dropout", "ratio"), ("OneHot", "values"), ("Range", "delta")}
    | {("LSTM", "initial_h"), ("LSTM", "initial_c"), ("LSTM", "P"), ("GRU", "initial_h")}
)
"""Inputs of nodes that are constants even if they are arrays of floats."""
_WEIGHTS = frozenset(
    {("Conv", "W"), ("Conv", "B"), ("ConvTranspose", "W"), ("ConvTranspose", "B"), ("Gemm", "B"), ("Gemm", "C")}
    | {("MatMul", "A"), ("MatMul", "B"), ("Gather", "data"), ("LSTM", "W"), ("LSTM", "R"), ("LSTM", "B")}
    | {("GRU", "W"), ("GRU", "R"), ("GRU", "B"), ("BatchNormalization", "scale"), ("BatchNormalization", "B")}
)
"""Inputs of nodes that are parameters even if they have one element."""


@dataclass(frozen=True)
class ReadModel:
    """A model as steps.

    Attributes:
        name: name of its graph, or of its file.
        proto: the ``onnx.ModelProto``, without functions.
        exported: the steps.
        values: the values of the parameters by name.
        inputs: the example inputs, in the order of the graph.
        guesses: assumptions about properties that the file does not record.
    """

    name: str
    proto: Any
    exported: Exported
    values: Mapping[str, Array]
    inputs: tuple[Array, ...]
    guesses: tuple[str, ...]

    @property
    def examples(self) -> dict[str, Array]:
        """The example inputs by name."""
        return dict(zip(self.exported.inputs, self.inputs, strict=True))

    @property
    def given(self) -> dict[str, Array]:
        """Constants, parameters and example inputs by name."""
        return {**self.exported.constants, **self.values, **self.examples}


def _loaded(model: Any) -> tuple[Any, str]:
    """The ``ModelProto`` with its functions in line, and a name."""
    import onnx
    import onnx.inliner

    if not isinstance(model, str | Path):
        name = getattr(getattr(model, "graph", None), "name", None)
        if name is None:
            raise ProgramError(f"from_onnx({shown(model)}): expected a path or an onnx.ModelProto")
        proto, name = model, name or "onnx"
    else:
        name = Path(model).stem
        try:
            proto = onnx.load(str(model))
        except Exception as error:
            raise ProgramError(
                f"from_onnx({str(model)!r}): onnx.load raised {type(error).__name__}: {error}"
            ) from error
    if not proto.graph.output:
        raise ProgramError(f"from_onnx({name}): a graph without outputs, as of an empty file; expected a model")
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    return proto, name


class _NodeFunction:
    """The value of a node by ``onnx.reference``: an array, or a list with None for each output without a name."""

    def __init__(self, node: Any, opset: int, names: Mapping[str, str | list[str]], several: bool) -> None:
        self.node, self._opset, self._names, self._several = node, opset, names, several
        self._evaluator: Any = None

    def __call__(self, **arguments: Any) -> Any:
        import onnx.helper
        from onnx.reference import ReferenceEvaluator

        if self._evaluator is None:
            outputs = [onnx.helper.make_empty_tensor_value_info(n) for n in self.node.output if n]
            taken = list(dict.fromkeys(n for n in self.node.input if n))
            inputs = [onnx.helper.make_empty_tensor_value_info(n) for n in taken]
            graph = onnx.helper.make_graph([self.node], "node", inputs, outputs)
            model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", self._opset)])
            self._evaluator = ReferenceEvaluator(model)
        given: dict[str, Array] = {}
        for formal, actual in self._names.items():
            if isinstance(actual, list):
                given.update(zip(actual, map(_array, arguments[formal]), strict=True))
            else:
                given[actual] = _array(arguments[formal])
        dtypes = [x.dtype for x in given.values() if x.dtype.kind == "f"]
        wide = max(dtypes, key=lambda d: d.itemsize) if dtypes else None
        given = {n: x.astype(wide) if wide is not None and x.dtype.kind == "f" else x for n, x in given.items()}
        try:
            found = iter([np.asarray(y) for y in self._evaluator.run(None, given)])
        except Exception as error:  # its exceptions have no common class
            raise ProgramError(f"{self.node.op_type} {self.node.name!r}: onnx.reference: {shown(error)}") from error
        return [next(found) if n else None for n in self.node.output] if self._several else next(found)


def _array(x: Any) -> Array:
    return np.asarray(x, np.float32) if isinstance(x, float) else np.asarray(x)


def copied_node(step: AtenCall, graph: Any, constants: Mapping[str, Any]) -> bool:
    """Return whether a step has a node of the model, which is copied to a graph.

    Args:
        step: the step.
        graph: a ``nodes.GraphWriter``.
        constants: values by name, of which those that the node takes become initializers.
    """
    if not isinstance(step.function, _NodeFunction):
        return False
    node, made = step.function.node, {name for n in graph.nodes for name in n.output}
    graph.nodes.append(node)
    for name in node.input:
        if name and name in constants and name not in made:
            graph.initializers[name] = constants[name]
    return True


def _dimensions(data: Any, start: int = 0, end: int | None = None) -> Array:
    """The value of a Shape node."""
    return np.array(tuple(data.shape)[slice(start, end)], np.int64)


def _elements(data: Any) -> Array:
    """The value of a Size node."""
    return np.array(int(np.prod(tuple(data.shape))), np.int64)


def _gather_elements(data: Any, indices: Any, axis: int) -> Array:
    """The value of a GatherElements node."""
    return np.take_along_axis(data, np.where(indices < 0, indices + data.shape[axis], indices), axis)


def _global_max_pool(X: Any) -> Array:
    """The value of a GlobalMaxPool node."""
    return np.asarray(X.max(tuple(range(2, X.ndim)), keepdims=True))


_OWN = {
    "Shape": _dimensions,
    "Size": _elements,
    "GatherElements": _gather_elements,
    "GlobalMaxPool": _global_max_pool,
}
"""Functions of nodes that ``onnx.reference`` computes from values alone, or of which it refuses or changes shapes."""


class _Reader:
    """Reads the nodes of one graph in order."""

    def __init__(self, proto: Any, name: str, inputs: Sequence[Any] | Mapping[str, Any]) -> None:
        self.proto, self.name = proto, name
        self.opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 1)
        self.known: dict[str, Array] = {t.name: self._array(t, repr(t.name)) for t in proto.graph.initializer}
        for node in proto.graph.node:
            self._check(node)
        self.inputs = self._inputs(inputs)
        self.steps: list[AtenCall] = []
        self.made = {*self.known, *self.inputs}
        self.uses: dict[str, set[tuple[str, str]]] = {}

    def _array(self, tensor: Any, what: str) -> Array:
        """The values of a ``TensorProto``."""
        import onnx

        try:
            values: Array = onnx.numpy_helper.to_array(tensor, base_dir="")
            return values
        except Exception as error:  # its exceptions have no common class
            why = f"the values of {what} cannot be read: {type(error).__name__}: {shown(error)}"
            raise ProgramError(f"from_onnx({self.name}): {why}") from error

    def _check(self, node: Any) -> None:
        """Refuse control flow, quantized nodes and other domains than the standard's."""
        kind = node.op_type
        if node.domain not in ("", "ai.onnx"):
            raise self.refused(node, f"of the domain {node.domain!r}, expected the standard's")
        if kind in _CONTROL:
            raise self.refused(node, "control flow, expected a graph without it")
        if "Quantize" in kind or kind.startswith("QLinear") or kind.endswith("Integer"):
            raise self.refused(node, "quantized, expected float32")
        if not any(node.output):
            raise self.refused(node, "without an output, expected one with a name")
        if kind == "Constant" and len(node.attribute) != 1:
            raise self.refused(node, f"with {counted(len(node.attribute), 'attribute')}, expected 1")

    def refused(self, node: Any, why: str) -> ProgramError:
        place = node.name or next(iter(node.output), "")
        return ProgramError(f"from_onnx({self.name}): {node.op_type} {place!r}: {why}")

    def _inputs(self, given: Sequence[Any] | Mapping[str, Any]) -> dict[str, Array]:
        """The example inputs by name, in the order and with the types of the graph."""
        from onnx.helper import get_all_tensor_dtypes, tensor_dtype_to_np_dtype

        wanted = [i for i in self.proto.graph.input if i.name not in self.known]
        names = [i.name for i in wanted]
        if not isinstance(given, Mapping):
            if len(given) != len(names):
                raise ProgramError(f"from_onnx({self.name}): {counted(len(given), 'input')}, expected {names}")
            given = dict(zip(names, given, strict=True))
        if set(given) != set(names):
            raise ProgramError(f"from_onnx({self.name}): inputs {list(given)}, expected {names}")
        found = {}
        for i in wanted:
            kind = i.type.tensor_type.elem_type
            if kind not in get_all_tensor_dtypes():
                raise ProgramError(f"from_onnx({self.name}): input {i.name!r} has no type of a tensor, expected one")
            dtype = tensor_dtype_to_np_dtype(kind)
            x = np.asarray(given[i.name])
            if x.dtype.kind != np.dtype(dtype).kind and not (x.dtype.kind in "iu" and np.dtype(dtype).kind in "iu"):
                raise ProgramError(f"from_onnx({self.name}): input {i.name!r} is {x.dtype}, expected {dtype}")
            found[i.name] = x.astype(dtype)
        return found

    def read(self) -> None:
        for node in self.proto.graph.node:
            self._read(node)

    def _read(self, node: Any) -> None:
        from onnx import helper

        kind = node.op_type
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if kind == "Constant":
            ((key, value),) = attributes.items()
            dtype = {"value_float": np.float32, "value_int": np.int64}.get(key.removesuffix("s"))
            if key != "value" and dtype is None:
                raise self.refused(node, f"with {key}, expected value, numbers or a list of numbers")
            found = self._array(value, node.output[0]) if dtype is None else np.asarray(value, dtype)
            self.known[node.output[0]] = found
            self.made.add(node.output[0])
            return
        arguments, names, settings = self._arguments(node, attributes)
        outputs = [n for n in node.output if n]
        several = kind in _LISTS or (len(outputs) > 1 and kind not in _FIRST)
        function: Any = _OWN.get(kind) or _NodeFunction(node, self.opset, names, several)
        taken = [n for n in node.input if n]
        if missing := [n for n in taken if n not in self.made]:
            raise self.refused(node, f"takes {missing[0]!r}, which no earlier node computes")
        self.made.update(outputs if several else outputs[:1])
        weights = [n for n in taken if n in self.known and _floats(self.known[n])]
        if all(n in self.known for n in taken) and not (kind in _MOVES and weights):
            found = function(**{k: self._resolved(v) for k, v in arguments.items()}, **settings)
            values = zip(node.output, found, strict=True) if several else [(outputs[0], found)]
            self.known.update((n, y) for n, y in values if n)
            return
        since = "-1" if kind in ("Softmax", "LogSoftmax", "Hardmax") and self.opset < 13 else ""
        scope = node.name.strip("/").rpartition("/")[0].replace("/", ".")
        name = f"{outputs[0]} and others" if several else outputs[0]
        call = AtenCall(
            name, f"onnx.{kind}{since}", scope, function, {**arguments, **settings}, of_shapes=kind in _MEASURED
        )
        self.steps.append(call)
        for i, output in enumerate(node.output if several else ()):
            if output:
                whole = {"a": Ref(name), "b": i}
                self.steps.append(AtenCall(output, "getitem", scope, operator.getitem, whole))

    def _arguments(
        self, node: Any, attributes: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, str | list[str]], dict[str, Any]]:
        """Inputs by their names in the standard, the names of the tensors, and the attributes with their defaults."""
        from onnx import defs, helper

        try:
            schema = defs.get_schema(node.op_type, self.opset, "")
        except defs.SchemaError:
            raise self.refused(node, f"unknown in version {self.opset} of the standard") from None
        formals = list(schema.inputs)
        names: dict[str, Any] = {}
        for i, name in enumerate(node.input):
            formal = formals[min(i, len(formals) - 1)]
            key = _RENAMED.get(formal.name, formal.name)
            if formal.option == defs.OpSchema.FormalParameterOption.Variadic:
                names.setdefault(key, []).append(name)
            elif name:
                names[key] = name
        arguments = {}
        for key, actual in names.items():
            for n in actual if isinstance(actual, list) else [actual]:
                self.uses.setdefault(n, set()).add((node.op_type, key))
            kind = node.op_type
            arguments[key] = (
                [self._ref(n, kind) for n in actual] if isinstance(actual, list) else self._ref(actual, kind)
            )
        settings = {}
        for name, attribute in schema.attributes.items():
            value = attributes.get(name)
            if value is None and attribute.default_value.type:
                value = helper.get_attribute_value(attribute.default_value)
            if value is not None:
                settings[_RENAMED.get(name, name)] = _plain(value)
        if node.op_type == "Split":
            settings["num_outputs"] = len(node.output)
        return arguments, names, settings

    def _ref(self, name: str, kind: str) -> Any:
        """A number if an element-wise node takes a constant float of one element, else the name."""
        x = self.known.get(name)
        if kind in _NUMERIC and x is not None and x.dtype == np.float32 and x.size == 1:
            return float(x.ravel()[0])
        return Ref(name)

    def _resolved(self, argument: Any) -> Any:
        if isinstance(argument, list):
            return [self._resolved(a) for a in argument]
        return self.known[argument.name] if isinstance(argument, Ref) else argument

    def parameters(self) -> dict[str, Array]:
        """Constant floats that are used as parameters."""
        uses = {n: set(found) for n, found in self.uses.items()}
        for step in reversed(self.steps):  # a movement's input has the uses of its output
            if step.target.removeprefix("onnx.") in _MOVES:
                uses.setdefault(step.inputs[0], set()).update(uses.get(step.name, ()))
        moves = {(kind, key) for kind in _MOVES for key in ("data", "input")}
        found = {}
        for name, x in self.known.items():
            slots = uses.get(name, set()) - moves - _FLOAT_SLOTS
            if not slots or x.dtype.kind != "f" or not x.size:
                continue
            if x.dtype != np.float32:
                raise ProgramError(f"from_onnx({self.name}): {name!r} is {x.dtype}, expected float32")
            if slots & _WEIGHTS or (x.size > 1 and not _mask(x)):
                found[name] = x
        return found


def _floats(x: Array) -> bool:
    return x.dtype.kind == "f" and x.size > 1


def _mask(x: Array) -> bool:
    """Return whether an array is a mask: it has −∞ or other numbers ≤ −10⁴, or more than two axes of one number."""
    uniform = sum(s > 1 for s in x.shape) > 2 and np.ptp(x) == 0
    return bool(not np.isfinite(x).all() or x.min() <= HIDDEN or uniform)


def _plain(value: Any) -> Any:
    """An attribute in Python's types."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def read(model: Any, inputs: Sequence[Any] | Mapping[str, Any], output: int | str | None = None) -> ReadModel:
    """Read a model.

    Args:
        model: a path or an ``onnx.ModelProto``.
        inputs: examples, by name or in order.
        output: name or position of the output; None: the first.

    Raises:
        ProgramError: it is not a model, the inputs are not its own, or a node is control flow, quantized or unknown.
    """
    proto, name = _loaded(model)
    reader = _Reader(proto, name, inputs)
    reader.read()
    outputs = [o.name for o in proto.graph.output]
    try:
        chosen = outputs[output or 0] if output is None or isinstance(output, int) else output
    except IndexError:
        chosen = ""
    if chosen not in outputs:
        raise ProgramError(f"from_onnx({name}): output={output!r}, expected one of {outputs}")
    values = reader.parameters()
    constants = {n: x for n, x in reader.known.items() if n not in values}
    whole = Exported((), {n: n for n in values}, constants, tuple(reader.inputs), chosen)
    exported = whole.with_steps(reader.steps)
    for step in exported.steps:
        if step.target in _MISTAKEN and step.name not in exported.depends:
            raise ProgramError(
                f"from_onnx({name}): {step}: onnx.reference computes it by another version of the standard, expected "
                "one that depends on a parameter"
            )
    used = {n for step in exported.steps for n in step.inputs} | {chosen}
    values = {n: x for n, x in values.items() if n in used}
    exported = replace(
        exported,
        parameters={n: n for n in values},
        constants={n: x for n, x in constants.items() if n in used},
    )
    return ReadModel(name, proto, exported, values, tuple(reader.inputs.values()), _guesses(exported, values))


def _guesses(exported: Exported, values: Mapping[str, Array]) -> tuple[str, ...]:
    """Assumptions about ties, buffers and folded norms, which the file does not record."""
    found = []
    equal: dict[bytes, list[str]] = {}
    for name, x in values.items():
        if x.size > 1 and np.ptp(x):
            for y in (x, x.T):
                if name not in (group := equal.setdefault(repr(y.shape).encode() + y.tobytes(), [])):
                    group.append(name)
    ties = sorted({tuple(group) for group in equal.values() if len(group) > 1})
    found += [f"{', '.join(group)} are equal, and may be one parameter" for group in ties]
    buffers = [
        name
        for name, x in values.items()
        if x.ndim > 1
        and sum(s > 1 for s in x.shape) > 1
        and any(
            step.target in ("onnx.Add", "onnx.Mul", "onnx.Sub", "onnx.Div") and name in step.inputs
            for step in exported.steps
        )
    ]
    if buffers:
        found.append(f"{', '.join(buffers)}: added or multiplied as a whole, taken for parameters, may be buffers")
    kinds = {step.target for step in exported.steps}
    convolutions = [s for s in exported.steps if s.target == "onnx.Conv" and "B" in s.arguments]
    if convolutions and not any("Normalization" in kind for kind in kinds):
        count = counted(len(convolutions), "convolution")
        found.append(f"{count} with a bias and no norm in the model: batch norms may be folded into weights")
    return tuple(found)
