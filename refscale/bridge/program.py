"""A PyTorch module as a program, checked against torch value by value."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale import ops
from refscale.bridge.patterns import recognized
from refscale.bridge.rules import RULES, Evaluation
from refscale.bridge.steps import AtenCall, Exported, Ref, export, resolve
from refscale.engine import Tape, Tensor, apply, backward
from refscale.errors import ProgramError, counted
from refscale.layers import Spec, Specs, Tensors, initialize
from refscale.programs import Program
from refscale.scales import Scheme, regular

__all__ = ["Difference", "TorchParity", "TorchProgram", "from_torch"]

Array = NDArray[Any]
Outcome = Callable[[Evaluation, Any, Any], Any]
"""The loss of an output and a target, in one evaluation."""


class _TapeEvaluation(Evaluation):
    """An evaluation on a tape, whose calls are named by their submodules."""

    def __init__(self, tape: Tape, rng: np.random.Generator | None) -> None:
        super().__init__(rng)
        self._tape = tape

    def scope(self, name: str) -> AbstractContextManager[None]:
        """Around the calls of a submodule."""
        return self._tape.scope(name)


@dataclass(frozen=True)
class Difference:
    """How far one value is from torch's.

    Attributes:
        what: the step or parameter.
        relative: difference in units of the RMS of torch's value, see ``relative``.
    """

    what: str
    relative: float


@dataclass(frozen=True)
class TorchParity:
    """A module in refscale and in torch, on the example inputs.

    Attributes:
        dtype: the carrier, "float32" or "float64".
        steps: number of values that were compared.
        value: the worst of them.
        gradient: the parameter whose gradient is furthest from torch's.
        trained: number of parameters that receive a gradient; torch's number is the same.
    """

    dtype: str
    steps: int
    value: Difference
    gradient: Difference
    trained: int

    def __str__(self) -> str:
        return (
            f"{self.dtype}: {counted(self.steps, 'value')}, worst {self.value.relative:.1e} of its RMS "
            f"({self.value.what}); {counted(self.trained, 'gradient')}, worst {self.gradient.relative:.1e} "
            f"({self.gradient.what})"
        )


class TorchProgram(Program):
    """A PyTorch module as a program; made by ``from_torch``.

    Under the regular scheme parameters start at the module's own values, under others at the scheme's: N(0, 1) for
    weights and tables, 0 for biases, 1 for gains.

    Attributes:
        exported: the steps.
        parity: the comparisons with torch, in float32 and in float64.
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
    ) -> None:
        self.name, self.exported, self.specs = name, exported, specs  # type: ignore[misc]
        self._values, self._inputs, self.outcome, self._target = dict(values), tuple(inputs), outcome, target
        self._shape: tuple[int, ...] | None = None
        self.parity: tuple[TorchParity, ...] = ()

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
            rng: of dropout and of torch's own noise; None: dropout is off.
            constants: values of constant steps by name, if they were computed before.
            watch: called with each step and its value.

        Raises:
            ProgramError: a step that refscale cannot compute.
        """
        import torch

        tape = next(iter(p.values())).tape
        given = {**self.exported.constants, **{node: p[name] for node, name in self.exported.parameters.items()}}

        def array(x: Any) -> Any:
            """A constant as an array of the tape's dtype."""
            if not hasattr(x, "detach"):
                return x
            values = x.detach().numpy()
            return values.astype(tape.dtype) if values.dtype.kind == "f" else values

        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0 if rng is None else int(rng.integers(2**62)))
            result: Tensor = evaluate(
                self.exported, given, inputs, _TapeEvaluation(tape, rng), constants=constants, array=array, watch=watch
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


def from_torch(
    module: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    output: int | str | None = None,
    loss: str | Callable[[Tensor, Any], Tensor] = "projection",
) -> TorchProgram:
    """A PyTorch module as a program.

    Every value and every gradient is compared with torch's, in float64 and in float32.  A module is refused if it has
    an op without a rule, or if a value or gradient differs by more than 1e-6 of its RMS in float64 (some modules round
    to float32 inside), or by more than 1e-4 in float32 if it cannot be converted to float64.  Dropout is off in the
    comparison.

    Args:
        module: ``torch.nn.Module``, in train or eval mode.
        args, kwargs: example inputs, which the program repeats as its batches.
        output: which of several results, a position or a key; None: the first tensor.
        loss: "projection": mean of output·r for r ~ N(0, 1); "cross_entropy": over the last axis, against random
            targets; or a function of (output, target).

    Raises:
        ProgramError: the module cannot be exported, has an op without a rule, or a value or a gradient differs.
    """
    import torch
    from torch.utils import _pytree as pytree

    name = type(module).__name__
    raw = export(module, args, kwargs or {}, output)
    exported = recognized(raw)
    _check_rules(exported, name)
    values = {n: p.detach().numpy().copy() for n, p in module.named_parameters()}
    used = set(exported.parameters.values())
    values = {n: x for n, x in values.items() if n in used}
    inputs = pytree.tree_leaves((tuple(args), dict(kwargs or {})))
    outcome, target = _outcome(loss)
    program = TorchProgram(name, exported, _specs(exported, values), values, inputs, outcome, target)
    double = _in_double(module, args, kwargs or {}, output)
    if double is None:
        program.parity = (_compare(program, raw, torch.float32, 1e-4),)
        return program
    wide_raw, wide_inputs = double
    wide = {n: x.astype(np.float64) for n, x in values.items()}
    twin = TorchProgram(name, recognized(wide_raw), program.specs, wide, wide_inputs, outcome, target)
    exact = _compare(twin, wide_raw, torch.float64, 1e-6)
    # The rounding errors of both in float32: a norm of few rows amplifies them without bound.
    program.parity = (_compare(program, raw, torch.float32, np.inf), exact)
    return program


def _in_double(module: Any, args: Any, kwargs: Any, output: Any) -> tuple[Exported, list[Any]] | None:
    import torch
    from torch.utils import _pytree as pytree

    def wide(x: Any) -> Any:
        return x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x

    args, kwargs = pytree.tree_map(wide, (tuple(args), dict(kwargs)))
    try:
        exported = export(copy.deepcopy(module).double(), args, kwargs, output)
    except ProgramError:
        return None
    return exported, pytree.tree_leaves((args, kwargs))


def _outcome(
    loss: str | Callable[[Tensor, Any], Tensor],
) -> tuple[Outcome, Callable[[Array, np.random.Generator], Any]]:
    """The loss, and how a target is drawn for an output."""

    def projection(run: Evaluation, y: Any, target: Any) -> Any:
        return run.apply(ops.Mean(), run.apply(ops.Multiply(), y, target))

    def cross_entropy(run: Evaluation, y: Any, target: Any) -> Any:
        return run.apply(ops.SoftmaxCrossEntropy(), y, target)

    def normal(y: Array, rng: np.random.Generator) -> Array:
        return rng.standard_normal(y.shape)

    def classes(y: Array, rng: np.random.Generator) -> Array:
        return rng.integers(0, y.shape[-1], y.shape[:-1])

    if callable(loss):
        return lambda run, y, target: loss(y, target), normal
    if loss not in ("projection", "cross_entropy"):
        raise ProgramError(f"from_torch(loss={loss!r}): expected 'projection', 'cross_entropy' or a function")
    return (projection, normal) if loss == "projection" else (cross_entropy, classes)


def _check_rules(exported: Exported, module: str) -> None:
    """Refuse a module with ops that have no rule, naming each with its place."""
    here = [step for step in exported.steps if step.name in exported.depends and step.rule is None]
    missing = [step for step in here if step.computes not in RULES and step.target != "getitem"]
    if missing:
        listed = "; ".join(map(str, missing[:8])) + ("; …" if len(missing) > 8 else "")
        raise ProgramError(f"from_torch({module}): {counted(len(missing), 'step')} without a rule: {listed}")


def evaluate(
    exported: Exported,
    given: Mapping[str, Any],
    inputs: Sequence[Any],
    run: Evaluation,
    *,
    constants: Mapping[str, Any] | None = None,
    array: Callable[[Any], Any] = lambda x: x,
    watch: Callable[[AtenCall, Any], None] | None = None,
) -> Any:
    """The output of a module: constant steps by torch, the others by their rules.

    Args:
        exported: the steps.
        given: parameters, buffers and constants by their names in the steps.
        inputs: of the module.
        run: what a rule computes with.
        constants: values of constant steps by name, if they were computed before.
        array: a constant as rules take it.
        watch: called with each step and its value.

    Raises:
        ProgramError: a step that its rule refuses.
    """
    values = {**given, **dict(zip(exported.inputs, inputs, strict=True))}
    for step in exported.steps:
        if step.name in exported.depends:
            y = _computed(step, values, run, array)
        else:
            y = called(step, values) if constants is None else constants[step.name]
        values[step.name] = y
        if step.in_place:
            values[step.inputs[0]] = y
        if watch:
            watch(step, y)
    return values[exported.output]


def _computed(step: AtenCall, values: Mapping[str, Any], run: Evaluation, array: Callable[[Any], Any]) -> Any:
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


def _specs(exported: Exported, values: Mapping[str, Array]) -> Specs:
    """Role and initial σ of each parameter: by its use, its shape and its values."""
    tables, gains = set(), set()
    for step in exported.steps:
        for key in ("weight", "gain"):
            ref = step.arguments.get(key)
            if isinstance(ref, Ref) and ref.name in exported.parameters:
                place = exported.parameters[ref.name]
                if "embedding" in step.target:
                    tables.add(place)
                elif "norm" in step.target:
                    gains.add(place)
    specs = {}
    for name, x in values.items():
        if name in tables:
            specs[name] = Spec("embedding", x.shape, std=_rms(x) or None)
        elif name in gains:
            specs[name] = Spec("gain", x.shape)
        elif x.ndim < 2 or (x.ndim != 2 and not x.any()):  # a class token, positions
            specs[name] = Spec("bias", x.shape)
        else:
            specs[name] = Spec("weight", x.shape, std=_rms(x) or None)
    return specs


# --- Against torch ----------------------------------------------------------------------------------------------------


def _compare(program: TorchProgram, raw: Exported, dtype: Any, tolerance: float) -> TorchParity:
    """Compare every value and gradient of the example inputs.

    Raises:
        ProgramError: one differs by more than the tolerance, or another number of parameters receives a gradient.
    """
    import torch

    wide = dtype == torch.float64
    name = f"from_torch({program.name})"
    leaves = {n: torch.tensor(x).to(dtype).requires_grad_() for n, x in program._values.items()}
    theirs = _torch_values(raw, leaves, program._inputs)
    tape = Tape("regular", dtype=np.float64 if wide else np.float32)
    p = {n: tape.tensor(x.detach().numpy(), n) for n, x in leaves.items()}
    worst, compared = Difference("nothing", 0.0), 0

    def watch(step: AtenCall, ours: Any) -> None:
        nonlocal worst, compared
        if not isinstance(ours, Tensor):
            return
        compared += 1
        found = Difference(str(step), relative(ours.value, theirs[step.name].detach().numpy()))
        worst = max(worst, found, key=lambda d: d.relative)
        if not found.relative <= tolerance:
            raise ProgramError(
                f"{name}: {step} differs from torch by {found.relative:.1e} of its RMS, expected at most {tolerance:g}"
            )

    y = program.output(p, program._inputs, constants=theirs, watch=watch)
    r = np.random.default_rng(0).standard_normal(y.shape)
    backward(apply(ops.Mean(), apply(ops.Multiply(), y, r.astype(tape.dtype))))
    (theirs["output"] * torch.tensor(r).to(dtype)).mean().backward()
    missed = [n for n, leaf in leaves.items() if (leaf.grad is None) != (p[n].grad is None)]
    if missed:
        raise ProgramError(f"{name}: {missed[0]!r} receives a gradient in only one of torch and refscale")
    trained = [n for n, leaf in leaves.items() if leaf.grad is not None]
    # A gradient that is 0 but for rounding (a key's bias) has no RMS of its own to be compared by.
    typical = float(np.sqrt(np.mean([_rms(leaves[n].grad.numpy()) ** 2 for n in trained]))) if trained else 0.0
    gradients = [
        Difference(n, relative(np.asarray(p[n].grad), leaves[n].grad.numpy(), typical / 1000)) for n in trained
    ]
    gradient = max(gradients, key=lambda d: d.relative, default=Difference("nothing", 0.0))
    if not gradient.relative <= tolerance:
        raise ProgramError(
            f"{name}: the gradient of {gradient.what!r} differs from torch's by {gradient.relative:.1e} of its RMS, "
            f"expected at most {tolerance:g}"
        )
    return TorchParity("float64" if wide else "float32", compared, worst, gradient, len(trained))


def _torch_values(raw: Exported, leaves: Mapping[str, Any], inputs: Sequence[Any]) -> dict[str, Any]:
    """Torch's own value of every step, and of the output; dropout is off."""
    values: dict[str, Any] = {node: x.clone() for node, x in raw.constants.items()}
    values.update(zip(raw.inputs, inputs, strict=True))
    values.update({node: leaves[name] for node, name in raw.parameters.items()})
    found: dict[str, Any] = {}
    for step in raw.steps:
        y = called(step, values)
        values[step.name] = y
        if step.in_place:
            values[step.inputs[0]] = y
        # a later step may write to the tensor
        found[step.name] = y.clone() if hasattr(y, "clone") else y
    return {**found, "output": values[raw.output]}


def called(step: AtenCall, values: Mapping[str, Any]) -> Any:
    """Torch's own value of a step; dropout is off."""
    arguments = resolve(step.arguments, lambda ref: values[ref.name])
    if step.target == "getitem":
        return step.function(*arguments.values())
    if step.target.startswith("aten.dropout"):
        return next(iter(arguments.values()))
    arguments.update({name: 0.0 for name in ("dropout_p", "dropout") if name in arguments})
    return step.function(**arguments)


def relative(ours: Array, theirs: Array, least: float = 0.0) -> float:
    """Difference of two arrays, in units of the RMS of the second.

    Args:
        ours: any shape; another shape than theirs differs by ∞.
        theirs: the reference.
        least: smallest unit.

    Returns:
        The larger of the RMS difference and 1/16 of the largest difference.
    """
    if ours.shape != theirs.shape:
        return np.inf
    if not theirs.size:
        return 0.0
    difference = ours.astype(np.float64) - theirs
    size = max(_rms(difference), float(np.abs(difference).max()) / 16)
    unit = max(_rms(theirs), least)
    return size / unit if unit else size


def _rms(x: Array) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) if x.size else 0.0
