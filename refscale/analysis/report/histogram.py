"""Histograms of exponents as text: one row for each kind of tensor, one column for each report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from refscale.analysis.tables.formats import format_label
from refscale.formats import get_format
from refscale.stats.measurement import KINDS, Kind, TensorStats
from refscale.stats.report import Report

WIDTH, HEIGHT, MARGIN, GAP = 46, 4, 6, 2
TOP = 16
"""Exponent of the last column: one beyond FP16 and E5M2."""

EIGHTHS = " ▁▂▃▄▅▆▇█"
VISIBLE = 0.002
"""Smallest share of a bin that is visible."""

Shares = dict[int, float]


def shares(tensors: Sequence[TensorStats]) -> Shares:
    """Return for each exponent e the share of non-zero elements with ⌊log2 |x|⌋ = e; all tensors count equally."""
    total: Shares = {}
    counted = [t for t in tensors if t.exponents]
    for t in counted:
        elements = sum(t.exponents.values())
        for e, n in t.exponents.items():
            total[e] = total.get(e, 0.0) + n / elements / len(counted)
    return total


def histograms(reports: Sequence[Report]) -> list[str]:
    """Return histograms of the four kinds, reports side by side, with the formats' ranges at the bottom.

    Args:
        reports: one or two reports.

    Returns:
        Lines of at most 100 columns.
    """
    found = [{kind: shares(_judged(r, kind)) for kind in KINDS} for r in reports]
    occupied = [e for of_kind in found for s in of_kind.values() for e, share in s.items() if share >= VISIBLE]
    last = max([TOP, *occupied])
    exponents = range(last - WIDTH + 1, last + 1)
    lines = ["EXPONENTS of non-zero elements: ⌊log2 |x|⌋, all tensors counted equally"]
    lines.append(_side_by_side("", [f"{r.scheme.upper():^{WIDTH}}" for r in reports]))
    for kind in KINDS:
        lines.append(f"{kind}s")
        captions = [_captions(_judged(r, kind), r.formats) for r in reports]
        lines += [_side_by_side("", list(row)) for row in zip(*captions, strict=True)]
        highest = max([share for of_kind in found for share in of_kind[kind].values()], default=1.0)
        bars = [_bars(of_kind[kind], exponents, highest) for of_kind in found]
        lines += [_side_by_side("", list(row)) for row in zip(*bars, strict=True)]
        lines.append(_side_by_side("", [_axis(exponents)] * len(reports)))
    lines.append(_side_by_side(" 2^", [_labels(exponents)] * len(reports)))
    for name in reports[0].formats:
        lines.append(_side_by_side(f"{format_label(name):.5}", [_range(name, exponents)] * len(reports)))
    lines.append(_side_by_side("", ["━ normal  ╌ subnormal"] * len(reports)))
    return lines


def _judged(report: Report, kind: Kind) -> list[TensorStats]:
    return [t for t in report.of_kind(kind) if t.is_judged]


def _side_by_side(label: str, panels: Sequence[str]) -> str:
    return (f"{label:<{MARGIN}}" + (" " * GAP).join(f"{p:<{WIDTH}}" for p in panels)).rstrip()


def _captions(tensors: Sequence[TensorStats], formats: Sequence[str]) -> tuple[str, str]:
    scales = [t.scale for t in tensors if t.scale > 0]
    if not scales:
        return "nothing but zeros", ""
    low, middle, high = (f"2^{round(math.log2(s))}" for s in (min(scales), median(scales), max(scales)))
    lost = ", ".join(f"{format_label(f)} {100 * _lost(tensors, f):.0f} %" for f in formats)
    return f"σ {low} … {high}, median {middle}", f"lost in {lost}"[:WIDTH]


def _lost(tensors: Sequence[TensorStats], name: str) -> float:
    """Return the mean share that a format flushes to zero or clips; all tensors count equally."""
    of_each = [t.share(t.lost[name].underflow + t.lost[name].overflow) for t in tensors]
    return sum(of_each) / len(of_each)


def _bars(found: Shares, exponents: range, highest: float) -> list[str]:
    """Return vertical bars, HEIGHT lines; smaller exponents are added to the first column, marked ‹."""
    heights = []
    for e in exponents:
        share = found.get(e, 0.0)
        if e == exponents[0]:
            share = sum(s for k, s in found.items() if k <= e)
        eighths = round(8 * HEIGHT * min(1.0, share / highest))
        heights.append(max(eighths, 1) if share >= VISIBLE else 0)
    lines = []
    for level in reversed(range(HEIGHT)):
        cells = [EIGHTHS[min(8, max(0, h - 8 * level))] for h in heights]
        lines.append("".join("┊" if e == 0 and c == " " else c for e, c in zip(exponents, cells, strict=True)))
    return lines


def _axis(exponents: range) -> str:
    return "".join("╂" if e == 0 else "┴" if e % 10 == 0 else "─" for e in exponents)


def _labels(exponents: range) -> str:
    line = [" "] * len(exponents)
    for i, e in enumerate(exponents):
        if e % 10 == 0:
            start = max(0, i + 1 - len(str(e)))
            line[start : start + len(str(e))] = str(e)
    return "".join(line)


def _range(name: str, exponents: range) -> str:
    f = get_format(name)
    smallest = f.emin - f.mantissa_bits
    return "".join("━" if f.emin <= e <= f.emax else "╌" if smallest <= e < f.emin else " " for e in exponents)
