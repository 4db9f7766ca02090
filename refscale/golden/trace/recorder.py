"""Recorder of traces: from NumPy or PyTorch code, call by call, or from a run of refscale.

    with Recorder("trace", policy="fp8") as recorder:
        ...
        with recorder.call("layer.0.query", Matmul(), alpha=a, beta=(b, c)) as call:
            x_, w_ = call.inputs(x, w)
            y = call.output(my_kernel(x_, w_))

With PyTorch the gradients are recorded during ``y.backward()``: ``inputs`` returns views of the tensors, whose
gradients are those of this call alone, and ``output`` hooks the result. With NumPy, pass them:
``call.gradient(g, [gx, gw])``. The index is written when the recorder closes, after the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refscale.engine import Op, Tape, Tensor, Variable, backward
from refscale.errors import ArgumentError, GoldenError
from refscale.files import write_atomically, write_json
from refscale.golden.call_bounds import OUTPUT
from refscale.golden.replay import input_names
from refscale.golden.trace.schema import ANY_ORDER, INDEX, SCHEMA, step_content
from refscale.precision import Precision, get_precision
from refscale.scales import Scheme

Array = NDArray[Any]


def as_array(x: Any) -> Array:
    """Return a copy of an array or tensor, in C order; bfloat16, FP8 and similar formats as float32."""
    if hasattr(x, "detach"):  # a PyTorch tensor, on any device
        x = x.detach().cpu()
        x = (x.float() if x.dtype.is_floating_point and x.element_size() < 4 else x).numpy()
    x = np.asarray(x)
    if x.dtype.kind == "V" or (x.dtype.kind == "f" and x.dtype.itemsize < 4):
        x = x.astype(np.float32)
    return np.array(x, order="C", copy=True)


class RecordedCall:
    """One call during its recording; see ``Recorder.call``."""

    def __init__(self, recorder: Recorder, name: str, steps: list[dict[str, Any]], policy: str | None) -> None:
        self.recorder, self.index = recorder, len(recorder.calls)
        self.content: dict[str, Any] = {"name": name, "steps": steps}
        if policy is not None:
            get_precision(policy)
            self.content["policy"] = policy
        self.content |= {part: {} for part in ("inputs", "outputs", "gradient", "gradients")}
        made = {step["output"] for step in steps}
        self.reads = list(dict.fromkeys(n for step in steps for n in step["inputs"] if n not in made))
        self.makes = steps[-1]["output"]

    def inputs(self, *arrays: Any, **named: Any) -> Any:
        """Record the inputs, before operands are cast.

        Args:
            arrays: arrays in the order of the op's inputs, or of their first use in the steps.
            named: arrays by name, for a fused kernel.

        Returns:
            The arrays, a tuple if there are several. PyTorch tensors are returned as views: compute with these, so that
            their gradients are recorded.

        Raises:
            ArgumentError: the inputs are not those that the steps read.
        """
        given = dict(zip(self.reads, arrays, strict=False)) | named
        if set(given) != set(self.reads) or len(arrays) > len(self.reads):
            raise ArgumentError(
                f"inputs of {self.content['name']!r}: expected {', '.join(self.reads)}, got {len(given)}"
            )
        used = [self._use(name, given[name]) for name in self.reads]
        return used[0] if len(used) == 1 else tuple(used)

    def _use(self, name: str, x: Any) -> Any:
        self._write("inputs", name, x)
        if not getattr(x, "requires_grad", False):
            return x
        use = x.view_as(x)
        use.register_hook(lambda g: self._write("gradients", name, g))
        return use

    def output(self, y: Any, name: str | None = None) -> Any:
        """Record an output, as stored, and return it; ``name``: output of a step, default: the last one."""
        name = name or self.makes
        self._write("outputs", name, y)
        if getattr(y, "requires_grad", False):
            y.register_hook(lambda g: self._write("gradient", name, g))
        return y

    def gradient(self, gradient: Any, gradients: Sequence[Any], name: str | None = None) -> None:
        """Record the gradient of an output, and those of the inputs from this call alone (None: unknown)."""
        self._write("gradient", name or self.makes, gradient)
        for read, g in zip(self.reads, gradients, strict=True):
            if g is not None:
                self._write("gradients", read, g)

    def _write(self, part: str, name: str, x: Any) -> None:
        kind = {"inputs": "", "outputs": "output.", "gradient": "gradient.", "gradients": "gradients."}[part]
        file = f"{self.index:05d}.{kind}{name}.npy"
        self.recorder.write(file, as_array(x))
        self.content[part][name] = file


class Recorder:
    """A recorder of the calls of one training step into a directory.

    Args:
        directory: target, created if absent; it must not contain a trace.
        policy: casts of the calls, a policy or a mix as ``get_precision`` reads it.
        accumulate: accumulator of the products.
        complete: whether every call that reads a recorded array is recorded, so that sums of gradients can be compared.

    Raises:
        GoldenError: the directory contains a trace.
    """

    def __init__(
        self, directory: str | Path, policy: str = "fp32", accumulate: str = ANY_ORDER, complete: bool = False
    ) -> None:
        self.directory = Path(directory)
        get_precision(policy)
        if (self.directory / INDEX).exists():
            raise GoldenError(f"Recorder({str(directory)!r}): it already contains a trace, expected a new directory")
        self.directory.mkdir(parents=True, exist_ok=True)
        self.policy, self.accumulate, self.complete = policy, accumulate, complete
        self.calls: list[RecordedCall] = []

    def step(
        self,
        op: Op,
        inputs: Sequence[str],
        output: str,
        *,
        alpha: float = 1.0,
        beta: Sequence[float | None] | None = None,
        stored: bool = False,
    ) -> dict[str, Any]:
        """Return one step of a fused kernel, see ``trace.schema``; factors are 1 by default."""
        return step_content(op, alpha, _factors(op, beta, len(inputs)), inputs, output, stored)

    @contextmanager
    def call(
        self,
        name: str,
        op: Op | Sequence[Mapping[str, Any]],
        *,
        alpha: float = 1.0,
        beta: Sequence[float | None] | None = None,
        count: int | None = None,
        policy: str | None = None,
    ) -> Iterator[RecordedCall]:
        """Record one call.

        Args:
            name: text that identifies the call in the program.
            op: op of the table, or the steps of a fused kernel, from ``step``.
            alpha, beta: factors of the op; default: 1.
            count: number of inputs of an op that takes any number.
            policy: casts of this call, if they differ from the recorder's.
        """
        if isinstance(op, Op):
            names = input_names(op, count or len(op.inputs))
            steps = [step_content(op, alpha, _factors(op, beta, len(names)), names, OUTPUT)]
        else:
            steps = [dict(s) for s in op]
        call = RecordedCall(self, name, steps, policy)
        self.calls.append(call)
        yield call

    def write(self, file: str, x: Array) -> None:
        """Write an array of a call to a file."""
        write_atomically(self.directory / file, lambda stream: np.lib.format.write_array(stream, x, allow_pickle=False))

    def close(self) -> None:
        """Write the index, after the backward pass."""
        calls = [call.content for call in self.calls]
        content = {
            "schema": SCHEMA,
            "policy": self.policy,
            "accumulate": self.accumulate,
            "complete": self.complete,
            "calls": calls,
        }
        write_json(self.directory / INDEX, content)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()


def _factors(op: Op, beta: Sequence[float | None] | None, count: int) -> Sequence[float | None]:
    return [None if i in op.constants else 1.0 for i in range(count)] if beta is None else beta


class _RecordingTape(Tape):
    """A tape that stores the value of every variable."""

    values: dict[Variable, Array]

    def tensor(self, value: ArrayLike, name: str = "leaf", *, requires_grad: bool = True) -> Tensor:
        """Create a variable as ``Tape.tensor`` does, and store its value."""
        t = super().tensor(value, name, requires_grad=requires_grad)
        self.values[t.variable] = t.value
        return t


def record_run(
    directory: str | Path,
    run: Callable[[Tape], Tensor],
    *,
    scheme: str | Scheme = "unit",
    policy: str = "fp32",
    gradient: ArrayLike | None = None,
    fast: bool = True,
    rng: np.random.Generator | None = None,
) -> int:
    """Record a run of refscale, forward and backward.

    A gradient is recorded for a tensor that one call reads: with several readers, only the sum of their gradients is
    known.

    Args:
        directory: target directory of the trace.
        run: function that computes on the tape and returns the output to differentiate.
        scheme, policy, fast, rng: arguments of the tape.
        gradient: dL/d(output).

    Returns:
        Number of calls.

    Raises:
        GoldenError: the directory contains a trace.
    """
    values: dict[Variable, Array] = {}
    gradients: dict[Variable, Array] = {}

    def probe(way: str, variable: Variable, x: Array) -> None:
        (values if way == "forward" else gradients)[variable] = x

    recorder = Recorder(directory, policy, complete=True)
    precision: Precision = get_precision(policy)
    tape = _RecordingTape(scheme, precision, probe=probe, fast=fast, rng=rng)
    tape.values = values
    backward(run(tape), gradient)
    uses = [v for node in tape.nodes for v in node.inputs]
    for node in tape.nodes:
        name, reads = f"{node.output.name} #{node.index}", len(node.inputs)
        beta = node.scales.beta
        with recorder.call(name, node.op, alpha=node.scales.alpha, beta=beta, count=reads) as call:
            call.inputs(*(values[v] for v in node.inputs))
            call.output(values[node.output])
            if node.output in gradients:
                alone = [
                    gradients.get(v) if w and uses.count(v) == 1 else None
                    for v, w in zip(node.inputs, node.wanted, strict=True)
                ]
                call.gradient(gradients[node.output], alone)
    recorder.close()
    return len(recorder.calls)
