"""The techniques, as records: none, static, automatic, current and delayed; and their names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np

from refscale.errors import ArgumentError
from refscale.rivals.operands import OperandScales, operand_scale
from refscale.rivals.technique import Array, Finished, Outcome, Scaling, State, all_finite
from refscale.spellings import read_number, read_options, read_whole, split_name

_SMALLEST, _LARGEST = 2.0**-126, 2.0**127
"""Between these a loss scale is a normal float32."""


class _NoOperandScales:
    """Loss scaling has no scales of operands."""

    def operand_scales(self, state: State) -> OperandScales | None:
        """None."""
        return None


@dataclass(frozen=True)
class NoScaling(_NoOperandScales):
    """No scaling: sufficient for unit scaling, not for regular FP16."""

    tuned: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """Name of the technique, ``none``."""
        return "none"

    def init(self) -> State:
        """Return an empty state."""
        return {}

    def loss_scale(self, state: State) -> float:
        """Return 1."""
        return 1.0

    def finish(self, state: State, gradients: Mapping[str, Array], scales: OperandScales | None = None) -> Finished:
        """Return the gradients unchanged."""
        return state, dict(gradients), Outcome()


@dataclass(frozen=True)
class StaticLossScale(_NoOperandScales):
    """Static loss scaling: the loss is multiplied by a constant, and the gradients are divided by it.

    Both are exact for a power of two. On overflow the returned gradients are not finite.

    Args:
        scale: the loss scale, 2^-126 to 2^127.

    Raises:
        ArgumentError: ``scale`` is out of range.
    """

    scale: float
    tuned: ClassVar[tuple[str, ...]] = ("scale",)

    def __post_init__(self) -> None:
        if not _SMALLEST <= self.scale <= _LARGEST:
            raise ArgumentError(f"StaticLossScale(scale={self.scale!r}): expected 2^-126 to 2^127")

    @property
    def name(self) -> str:
        """Name of the technique, such as ``static:512``."""
        return _name("static", self)

    def init(self) -> State:
        """Return an empty state."""
        return {}

    def loss_scale(self, state: State) -> float:
        """Return ``scale``."""
        return self.scale

    def finish(self, state: State, gradients: Mapping[str, Array], scales: OperandScales | None = None) -> Finished:
        """Divide the gradients by ``scale``."""
        return state, _divided(gradients, self.scale), Outcome(scales=1)


@dataclass(frozen=True)
class AutomaticLossScale(_NoOperandScales):
    """Automatic loss scaling: the scale grows until gradients overflow, and is then reduced.

        all gradients finite:  scale · growth after ``interval`` such steps in a row
        else:                  scale · backoff, and the step is skipped

    Args:
        initial: the first scale.
        growth: factor of growth, > 1; a scale that would exceed 2^127, float32's last binade, does not grow.
        backoff: factor after an overflow, between 0 and 1.
        interval: number of consecutive finite steps before the scale grows.
        smallest: lower limit of the scale.

    Raises:
        ArgumentError: a value is out of range.
    """

    initial: float = 2.0**16
    growth: float = 2.0
    backoff: float = 0.5
    interval: int = 2000
    smallest: float = 2.0**-24
    tuned: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        known = _SMALLEST <= self.smallest <= self.initial <= _LARGEST
        if not (known and 1 < self.growth < math.inf and 0 < self.backoff < 1 and self.interval >= 1):
            raise ArgumentError(
                f"{self}: expected 2^-126 ≤ smallest ≤ initial ≤ 2^127, growth > 1, 0 < backoff < 1, interval ≥ 1"
            )

    @property
    def name(self) -> str:
        """Name of the technique, ``automatic``, with the options that differ from their defaults."""
        return _name("automatic", self)

    def init(self) -> State:
        """Return the state with scale ``initial`` and 0 finite steps."""
        return {"scale": np.array(self.initial), "good": np.array(0)}

    def loss_scale(self, state: State) -> float:
        """Return the current scale."""
        return float(state["scale"])

    def finish(self, state: State, gradients: Mapping[str, Array], scales: OperandScales | None = None) -> Finished:
        """Divide the gradients by the scale; the step is skipped if the result is not finite."""
        scale, good = float(state["scale"]), int(state["good"])
        unscaled = _divided(gradients, scale)
        finite = all_finite(unscaled.values())
        good = good + 1 if finite else 0
        following = scale
        if not finite:
            following = max(scale * self.backoff, self.smallest)
        elif good == self.interval:
            good = 0
            if scale * self.growth <= _LARGEST:
                following = scale * self.growth
        outcome = Outcome(
            skipped=not finite,
            statistics=len(unscaled),
            extra_passes=len(unscaled),  # no parameter may change before the last gradient has been looked at
            elements=sum(g.size for g in unscaled.values()),
            scales=1,
            changes=int(following != scale),
            state=2,
        )
        return {"scale": np.array(following), "good": np.array(good)}, unscaled, outcome


@dataclass(frozen=True)
class TensorScaling:
    """Per-tensor scaling: a power of two around the cast of every operand of a contraction; see ``operands``.

    "current": computed from the operand's own amax, which needs a pass over it before the cast. "delayed": computed
    from its largest amax in the last ``history`` steps in which it occurred, recorded during the casts; larger elements
    saturate. Without a history s = 1; a tensor that is zero or not finite is not recorded.

    Args:
        kind: "current" or "delayed".
        margin: number of unused binades below the format's largest value.
        history: number of steps in the history, ≥ 1; for "delayed" only.

    Raises:
        ArgumentError: ``kind`` is unknown, ``margin`` is negative, or ``history`` < 1.
    """

    kind: Literal["current", "delayed"]
    margin: int = 0
    history: int = 16

    def __post_init__(self) -> None:
        if self.kind not in ("current", "delayed") or self.margin < 0 or self.history < 1:
            raise ArgumentError(f"{self}: expected kind 'current' or 'delayed', margin ≥ 0, history ≥ 1")

    @property
    def name(self) -> str:
        """Name of the technique, ``current`` or ``delayed``, with the options that differ from their defaults."""
        return _name(self.kind, self, skip=("kind",) if self.kind == "delayed" else ("kind", "history"))

    @property
    def tuned(self) -> tuple[str, ...]:
        """The length of the history, a compromise between overflow and precision; empty for "current"."""
        return ("history",) if self.kind == "delayed" else ()

    def init(self) -> State:
        """Return empty histories: ``keys`` of operands, and their ``amax`` (operands, history), newest first."""
        if self.kind == "current":
            return {}
        return {"keys": np.zeros(0, "U1"), "amax": np.zeros((0, self.history))}

    def loss_scale(self, state: State) -> float:
        """Return 1."""
        return 1.0

    def operand_scales(self, state: State) -> OperandScales:
        """Return new factors, from the largest amax of each operand's history."""
        if self.kind == "current":
            return OperandScales(self.margin)
        return OperandScales(self.margin, {key: float(row.max()) for key, row in self._rows(state).items()})

    def finish(self, state: State, gradients: Mapping[str, Array], scales: OperandScales | None = None) -> Finished:
        """Return the gradients unchanged, and add the measured amax of each operand to its history.

        Raises:
            ArgumentError: ``scales`` is missing, or the state has another length of history.
        """
        if scales is None:
            raise ArgumentError(f"{self.name}.finish(scales=None): expected the OperandScales that the tape has used")
        measured = scales.measured
        if self.kind == "current":
            elements = sum(m.elements for m in measured.values())
            n = len(measured)
            return state, dict(gradients), Outcome(statistics=n, extra_passes=n, elements=elements, scales=n)
        rows, changes = self._rows(state), 0
        for key, m in measured.items():
            newest = m.amax if math.isfinite(m.amax) else 0.0
            rows[key] = np.array([newest, *rows.get(key, np.zeros(self.history))[:-1]])
            changes += operand_scale(m.format, float(rows[key].max()), self.margin) != m.scale
        amax = np.array(list(rows.values())).reshape(len(rows), self.history)
        following = {"keys": np.array(list(rows), np.str_), "amax": amax}
        outcome = Outcome(statistics=len(measured), scales=len(measured), changes=changes, state=amax.size)
        return following, dict(gradients), outcome

    def _rows(self, state: State) -> dict[str, Array]:
        """Each operand's history, newest first."""
        keys, amax = state["keys"], state["amax"]
        if amax.shape != (len(keys), self.history):
            raise ArgumentError(f"{self}: state has amax {amax.shape}, expected ({len(keys)}, {self.history})")
        return dict(zip(keys.tolist(), amax, strict=True))


