"""Reports as text of at most 100 columns: tables, and a summary of a few lines."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from statistics import median

from refscale.analysis.report.histogram import histograms
from refscale.analysis.tables.formats import format_label
from refscale.errors import counted
from refscale.ops import LossSum
from refscale.stats.causes import Cause
from refscale.stats.measurement import KINDS, Kind, TensorStats
from refscale.stats.report import CastSummary, Report, Summary, by_layer, distance, is_outside

DETAILED = 6
"""Number of layers, embeddings and heads included, above which tables have one line per layer and kind."""

LEGEND = """\
scale: standard deviation σ (root of the mean square if all elements are equal and under unit-rms);
!: outside [1/4, 4]; ∞: some elements are not finite. zero, sub, ovr: percent of the non-zero
elements that a cast to the format, to nearest even, takes to zero, to a subnormal value, beyond the
largest value; ·: none. c: the computed gradient is c times the true one. /pred: σ over its
prediction from factors and shapes, empty without a prediction. Left out: reshapes, and the sum with
a bias, which is zero at initialization."""


def render(reports: Sequence[Report], *, everything: bool = False) -> str:
    """Return reports as text: a table for each, histograms of all side by side, a summary for each.

    Args:
        reports: at least one, of the same model.
        everything: whether large models have a line for every tensor, too.

    Returns:
        Lines of at most 100 columns for three formats and two reports.
    """
    parts = [LEGEND]
    for report in reports:
        parts.append(
            "\n".join([*heading(report), *table(report, everything), *_cast_lines(report.casts), *_rule_lines(report)])
        )
    parts.append("\n".join(histograms(reports)))
    parts += ["\n".join(summary_lines(report)) for report in reports]
    return "\n\n".join(parts) + "\n"


def heading(report: Report) -> list[str]:
    """Return two lines: the settings of the run, and the losses."""
    losses = ", ".join(f"{_short_loss(name)} {value:.4f}" for name, value in report.losses.items())
    sizes = "" if report.batch is None else f"batch {report.batch} × {report.seq}, "
    what = f"{report.model}, {sizes}{report.precision}, seed {report.seed}"
    if report.text not in ("", "built-in"):
        what += f", text {report.text}"
    if report.constraint not in ("", "geometric"):
        what += f", constraint {report.constraint}"
    return [f"━━ {report.scheme}: {what}", f"   loss: {losses}"]


def _short_loss(name: str) -> str:
    """Return ``mlm`` for ``mlm.softmax_cross_entropy``; the sum of several losses is the total."""
    scope, _, op = name.rpartition(".")
    return "total" if op == LossSum.name else scope or op


# --- tables -----------------------------------------------------------------------------------------------------------


def table(report: Report, everything: bool = False) -> Iterator[str]:
    """Yield the lines of a report's table: four sections, by layer; one line per tensor, or per layer if many."""
    detailed = everything or len(list(by_layer(report.tensors))) <= DETAILED
    for kind in KINDS:
        tensors = report.of_kind(kind)
        yield ""
        yield from (_detailed if detailed else _grouped)(kind, tensors, report.formats, everything)


def _detailed(kind: Kind, tensors: Sequence[TensorStats], formats: Sequence[str], everything: bool) -> Iterator[str]:
    gradient = "gradient" in kind  # has the shape of the weight or activation above
    predicted = "/pred" if any(t.predicted is not None for t in tensors) else ""
    shape = "" if gradient else "shape"
    title = f"{plural(kind).upper():<28}{shape:>{0 if gradient else 12}}{'scale':>9}{'log2':>6} {predicted:>5}"
    yield " " * len(title) + _format_heads(formats)
    yield f"{title}{_loss_heads(formats)}{'c' if gradient else '':>9}".rstrip()
    for layer, rows in by_layer(tensors):
        yield layer
        shown = rows if everything else [t for t in rows if not (kind == "weight" and t.zero_because)]
        for t in shown:
            yield _line(t, layer, formats, "none" if predicted and t.predicted is None else _ratio(t.over_predicted))
        if len(shown) < len(rows):
            yield f"  {len(rows) - len(shown)} more, all zero: biases"


