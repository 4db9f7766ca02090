"""A fidelity report as text of at most 100 columns."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from statistics import median

from refscale.analysis.fidelity.report import Errors, FidelityReport, OperandStats
from refscale.analysis.fidelity.run import PARTS
from refscale.analysis.report.text import figure, percent, plural
from refscale.analysis.tables.formats import format_label
from refscale.scales import regular
from refscale.stats.measurement import KINDS

LOWEST = 8
"""Number of operands listed for each scheme."""

SAME = 0.05
"""Relative difference below which errors count as equal."""

LEGEND = """\
error: ‖x − x0‖/‖x0‖, x0 in float64, for the output (of an encoder without padding; of a program,
the input of its losses) and for all parameters' gradients as one vector. cosine: of x and x0; for
the output, the mean over rows. clip, flush: number of elements cast from beyond the largest value,
and cast to zero. fp32: no cast, arithmetic in float32. ×2^k: with that loss scale, which changes
only the backward pass."""

OPERANDS_LEGEND = """\
bound: 1 dB below the best SNR of Gaussian numbers in the format. any: SNR if a power of two scales
the largest number to just below the format's largest value; no scale gives more. log2: log2 of the
RMS. amax: largest magnitude over the RMS. zero, sub, ovr: percent of the numbers cast to zero, to a
subnormal value, from beyond the largest value. ∂: a gradient."""


def render_fidelity(report: FidelityReport) -> str:
    """Return a report as text: errors by policy and by op, operands, storage, and conclusions.

    Args:
        report: result of ``fidelity``, with at most two schemes.

    Returns:
        Lines of at most 100 columns; longer names are cut.
    """
    parts = [heading(report), LEGEND.split("\n"), error_table("POLICY", report.policies)]
    if report.classes:
        parts.append(error_table(f"OF {_fitted(report.focus, 18)}, ALONE", report.classes))
    if report.operands:
        parts += [list(operand_table(report)), OPERANDS_LEGEND.split("\n")]
        parts += [list(lowest_table(report, scheme)) for scheme in report.schemes]
    if report.store:
        parts.append(list(storage_lines(report)))
    parts.append(conclusions(report))
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def heading(report: FidelityReport) -> list[str]:
    """Return two or three lines: model and data, and the loss."""
    padding = f", {100 * report.padding:.0f} % padding" if report.padding else ""
    text = "" if report.text == "built-in" else f", text {report.text}"
    sizes = "" if report.batch is None else f"batch {report.batch} × {report.seq}{padding}, "
    return [
        f"━━ {report.model}, {report.digest[:12]}",
        f"   {sizes}seed {report.seed}{text}",
        f"   objective: {report.objective}, {report.loss:.5g} in float64",
    ]


# --- tables -----------------------------------------------------------------------------------------------------------


def error_table(title: str, rows: Sequence[Errors]) -> list[str]:
    """Return a table of errors with a line for each pass."""
    lines = [
        f"{'':<33}{'output':>18}{'gradients':>19}{'forward':>14}{'backward':>15}",
        f"{title:<33}{'error':>9}{'cosine':>9}{'error':>10}{'cosine':>9}" + f"{'clip':>8}{'flush':>7}" * 2,
    ]
    former = ""
    for e in rows:
        name = e.policy if e.policy != former else ""
        former = e.policy
        scaled = e.loss_scale is not None
        output = f"{figure(e.output):>9}{e.output_cosine:>9.5f}" if not scaled else ""
        forward = f"{quantity(e.forward.clipped):>8}{quantity(e.forward.flushed):>7}" if not scaled else ""
        lines.append(
            f"{_fitted(name, 18):<19}{_label(e):<14}{output:>18}{figure(e.gradient):>10}{e.gradient_cosine:>9.5f}"
            f"{forward:>15}{quantity(e.backward.clipped):>8}{quantity(e.backward.flushed):>7}"
        )
    return lines


def _label(e: Errors) -> str:
    return e.scheme if e.loss_scale is None else f"{e.scheme} ×2^{math.log2(e.loss_scale):.0f}"


def operand_table(report: FidelityReport) -> Iterator[str]:
    """Yield for each kind of operand the number below the bound, and the median and lowest SNR."""
    title = f"OPERANDS OF {_fitted(report.focus, 18)}, SNR in dB"
    yield f"{title:<44}" + "".join(f"{scheme:>25}" for scheme in report.schemes)
    head = f"{'below':>9}{'median':>8}{'lowest':>8}"
    yield f"{'kind':<21}{'format':<10}{'bound':>5}{'number':>8}" + head * len(report.schemes)
    for kind in KINDS:
        found = {s: [t for t in report.of_scheme(s) if t.kind == kind] for s in report.schemes}
        some = found[report.schemes[0]]
        if not some:
            continue
        format = some[0].format
        line = f"{plural(kind):<21}{format_label(format):<10}{report.bound(format):>5.1f}{len(some):>8}"
        for operands in found.values():
            values = sorted(t.snr for t in operands)
            below = sum(map(report.is_below, operands)) or "·"
            line += f"{below:>9}{decibels(median(values)):>8}{decibels(values[0]):>8}"
        yield line


def lowest_table(report: FidelityReport, scheme: str) -> Iterator[str]:
    """Yield the operands of a scheme whose SNR is lowest relative to the bound, with their SNR in other schemes."""
    operands = sorted(report.of_scheme(scheme), key=lambda t: t.snr - report.bound(t.format))[:LOWEST]
    by_name = {s: {(t.name, t.kind): t for t in report.of_scheme(s)} for s in report.schemes}
    heads = "".join(f"{s[:7]:>8}" for s in report.schemes)
    yield f"{'':<42}{'SNR':>{8 * len(report.schemes)}}{'':>6}{'log2':>{8 * len(report.schemes)}}"
    yield f"{'LOWEST, ' + scheme:<42}{heads}{'any':>6}{heads}{'amax':>6}{'zero':>5}{'sub':>4}{'ovr':>4}"
    for t in operands:
        same = [by_name[s][t.name, t.kind] for s in report.schemes]
        snrs = "".join(f"{decibels(u.snr):>8}" for u in same)
        logs = "".join(f"{math.log2(u.rms):>8.1f}" if u.rms else f"{'-∞':>8}" for u in same)
        shares = f"{percent(t.flushed):>5}{percent(t.subnormal):>4}{percent(t.clipped):>4}"
        yield f"{_fitted(_shown(t), 42):<42}{snrs}{decibels(t.scaled_snr):>6}{logs}{t.outlier:>6.3g}{shares}"


def _shown(operand: OperandStats) -> str:
    return f"∂ {operand.name}" if operand.kind == "activation gradient" else operand.name


def storage_lines(report: FidelityReport) -> Iterator[str]:
    """Yield for each scheme the number of tensors beyond the storage format's range, and the worst tensor."""
    label = format_label(report.store)
    yield f"STORAGE in {label}: tensors with flushed or clipped elements"
    for scheme in report.schemes:
        beyond = [t for t in report.beyond if t.scheme == scheme]
        much = sum(t.flushed + t.clipped > 0.01 for t in beyond)
        yield f"{scheme}: {len(beyond)} of {report.stored[scheme]}, {much} of them by more than 1 %"
        if beyond:
            most = max(beyond, key=lambda t: t.flushed + t.clipped)
            lost = ((most.flushed, "flushed"), (most.clipped, "clipped"))
            shares = ", ".join(f"{percent(share)} % {what}" for share, what in lost if share)
            yield "  " + ", ".join(f"{n} {plural(k)}" for k in KINDS if (n := sum(t.kind == k for t in beyond)))
            yield f"  largest share: {most.kind} {most.name}, {shares}"


