"""The error of narrow formats in a trained model: of its output and gradients, and of each class of casts.

One batch runs in float64, and then in each policy, under the scheme of the model's training and, adapted to the same
function, under unit scaling. A float32 pass of each scheme measures every operand that FP8 would cast and every tensor
that would be stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale import published
from refscale.analysis.fidelity.report import CastLosses, Errors, FidelityReport
from refscale.analysis.fidelity.subjects import (
    BertSubject,
    ProgramSubject,
    Side,
    Subject,
    bert_contractions,
    scheme_names,
)
from refscale.analysis.fidelity.watch import Watch
from refscale.analysis.snr.curves import snr
from refscale.engine import Array, CastRecord, Probe, Tape, backward
from refscale.errors import ArgumentError
from refscale.files import path_text
from refscale.graph import gradient_factors
from refscale.layers import Parameters
from refscale.precision import Precision, fp32, get_precision
from refscale.programs import Program, check_program, load_program
from refscale.progress import Progress
from refscale.rivals import operand_scale
from refscale.scales import regular

POLICIES = ("fp16", "bf16", "fp8", "fp8-fnuz")
"""Default policies of the comparison."""

FORWARD = ("leaf", "output", "operand")
"""Places of casts in the forward pass; the others are in the backward pass."""

PARTS = ("operands", "incoming gradients", "storage")
"""Classes of casts beside those of one op."""


def fidelity(
    model: published.Pretrained | Program | str,
    *,
    policies: Sequence[str | Precision] = POLICIES,
    schemes: Sequence[str] | None = None,
    parameters: Parameters | None = None,
    text: str | Path | None = None,
    batch: int | None = None,
    seq: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> FidelityReport:
    """Return the errors of a trained model in narrow formats: a published BERT on real text, or a program.

    For a program, gradients are those of its loss, and its output is the input of its losses.

    For a BERT with a masked-LM head, gradients are those of its pre-training loss. Without one, they are those of
    ``MeanProjection``, the mean over all elements of the encoder's output times fixed N(0, 1) numbers (0 at padding).
    It represents a loss that is a mean, as in training: the regular scheme's backward pass starts with one over the
    number of elements, and unit scaling's with numbers of unit scale.

    A loss scale can prevent underflow under the regular scheme. So its gradients are also computed with the power of
    two that brings the largest gradient just below half of the largest value, which is about the best possible loss
    scale.

    Args:
        model: a BERT with a tokenizer; a program, or its place, such as "mine.py:model".
        policies: policies to compare with float64, beside float32; names, mixes (see ``get_precision``) or policies.
        schemes: "regular", and "unit" of a BERT or "adapted" of a program; None: both, for a regular model. A model
            trained under another scheme has that one only.
        parameters: trained parameters of a program; None: its initial ones.
        text: path of a UTF-8 text file; None: the text that comes with Python.
        batch: sequences; default: 8.
        seq: tokens in each; default: 128.
        seed: random seed of the choice of text, of masked words and of random numbers; of a program's batch.
        progress: progress bar, advanced by one for each pass; ``passes`` is the total.

    Returns:
        The report.

    Raises:
        ArgumentError: a size is out of range, a policy is unknown, a scheme does not compute the model, text, batch or
            seq is given for a program, or parameters for a BERT.
        DataError: the model has no tokenizer, or the text is not usable.
        ProgramError: the program cannot be loaded or adapted.
        ShapeError: seq is longer than the model's positions.

    Source: paper, Proposition 5.1 and Figure 2, for trained weights.
    """
    if seed < 0:
        raise ArgumentError(f"fidelity(seed={seed}): expected seed ≥ 0")
    subject: Subject
    if isinstance(model, published.Pretrained):
        if parameters is not None:
            raise ArgumentError("fidelity(parameters=…): a published model has its own, expected None")
        batch, seq = 8 if batch is None else batch, 128 if seq is None else seq
        subject = BertSubject(model, text, batch, seq, seed)
    else:
        given = {"text": text, "batch": batch, "seq": seq}
        if names := [name for name, value in given.items() if value is not None]:
            raise ArgumentError(f"fidelity({names[0]}={given[names[0]]!r}): a program defines it itself, expected None")
        subject = ProgramSubject(_program(model), parameters, seed)
    plan, focus = _plan(subject.contractions, policies)
    sides = {name: subject.side(name) for name in scheme_names(subject.scheme, subject.adapted_name, schemes)}

    def count_one(note: str) -> None:
        if progress:
            progress.advance(note=note)

    reference = _run(subject, subject.own(), fp32, np.float64, seed)
    count_one("float64")
    found: dict[str, list[Errors]] = {"policies": [], "classes": []}
    known: dict[tuple[str, bool, Precision], Errors] = {}  # storage alone may equal one of the policies
    watches = {name: Watch(subject.specs, focus) for name in sides}
    for group, label, policy in plan:
        for name, is_scaled in _ways(sides, policy):
            key = name, is_scaled, replace(policy, name="")
            if key not in known:
                scale = _loss_scale(policy, watches[name].largest_gradient) if is_scaled else None
                watch = watches[name] if label == fp32.name else None
                one = _run(subject, sides[name], policy, np.float32, seed, watch, scale or 1.0)
                known[key] = _errors(one, reference, name, scale)
            found[group].append(replace(known[key], policy=label))
            count_one(f"{name} {label}")
    formats = [c.format.name for c in (focus.operand, focus.operand_gradient) if c] if focus else []
    return FidelityReport(
        model=subject.model,
        digest=subject.digest,
        objective=subject.objective,
        batch=batch,
        seq=seq,
        seed=seed,
        text="built-in" if text is None else path_text(text),
        padding=subject.padding,
        schemes=tuple(sides),
        loss=reference.loss,
        policies=tuple(found["policies"]),
        focus=focus.name if focus else "",
        classes=tuple(found["classes"]),
        operands=tuple(replace(t, scheme=name) for name, watch in watches.items() for t in watch.operands),
        best={name: float(snr(name).max()) for name in formats},
        store=focus.store.format.name if focus and focus.store else "",
        stored={name: watch.stored for name, watch in watches.items()},
        beyond=tuple(replace(t, scheme=name) for name, watch in watches.items() for t in watch.beyond),
    )


def passes(
    model: published.Pretrained | Program | str,
    policies: Sequence[str | Precision] = POLICIES,
    schemes: Sequence[str] | None = None,
) -> int:
    """Return the number of runs of the model in ``fidelity``; raise its ArgumentError and ProgramError."""
    if isinstance(model, published.Pretrained):
        contractions = bert_contractions(model.config)
        names = scheme_names(model.scheme, BertSubject.adapted_name, schemes)
    else:
        subject = ProgramSubject(_program(model), None, 0)
        contractions = subject.contractions
        names = scheme_names(subject.scheme, subject.adapted_name, schemes)
    return 1 + sum(len(_ways(names, policy)) for _, _, policy in _plan(contractions, policies)[0])


def _program(model: Program | str) -> Program:
    return load_program(model) if isinstance(model, str) else check_program(model, "fidelity")


def compare(pairs: Iterable[tuple[NDArray[Any], NDArray[Any]]]) -> tuple[float, float]:
    """Return ‖x − x0‖/‖x0‖ and the cosine of two vectors, in parts; (inf, 0) if x is not finite; 0/0 counts as 0."""
    error = own = true = dot = 0.0
    for x, x0 in pairs:
        a = x.astype(np.float64, copy=False).reshape(-1)
        b = x0.astype(np.float64, copy=False).reshape(-1)
        difference = a - b
        error += float(difference @ difference)
        own += float(a @ a)
        true += float(b @ b)
        dot += float(a @ b)
    if not math.isfinite(own):
        return math.inf, 0.0
    if not true:
        return (math.inf if error else 0.0), 0.0
    return math.sqrt(error / true), dot / math.sqrt(own * true) if own else 0.0


# --- The passes -------------------------------------------------------------------------------------------------------


def _plan(
    contractions: Sequence[str], policies: Sequence[str | Precision]
) -> tuple[list[tuple[str, str, Precision]], Precision | None]:
    """Return (group, label, policy) of every pass of a scheme, and the policy whose casts are measured one by one."""
    named = [get_precision(p) for p in policies]
    plan = [("policies", p.name, p) for p in (fp32, *(p for p in named if p.name != fp32.name))]
    focus = next((p for p in named if p.operand or p.operand_gradient), None)
    if focus is None:
        return plan, next((p for p in named if p.store), None)
    bare = replace(focus, store=None)
    for name in contractions:
        if focus.narrows(name):
            plan.append(("classes", name, replace(bare, contractions=(name,))))
    operands, gradients, storage = PARTS
    plan.append(("classes", operands, replace(bare, operand_gradient=None)))
    plan.append(("classes", gradients, replace(bare, operand=None)))
    if focus.store:
        plan.append(("classes", storage, replace(focus, operand=None, operand_gradient=None)))
    return plan, focus


def _ways(schemes: Iterable[str], policy: Precision) -> list[tuple[str, bool]]:
    """Return each scheme, without and with a loss scale; the latter for regular gradients in narrow-range formats."""
    found = []
    for name in schemes:
        found.append((name, False))
        if name == regular.name and _loss_scale(policy, 2.0**-100) > 1:
            found.append((name, True))
    return found


def _loss_scale(policy: Precision, largest: float) -> float:
    """Return the power of two that brings the largest gradient just below half of a policy's largest value.

    A format with the exponents of float32 needs no loss scale, and does not limit that of another format.
    """
    formats = [c.format for c in (policy.store, policy.operand_gradient) if c]
    return min((operand_scale(f, largest, margin=1) for f in formats if f.exponent_bits < 8), default=1.0)


@dataclass(frozen=True, eq=False)
class _Pass:
    """The results of a pass: outputs as rows; gradients as computed, with their divisors."""

    outputs: Sequence[NDArray[Any]]
    gradients: Mapping[str, tuple[Array, float]]
    loss: float
    casts: Sequence[CastRecord]

    def gradient(self, name: str) -> NDArray[np.float64]:
        """Return a gradient in units of the model's own parameters."""
        computed, factor = self.gradients[name]
        return np.divide(computed, factor, dtype=np.float64)