def _line(t: TensorStats, layer: str, formats: Sequence[str], over_predicted: str) -> str:
    name = t.name.removeprefix(f"{layer}.")
    start = f"  {name:<26}"
    if "gradient" not in t.kind:
        start = f"{start.rstrip()} {'×'.join(map(str, t.shape)):>{39 - len(start.rstrip())}}"
    log2 = f"{exponent(t.scale):.1f}" if t.scale else ""
    start += f"{figure(t.scale):>9}{log2:>6}{mark(t)}"
    if t.zero_because:
        return f"{start}  zero by construction"
    start += f"{over_predicted:>5}"
    shares = _shares([t], formats)
    c = "" if t.c is None else figure(t.c)
    return f"{start}{shares}{c:>9}".rstrip()


def _ratio(x: float | None) -> str:
    """Format with two decimals, in at most five columns."""
    if x is None:
        return ""
    return f"{x:.2f}" if x < 10 else f"{x:.0f}" if x < 1e4 else ">1e4"


def _grouped(kind: Kind, tensors: Sequence[TensorStats], formats: Sequence[str], everything: bool) -> Iterator[str]:
    yield " " * 60 + _format_heads(formats)
    title = f"{plural(kind).upper():<24}{'outside':>9}{'min':>9}{'median':>9}{'max':>9}"
    yield f"{title:<60}{_loss_heads(formats)}".rstrip()
    for layer, rows in by_layer(tensors):
        judged = [t for t in rows if t.is_judged]
        if judged:
            scales = [t.scale for t in judged]
            outside = sum(map(is_outside, judged))
            figures = "".join(f"{figure(s):>9}" for s in (min(scales), median(scales), max(scales)))
            count = f"{outside or '·'}/{len(judged)}"
            yield f"  {layer:<22}{count:>9}{figures}{_shares(judged, formats)}".rstrip()


def _format_heads(formats: Sequence[str]) -> str:
    return "".join(f"{format_label(f) + ' %':^13}" for f in formats).rstrip()


def _loss_heads(formats: Sequence[str]) -> str:
    return " zero sub ovr" * len(formats)


def _shares(tensors: Sequence[TensorStats], formats: Sequence[str]) -> str:
    """Return three columns for each format: shares of all elements of the tensors together."""
    nonzero = sum(t.nonzero for t in tensors)
    cells = []
    for name in formats:
        lost = [t.lost[name] for t in tensors]
        counts = (sum(x.underflow for x in lost), sum(x.subnormal for x in lost), sum(x.overflow for x in lost))
        cells.append(" " + "".join(f"{percent(n / nonzero if nonzero else 0.0):>4}" for n in counts))
    return "".join(cells)


def mark(t: TensorStats) -> str:
    """Return ``!`` outside [1/4, 4] if the tensor is judged, ``∞`` with non-finite elements, else a space."""
    if t.infinite or t.nan:
        return "∞"
    return "!" if is_outside(t) and t.is_judged else " "


def _cast_lines(casts: Sequence[CastSummary]) -> Iterator[str]:
    if not casts:
        return
    yield ""
    title = f"{'CASTS (the figures above include them)':<42}{'format':<16}"
    yield f"{title}{'arrays':>7}{'elements':>14}{'clipped':>9}{'flushed':>9}"
    for c in casts:
        clipped, flushed = (f"{percent(n / c.elements)} %" if n else "none" for n in (c.clipped, c.flushed))
        yield f"  {c.place:<40}{c.format:<16}{c.casts:>7}{c.elements:>14,}{clipped:>9}{flushed:>9}"
        if c.rule:
            yield f"    by the rule {c.rule}"
        if c.worst:
            yield f"    largest share in {c.worst}"


def _rule_lines(report: Report) -> Iterator[str]:
    if report.rules:
        yield ""
        yield f"{'RULES of the precision, the first that matches':<58}{'calls':>7}"
    for rule, calls in report.rules.items():
        yield f"  {rule:<56}{calls:>7}"


