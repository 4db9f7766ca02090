"""A PyTorch module or an ONNX model as a program."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from refscale.bridge.evaluation import Evaluation
from refscale.bridge.modes import eval_difference
from refscale.bridge.parity import TorchParity
from refscale.bridge.rules import RULES
from refscale.bridge.steps import AtenCall, Exported, export, quiet, resolve, shared_names
from refscale.engine import Tape, Tensor
from refscale.errors import ProgramError
from refscale.layers import Specs, Tensors, initialize
from refscale.programs import Program
from refscale.scales import Scheme, regular

__all__ = [
    "Original",
    "Outcome",
    "Source",
    "TorchProgram",
    "as_array",
    "called",
    "computed",
    "evaluate",
    "shapes_in_words",
    "shapes_of",
]

Array = NDArray[Any]
Outcome = Callable[[Evaluation, Any, Any], Any]
"""The loss of an output and a target, in one evaluation."""


class _TapeEvaluation(Evaluation):
    """An evaluation on a tape, whose calls are named by their submodules."""

    def __init__(self, tape: Tape, rng: np.random.Generator | None) -> None:
        super().__init__(rng)
        self._tape = tape

    def scope(self, name: str) -> AbstractContextManager[None]:
        """A context around the calls of a submodule."""
        return self._tape.scope(name)


class TorchProgram(Program):
    """A PyTorch module or an ONNX model as a program; made by ``from_torch`` or ``from_onnx``.

    Under the regular scheme parameters start at the module's own values, under others at the scheme's: N(0, 1) for
    weights and tables, 0 for biases, 1 for gains.

    Attributes:
        exported: the steps for the shapes of the example inputs; ``at`` has those for others.
        original: the module or model that was imported; None: other shapes than the example's are refused.
        parity: the comparisons with the source; with torch, in float32 and in float64.
        guesses: assumptions that the source does not determine.
    """

    memoryless = True

    def __init__(
        self,
        name: str,
        exported: Exported,
        specs: Specs,
        values: Mapping[str, Array],
        inputs: Sequence[Any],
        outcome: Outcome,
        target: Callable[[Array, np.random.Generator], Any],
        original: Source | None = None,
    ) -> None:
        self.name, self.exported, self.specs = name, exported, specs  # type: ignore[misc]
        self._values, self._inputs, self.outcome, self._target = dict(values), tuple(inputs), outcome, target
        self.digest = _digest(exported, specs, self._values, self._inputs)
        self.original, self._exported = original, {shapes_of(inputs): exported}
        self._shape: tuple[int, ...] | None = None
        self.parity: tuple[TorchParity, ...] = ()
        self.guesses: tuple[str, ...] = ()

    @property
    def shapes(self) -> Shapes:
        """Shapes of the example inputs."""
        return shapes_of(self._inputs)

    def at(self, inputs: Sequence[Any]) -> Exported:
        """The steps for inputs of these shapes: exported again where they are not the example's, once for each.

        Raises:
            ProgramError: another number of inputs, or a module that cannot be exported or imported at these shapes.
        """
        shapes = shapes_of(inputs)
        if shapes not in self._exported:
            expected = self.shapes
            if self.original is None or len(shapes) != len(expected):
                raise ProgramError(
                    f"{self.name}: inputs {shapes_in_words(shapes)}, expected {shapes_in_words(expected)}"
                )
            try:
                found = self.original.exported(inputs)
            except ProgramError as error:
                raise ProgramError(
                    f"{self.name}: inputs {shapes_in_words(shapes)}, imported with {shapes_in_words(expected)}: {error}"
                ) from error
            constants = {
                node: self.exported.constants.get(node, x) if node in found.buffers else x
                for node, x in found.constants.items()
            }
            self._exported[shapes] = replace(found, constants=constants)
        return self._exported[shapes]

    def check_eval_mode(self) -> None:
        """Check that eval mode turns dropout off, freezes batch norms and changes nothing else, as ``to_torch`` does.

        Raises:
            ProgramError: torch computes something else in eval mode, or cannot export it.
        """
        if self._eval_difference is not None:
            raise ProgramError(f"{self.name}: {self._eval_difference}")

    @cached_property
    def _eval_difference(self) -> str | None:
        return self.original.eval_difference(self._inputs) if isinstance(self.original, Original) else None

    def output(
        self,
        p: Tensors,
        inputs: Sequence[Any],
        rng: np.random.Generator | None = None,
        *,
        constants: Mapping[str, Any] | None = None,
        watch: Callable[[AtenCall, Any], None] | None = None,
    ) -> Tensor:
        """The module's output.

        Args:
            p: parameters as tensors of one tape.
            inputs: torch tensors, the leaves of the example arguments in order.
            rng: the generator of dropout and of torch's own noise; None: dropout is off.
            constants: values of constant steps by name, if they were computed before.
            watch: a function that is called with each step and its value.

        Raises:
            ProgramError: a step that refscale cannot compute.
        """
        tape = next(iter(p.values())).tape
        exported = self.at(inputs)
        given = {**exported.constants, **{node: p[name] for node, name in exported.parameters.items()}}

        def array(x: Any) -> Any:
            """A constant as an array of the tape's dtype."""
            if not hasattr(x, "detach") and not isinstance(x, np.ndarray):
                return x
            values = as_array(x)
            return values.astype(tape.dtype) if values.dtype.kind == "f" else values

        with self.exported.noise(0 if rng is None else int(rng.integers(2**62))):
            result: Tensor = evaluate(
                exported, given, inputs, _TapeEvaluation(tape, rng), constants=constants, array=array, watch=watch
            )
        return result

    def loss(self, p: Tensors, batch: Any, rng: np.random.Generator | None = None) -> Tensor:
        """The outcome of the module's output and a target; ``batch`` is the pair of inputs and target."""
        inputs, target = batch
        y = self.output(p, inputs, rng)
        array = np.asarray(target)
        run = _TapeEvaluation(y.tape, rng)
        total: Tensor = self.outcome(run, y, array.astype(y.tape.dtype) if array.dtype.kind == "f" else array)
        return total

    def batches(self, rng: np.random.Generator) -> Iterator[Any]:
        """The example inputs again and again, with a new target each."""
        while True:
            yield self._inputs, self._target(np.empty(self._output_shape()), rng)

    def initial_parameters(self, scheme: Scheme, rng: np.random.Generator) -> dict[str, Array]:
        """The module's own values under the regular scheme, the scheme's initial values under others."""
        if scheme is regular or scheme.name == regular.name:
            return {name: x.astype(np.float32) for name, x in self._values.items()}
        return initialize(self.specs, scheme, rng, self.initial_std)

    def _output_shape(self) -> tuple[int, ...]:
        if self._shape is None:
            tape = Tape("regular")
            p = {name: tape.tensor(x, name) for name, x in self._values.items()}
            self._shape = self.output(p, self._inputs).shape
        return self._shape


