"""What is said of a run: a table by op, pass and format, the first failures in full, and JSON."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from refscale.errors import counted
from refscale.golden.kit.backend import Backend
from refscale.golden.kit.runner import Culprit
from refscale.golden.kit.verdicts import VERDICTS, Result, Verdict
from refscale.golden.schema import FLAGS, Vector

Row = tuple[str, str, str]

_SHORT: dict[Verdict, str] = {
    "same bits": "same",
    "within bound": "bound",
    "fail": "FAIL",
    "waived": "waived",
    "unexpectedly fixed": "FIXED",
    "not implemented": "n/i",
}


def row_of(vector: Vector, output: str) -> Row:
    """(op, pass, format) under which one output is counted."""
    v = vector.attributes
    match vector.op:
        case "unary":
            return v["function"], "derivative" if v["derivative"] else "value", v["format"]
        case "matmul" | "scaled_matmul":
            tail = vector.id.rpartition("/")[2]
            return vector.op, tail if tail.startswith("grad_") else "forward", _pair(v)
        case "block_quantize":
            return f"block_quantize {v['rule']}", output, v["format"]
        case "block_dequantize":
            return vector.op, "-", f"{v['element_format']} → {v['format']}"
        case "block_matmul":
            return vector.op, "forward", _pair(v)
        case "block_layout":
            return vector.op, "-", v["layout"]
        case "op":
            narrow = f"{v['operand']}, {v['operand_gradient']} → " if v["operand"] else ""
            return f"op {v['name']}", "forward" if output == "y" else "backward", narrow + v["store"]
        case "model":
            way = "backward" if output.startswith("gradient") else "forward"
            return f"model {v['name']}", way, f"{v['scheme']}, {v['precision']}"
        case "adamw":
            return "adamw", "step", "float32"
    return vector.op, "-", v["format"]


def _pair(attributes: Any) -> str:
    return f"{attributes['a_format']} · {attributes['b_format']} → {attributes['format']}"


def _tally(results: Sequence[Result]) -> dict[Row, Counter[Verdict]]:
    """Verdicts of outputs by row; a waived or fixed vector counts as that in every output."""
    table: dict[Row, Counter[Verdict]] = {}
    for r in results:
        for output, verdict in r.outputs.items():
            said = r.verdict if r.verdict in ("waived", "unexpectedly fixed") else verdict
            table.setdefault(row_of(r.vector, output), Counter())[said] += 1
    return table


def _rows(table: dict[Row, Counter[Verdict]]) -> Iterator[tuple[str, str, str, Counter[Verdict]]]:
    """Up to four formats that fail have a row each; the others of an op and pass share one."""
    for op, way in dict.fromkeys((op, way) for op, way, _ in table):
        formats = {f: count for (o, w, f), count in table.items() if (o, w) == (op, way)}
        own = {f: c for f, c in formats.items() if c["fail"] or c["unexpectedly fixed"]}
        if len(own) > 4:
            own = {}
        yield from ((op, way, f, c) for f, c in own.items())
        rest = {f: c for f, c in formats.items() if f not in own}
        if rest:
            names = ", ".join(rest) if len(rest) <= 2 else f"{len(rest)} {'others' if own else 'formats'}"
            yield op, way, names, sum(rest.values(), Counter())


def failed(results: Sequence[Result]) -> bool:
    """Whether the run ends with exit status 1: something fails, or a waiver is no longer needed."""
    return any(r.verdict in ("fail", "unexpectedly fixed") for r in results)


def summary(backend: Backend, results: Sequence[Result], failures: int = 5) -> str:
    """The table, the first failures, and a line of totals.

    Args:
        backend: that was run.
        results: of the run.
        failures: how many are shown in full, each of another flag as long as there are some.
    """
    table = _tally(results)
    absent = {op: None for op, _, _ in table}
    for (op, _, _), count in table.items():
        if set(count) != {"not implemented"}:
            absent.pop(op, None)
    table = {row: count for row, count in table.items() if row[0] not in absent}
    shown = [v for v in VERDICTS if any(v in c for c in table.values())]
    lines = [f"{backend.name} {backend.version}: {_claims(backend)}", ""]
    rows = [("op", "pass", "format", *(_SHORT[v] for v in shown))]
    for op, way, format, count in _rows(table):
        rows.append((op, way, format, *(str(count[v]) if count[v] else "·" for v in shown)))
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    if absent:
        lines += ["", *textwrap.wrap(f"not implemented at all: {', '.join(absent)}", 100, subsequent_indent="  ")]
    for r in _first(results, failures):
        lines += ["", *describe(r)]
    totals = Counter(r.verdict for r in results)
    lines += ["", f"{counted(len(results), 'vector')}: " + ", ".join(f"{totals[v]} {v}" for v in VERDICTS if totals[v])]
    bounds = Counter(r.bound for r in results if r.bound)
    lines += [f"within bound: {n} by the claim {bound!r}" for bound, n in bounds.most_common()]
    if unjudged := Counter(name for r in results for name in r.unjudged):
        names = ", ".join(f"{name} in {counted(n, 'vector')}" for name, n in sorted(unjudged.items()))
        text = f"elements not judged, for no standard decides them and the convention is not claimed: {names}"
        lines += textwrap.wrap(text, 100, subsequent_indent="  ")
    if fixed := [r for r in results if r.verdict == "unexpectedly fixed"]:
        lines.append(f"no longer fails, remove the waiver: {fixed[0].reason!r}")
    return "\n".join(lines)


def _claims(backend: Backend) -> str:
    c = backend.claims
    parts = [f"accumulate {c.accumulate}"]
    parts += [f"functions within {c.function_ulps:g} ulp"] if c.function_ulps else []
    parts += [f"other ops within {c.op_ulps:g} ulp"] if c.op_ulps else []
    return "claims " + ", ".join(parts)


def _first(results: Sequence[Result], count: int) -> list[Result]:
    """Failures to show: those that add a flag first, for a bug is best seen where it is looked for."""
    failing = [r for r in results if r.verdict == "fail"]
    seen: set[tuple[str, ...]] = set()
    new: list[Result] = []
    known: list[Result] = []
    for r in failing:
        (known if r.vector.flags in seen else new).append(r)
        seen.add(r.vector.flags)
    return (new + known)[:count]


_WHOLE: Any = {"break_long_words": False, "break_on_hyphens": False}


def describe(result: Result) -> list[str]:
    """A failure in full: id, comment, the first element that deviates, and what the flags mean."""
    v, m = result.vector, result.mismatch
    lines = [f"FAIL {v.id}"]
    if v.comment:
        lines.append(f"  {v.comment}")
    if result.reason:
        lines.append(f"  {result.reason}")
    if m:
        place = f"{m.output}[{', '.join(map(str, m.index))}]" if m.index else m.output
        source = f" of {m.source}" if m.source else ""
        far = f", {m.ulps} ulp apart" if m.ulps is not None else ""
        lines.append(f"  {place}{source} is {m.actual}, expected {m.expected}{far}")
        if m.allowed:
            lines.append(f"  its bound allows {m.allowed}")
        lines.append(f"  {m.wrong} of {m.size} elements deviate")
    lines += [f"  {flag}: {FLAGS[flag]}" for flag in v.flags if flag in FLAGS]
    return [part for line in lines for part in textwrap.wrap(line, 100, subsequent_indent="    ", **_WHOLE)]


def matrix(runs: Sequence[tuple[Backend, Sequence[Result]]]) -> str:
    """A Markdown table: families by backend, each cell "same bits + within bound / run", and what failed.

    Args:
        runs: backends with their results.
    """
    families = list(dict.fromkeys(r.vector.family for _, results in runs for r in results))
    lines = ["| backend | version | " + " | ".join(families) + " |", "|---" * (2 + len(families)) + "|"]
    for backend, results in runs:
        cells = []
        for family in families:
            counts = Counter(r.verdict for r in results if r.vector.family == family)
            done = sum(counts.values()) - counts["not implemented"]
            good = counts["same bits"] + counts["within bound"]
            waived = f" ({counts['waived']} waived)" if counts["waived"] else ""
            cells.append(f"{good} / {done}{waived}" if done else "·")
        lines.append(f"| {backend.name} | {backend.version} | " + " | ".join(cells) + " |")
    for backend, results in runs:
        found = Counter(flag for r in results if r.verdict == "fail" for flag in r.vector.flags)
        if found:
            worst = ", ".join(f"{flag} {n}" for flag, n in found.most_common(6))
            lines += ["", f"{backend.name} fails vectors with the flags: {worst}"]
    return "\n".join(lines)


def culprit_in_words(where: str, culprit: Culprit | None) -> str:
    """What bisection has found."""
    if culprit is None:
        return f"{where}: no call deviates"
    way = "forward" if culprit.output == "y" else f"backward, {culprit.output}"
    head = f"{where}: output {culprit.position} of {culprit.checked} is the first that deviates ({way})"
    return "\n".join([head, *describe(culprit.result)])


def to_json(backend: Backend, results: Sequence[Result], version: str) -> dict[str, Any]:
    """Everything, as JSON values.

    Args:
        backend: that was run.
        results: of the run.
        version: of the set of vectors.
    """
    totals = Counter(r.verdict for r in results)
    return {
        "backend": {"name": backend.name, "version": backend.version, "claims": vars(backend.claims)},
        "set": version,
        "totals": {v: totals[v] for v in VERDICTS},
        "vectors": [_entry(r) for r in results],
    }


def _entry(r: Result) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": r.vector.id, "verdict": r.verdict, "flags": list(r.vector.flags)}
    if r.reason:
        entry["reason"] = r.reason
    if r.unjudged:
        entry["unjudged"] = list(r.unjudged)
    if r.bound:
        entry["bound"] = r.bound
    if r.mismatch:
        entry["mismatch"] = {**vars(r.mismatch), "index": list(r.mismatch.index)}
    if len(r.outputs) > 1:
        entry["outputs"] = dict(r.outputs)
    return entry