# --- summary ----------------------------------------------------------------------------------------------------------


def summary_lines(report: Report) -> list[str]:
    """Return a few lines: tensors far from unit scale, the farthest one, tensors that are not judged, and causes."""
    s = report.summary()
    shares = ", ".join(f"{plural(k)} {s.outside[k]}/{s.judged[k]}" for k in KINDS)
    zero = "; ".join(f"{len(names)} {reason}" for reason, names in s.zero.items())
    lines = [
        f"{report.scheme}: {s.outside_count} of {s.judged_count} tensors have a scale outside [1/4, 4]",
        f"  {shares}",
        f"  farthest from 1: {_farthest(s)}",
        *_predicted_line(report.tensors),
        *_cause_lines(report.causes),
    ]
    if zero:
        lines += _wrapped(f"  not judged, zero by construction: {zero}")
    if s.damped:
        lines += _wrapped(f"  not judged, damped by 1/fan-in on purpose: {', '.join(s.damped)}")
    return lines


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, 100, subsequent_indent="    ")


def _predicted_line(tensors: Sequence[TensorStats]) -> Iterator[str]:
    """Yield the agreement of the scales with their predictions, and the number of unpredicted tensors."""
    ratios = sorted(r for t in tensors if t.is_judged and (r := t.over_predicted) is not None)
    unknown = [t for t in tensors if t.is_judged and t.predicted is None]
    if ratios:
        near = sum(abs(r - 1) <= 0.15 for r in ratios)
        ends = f"{ratios[0]:.2f} to {ratios[-1]:.3g}"
        yield f"  σ over predicted: {near} of {len(ratios)} within 15 %, median {median(ratios):.2f}, {ends}"
    if unknown and any(t.predicted is not None for t in tensors):
        yield f"  not predicted: {counted(len(unknown), 'tensor')}, from {unknown[0].name} on"


def _cause_lines(causes: Sequence[Cause]) -> Iterator[str]:
    """Yield the causes of tensors outside, the most frequent first: number, worst tensor, remedy."""
    groups: dict[str, list[Cause]] = {}
    for one in causes:
        groups.setdefault(one.cause, []).append(one)
    for cause, group in sorted(groups.items(), key=lambda item: -len(item[1])):
        most = max(group, key=lambda one: abs(one.log2))
        where = f"; strongest for the {most.kind} {most.tensor}" if most.at else f"; {most.kind} {most.tensor}"
        calls = f", × 2^{round(most.log2, 1) + 0.0} of {counted(most.calls, 'call')}, at {most.at}" if most.at else ""
        remedy = f"; remedy: {most.remedy}" if most.remedy else ""
        yield from _wrapped(f"  outside because of {cause}: {counted(len(group), 'tensor')}{where}{calls}{remedy}")


def _farthest(s: Summary) -> str:
    t = s.worst
    what = f"{t.kind} {t.name}"
    if t.infinite or t.nan:
        return f"{what}, {t.infinite + t.nan} of {t.elements} elements not finite"
    if math.isinf(distance(t)):
        return f"{what}, all zero"
    return f"{what}, {'RMS' if t.judged_by_rms else 'σ'} = {figure(t.scale)} = 2^{exponent(t.scale):.1f}"


# --- figures ----------------------------------------------------------------------------------------------------------


def plural(kind: Kind) -> str:
    """Return ``weights``, ``activations``, …"""
    return f"{kind}s"


def figure(x: float) -> str:
    """Format with three significant digits in at most eight columns."""
    return f"{x:.3g}"


def exponent(x: float) -> float:
    """Return log2 x to one decimal, without a minus sign on zero."""
    return round(math.log2(x), 1) + 0.0


def percent(share: float) -> str:
    """Format a share of 0 to 1 as percent, in three columns; ``·`` is exactly none, 100 exactly all."""
    if share == 0:
        return "·"
    if share == 1:
        return "100"
    p = 100 * share
    if p < 0.095:
        return "<.1"
    if p < 9.95:
        return f"{p:.1f}"
    return f"{p:.0f}" if p < 99 else ">99"