class Source(Protocol):
    """The source of an imported program, which exports its steps for other shapes."""

    def exported(self, inputs: Sequence[Any]) -> Exported:
        """The steps for inputs, in the order of their leaves."""


class Original:
    """The module that was imported: its structure in the mode of the import, and the tree of its inputs.

    Args:
        module: ``torch.nn.Module``; its parameters and buffers are shared, not copied.
        raw: its steps for the example inputs.
        args, kwargs: example inputs.
        output: the choice of a result, see ``from_torch``.
        recognize: a function that makes each composed function one step; it raises ProgramError for a step without a
            rule.

    Attributes:
        training: whether the module, or a submodule, was in train mode.
        ties: by name of a parameter, the first name of the same tensor, if that is another.
        buffers: by name, a copy of the value, and whether the state dict has it.
    """

    def __init__(
        self,
        module: Any,
        raw: Exported,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        output: int | str | None,
        recognize: Callable[[Exported], Exported],
    ) -> None:
        from torch.utils import _pytree as pytree

        state = {id(x): x for x in (*module.parameters(), *module.buffers())}
        with quiet():
            self._module = copy.deepcopy(module, state)  # a later change of its mode changes nothing
        self._tree = pytree.tree_structure((tuple(args), dict(kwargs)))
        self._raw, self._output, self._recognize = raw, output, recognize
        self.training = any(part.training for part in module.modules())
        self.ties = {name: first for name, first in shared_names(module).items() if name != first}
        persistent = set(module.state_dict())
        self.buffers = {name: (x.detach().clone(), name in persistent) for name, x in module.named_buffers()}

    def exported(self, inputs: Sequence[Any]) -> Exported:
        """The steps for inputs, in the order of their leaves."""
        from torch.utils import _pytree as pytree

        args, kwargs = pytree.tree_unflatten(list(inputs), self._tree)
        return self._recognize(export(self._module, args, kwargs, self._output))

    def eval_difference(self, inputs: Sequence[Any]) -> str | None:
        """The difference between eval mode and the imported steps in it, see ``modes.eval_difference``.

        Args:
            inputs: the example inputs.
        """
        from torch.utils import _pytree as pytree

        if not self.training:
            return eval_difference(self._raw, self._raw)
        with quiet():
            module = copy.deepcopy(self._module).eval()  # of an exported program: with the steps of its own mode
        args, kwargs = pytree.tree_unflatten(list(inputs), self._tree)
        try:
            found = export(module, args, kwargs, self._output)
        except ProgramError as error:
            return f"eval mode: {error}"
        kept = [found.buffers[name] for name in found.written.values() if name in found.buffers]
        difference = eval_difference(self._raw, found)
        if difference is None and kept:
            return f"eval mode writes to the buffer {kept[0]!r}, expected writes in train mode only"
        return difference


