"""What narrow formats do to a trained network: errors of its output and gradients, and what each cast costs.

One batch of real text, once through in float64, and then in each policy, under the scheme that the model was trained
with and, adapted to the same function (``published.adapt``), under unit scaling.  One float32 pass of each scheme is
watched: every operand that FP8 would cast, every tensor that would be stored, in figures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale import models, published
from refscale.analysis.fidelity.report import CastLosses, Errors, FidelityReport
from refscale.analysis.fidelity.watch import Watch
from refscale.analysis.snr.curves import snr
from refscale.data import Batch, load_text
from refscale.engine import Array, CastRecord, Op, Probe, Tape, Tensor, apply, backward
from refscale.errors import ArgumentError, DataError, counted
from refscale.files import path_text
from refscale.formats import quantize
from refscale.graph import gradient_factors
from refscale.layers import Parameters, count
from refscale.models import bert
from refscale.precision import Precision, fp32, get_precision
from refscale.progress import Progress
from refscale.rivals import operand_scale
from refscale.scales import Scales, Scheme, Shape, get_scheme
from refscale.tasks import masked_lm_batches

POLICIES = ("fp16", "bf16", "fp8", "fp8-fnuz")
"""What is compared, unless told otherwise."""

FORWARD = ("leaf", "output", "operand")
"""Places of casts in the forward pass; the others are in the backward pass."""


def fidelity(
    model: published.Pretrained,
    *,
    policies: Sequence[str | Precision] = POLICIES,
    schemes: Sequence[str] | None = None,
    text: str | Path | None = None,
    batch: int = 8,
    seq: int = 128,
    seed: int = 0,
    progress: Progress | None = None,
) -> FidelityReport:
    """Errors of a trained model in narrow formats, on real text through its own tokenizer.

    Gradients are those of the loss that it was pre-trained with, if it has a masked-LM head.  If it has none, they are
    those of ``MeanProjection``, the mean over all elements of the encoder's output times fixed N(0, 1) numbers (0 at
    padding).  That stands for a loss that is a mean, as in training: it starts the regular scheme's backward pass with
    one part in the number of elements, and unit scaling's with numbers of unit scale.  What the former loses below a
    format's range, a loss scale would save, so its gradients are also shown with the power of two that brings the
    largest of them just below half of the largest value: about the best that a loss scale can do.

    Args:
        model: with a tokenizer.
        policies: compared with float64, beside float32; names, mixes (see ``get_precision``) or policies.
        schemes: "regular", "unit"; None: both, for a regular model.  A model that was trained under another scheme has
            that alone.
        text: path of a UTF-8 text file; None for the text that comes along.
        batch: sequences.
        seq: tokens in each.
        seed: of the choice of text, masked words and random numbers.
        progress: advanced by one for each pass; ``passes`` is the total.

    Returns:
        The report.

    Raises:
        ArgumentError: sizes out of range, an unknown policy, or a scheme that does not compute the model.
        DataError: the model has no tokenizer, or the text cannot be used.
        ShapeError: seq is longer than the model's positions.

    Source: paper, Proposition 5.1 and Figure 2, of weights that were trained.
    """
    if model.tokenizer is None:
        raise DataError("fidelity: the model has no tokenizer, expected one that can read text")
    if seed < 0:
        raise ArgumentError(f"fidelity(seed={seed}): expected seed ≥ 0")
    plan, focus = _plan(model, policies)
    sides = _sides(model, schemes)
    rng = np.random.default_rng(seed)
    data = next(masked_lm_batches(load_text(text), model.tokenizer, batch=batch, seq=seq, rng=rng))
    program = _Program(model.config, data, _numbers(data.mask, model.config.width, rng), seed)

    def count_one(note: str) -> None:
        if progress:
            progress.advance(note=note)

    reference = program.run(_own(model), fp32, np.float64)
    count_one("float64")
    found: dict[str, list[Errors]] = {"policies": [], "classes": []}
    known: dict[tuple[str, bool, Precision], Errors] = {}  # storage alone may be one of the policies
    watches = {side.name: Watch(bert.specs(model.config), focus) for side in sides}
    for group, label, policy in plan:
        for side, is_scaled in _ways(sides, policy):
            key = side.name, is_scaled, replace(policy, name="")
            if key not in known:
                scale = _loss_scale(policy, watches[side.name].largest_gradient) if is_scaled else None
                watch = watches[side.name] if label == fp32.name else None
                one = program.run(side, policy, np.float32, watch, scale or 1.0)
                known[key] = _errors(one, reference, data.mask, side.name, scale)
            found[group].append(replace(known[key], policy=label))
            count_one(f"{side.name} {label}")
    formats = [c.format.name for c in (focus.operand, focus.operand_gradient) if c] if focus else []
    return FidelityReport(
        model=_describe(model.config),
        digest=model.digest,
        objective=_objective_name(model.config),
        batch=batch,
        seq=seq,
        seed=seed,
        text="built-in" if text is None else path_text(text),
        padding=float(1 - data.mask.mean()),
        schemes=tuple(side.name for side in sides),
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
    model: published.Pretrained, policies: Sequence[str | Precision] = POLICIES, schemes: Sequence[str] | None = None
) -> int:
    """How often ``fidelity`` runs the model.  Raises ArgumentError as it does."""
    sides = _sides(model, schemes)
    return 1 + sum(len(_ways(sides, policy)) for _, _, policy in _plan(model, policies)[0])


def compare(pairs: Iterable[tuple[NDArray[Any], NDArray[Any]]]) -> tuple[float, float]:
    """Two vectors, in parts: ‖x − x0‖/‖x0‖, and their cosine; (inf, 0) if x is not finite.  0/0 is 0 in the former."""
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


# --- what is run ------------------------------------------------------------------------------------------------------


def _plan(
    model: published.Pretrained, policies: Sequence[str | Precision]
) -> tuple[list[tuple[str, str, Precision]], Precision | None]:
    """(group, label, policy) of every pass of a scheme, and the policy whose casts are looked at one by one."""
    named = [get_precision(p) for p in policies]
    plan = [("policies", p.name, p) for p in (fp32, *(p for p in named if p.name != fp32.name))]
    focus = next((p for p in named if p.operand or p.operand_gradient), None)
    if focus is None:
        return plan, next((p for p in named if p.store), None)
    bare = replace(focus, store=None)
    for name in ("matmul", "attention_scores", "attention_mix", *(("readout",) if _has_loss(model.config) else ())):
        if focus.narrows(name):
            plan.append(("classes", name, replace(bare, contractions=(name,))))
    plan.append(("classes", "operands", replace(bare, operand_gradient=None)))
    plan.append(("classes", "incoming gradients", replace(bare, operand=None)))
    if focus.store:
        plan.append(("classes", "storage", replace(focus, operand=None, operand_gradient=None)))
    return plan, focus


@dataclass(frozen=True, eq=False)
class _Side:
    """A scheme, and the model's parameters in it; each is the model's own over its divisor."""

    name: str
    scheme: Scheme
    parameters: Parameters
    divisors: Mapping[str, float]


def _own(model: published.Pretrained) -> _Side:
    return _Side(model.scheme, get_scheme(model.scheme), model.parameters, dict.fromkeys(model.parameters, 1.0))


def _sides(model: published.Pretrained, schemes: Sequence[str] | None) -> list[_Side]:
    possible = ("regular", "unit") if model.scheme == "regular" else (model.scheme,)
    names = tuple(dict.fromkeys(possible if schemes is None else schemes))
    if not names or not set(names) <= set(possible):
        expected = " and ".join(possible)
        raise ArgumentError(f"fidelity(schemes={names}): a model trained under {model.scheme!r} has {expected}")
    sides = []
    for name in names:
        if name == model.scheme:
            sides.append(_own(model))
        else:
            adapted = published.adapt(model.config, model.parameters)
            sides.append(_Side(name, adapted.scheme, adapted.unit(model.parameters), adapted.divisors))
    return sides


def _has_loss(config: bert.BertConfig) -> bool:
    return "mlm" in config.outputs


def _objective_name(config: bert.BertConfig) -> str:
    if not _has_loss(config):
        return "mean projection"
    return "masked LM + next sentence" if "nsp" in config.outputs else "masked LM"


def _describe(config: bert.BertConfig) -> str:
    parameters = count(bert.specs(config)) / 1e6
    return f"BERT of {counted(config.layers, 'layer')}, width {config.width}, {parameters:.3g} million parameters"


def _ways(sides: Sequence[_Side], policy: Precision) -> list[tuple[_Side, bool]]:
    """Each side, and whether with a loss scale; the regular one both ways, if the policy's gradients lack exponents."""
    found = []
    for side in sides:
        found.append((side, False))
        if side.scheme.name == "regular" and _loss_scale(policy, 2.0**-100) > 1:
            found.append((side, True))
    return found