# --- conclusions ------------------------------------------------------------------------------------------------------


def conclusions(report: FidelityReport) -> list[str]:
    """Return a few sentences, computed from the report."""
    lines = [*_errors_of_focus(report)]
    if len(report.schemes) == 2 and report.schemes[0] == regular.name:
        lines += _where_not(report)
    lines += [*_dearest(report), *(_below(report, scheme) for scheme in report.schemes if report.operands)]
    return [part for line in lines for part in _wrapped(line)]


def _errors_of_focus(report: FidelityReport) -> Iterator[str]:
    found = [e for e in report.policies if e.policy == (report.focus or "fp32")]
    plain = [e for e in found if e.loss_scale is None]
    outputs = ", ".join(f"{figure(e.output)} under {e.scheme}" for e in plain)
    gradients = ", ".join(f"{figure(e.gradient)} under {_label(e)}" for e in found)
    yield f"{plain[0].policy} changes the output by {outputs}; the gradients by {gradients}."
    if report.objective != "mean projection":
        losses = ", ".join(f"{e.loss:.4f} under {e.scheme}" for e in plain)
        yield f"The loss is {report.loss:.4f} in float64; in {plain[0].policy} {losses}."


def _where_not(report: FidelityReport) -> Iterator[str]:
    """Yield the figures in which unit scaling is not better than the regular scheme, without and with a loss scale."""
    yield _verdict("Beside regular", _pairs(report, scaled=False))
    with_scale = _pairs(report, scaled=True)
    if with_scale:
        yield _verdict("Beside regular with the loss scale", with_scale)


