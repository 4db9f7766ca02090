"""``to_onnx``: the forward pass of a program under a scheme as an ONNX model, its factors α as nodes.

The model runs the same rules as the program, with a node or a few for each call, and a ``Mul`` by α after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from refscale.adapt import Adapted
from refscale.bridge.evaluation import Evaluation
from refscale.bridge.module import values_under
from refscale.bridge.onnx.importing import ROUNDING, TOLERANCE, difference
from refscale.bridge.onnx.nodes import GraphWriter, nodes_of
from refscale.bridge.onnx.reading import copied_node
from refscale.bridge.onnx.running import runtime_name, runtime_values
from refscale.bridge.parity import Difference, TorchParity
from refscale.bridge.program import TorchProgram, as_array, computed, evaluate
from refscale.bridge.rules import RULES
from refscale.bridge.steps import AtenCall
from refscale.engine import Op, Tape
from refscale.errors import ProgramError
from refscale.files import write_atomically
from refscale.scales import Call, Scheme

__all__ = ["to_onnx"]

Array = NDArray[Any]
OPSET = 20
_OF_SHAPES = ("ones_like", "zeros_like", "full_like", "new_ones", "new_zeros", "new_full", "rand_like", "randn_like")


class _Written:
    """A value of the graph.

    Attributes:
        name: in the graph.
        array: on the example inputs.
        depends: whether it depends on parameters.
        why: the step that has no nodes; "": the graph computes the value.
    """

    def __init__(self, run: _GraphEvaluation, name: str, array: Array, depends: bool, why: str = "") -> None:
        self._run, self.name, self.array, self.depends, self.why = run, name, array, depends, why
        self.shape, self.ndim, self.dtype = array.shape, array.ndim, array.dtype

    def __getitem__(self, part: slice) -> _Written:
        """A part along the first axis."""
        graph = self._run.graph
        start, stop, _ = part.indices(self.shape[0])
        name = graph.node("Slice", self._run.name(self), *map(graph.integers, (start, stop, 0)))
        return self._run.given(name, self.array[part])

    def __array__(self, *unused: object, **settings: object) -> Array:
        raise ProgramError(f"to_onnx: a rule computes a constant from the input {self.name!r}, expected a node for it")


class _GraphEvaluation(Evaluation):
    """One evaluation that writes the nodes of each call.

    Attributes:
        graph: the graph.
        values: the results of the calls by name.
        free: whether calls have no factors and are not counted, as those of constants.
    """

    def __init__(self, scheme: Scheme, dtype: Any) -> None:
        super().__init__(None)
        self.graph, self.values = GraphWriter(), dict[str, Array]()
        self._scheme, self._dtype, self._calls = scheme, dtype, 0
        self.free = False

    def depends(self, x: object) -> bool:
        """Return whether a value depends on parameters."""
        return isinstance(x, _Written) and (x.depends or self.free)

    def filled(self, shape: tuple[int, ...], value: float | bool, like: Any) -> Any:
        """A constant array of one value."""
        return np.full(shape, value, np.bool_ if isinstance(value, bool) else self._dtype)

    def _key(self, x: Any) -> Any:
        return x

    def _permuted(self, x: Any, order: tuple[int, ...]) -> Any:
        if not isinstance(x, _Written):
            return np.transpose(x, order)
        return self.given(self.graph.node("Transpose", self.name(x), perm=list(order)), np.transpose(x.array, order))

    def operand(self, x: Any) -> Any:
        """A constant as rules take it."""
        if isinstance(x, _Written) or not (hasattr(x, "detach") or isinstance(x, np.ndarray)):
            return x
        found = as_array(x)
        return found.astype(self._dtype) if found.dtype.kind == "f" else found

    def given(self, name: str, array: Array, depends: bool = False, why: str = "") -> _Written:
        """A value with a name."""
        self.graph.shapes[name] = array.shape
        return _Written(self, name, array, depends, why)

    def name(self, x: Any) -> str:
        """The name of an operand in the graph."""
        if isinstance(x, _Written):
            if x.why:
                raise ProgramError(f"to_onnx: {x.why} computes a constant from the inputs, expected an ONNX node")
            return x.name
        array = np.asarray(x)
        name = self.graph.constant(array, np.float32 if array.dtype.kind == "f" else array.dtype)
        self.graph.shapes[name] = array.shape
        return name

    def apply(self, op: Op, *inputs: Any) -> Any:
        """Write a call: the nodes of its op, and α."""
        arrays = [x.array if isinstance(x, _Written) else np.asarray(x) for x in inputs]
        arrays = [x.astype(self._dtype) if x.dtype.kind == "f" else x for x in arrays]
        if self.free:
            name = nodes_of(op)(self.graph, op, *map(self.name, inputs))
            return self.given(name, np.asarray(op.forward(*arrays)[0]))
        asked = Call(op, tuple(x.shape for x in arrays), index=self._calls)
        scales = self._scheme.scales(asked)
        op = cast(Op, self._scheme.op(asked))
        self._calls += 1
        y = np.asarray(op.forward(*arrays)[0])
        name = nodes_of(op)(self.graph, op, *map(self.name, inputs))
        if scales.alpha is not None and scales.alpha != 1:
            y = y * self._dtype(scales.alpha)
            name = self.graph.node("Mul", name, self.graph.constant(scales.alpha), output=f"alpha_{self._calls - 1}")
        self.values[name] = y
        return self.given(name, y, True)


def to_onnx(
    program: TorchProgram,
    scheme: str | Scheme | Adapted,
    path: str | Path,
    *,
    parameters: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> TorchParity | None:
    """Write the forward pass of a program under a scheme as an ONNX model.

    Every factor α that is not 1 is a ``Mul`` node, named "alpha_" and the number of its call; where the program has a
    value of such a name, or "output", an underscore follows.  Shapes are those of the example inputs; dropout is off.
    Every call is compared with onnxruntime, where that is installed, and the output a second time on other inputs.

    Args:
        program: a program from ``from_torch`` or ``from_onnx``.
        scheme, parameters, seed: the arguments of ``to_torch``.
        path: path of the file, which is written after the comparison.

    Returns:
        The comparison; None: onnxruntime is not installed.

    Raises:
        ProgramError: an op without nodes, a constant that torch computes from the inputs, or a call that differs from
            onnxruntime by more than 1e-5 of its RMS, or ten times what float32 changes in refscale's own value if that
            is more.
    """
    from onnx import checker, helper

    values, scheme = values_under(program, scheme, parameters, seed)
    inputs = [as_array(x) for x in program._inputs]
    run, output = _evaluated(program, scheme, values, np.float32)
    graph = run.graph
    result = graph.node("Identity", output.name, output="output")
    names = list(program.exported.inputs)
    proto = helper.make_model(
        helper.make_graph(
            graph.nodes,
            f"{program.name} under {scheme.name}",
            [_described(name, x) for name, x in zip(names, inputs, strict=True)],
            [_described(result, output.array)],
            [_tensor(name, x) for name, x in graph.initializers.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=9,
        producer_name="refscale",
    )
    checker.check_model(proto)
    parity = _compared(program, scheme, values, proto, run) if runtime_name() else None
    write_atomically(path, lambda file: file.write(proto.SerializeToString()))
    return parity


def _described(name: str, x: Array) -> Any:
    from onnx import helper

    x = x.astype(np.float32) if x.dtype.kind == "f" else x
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)


def _tensor(name: str, x: Array) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.asarray(x, order="C"), name)


def _evaluated(
    program: TorchProgram, scheme: Scheme, values: Mapping[str, Array], dtype: Any
) -> tuple[_GraphEvaluation, _Written]:
    """The graph, and its output."""
    run, exported = _GraphEvaluation(scheme, dtype), program.exported
    constants = _constants(program)
    steps = [step.name for step in exported.steps if step.name not in exported.depends]
    run.graph.taken = {*exported.inputs, *exported.constants, *exported.parameters.values(), *steps}
    inputs = [run.given(n, as_array(x)) for n, x in zip(exported.inputs, program._inputs, strict=True)]
    written: dict[str, Any] = dict(zip(exported.inputs, inputs, strict=True))
    for step in exported.steps:
        shapes_only = step.of_shapes or any(name in step.target for name in _OF_SHAPES)
        if step.name in constants and not shapes_only and any(name in written for name in step.inputs):
            written[step.name] = _constant(run, step, written, {**exported.constants, **constants})
    named = {**constants, **written}
    given: dict[str, Any] = dict(exported.constants)
    for node, name in exported.parameters.items():
        array = np.asarray(values[name])
        run.graph.initializers[name] = array.astype(np.float32)
        given[node] = run.given(name, array.astype(dtype), True)

    try:
        output: _Written = evaluate(exported, given, inputs, run, constants=named, array=run.operand)
    except AttributeError as error:
        raise ProgramError(f"to_onnx: a rule computes a constant from an input: {error}") from error
    return run, output


def _constant(run: _GraphEvaluation, step: AtenCall, written: Mapping[str, Any], constants: Mapping[str, Any]) -> Any:
    """The value of a step that depends on inputs and not on parameters: by its node, or by its rule without factors."""
    value = constants[step.name]
    if copied_node(step, run.graph, constants):
        return value if isinstance(value, list) else run.given(step.name, as_array(value))
    if step.target == "getitem":
        return run.given(step.name, as_array(value))  # an output of a node that was copied
    why = str(step)
    if step.computes in RULES and not step.in_place:
        run.free = True
        try:
            y = computed(step, {**constants, **written}, run, run.operand)
            if isinstance(y, _Written):
                return run.given(y.name, y.array)
        except (ProgramError, AttributeError) as error:
            why = f"{step} ({error})"
        finally:
            run.free = False
    return [] if isinstance(value, list | tuple) else run.given(step.name, as_array(value), why=why)


def _constants(program: TorchProgram) -> dict[str, Any]:
    """The values of the steps that do not depend on parameters."""
    found: dict[str, Any] = {}

    def watch(step: AtenCall, y: Any) -> None:
        if step.name not in program.exported.depends:
            found[step.name] = y

    _output(program, "regular", program._values, program._inputs, np.float32, watch)
    return found


def _output(
    program: TorchProgram,
    scheme: str | Scheme,
    values: Mapping[str, Array],
    inputs: Sequence[Any],
    dtype: Any,
    watch: Any = None,
) -> Array:
    tape = Tape(scheme, dtype=dtype)
    p = {n: tape.tensor(np.asarray(values[n], dtype), n) for n in program.specs}
    return np.asarray(program.output(p, inputs, watch=watch).value)


def _compared(
    program: TorchProgram, scheme: Scheme, values: Mapping[str, Array], proto: Any, narrow: _GraphEvaluation
) -> TorchParity:
    """Compare every call on the example inputs, and the output on others.

    Raises:
        ProgramError: one differs by more than the tolerance.
    """
    runtime, names = runtime_name(), list(program.exported.inputs)
    wide, _ = _evaluated(program, scheme, values, np.float64)
    theirs = runtime_values(proto, _feed(names, program._inputs))
    worst = Difference("nothing", 0.0)
    for name, ours in wide.values.items():
        found = Difference(name, difference(ours, theirs[name]))
        worst = max(worst, found, key=lambda d: d.relative)
        if not found.relative <= TOLERANCE:
            _check(found, difference(narrow.values[name], ours), runtime)
    others = [_changed(x) for x in program._inputs]
    ours, rounded = (_output(program, scheme, values, others, dtype) for dtype in (np.float64, np.float32))
    again = runtime_values(proto, _feed(names, others))[proto.graph.output[0].name]
    _check(
        Difference("output on other inputs", difference(ours, again)),
        difference(rounded, ours),
        runtime,
    )
    return TorchParity("float32", len(wide.values), worst, None, 0, runtime)


def _check(found: Difference, rounding: float, runtime: str) -> None:
    allowed = max(TOLERANCE, ROUNDING * rounding)
    if not found.relative <= allowed:
        raise ProgramError(
            f"to_onnx: {found.what} differs from {runtime} by {found.relative:.1e} of its RMS, expected at most "
            f"{allowed:.2g}"
        )


def _feed(names: Sequence[str], inputs: Sequence[Any]) -> dict[str, Array]:
    arrays = map(as_array, inputs)
    return {n: x.astype(np.float32) if x.dtype.kind == "f" else x for n, x in zip(names, arrays, strict=True)}


def _changed(x: Any) -> Any:
    """Another input of the same kind: integers reversed along the last axis; floats plus a tenth of their reverse."""
    array = as_array(x)
    if not array.ndim:
        return x
    back = np.flip(array, -1)
    changed = np.ascontiguousarray(array + array.dtype.type(0.1) * back if array.dtype.kind == "f" else back)
    return x.new_tensor(changed) if hasattr(x, "detach") else changed