def _loss_scale(policy: Precision, largest: float) -> float:
    """The power of two that brings the largest gradient just below half of the largest value of a policy's formats.

    A format with the exponents of float32 needs no loss scale, and limits that of another format in no way.
    """
    formats = [c.format for c in (policy.store, policy.operand_gradient) if c]
    return min((operand_scale(f, largest, margin=1) for f in formats if f.exponent_bits < 8), default=1.0)


class MeanProjection(Op):
    """Σ x·r / N over all N elements, for fixed numbers r of RMS 1 in place of a loss.

    The gradient is r/N: β = N.  α = 1: the value is the loss.
    """

    inputs = ("x", "r")
    source = "closed form"
    constants = (1,)
    reports = True

    def forward(self, x: Array, r: Array) -> tuple[Array, tuple[Array]]:
        """The mean."""
        return np.asarray(np.vdot(x, r) / x.size).astype(x.dtype, copy=False), (r,)

    def backward(self, g: Array, r: Array) -> tuple[Array, None]:
        """The numbers, over their number."""
        return g / r.size * r, None

    def scale(self, x: Shape, r: Shape) -> Scales:
        """Of the gradient alone."""
        return Scales(1.0, (float(math.prod(x)), None))


def _numbers(mask: NDArray[np.bool_], width: int, rng: np.random.Generator) -> Array:
    """(batch, seq, width) of N(0, 1), 0 at padding, rounded to bfloat16 here so that no policy rounds them again."""
    numbers = rng.standard_normal((*mask.shape, width)) * mask[:, :, None]
    return quantize(numbers, "bfloat16", rounding="nearest_even", overflow="saturate")