Shapes = tuple[tuple[int, ...] | None, ...]


def shapes_of(inputs: Sequence[Any]) -> Shapes:
    """The shape of each tensor; None of another input."""
    return tuple(tuple(x.shape) if hasattr(x, "shape") else None for x in inputs)


def shapes_in_words(shapes: Shapes) -> str:
    """Shapes for a message."""
    return ", ".join("no tensor" if shape is None else str(shape) for shape in shapes)


def _digest(exported: Exported, specs: Specs, values: Mapping[str, Array], inputs: Sequence[Any]) -> str:
    """SHA-256 of the steps, the specs, the module's values and its inputs."""
    content = hashlib.sha256()
    for step in exported.steps:
        for call in (step, *step.fused):
            content.update(f"{call.name} {call.target} {call.arguments}\n".encode())
    for name, spec in specs.items():
        content.update(f"{name} {spec}\n".encode())
        content.update(np.ascontiguousarray(values[name]).tobytes())
    for x in inputs:
        content.update(np.ascontiguousarray(as_array(x)).tobytes())
    return content.hexdigest()


def as_array(x: Any) -> Array:
    """A torch tensor, an array or a number as an array."""
    return np.asarray(x.detach().numpy() if hasattr(x, "detach") else x)


def evaluate(
    exported: Exported,
    given: Mapping[str, Any],
    inputs: Sequence[Any],
    run: Evaluation,
    *,
    constants: Mapping[str, Any] | None = None,
    array: Callable[[Any], Any] = lambda x: x,
    watch: Callable[[AtenCall, Any], None] | None = None,
    keep: Callable[[str, Any], None] | None = None,
) -> Any:
    """The output of a module: constant steps by torch, the others by their rules.

    Args:
        exported: the steps.
        given: parameters, buffers and constants by their names in the steps.
        inputs: the inputs of the module.
        run: the operations that rules call.
        constants: values of constant steps by name, if they were computed before.
        array: a constant as rules take it.
        watch: a function that is called with each step and its value.
        keep: a function that is called at the end with the name of each value that steps wrote to, and its last value.

    Raises:
        ProgramError: a step that its rule refuses.
    """
    # Copies of the inputs and buffers that a step writes to: the next evaluation starts from the same values.
    written = {first for name, first in exported.written.items() if name not in exported.depends}
    values = {**given, **dict(zip(exported.inputs, inputs, strict=True))}
    values.update({name: values[name].clone() for name in written if name in values})
    for step in exported.steps:
        if step.name in exported.depends:
            y = computed(step, values, run, array)
        else:
            y = called(step, values, noisy=run.noisy, frozen=run.frozen) if constants is None else constants[step.name]
        values[step.name] = y
        if step.in_place:
            values[step.inputs[0]] = y
        if watch:
            watch(step, y)
    if keep:
        for name in written:
            keep(name, values[name])
    return values[exported.output]


def computed(step: AtenCall, values: Mapping[str, Any], run: Evaluation, array: Callable[[Any], Any]) -> Any:
    """The value of a step by its rule, named by the submodule that called it."""
    arguments = resolve(step.arguments, lambda ref: array(values[ref.name]))
    if step.target == "getitem":
        return step.function(*arguments.values())
    rule = step.rule or RULES[step.computes]
    try:
        with run.scope(step.scope or step.name):
            return rule(run, **arguments)
    except (TypeError, ValueError) as error:
        raise ProgramError(f"{step}: {error}") from error


def called(step: AtenCall, values: Mapping[str, Any], *, noisy: bool = False, frozen: bool = False) -> Any:
    """Torch's own value of a step.

    Args:
        step: the step.
        values: the values of the earlier steps, by name.
        noisy: whether dropout is on.
        frozen: whether a batch norm uses its running statistics, if it has them.
    """
    arguments = resolve(step.arguments, lambda ref: values[ref.name])
    if frozen and step.target == "aten.batch_norm.default" and arguments["running_mean"] is not None:
        arguments["training"] = False
    if step.target == "getitem":
        return step.function(*arguments.values())
    if noisy:
        return step.function(**arguments)
    if step.dropout:
        return next(iter(arguments.values()))
    arguments.update({name: 0.0 for name in ("dropout_p", "dropout") if name in arguments})
    return step.function(**arguments)
