"""``from_onnx``: an ONNX model as a program, or the reason of its refusal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.bridge.importing import check_rules, outcome_of, specs_of
from refscale.bridge.onnx.patterns import recognized_nodes
from refscale.bridge.onnx.reading import ReadModel, read
from refscale.bridge.onnx.running import runtime_name, runtime_values
from refscale.bridge.parity import Difference, TorchParity, relative
from refscale.bridge.program import TorchProgram, called
from refscale.bridge.steps import AtenCall, Exported
from refscale.engine import Tape, Tensor, backward
from refscale.errors import ProgramError

__all__ = ["ROUNDING", "TOLERANCE", "difference", "from_onnx"]

Array = NDArray[Any]

TOLERANCE = 1e-5
"""Largest difference of a value from the runtime's, in units of its RMS."""
ROUNDING = 10.0
"""Largest difference in units of the rounding error of the nodes in float32, if that is more than the tolerance."""


def from_onnx(
    model: str | Path | Any,
    inputs: Sequence[Any] | Mapping[str, Any],
    *,
    output: int | str | None = None,
    loss: str | Callable[[Tensor, Any], Tensor] = "projection",
) -> TorchProgram:
    """An ONNX model as a program.

    Every value is compared with onnxruntime's, where that is installed.  A model is refused if it has a node without a
    rule, or if a value differs by more than 1e-5 of its RMS, or ten times the rounding error of the nodes in float32
    if that is more (the variance as E[x²] − E[x]²).  ``program.guesses`` lists the assumptions about properties that an
    ONNX file does not record: tied parameters, buffers among the constants, norms folded into weights.

    Args:
        model: path of a file, or an ``onnx.ModelProto``.
        inputs: examples, by name or in order, which the program repeats as its batches.
        output: the position or name of one of several outputs; None: the first.
        loss: the loss, see ``from_torch``.

    Returns:
        The program.  ``program.parity`` is empty where onnxruntime is not installed.

    Raises:
        ProgramError: the model cannot be read, has a node without a rule, or a value differs.
    """
    found = read(model, inputs, output)
    where = f"from_onnx({found.name})"
    runtime = runtime_name()
    theirs = runtime_values(found.proto, found.examples) if runtime else {}
    exported = recognized_nodes(found.exported, _values(found, theirs))
    check_rules(exported, where)
    outcome, target = outcome_of(loss)
    specs = specs_of(exported, found.values)
    source = _Model(found.proto, output)
    program = TorchProgram(found.name, exported, specs, found.values, found.inputs, outcome, target, source)
    program.guesses = found.guesses
    if runtime:
        program.parity = (_compared(program, found, theirs, runtime),)
    return program


class _Model:
    """The model that was imported."""

    def __init__(self, proto: Any, output: int | str | None) -> None:
        self._proto, self._output = proto, output

    def exported(self, inputs: Sequence[Any]) -> Exported:
        """The steps for inputs of other shapes."""
        found = read(self._proto, inputs, self._output)
        exported = recognized_nodes(found.exported, _values(found, {}))
        check_rules(exported, f"from_onnx({found.name})")
        return exported


def _values(found: ReadModel, theirs: Mapping[str, Array]) -> dict[str, Any]:
    """All values: the runtime's, or where that is not installed, those of ``onnx.reference``."""
    return {**found.given, **theirs} if theirs else _by_reference(found, np.float32)


def _by_reference(found: ReadModel, dtype: Any) -> dict[str, Any]:
    """All values by ``onnx.reference``, computed in float32 or float64."""
    values: dict[str, Any] = {n: x.astype(dtype) if x.dtype.kind == "f" else x for n, x in found.given.items()}
    with np.errstate(all="ignore"):
        for step in found.exported.steps:
            values[step.name] = called(step, values)
    return values


def _rounding_errors(found: ReadModel) -> dict[str, float]:
    """The errors of all values in float32; none of a model that ``onnx.reference`` cannot run."""
    try:
        narrow, wide = (_by_reference(found, dtype) for dtype in (np.float32, np.float64))
    except ProgramError:
        return {}
    return {name: difference(x, wide[name]) for name, x in narrow.items() if not isinstance(x, list)}


def _compared(program: TorchProgram, found: ReadModel, theirs: Mapping[str, Array], runtime: str) -> TorchParity:
    """Compare every value with the runtime's, and count the parameters that receive a gradient.

    Raises:
        ProgramError: a value differs by more than the tolerance.
    """
    wide = _evaluated(program)
    worst, compared = Difference("nothing", 0.0), 0
    rounding: Mapping[str, float] | None = None
    for step in program.exported.steps:
        if step.name not in theirs:
            continue
        compared += 1
        off = Difference(str(step), difference(wide[step.name], theirs[step.name]))
        worst = max(worst, off, key=lambda d: d.relative)
        if off.relative <= TOLERANCE:
            continue
        rounding = _rounding_errors(found) if rounding is None else rounding
        allowed = max(TOLERANCE, ROUNDING * rounding.get(step.name, 0.0))
        if not off.relative <= allowed:
            raise ProgramError(
                f"from_onnx({found.name}): {step} differs from {runtime} by {off.relative:.1e} of its RMS, expected at "
                f"most {allowed:.2g}"
            )
    return TorchParity("float32", compared, worst, None, _trained(program), runtime)


def _evaluated(program: TorchProgram) -> dict[str, Array]:
    """Every value by name, computed in float64."""
    tape = Tape("regular", dtype=np.float64)
    values: dict[str, Array] = {}

    def watch(step: AtenCall, y: Any) -> None:
        if not isinstance(y, list):
            values[step.name] = np.asarray(y.value if isinstance(y, Tensor) else y)

    p = {n: tape.tensor(x.astype(np.float64), n) for n, x in program._values.items()}
    program.output(p, program._inputs, watch=watch)
    return values


def _trained(program: TorchProgram) -> int:
    """The number of parameters that receive a gradient."""
    tape = Tape("regular")
    p = {n: tape.tensor(x, n) for n, x in program._values.items()}
    backward(program.loss(p, next(program.batches(np.random.default_rng(0)))))
    return sum(leaf.grad is not None for leaf in p.values())


def difference(ours: Array, theirs: Array) -> float:
    """``relative``, of values that may be −∞, NaN, integers or boolean."""
    if ours.shape != theirs.shape:
        return np.inf
    if theirs.dtype.kind not in "fiub" or ours.dtype.kind not in "fiub":
        return 0.0 if np.array_equal(ours, theirs) else np.inf
    finite = np.isfinite(theirs)
    if not np.array_equal(ours[~finite], theirs[~finite], equal_nan=theirs.dtype.kind == "f"):
        return np.inf
    return relative(ours[finite].astype(np.float64), theirs[finite].astype(np.float64))
