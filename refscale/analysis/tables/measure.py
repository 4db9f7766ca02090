"""Measured factors of any function: 1/σ of its output and of its gradients for N(0, 1) inputs, with an interval."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from refscale.arguments import whole_number
from refscale.engine import Op, Tape, Tensor, apply, backward
from refscale.errors import ArgumentError
from refscale.files import write_json
from refscale.modules import load_object
from refscale.scales import Scales, Shape, Statistic, regular

__all__ = ["MeasuredFactor", "load_function", "measure", "parse_shapes", "render_measured", "save_measured"]

Function = Callable[..., Tensor] | Op

ERRORS = 2.0
"""Standard errors to either side of a measured factor."""


@dataclass(frozen=True)
class MeasuredFactor:
    """One measured factor of a function, beside the rule of an op if the function is one op.

    Attributes:
        of: "output", or "gradient of" an input.
        statistic: "std" or "rms": the statistic that becomes 1.
        factor: one over the statistic, pooled over all repeats.
        error: standard error of the factor.
        rule: factor of the op; None without a rule.
    """

    of: str
    statistic: Statistic
    factor: float
    error: float
    rule: float | None = None

    @property
    def interval(self) -> tuple[float, float]:
        """Interval of two standard errors to either side; a correct rule is outside in about one of twenty cases."""
        return self.factor - ERRORS * self.error, self.factor + ERRORS * self.error

    @property
    def agrees(self) -> bool | None:
        """Whether the rule is in the interval, up to rounding; None without a rule."""
        if self.rule is None:
            return None
        return abs(self.rule - self.factor) <= ERRORS * self.error + 1e-9 * self.factor


def parse_shapes(text: str) -> tuple[Shape, ...]:
    """Parse shapes of inputs: ``"256x64,64x32"`` → ((256, 64), (64, 32)).

    Args:
        text: sides ≥ 1 joined by "x", shapes separated by commas.

    Raises:
        ArgumentError: any other text.
    """
    parts = [part.strip() for part in text.split(",")]
    sides = [part.split("x") for part in parts]
    if not all(side.strip().isdecimal() and int(side) >= 1 for shape in sides for side in shape):
        raise ArgumentError(f"parse_shapes({text!r}): expected shapes of the inputs such as '256x64,64x32'")
    return tuple(tuple(int(side) for side in shape) for shape in sides)


def load_function(where: str) -> Function:
    """Load a function, an op or the class of an op by name, from a Python file or an importable module.

    Args:
        where: "path/to/file.py:NAME" or "module:NAME", such as "refscale.ops:Gelu".

    Raises:
        ArgumentError: the object cannot be imported or called.
    """
    found, _ = load_object(where, "function", ArgumentError, "f")
    if isinstance(found, type) and issubclass(found, Op):
        try:
            return found()
        except Exception as error:
            raise ArgumentError(f"function {where!r}: {found.__name__}() raised {error}") from error
    if not isinstance(found, Op) and not callable(found):
        raise ArgumentError(f"function {where!r}: is {type(found).__name__}, expected a function of tensors or an op")
    return cast(Function, found)


def measure(f: Function, shapes: Sequence[Shape], *, repeat: int = 32, seed: int = 0) -> list[MeasuredFactor]:
    """Measure the factors of a function in repeated runs on independent N(0, 1) inputs and incoming gradients.

        factor = 1/√(mean over all repeats and elements of y²), or about the mean of all

    Runs are unscaled, in float64. Statistics are pooled over the repeats before the root is taken, as a mean of 1/σ
    would be too large for small shapes. The standard error is that of the jackknife over repeats (Efron 1982), which
    accounts for the dependence of the elements of one run.

    Args:
        f: function that takes a tensor for each shape and returns one; or an op.
        shapes: shapes of the inputs.
        repeat: number of runs, ≥ 2.
        seed: random seed of inputs and gradients.

    Returns:
        Factors of the output, by standard deviation and by RMS; then of each input's gradient, by RMS, as its mean is
        0. A rule is given if f records a single op, with its inputs in order.

    Raises:
        ArgumentError: there are fewer than two repeats; f raises, or does not return a tensor that depends on every
            input; or a result is not finite, or 0 or constant everywhere.
    """
    name = f.name if isinstance(f, Op) else getattr(f, "__name__", type(f).__name__)
    runs = whole_number(repeat, 2)
    if runs is None:
        raise ArgumentError(f"measure({name}, repeat={repeat!r}): expected an integer ≥ 2")
    if isinstance(f, Op) and f.constants:
        constants = " and ".join(f.inputs[i] for i in f.constants)
        raise ArgumentError(
            f"measure({name}): {constants} cannot be a N(0, 1) array; measure a function that passes it"
        )
    rng, sums = np.random.default_rng(seed), []
    for _ in range(runs):
        tape = Tape(regular, dtype=np.float64)
        leaves = [tape.tensor(rng.standard_normal(shape), f"input {i}") for i, shape in enumerate(shapes)]
        y = _called(name, f, leaves)
        backward(y, rng.standard_normal(y.shape))
        lost = [leaf.name for leaf in leaves if leaf.grad is None]
        if lost:
            raise ArgumentError(f"measure({name}): the output does not depend on {', '.join(lost)}")
        sums.append([_moments(name, y.value), *(_moments(name, np.asarray(leaf.grad)) for leaf in leaves)])
    moments = np.array(sums)  # (repeats, output and inputs, mean and mean square)
    names = _names(f, len(shapes))
    by_std, by_rms = (_rule(tape, leaves, statistic) for statistic in ("std", "rms"))
    found = [
        _measured(name, "output", "std", moments[:, 0], by_std.alpha if by_std else None),
        _measured(name, "output", "rms", moments[:, 0], by_rms.alpha if by_rms else None),
    ]
    for i, argument in enumerate(names):
        rule = by_std.beta[i] if by_std else None
        found.append(_measured(name, f"gradient of {argument}", "rms", moments[:, i + 1], rule))
    return found


def _called(name: str, f: Function, leaves: list[Tensor]) -> Tensor:
    try:
        y = apply(f, *leaves) if isinstance(f, Op) else f(*leaves)
    except Exception as error:
        raise ArgumentError(f"measure({name}): raised {type(error).__name__}: {error}") from error
    if not isinstance(y, Tensor):
        raise ArgumentError(f"measure({name}): returned {type(y).__name__}, expected a Tensor")
    if not y.variable.requires_grad:
        raise ArgumentError(f"measure({name}): the output does not depend on the inputs")
    return y


def _names(f: Function, count: int) -> list[str]:
    """Return the names of the inputs: those of the op, or of the function's parameters if each has one."""
    if isinstance(f, Op):
        names = list(f.inputs)
    else:
        parameters = inspect.signature(f).parameters.values()
        names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return names[:count] if len(names) >= count and "*" not in "".join(names) else [f"input {i}" for i in range(count)]


