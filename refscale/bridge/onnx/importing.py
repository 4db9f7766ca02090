"""``from_onnx``: an ONNX model as a program, or the reason why not."""

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

__all__ = ["from_onnx"]

Array = NDArray[Any]

TOLERANCE = 1e-5
"""Largest difference of a value from the runtime's, in units of its RMS."""
ROUNDING = 10.0
"""Where computing in float32 changes refscale's own value by more than a tenth of that: so many times this change."""


def from_onnx(
    model: str | Path | Any,
    inputs: Sequence[Any] | Mapping[str, Any],
    *,
    output: int | str | None = None,
    loss: str | Callable[[Tensor, Any], Tensor] = "projection",
) -> TorchProgram:
    """An ONNX model as a program.

    Every value is compared with onnxruntime's, where that is installed.  A model is refused if it has a node without a
    rule, or if a value differs by more than 1e-5 of its RMS, or ten times what float32 changes in refscale's own value
    if that is more.  ``program.guesses`` lists what an ONNX file does not
    say: which parameters are tied, which constants are buffers, whether norms are folded into weights.

    Args:
        model: path of a file, or an ``onnx.ModelProto``.
        inputs: examples, by name or in order, which the program repeats as its batches.
        output: which of several outputs, a position or a name; None: the first.
        loss: as for ``from_torch``.

    Returns:
        The program.  ``program.parity`` is empty where onnxruntime is not installed.

    Raises:
        ProgramError: the model cannot be read, has a node without a rule, or a value differs.
    """
    found = read(model, inputs, output)
    where = f"from_onnx({found.name})"
    given = dict(zip(found.exported.inputs, found.inputs, strict=True))
    runtime = runtime_name()
    theirs = runtime_values(found.proto, given) if runtime else {}
    exported = recognized_nodes(found.exported, _values(found, theirs))
    check_rules(exported, where)
    outcome, target = outcome_of(loss)
    specs = specs_of(exported, found.values)
    source = _Model(found.proto, output)
    program = TorchProgram(found.name, exported, specs, found.values, found.inputs, outcome, target, source)
    program.guesses = found.guesses
    if runtime:
        program.parity = (_compared(program, theirs, runtime, where),)
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
    exported = found.exported
    values: dict[str, Any] = {**exported.constants, **found.values}
    values.update(zip(exported.inputs, found.inputs, strict=True))
    if not theirs:
        with np.errstate(all="ignore"):
            for step in exported.steps:
                values[step.name] = called(step, values)
    return {**values, **theirs}


def _compared(program: TorchProgram, theirs: Mapping[str, Array], runtime: str, where: str) -> TorchParity:
    """Compare every value with the runtime's, and count the parameters that receive a gradient.

    Raises:
        ProgramError: a value differs by more than the tolerance.
    """
    narrow, wide = (_evaluated(program, dtype)[0] for dtype in (np.float32, np.float64))
    worst, compared = Difference("nothing", 0.0), 0
    for step in program.exported.steps:
        if step.name not in theirs:
            continue
        compared += 1
        found = Difference(str(step), _difference(wide[step.name], theirs[step.name]))
        worst = max(worst, found, key=lambda d: d.relative)
        if found.relative <= TOLERANCE:
            continue
        allowed = max(TOLERANCE, ROUNDING * _difference(narrow[step.name], wide[step.name]))
        if not found.relative <= allowed:
            raise ProgramError(
                f"{where}: {step} differs from {runtime} by {found.relative:.1e} of its RMS, expected at most "
                f"{allowed:.2g}"
            )
    return TorchParity("float32", compared, worst, None, _trained(program), runtime)


def _evaluated(program: TorchProgram, dtype: Any) -> tuple[dict[str, Array], Tensor]:
    """Every value by name, and the output, computed in float32 or float64."""
    tape = Tape("regular", dtype=dtype)
    values: dict[str, Array] = {}

    def watch(step: AtenCall, y: Any) -> None:
        if not isinstance(y, list):
            values[step.name] = np.asarray(y.value if isinstance(y, Tensor) else y)

    p = {n: tape.tensor(x.astype(dtype), n) for n, x in program._values.items()}
    return values, program.output(p, program._inputs, watch=watch)


def _trained(program: TorchProgram) -> int:
    """The number of parameters that receive a gradient."""
    tape = Tape("regular")
    p = {n: tape.tensor(x, n) for n, x in program._values.items()}
    backward(program.loss(p, next(program.batches(np.random.default_rng(0)))))
    return sum(leaf.grad is not None for leaf in p.values())


def _difference(ours: Array, theirs: Array) -> float:
    """``relative``, of values that may be −∞, NaN, integers or boolean."""
    if ours.shape != theirs.shape:
        return np.inf
    if theirs.dtype.kind not in "fiub" or ours.dtype.kind not in "fiub":
        return 0.0 if np.array_equal(ours, theirs) else np.inf
    finite = np.isfinite(theirs)
    if not np.array_equal(ours[~finite], theirs[~finite], equal_nan=theirs.dtype.kind == "f"):
        return np.inf
    return relative(ours[finite].astype(np.float64), theirs[finite].astype(np.float64))