def _pairs(report: FidelityReport, scaled: bool) -> list[tuple[str, float, float]]:
    """Return (what, regular error, unit error) of every figure that a cast has changed."""
    rows = [*report.policies, *(e for e in report.classes if e.policy != "storage")]  # storage equals a policy
    noise = 10 * max(max(e.output, e.gradient) for e in rows if e.policy == "fp32")
    units = {e.policy: e for e in rows if e.scheme == report.schemes[1]}
    found = []
    for e in rows:
        if e.scheme != regular.name or (e.loss_scale is not None) != scaled:
            continue
        u = units[e.policy]
        if not scaled:
            found.append((f"{e.policy} (output)", e.output, u.output))
        found.append((f"{e.policy} (gradients)", e.gradient, u.gradient))
    return [(what, r, u) for what, r, u in found if max(r, u) > noise]


def _verdict(beside: str, pairs: Sequence[tuple[str, float, float]]) -> str:
    if not pairs:
        return f"{beside}, no cast changes anything."
    worse = sorted((p for p in pairs if p[2] > p[1] * (1 + SAME)), key=lambda p: p[1] / p[2])
    better = [p for p in pairs if p[2] < p[1] * (1 - SAME)]
    line = (
        f"{beside}, unit scaling errs less in {len(better)} of {len(pairs)} figures, "
        f"as much (within {100 * SAME:.0f} %) in {len(pairs) - len(better) - len(worse)}, more in {len(worse)}"
    )
    if worse:
        shown = [f"{what} {figure(u)} against {figure(r)}" for what, r, u in worse[:4]]
        line += f": {', '.join(shown)}{f' and {len(worse) - 4} more' if len(worse) > 4 else ''}"
    return f"{line}."


def _dearest(report: FidelityReport) -> Iterator[str]:
    """Yield the op whose cast causes the largest error of the output."""
    ops = [e for e in report.classes if e.policy not in PARTS]
    if not ops:
        return
    parts = []
    for scheme in report.schemes:
        rows = sorted((e for e in ops if e.scheme == scheme and e.loss_scale is None), key=lambda e: -e.output)
        rest = "".join(f", {e.policy} {figure(e.output)}" for e in rows[1:])
        parts.append(f"under {scheme} {rows[0].policy} ({figure(rows[0].output)}{rest})")
    yield f"Of one op's casts alone, the largest errors of the output: {'; '.join(parts)}."


def _below(report: FidelityReport, scheme: str) -> str:
    """Return the number of operands below the bound, and whether a scale would help."""
    operands = report.of_scheme(scheme)
    below = [t for t in operands if report.is_below(t)]
    line = f"{len(below)} of {len(operands)} operands are below the bound under {scheme}"
    if below:
        helped = [t for t in below if t.scaled_snr >= report.bound(t.format)]
        return f"{line}; {len(helped)} of them would be above it if multiplied by a power of two."
    lowest = min(operands, key=lambda t: t.snr - report.bound(t.format))
    found = f"{_shown(lowest)}, {decibels(lowest.snr)} dB with amax/RMS {figure(lowest.outlier)}"
    return f"{line}; lowest is {found}, {decibels(lowest.scaled_snr)} dB at any power of two."


# --- figures ----------------------------------------------------------------------------------------------------------


def decibels(x: float) -> str:
    """Format with one decimal; ∞ without an error."""
    return f"{x:.1f}" if math.isfinite(x) else "∞" if x > 0 else "-∞"


def quantity(n: int) -> str:
    """Format a count in at most six columns; ``·`` for 0."""
    if n == 0:
        return "·"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= 0.9995 * size:
            return f"{n / size:.3g}{unit}"
    return str(n)


def _fitted(name: str, width: int) -> str:
    """Cut a name to a number of columns."""
    return name if len(name) <= width else name[: width - 1] + "…"


def _wrapped(sentence: str, width: int = 100) -> list[str]:
    """Wrap a sentence to a number of columns, with later lines indented."""
    return textwrap.wrap(sentence, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