def _run(
    subject: Subject,
    side: Side,
    precision: Precision,
    dtype: type[np.floating[Any]],
    seed: int,
    probe: Probe | None = None,
    loss_scale: float = 1.0,
) -> _Pass:
    rng = np.random.default_rng(seed)  # for a policy that rounds stochastically
    tape = Tape(side.scheme, precision, dtype, probe=probe, rng=rng, count_casts=True)
    with np.errstate(all="ignore"):  # overflow is part of the result
        p, loss, outputs = subject.forward(tape, side.parameters)
        backward(loss, loss_scale)
    factors = gradient_factors(loss)
    gradients = {
        name: (t.grad, factors[t.variable] * side.divisors[name] * loss_scale)
        for name in side.parameters
        if (t := p[name]).grad is not None
    }
    return _Pass(outputs, gradients, float(loss.value), tape.casts)


def _errors(one: _Pass, reference: _Pass, scheme: str, loss_scale: float | None) -> Errors:
    with np.errstate(all="ignore"):
        pairs = list(zip(one.outputs, reference.outputs, strict=True))
        output, _ = compare(pairs)
        cosines = [compare([rows])[1] for h, h0 in pairs for rows in zip(h, h0, strict=True)]
        gradient, gradient_cosine = compare((one.gradient(n), reference.gradient(n)) for n in reference.gradients)
    forward = [r for r in one.casts if r.place in FORWARD]
    shared = {(r.variable, r.place): r for r in forward}
    return Errors(
        scheme=scheme,
        policy="",
        loss_scale=loss_scale,
        output=output,
        output_cosine=sum(cosines) / len(cosines),
        gradient=gradient,
        gradient_cosine=gradient_cosine,
        loss=one.loss,
        forward=_losses(shared.values()),
        backward=_losses(r for r in one.casts if r.place not in FORWARD),
    )


def _losses(records: Iterable[CastRecord]) -> CastLosses:
    rows = [(r.elements, r.clipped or 0, r.flushed or 0) for r in records]
    return CastLosses(*(sum(column) for column in zip(*rows, strict=True))) if rows else CastLosses(0, 0, 0)