def _moments(name: str, x: NDArray[np.float64]) -> tuple[float, float]:
    """Return mean and mean square."""
    mean, square = float(np.mean(x)), float(np.mean(np.square(x)))
    if not math.isfinite(square):
        raise ArgumentError(f"measure({name}): a value or gradient is not finite")
    return mean, square


def _rule(tape: Tape, leaves: list[Tensor], statistic: Statistic) -> Scales | None:
    """Return the factors of the only recorded op, if its inputs are the leaves."""
    nodes = [node for node in tape.nodes if not node.op.carries_factors]
    if len(nodes) != 1 or nodes[0].inputs != tuple(leaf.variable for leaf in leaves):
        return None
    op, shapes = nodes[0].op, [leaf.shape for leaf in leaves]
    return op.scale(*shapes, statistic=statistic) if op.has_mean else op.scale(*shapes)


def _measured(
    name: str, of: str, statistic: Statistic, moments: NDArray[np.float64], rule: float | None
) -> MeasuredFactor:
    """Return the factor of (repeats, mean and mean square), and its standard error by the jackknife."""

    def factors(m: NDArray[np.float64]) -> NDArray[np.float64]:
        square = m[..., 1] - m[..., 0] ** 2 if statistic == "std" else m[..., 1]
        if not np.all(square > 1e-24 * m[..., 1]):
            raise ArgumentError(f"measure({name}): the {of} is {'constant' if statistic == 'std' else '0'} everywhere")
        return np.asarray(square**-0.5)

    count, total = len(moments), moments.sum(0)
    without_one = factors((total - moments) / (count - 1))
    error = math.sqrt((count - 1) / count * float(np.sum((without_one - without_one.mean()) ** 2)))
    return MeasuredFactor(of, statistic, float(factors(total / count)), error, rule)


def render_measured(measured: Iterable[MeasuredFactor]) -> str:
    """Return the factors as aligned text: measured with two standard errors, and the rule with its verdict."""
    cells = [("of", "statistic", "measured", "± 2 s.e.", "rule", "")]
    for m in measured:
        rule = "-" if m.rule is None else f"{m.rule:.6g}"
        verdict = {None: "", True: "within", False: "outside"}[m.agrees]
        cells.append((m.of, m.statistic, f"{m.factor:.6g}", f"{ERRORS * m.error:.2g}", rule, verdict))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)
    return "\n".join(lines)


def save_measured(path: str | Path, where: str, shapes: Sequence[Shape], measured: Iterable[MeasuredFactor]) -> None:
    """Write the factors as JSON, atomically; raise OSError on failure."""
    rows = [asdict(m) | {"interval": list(m.interval), "agrees": m.agrees} for m in measured]
    write_json(path, {"function": where, "shapes": [list(shape) for shape in shapes], "factors": rows})