def _divided(gradients: Mapping[str, Array], scale: float) -> dict[str, Array]:
    """Each gradient over the loss scale, in its own dtype: exact for powers of two, within the dtype's range."""
    if scale == 1:
        return dict(gradients)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return {name: np.asarray(g / scale) for name, g in gradients.items()}


SCALINGS = "none, static:512, automatic, current, delayed; with options as in automatic:2^10,interval=100"
"""The names that ``get_scaling`` accepts, for messages."""

_Rival = NoScaling | StaticLossScale | AutomaticLossScale | TensorScaling
_NAMED: dict[str, tuple[type[_Rival], dict[str, Any]]] = {
    "none": (NoScaling, {}),
    "static": (StaticLossScale, {}),
    "automatic": (AutomaticLossScale, {}),
    "current": (TensorScaling, {"kind": "current"}),
    "delayed": (TensorScaling, {"kind": "delayed"}),
}


def get_scaling(text: str | Scaling) -> Scaling:
    """Return a technique by name: ``none``, ``static:2^15``, ``automatic``, ``current``, ``delayed``.

    A technique is returned unchanged.

    Fields follow after a colon, separated by commas: ``automatic:initial=2^10,interval=100``,
    ``delayed:history=4,margin=1``. The name of a loss scale's first field may be omitted: ``static:512``,
    ``automatic:2^10,interval=100``. A number is decimal or a power such as ``2^-3``. ``get_scaling(s.name) == s``.

    Raises:
        ArgumentError: a name or field is unknown, or a value is not a number or out of range.
    """
    if not isinstance(text, str | type) and hasattr(text, "operand_scales"):
        return text
    call, expected = f"get_scaling({text!r})", f"one of {SCALINGS}"
    name, rest = split_name(text) if isinstance(text, str) else ("", None)
    if name not in _NAMED:
        raise ArgumentError(f"{call}: expected {expected}")
    record, given = _NAMED[name]
    types = {f.name: str(f.type) for f in fields(record) if f.name not in given}
    if name == "current":
        del types["history"]
    chosen: dict[str, Any] = {}
    for i, option in enumerate(read_options(rest, call, expected)):
        field, value = option.field, option.value
        if value is None and i == 0 and types.keys() & {"scale", "initial"}:
            field, value = next(iter(types)), option.text
        try:
            if field in chosen:
                raise KeyError(field)
            chosen[field] = (read_whole if types[field] == "int" else read_number)(value or "")
        except (KeyError, ValueError) as error:
            raise ArgumentError(f"{call}: {option.text!r}, expected {expected}") from error
    if name == "static" and not chosen:
        raise ArgumentError(f"{call}: expected {expected}")
    return record(**given, **chosen)


def _shown(value: float) -> str:
    """A number as a person writes it: "65536", "2^20", "0.3"."""
    mantissa, exponent = math.frexp(value)
    if value % 1 == 0 and value < 1e6:
        return f"{int(value)}"
    return f"2^{exponent - 1}" if mantissa == 0.5 else f"{value}"


def _name(kind: str, record: Any, skip: tuple[str, ...] = ()) -> str:
    """The argument of ``get_scaling`` that gives the record: its kind, and the fields that differ from defaults."""
    parts = []
    for f in fields(record):
        value = getattr(record, f.name)
        if f.name in skip or value == f.default:
            continue
        shown = _shown(value) if isinstance(value, float) else f"{value}"
        parts.append(shown if f.default is MISSING else f"{f.name}={shown}")
    return f"{kind}:{','.join(parts)}" if parts else kind
