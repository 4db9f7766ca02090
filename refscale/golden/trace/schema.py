"""Contents of a trace directory.

``trace.json``, whose JSON Schema is ``golden/trace.schema.json``::

    {"schema": "refscale.trace/1",
     "policy": "fp8",             a policy or a mix, as ``get_precision`` reads it
     "accumulate": "any-order",   accumulator of the products, a name of ``exact``; optional
     "complete": true,            every call that reads one of these arrays is recorded; default: false
     "calls": [
       {"name": "layer.0.query",           text that identifies the call in your program
        "steps": [{"op": "matmul", "attributes": {}, "alpha": 0.0625, "beta": [0.0625, 0.03125],
                   "inputs": ["x", "w"], "output": "out"}],
        "policy": "fp32",                  policy of this call, if it differs; optional
        "inputs": {"x": "0.x.npy", "w": "0.w.npy"},       before operands are cast
        "outputs": {"out": "0.out.npy"},                   as stored
        "gradient": {"out": "0.gradient.out.npy"},         of the outputs, complete; {} if there was no backward pass
        "gradients": {"x": "0.gradient.x.npy", "w": "0.gradient.w.npy"}}]}    of the inputs, from this call alone

A call of one step is an op. A call of several is a fused kernel: steps read the inputs of the call and the outputs of
earlier steps by name. Results of inner steps are not stored, unless a step has ``"stored": true``: there the kernel
rounds to the policy's store format. ``beta`` has null for inputs without gradient.

Arrays are ``.npy`` files, version 1, in C order: float16, float32, float64, bool, or integers (bfloat16 and FP8 values
as float32, which represents them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.engine import Op
from refscale.errors import GoldenError, shown
from refscale.exact import get_accumulator
from refscale.files import DATA, npy_array, read_json
from refscale.golden.call_bounds import CallStep
from refscale.golden.replay import make_op
from refscale.precision import Precision, get_precision
from refscale.scales import Scales

Array = NDArray[Any]

SCHEMA = "refscale.trace/1"
INDEX = "trace.json"
ANY_ORDER = "any-order"
"""Accumulator: float32 sums in an unspecified order; every other accumulator of ``exact`` has its own bound."""


@dataclass(frozen=True)
class TracedCall:
    """One call of the program, with the files of its arrays by name.

    Attributes:
        name: name of the call in the program.
        steps: one op, or the steps of a fused kernel, in order.
        policy: casts of the call.
        inputs, outputs: files of the arrays.
        gradient: files of the complete gradients of the outputs.
        gradients: files of the gradients of the inputs that come from this call.
    """

    name: str
    steps: tuple[CallStep, ...]
    policy: Precision
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    gradient: Mapping[str, str] = field(default_factory=dict)
    gradients: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Trace:
    """A recorded training step.

    Attributes:
        directory: directory of the arrays.
        accumulate: accumulator of the products.
        calls: calls in the order of the program.
        complete: whether every call that reads a recorded array is recorded.
    """

    directory: Path
    accumulate: str
    calls: tuple[TracedCall, ...]
    complete: bool = False

    def array(self, file: str) -> Array:
        """Read an array of a call.

        Raises:
            GoldenError: the file is missing, not a ``.npy`` file, or of a dtype that traces do not have.
        """
        path = self.directory / file
        try:
            array = npy_array(path.read_bytes())
        except OSError as error:
            raise GoldenError(f"trace {self.directory}: {file}: {error.strerror or error}") from None
        except (ValueError, EOFError) as error:
            raise GoldenError(f"trace {self.directory}: {file}: {error}, expected a .npy file") from None
        if array.dtype.kind not in "fiub":
            raise GoldenError(
                f"trace {self.directory}: {file} contains {array.dtype}, expected floats, integers or bool"
            )
        return array


def load_trace(directory: str | Path) -> Trace:
    """Read and check the index of a trace; arrays are read when a call is judged.

    Raises:
        GoldenError: the directory, the schema, an op, a policy or a name is unknown or does not fit; the message names
            the call.
    """
    directory = Path(directory)
    where = f"trace {directory}"
    if not (directory / INDEX).is_file():
        raise GoldenError(f"{where}: no {INDEX}, expected a directory that Recorder writes")
    content = read_json(directory / INDEX, f"{where}: {INDEX}", GoldenError, most=DATA)
    if content.get("schema") != SCHEMA:
        raise GoldenError(f"{where}: schema is {content.get('schema')!r}, expected {SCHEMA!r}")
    calls = content.get("calls")
    if not isinstance(calls, list) or not calls:
        raise GoldenError(f"{where}: calls is {type(calls).__name__}, expected a list of at least one call")
    accumulate = content.get("accumulate", ANY_ORDER)
    _told(where, lambda: get_accumulator(accumulate))
    policy = content.get("policy", "fp32")
    read = tuple(_call(f"{where}: call {i}", c, policy) for i, c in enumerate(calls))
    complete = content.get("complete", False)
    if not isinstance(complete, bool):
        raise GoldenError(f"{where}: complete is {complete!r}, expected true or false")
    return Trace(directory, accumulate, read, complete)


def _told(where: str, make: Any) -> Any:
    """Return the result of ``make``; its error as a GoldenError that begins with the place."""
    try:
        return make()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        detail = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise GoldenError(f"{where}: {detail}") from None


def _call(where: str, content: Any, policy: Any) -> TracedCall:
    if not isinstance(content, dict) or not isinstance(content.get("name"), str):
        raise GoldenError(f"{where}: expected an object with a name")
    where = f"{where}, {shown(content['name'], 80)!r}"
    steps = content.get("steps")
    if not isinstance(steps, list) or not steps:
        raise GoldenError(f"{where}: steps is {type(steps).__name__}, expected a list of at least one step")
    files = {part: _files(where, part, content.get(part, {})) for part in PARTS}
    call = TracedCall(
        content["name"],
        tuple(_told(where, lambda s=s: _step(s)) for s in steps),
        _told(where, lambda: get_precision(content.get("policy", policy))),
        **files,
    )
    _check_names(where, call)
    return call


PARTS = ("inputs", "outputs", "gradient", "gradients")
"""Kinds of arrays of a call."""


def _files(where: str, part: str, files: Any) -> dict[str, str]:
    if not isinstance(files, dict) or not all(isinstance(f, str) for f in files.values()):
        raise GoldenError(f"{where}: {part} is {files!r}, expected an object of file names")
    for file in files.values():
        if Path(file).name != file:
            raise GoldenError(f"{where}: {part} names {file!r}, expected a file of the directory")
    return files


def _step(content: Mapping[str, Any]) -> CallStep:
    op = make_op(content["op"], content.get("attributes", {}))
    inputs = tuple(content["inputs"])
    if not all(isinstance(name, str) for name in inputs):
        raise ValueError(f"{op.name}: inputs {inputs}, expected names")
    if op.inputs[0][0] != "*" and len(inputs) != len(op.inputs):
        raise ValueError(f"{op.name}: inputs {inputs}, expected one for each of {', '.join(op.inputs)}")
    beta = content.get("beta", [None if i in op.constants else 1.0 for i in range(len(inputs))])
    if len(beta) != len(inputs):
        raise ValueError(f"{op.name}: {len(beta)} factors beta for {len(inputs)} inputs")
    factors = tuple(None if b is None else float(b) for b in beta)
    scales = Scales(float(content.get("alpha", 1.0)), factors)
    return CallStep(op, scales, inputs, str(content["output"]), bool(content.get("stored", False)))


def _check_names(where: str, call: TracedCall) -> None:
    known = set(call.inputs)
    for step in call.steps:
        missing = [name for name in step.inputs if name not in known]
        if missing:
            raise GoldenError(f"{where}: {step.op.name} reads {missing[0]!r}, expected one of {sorted(known)}")
        if step.output in known:
            raise GoldenError(f"{where}: {step.op.name} writes {step.output!r}, which exists already")
        known.add(step.output)
    made = known - set(call.inputs)
    if not call.outputs:
        raise GoldenError(f"{where}: no outputs, expected at least one of {sorted(made)}")
    for part, files, names in (
        ("outputs", call.outputs, made),
        ("gradient", call.gradient, set(call.outputs)),
        ("gradients", call.gradients, set(call.inputs)),
    ):
        unknown = sorted(set(files) - names)
        if unknown:
            raise GoldenError(f"{where}: {part} has {unknown[0]!r}, expected names among {sorted(names)}")
    if call.gradients and not call.gradient:
        raise GoldenError(f"{where}: gradients of inputs without the gradient of an output")


def step_content(
    op: Op, alpha: float, beta: Sequence[float | None], inputs: Sequence[str], output: str, stored: bool = False
) -> dict[str, Any]:
    """Return a step as JSON content of the index."""
    content = {
        "op": op.name,
        "attributes": {k: list(v) if isinstance(v, tuple) else v for k, v in op.attributes().items()},
        "alpha": float(alpha),
        "beta": [None if b is None else float(b) for b in beta],
        "inputs": list(inputs),
        "output": output,
    }
    return content | {"stored": True} if stored else content


def is_number(x: Array) -> bool:
    """Return whether an array contains floats, not indices or a mask."""
    return np.asarray(x).dtype.kind == "f"