@dataclass(frozen=True, eq=False)
class _Pass:
    """What a pass made: ``gradients`` are what the tape computed and what that is to be divided by."""

    encoded: Array
    gradients: Mapping[str, tuple[Array, float]]
    loss: float
    casts: Sequence[CastRecord]

    def gradient(self, name: str) -> NDArray[np.float64]:
        """In units of the model's own parameters."""
        computed, factor = self.gradients[name]
        return np.divide(computed, factor, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class _Program:
    """What every pass computes."""

    config: bert.BertConfig
    data: Batch
    numbers: Array
    seed: int

    def run(
        self,
        side: _Side,
        precision: Precision,
        dtype: type[np.floating[Any]],
        probe: Probe | None = None,
        loss_scale: float = 1.0,
    ) -> _Pass:
        rng = np.random.default_rng(self.seed)  # for a policy that rounds stochastically
        tape = Tape(side.scheme, precision, dtype, probe=probe, rng=rng, count_casts=True)
        with np.errstate(all="ignore"):  # what overflows is the finding
            p = models.parameters_on(tape, side.parameters, self.config)
            loss, encoded = self.objective(p)
            backward(loss, loss_scale)
        factors = gradient_factors(loss)
        gradients = {
            name: (t.grad, factors[t.variable] * side.divisors[name] * loss_scale)
            for name, t in p.items()
            if t.grad is not None
        }
        return _Pass(encoded.value, gradients, float(loss.value), tape.casts)

    def objective(self, p: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The loss, and what the encoder made."""
        if _has_loss(self.config):
            losses = bert.pretraining_loss(p, self.data, self.config)
            return losses.total, losses.encoded
        encoded = bert.encode(p, self.config, self.data.ids, self.data.mask, self.data.segments)
        loss = apply(MeanProjection(), encoded, self.numbers.astype(encoded.tape.dtype))
        return loss, encoded


def _errors(one: _Pass, reference: _Pass, mask: NDArray[np.bool_], scheme: str, loss_scale: float | None) -> Errors:
    with np.errstate(all="ignore"):
        h, h0 = one.encoded[mask], reference.encoded[mask]
        output, _ = compare([(h, h0)])
        cosines = [compare([rows])[1] for rows in zip(h, h0, strict=True)]
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
