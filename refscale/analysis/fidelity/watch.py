"""Measured effect of narrow formats on each tensor of a float32 pass: on cast operands and on stored tensors."""

from __future__ import annotations

import weakref

from refscale import ops
from refscale.analysis.fidelity.report import OperandStats, StorageStats
from refscale.analysis.snr.curves import cast_snr
from refscale.engine import Array, Variable
from refscale.formats import Cast
from refscale.layers import Specs
from refscale.precision import Precision, fp32
from refscale.rivals import operand_scale
from refscale.rivals.operands import largest_magnitude
from refscale.stats.measurement import Kind, measure


class Watch:
    """A probe that measures, during a float32 pass, the tensors that a policy would cast.

    An operand is identified when its product has been computed; its array still exists then.

    Args:
        specs: specs of the model's parameters; other leaves are not measured.
        policy: policy of the casts; None: no casts.

    Attributes:
        operands, beyond: as in the report, with ``scheme`` empty.
        stored: number of tensors that the policy would store.
        largest_gradient: largest magnitude in any gradient.
    """

    def __init__(self, specs: Specs, policy: Precision | None) -> None:
        self.specs, self.policy = specs, policy or fp32
        self.operands: list[OperandStats] = []
        self.beyond: list[StorageStats] = []
        self.stored = 0
        self.largest_gradient = 0.0
        self._values: dict[Variable, weakref.ref[Array]] = {}
        self._seen: set[Variable] = set()

    def __call__(self, direction: str, variable: Variable, x: Array) -> None:
        """Measure one array, as a ``Probe`` does."""
        node = variable.node
        is_gradient = direction == "backward"
        self.store(variable, x, is_gradient)
        if is_gradient:
            self.largest_gradient = max(self.largest_gradient, largest_magnitude(x) if x.ndim else 0.0)
        else:
            self._values[variable] = weakref.ref(x)
        if node is None or not node.op.contraction or not self.policy.narrows(node.op.name):
            return
        if is_gradient:
            self.measure(variable.name, "activation gradient", x, self.policy.operand_gradient)
            return
        for role, operand in zip(node.op.inputs, node.inputs, strict=True):
            value = self._values[operand]()
            source = _parameter(operand)
            if operand not in self._seen and value is not None:
                self._seen.add(operand)
                name = source.name if source else f"{variable.name}.{role}"
                self.measure(name, "weight" if source else "activation", value, self.policy.operand)

    def measure(self, name: str, kind: Kind, x: Array, cast: Cast | None) -> None:
        """Add the statistics of an operand."""
        if cast is None:
            return
        format = cast.format.name
        factor = self.policy.operand_factor
        m = measure(x, [format])
        lost = measure(factor * x, [format]).lost[format] if factor != 1 else m.lost[format]
        self.operands.append(
            OperandStats(
                scheme="",
                name=name,
                kind=kind,
                format=format,
                elements=m.elements,
                std=m.std,
                rms=m.rms,
                amax=m.amax,
                flushed=m.share(lost.underflow),
                subnormal=m.share(lost.subnormal),
                clipped=m.share(lost.overflow),
                snr=cast_snr(x, cast, factor),
                scaled_snr=cast_snr(x, cast, operand_scale(cast.format, m.amax)),
            )
        )

    def store(self, variable: Variable, x: Array, is_gradient: bool) -> None:
        """Record a stored tensor and its clipped or flushed elements; skip tensors that are only moved."""
        cast, node = self.policy.store, variable.node
        if cast is None or x.ndim == 0:
            return
        if node is None and (
            variable.name not in self.specs or (is_gradient and self.specs[variable.name].zero_gradient)
        ):
            return
        if node is not None and (
            isinstance(node.op, ops.Reshape | ops.Transpose) or (node.op.moves and not is_gradient)
        ):
            return
        self.stored += 1
        m = measure(x, [cast.format.name])
        lost = m.lost[cast.format.name]
        if lost.underflow or lost.overflow:
            kind: Kind = "activation" if node else "weight"
            if is_gradient:
                kind = "activation gradient" if node else "weight gradient"
            self.beyond.append(
                StorageStats("", variable.name, kind, m.rms, m.share(lost.underflow), m.share(lost.overflow))
            )


def _parameter(variable: Variable) -> Variable | None:
    """Return the parameter of a tensor, possibly moved; None if the tensor was computed."""
    while variable.node is not None and variable.node.op.moves and len(variable.node.inputs) == 1:
        variable = variable.node.inputs[0]
    return variable if variable.node is None else None
