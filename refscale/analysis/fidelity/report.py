"""The report on a trained network in narrow formats, and its JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from refscale.files import DATA, parse_json, read_json, write_text
from refscale.records import check_schema, dataclass_of, reading, record_text
from refscale.stats.measurement import Kind

SCHEMA = "refscale.fidelity/1"
"""Schema of the JSON; its number increases if a reader of the old schema could misread the new one."""

MARGIN = 1.0
"""dB: allowed distance of an operand's SNR below the best SNR of Gaussian numbers."""


@dataclass(frozen=True)
class CastLosses:
    """Counts of elements that the casts of a pass clipped and flushed to zero.

    Attributes:
        elements: number of cast elements; an operand of several products counts once.
        clipped: number of finite elements beyond the format's largest value.
        flushed: number of non-zero elements that became zero.
    """

    elements: int
    clipped: int
    flushed: int


@dataclass(frozen=True)
class Errors:
    """Errors of one forward and backward pass, compared with float64.

    Attributes:
        scheme: name of the scheme.
        policy: name of the policy, or of the single class of casts.
        loss_scale: factor on the loss before the backward pass, divided out of the gradients after it; None: no loss
            scale.
        output: ‖h − h0‖/‖h0‖ of the encoder's output without padding; infinite if not all of h is finite.
        output_cosine: mean over the tokens of the cosine of h and h0; 0 for a token that is zero or not finite.
        gradient, gradient_cosine: the same for all parameters' gradients as one vector, in units of the model's own
            parameters: divided by c and by each parameter's divisor.
        loss: value of the objective.
        forward, backward: counts of clipped and flushed elements.
    """

    scheme: str
    policy: str
    loss_scale: float | None
    output: float
    output_cosine: float
    gradient: float
    gradient_cosine: float
    loss: float
    forward: CastLosses
    backward: CastLosses


@dataclass(frozen=True)
class OperandStats:
    """One operand of a product, and its cast to the policy's format; shares are of its non-zero elements.

    Attributes:
        scheme: name of the scheme.
        name: name of the parameter; for an activation, its first product and its role there
            (``encoder.0.attention.attention_scores.q``); for a gradient, the product that receives it.
        kind: weight, activation or activation gradient.
        format: full name of the format.
        elements: number of elements, padding included.
        std, rms, amax: standard deviation, root of the mean square, largest magnitude.
        flushed, subnormal, clipped: shares cast to zero, to a subnormal value, from beyond the largest value.
        snr: SNR of the cast in dB.
        scaled_snr: SNR if a power of two first scales amax to just below the format's largest value. The part of the
            deficit that remains here does not depend on a scale.
    """

    scheme: str
    name: str
    kind: Kind
    format: str
    elements: int
    std: float
    rms: float
    amax: float
    flushed: float
    subnormal: float
    clipped: float
    snr: float
    scaled_snr: float

    @property
    def outlier(self) -> float:
        """amax/RMS; about 5 for a million Gaussian numbers."""
        return self.amax / self.rms if self.rms else 0.0


@dataclass(frozen=True)
class StorageStats:
    """One tensor that leaves the range of the policy's ``store`` format; shares are of its non-zero elements."""

    scheme: str
    name: str
    kind: Kind
    rms: float
    flushed: float
    clipped: float


@dataclass(frozen=True)
class FidelityReport:
    """Errors of a trained network in narrow formats.

    Attributes:
        model: description of the model.
        digest: SHA-256 of its source.
        objective: differentiated objective: "masked LM", "masked LM + next sentence", "mean projection" or "loss of the
            program".
        batch, seq: sequences, and tokens in each; None for a program.
        seed, text: random seed, and source of the text.
        padding: share of padding in the batch.
        schemes: compared schemes, in order.
        loss: value of the objective in float64.
        policies: errors by policy and scheme, the regular scheme also with a loss scale; float32 first.
        focus: first policy that casts operands; if none does, the first with a narrow storage format; else empty.
        classes: errors of the focus's casts, one class at a time; empty if it casts no operands.
        operands: operands that the focus casts, by scheme, forward and then backward, in the order of the pass.
        best: highest SNR of Gaussian numbers in each of its operand formats, dB.
        store: its storage format, or empty.
        stored: number of stored tensors, by scheme.
        beyond: stored tensors with flushed or clipped elements.
    """

    model: str
    digest: str
    objective: str
    batch: int | None
    seq: int | None
    seed: int
    text: str
    padding: float
    schemes: tuple[str, ...]
    loss: float
    policies: tuple[Errors, ...]
    focus: str
    classes: tuple[Errors, ...]
    operands: tuple[OperandStats, ...]
    best: Mapping[str, float]
    store: str
    stored: Mapping[str, int]
    beyond: tuple[StorageStats, ...]

    def of_scheme(self, scheme: str) -> tuple[OperandStats, ...]:
        """Return the operands under a scheme."""
        return tuple(t for t in self.operands if t.scheme == scheme)

    def bound(self, format: str) -> float:
        """Return the lowest acceptable SNR of an operand in this format, in dB: a Gaussian's best, less 1 dB."""
        return self.best[format] - MARGIN

    def is_below(self, operand: OperandStats) -> bool:
        """Return whether an operand's SNR is below the bound of its format."""
        return operand.snr < self.bound(operand.format)


# --- files ------------------------------------------------------------------------------------------------------------


def fidelity_to_json(report: FidelityReport) -> str:
    """Return a report as JSON text: ``schema``, ``version`` and its fields.

    The text has no time stamp, so the same run returns the same text.
    """
    return record_text(SCHEMA, asdict(report))


def fidelity_from_json(text: str) -> FidelityReport:
    """Return a report from the text of ``fidelity_to_json``.

    Raises:
        DataError: invalid JSON, another schema, or missing fields.
    """
    return _fidelity_from(parse_json(text, "fidelity_from_json"), "fidelity_from_json")


def _fidelity_from(content: dict[str, Any], call: str) -> FidelityReport:
    with reading(call, "fidelity_to_json"):
        check_schema(content, SCHEMA, call)
        content |= {
            "schemes": tuple(content["schemes"]),
            "policies": tuple(_errors_from(e) for e in content["policies"]),
            "classes": tuple(_errors_from(e) for e in content["classes"]),
            "operands": tuple(dataclass_of(OperandStats, t) for t in content["operands"]),
            "beyond": tuple(dataclass_of(StorageStats, t) for t in content["beyond"]),
        }
        return dataclass_of(FidelityReport, content)


def save_fidelity(path: str | Path, report: FidelityReport) -> None:
    """Write ``fidelity_to_json`` to a file, atomically; raise OSError on failure."""
    text = fidelity_to_json(report)
    write_text(path, text)


def load_fidelity(path: str | Path) -> FidelityReport:
    """Read the report in a file of ``save_fidelity``; raise DataError or OSError on failure."""
    call = f"load_fidelity({str(path)!r})"
    return _fidelity_from(read_json(path, call, most=DATA), call)


def _errors_from(content: Mapping[str, Any]) -> Errors:
    casts = {name: dataclass_of(CastLosses, content[name]) for name in ("forward", "backward")}
    return dataclass_of(Errors, {**content, **casts})
