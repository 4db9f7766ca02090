"""What a report on a trained network in narrow formats is, and how it is written to a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from refscale.files import DATA, parse_json, read_json, write_text
from refscale.records import check_schema, dataclass_of, reading, record_text
from refscale.stats.measurement import Kind

SCHEMA = "refscale.fidelity/1"
"""Raised by one whenever a reader of the former could go wrong."""

MARGIN = 1.0
"""dB: how far below the best SNR of Gaussian numbers an operand may fall."""


@dataclass(frozen=True)
class CastLosses:
    """What the casts of a pass lost.

    Attributes:
        elements: numbers that were cast; an operand of several products counts once.
        clipped: finite ones beyond the format's largest value.
        flushed: those that were not zero and became zero.
    """

    elements: int
    clipped: int
    flushed: int


@dataclass(frozen=True)
class Errors:
    """One forward and backward pass against that in float64.

    Attributes:
        scheme: its name.
        policy: name of the policy, or what alone is cast.
        loss_scale: what the loss was multiplied by before the backward pass, and gradients divided by after it; None
            without.
        output: ‖h − h0‖/‖h0‖ of the encoder's output, padding left out; infinite if not all of h is finite.
        output_cosine: mean over the tokens of the cosine of h and h0; 0 for one that is zero or not finite.
        gradient, gradient_cosine: the same of all parameters' gradients as one vector, in units of the model's own
            parameters: divided by c and by what each was divided by.
        loss: the objective's value.
        forward, backward: what casts lost.
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
        scheme: its name.
        name: of the parameter; of an activation, the first product that takes it and as what
            (``encoder.0.attention.attention_scores.q``); of a gradient, the product that receives it.
        kind: weight, activation or activation gradient.
        format: full name.
        elements: of the tensor, padding included.
        std, rms, amax: standard deviation, root of the mean square, largest magnitude.
        flushed, subnormal, clipped: shares cast to zero, to a subnormal value, from beyond the largest value.
        snr: of the cast, in dB.
        scaled_snr: what it would be if a power of two first brought amax next to the format's largest value: as far as
            this falls below a Gaussian's, too, no scale is to blame.
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
        """amax/RMS; a million Gaussian numbers have 5."""
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
    """What narrow formats do to a trained network.

    Attributes:
        model: what it is, in words.
        digest: SHA-256 of what it was read from.
        objective: what gradients are of: "masked LM", "masked LM + next sentence", "mean projection" or "loss of the
            program".
        batch, seq: sequences, tokens in each; None of a program.
        seed, text: what random numbers started from, where the text came from.
        padding: share of the batch.
        schemes: compared, in order.
        loss: of the objective, in float64.
        policies: errors policy by policy, scheme by scheme, the regular one also with a loss scale; float32 first.
        focus: the first policy that casts operands; the first that stores narrow if none does; else empty.
        classes: errors of casts of the focus, one class at a time; none if it casts no operands.
        operands: what it casts, scheme by scheme, forward and then backward, as they come.
        best: highest SNR of Gaussian numbers in each of its operand formats, dB.
        store: its format of storage, or empty.
        stored: tensors stored, by scheme.
        beyond: those of which something is flushed or clipped.
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
        """The operands under a scheme."""
        return tuple(t for t in self.operands if t.scheme == scheme)

    def bound(self, format: str) -> float:
        """The SNR, in dB, that an operand in this format should not fall below: a Gaussian's best, less 1 dB."""
        return self.best[format] - MARGIN

    def is_below(self, operand: OperandStats) -> bool:
        """Whether an operand's SNR is below the bound of its format."""
        return operand.snr < self.bound(operand.format)


# --- files ------------------------------------------------------------------------------------------------------------


def fidelity_to_json(report: FidelityReport) -> str:
    """A report as JSON text: ``schema``, ``version`` and its fields.

    No time stamp: the same run gives the same text.
    """
    return record_text(SCHEMA, asdict(report))


def fidelity_from_json(text: str) -> FidelityReport:
    """A report from the text that ``fidelity_to_json`` makes.

    Raises:
        DataError: no JSON, another schema, or fields that are missing.
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
    """Write ``fidelity_to_json`` to a file, atomically.  Raises OSError."""
    text = fidelity_to_json(report)
    write_text(path, text)


def load_fidelity(path: str | Path) -> FidelityReport:
    """Read what ``save_fidelity`` wrote.  Raises DataError, OSError."""
    call = f"load_fidelity({str(path)!r})"
    return _fidelity_from(read_json(path, call, most=DATA), call)


def _errors_from(content: Mapping[str, Any]) -> Errors:
    casts = {name: dataclass_of(CastLosses, content[name]) for name in ("forward", "backward")}
    return dataclass_of(Errors, {**content, **casts})
