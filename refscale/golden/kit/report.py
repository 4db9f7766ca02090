"""The report of a run: a table by op, direction and format, the first failures in full, and JSON."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from refscale import __version__
from refscale.blocks import Blocks
from refscale.errors import counted, shown
from refscale.files import json_text
from refscale.golden.families import complete
from refscale.golden.kit.backend import Backend
from refscale.golden.kit.runner import Bisection
from refscale.golden.kit.verdicts import VERDICTS, Element, Mismatch, Result, Verdict
from refscale.golden.records import cast_of
from refscale.golden.schema import FLAGS, PLAIN, Vector
from refscale.golden.store import GoldenSet

SCHEMA = 1
"""Version of the structure of ``to_json``, described by ``report.schema.json``."""

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
    """Return (op, direction, format) under which one output is counted."""
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
    """Count verdicts of outputs by row; every output of a waived or fixed vector counts as such."""
    table: dict[Row, Counter[Verdict]] = {}
    for r in results:
        for output, verdict in r.outputs.items():
            said = r.verdict if r.verdict in ("waived", "unexpectedly fixed") else verdict
            table.setdefault(row_of(r.vector, output), Counter())[said] += 1
    return table


def _rows(table: dict[Row, Counter[Verdict]]) -> Iterator[tuple[str, str, str, Counter[Verdict]]]:
    """Yield a row for each of up to four failing formats, and one for the others of an op and direction."""
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
    """Return whether a vector fails, or a waived one passes."""
    return any(r.verdict in ("fail", "unexpectedly fixed") for r in results)


def totals_in_words(results: Sequence[Result]) -> str:
    """Return the last line of a report: the count of every verdict."""
    totals = Counter(r.verdict for r in results)
    parts = [f"{totals[v]} {_LAST[v]}" for v in _LAST if totals[v] or v != "unexpectedly fixed"]
    return f"{counted(len(results), 'vector')}: {', '.join(parts)}"


_LAST: dict[Verdict, str] = {
    "same bits": "same bits",
    "within bound": "within bound",
    "waived": "waived",
    "not implemented": "not implemented",
    "unexpectedly fixed": "unexpectedly fixed",
    "fail": "failed",
}


def summary(backend: Backend, results: Sequence[Result], failures: int = 5, notes: Sequence[str] = ()) -> str:
    """Return the table, the first failures, notes, and as the last line the totals.

    Args:
        backend: backend of the run.
        results: results of the run.
        failures: number of failures shown in full, each with a new flag as long as possible.
        notes: lines before the last: unsatisfied requirements, vectors that were not run.
    """
    table = _tally(results)
    absent = {op: None for op, _, _ in table}
    for (op, _, _), count in table.items():
        if set(count) != {"not implemented"}:
            absent.pop(op, None)
    table = {row: count for row, count in table.items() if row[0] not in absent}
    shown_verdicts = [v for v in VERDICTS if any(v in c for c in table.values())]
    lines = [f"{backend.name} {backend.version}: {_claims(backend)}", ""]
    rows = [("op", "direction", "format", *(_SHORT[v] for v in shown_verdicts))]
    for op, way, format, count in _rows(table):
        rows.append((op, way, format, *(str(count[v]) if count[v] else "·" for v in shown_verdicts)))
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    if absent:
        lines += ["", *textwrap.wrap(f"not implemented at all: {', '.join(absent)}", 100, subsequent_indent="  ")]
    for r in _first(results, failures):
        lines += ["", *describe(r)]
    lines.append("")
    bounds = Counter(r.bound for r in results if r.bound)
    lines += [f"within bound: {n} by the claim {bound!r}" for bound, n in bounds.most_common()]
    if unjudged := Counter(name for r in results for name in r.unjudged):
        names = ", ".join(f"{name} in {counted(n, 'vector')}" for name, n in sorted(unjudged.items()))
        text = f"elements not judged, as no standard defines them and the convention is not claimed: {names}"
        lines += textwrap.wrap(text, 100, subsequent_indent="  ")
    if fixed := [r for r in results if r.verdict == "unexpectedly fixed"]:
        lines.append(f"passes, remove the waiver: {fixed[0].vector.id} ({shown(fixed[0].reason)})")
    lines += [shown(note, 400) for note in notes]
    lines.append(totals_in_words(results))
    return "\n".join(lines)


def _claims(backend: Backend) -> str:
    c = backend.claims
    parts = [f"accumulate {c.accumulate}{' from a start value' if c.start else ''}"]
    parts += [f"functions within {c.function_ulps:g} ulp"] if c.function_ulps else []
    parts += [f"other ops with functions within {c.op_ulps:g} ulp"] if c.op_ulps else []
    parts += [f"ops {', '.join(c.ops)}"] if c.ops is not None else []
    return "claims " + ", ".join(parts)


def _first(results: Sequence[Result], count: int) -> list[Result]:
    """Return the failures to show: first those that add a flag, as each flag is a different bug."""
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
    """Return a failure in full: id, comment, first deviating element of each output, the meaning of the flags."""
    v = result.vector
    lines = [f"FAIL {v.id}"]
    if v.comment:
        lines.append(f"  {v.comment}")
    if result.reason:
        lines.append(f"  {shown(result.reason, 1000)}")
    for m in result.mismatches[:_OUTPUTS]:
        place = f"{m.output}[{', '.join(map(str, m.index))}]" if m.index else m.output
        source = f" of {m.source}" if m.source else ""
        far = f", {m.ulps} ulp apart" if m.ulps is not None else ""
        lines.append(f"  {place}{source} is {m.actual}, expected {m.expected}{far}")
        amax = block_amax(v, m.output, m.index)
        if amax is not None:
            lines.append(f"  the amax of its {'tensor' if m.output == 'tensor_scale' else 'block'} is {amax}")
        if m.allowed is not None:
            lines.append(f"  its bound allows {m.allowed[0]!r} to {m.allowed[1]!r}")
        lines.append(f"  {m.wrong} of {m.size} elements deviate")
    if len(result.mismatches) > _OUTPUTS:
        lines.append(f"  {len(result.mismatches)} outputs deviate")
    lines += [f"  {flag}: {FLAGS[flag]}" for flag in v.flags if flag in FLAGS]
    return [part for line in lines for part in textwrap.wrap(line, 100, subsequent_indent="    ", **_WHOLE)]


_OUTPUTS = 3
"""Number of outputs of a failure that are shown."""


def block_amax(vector: Vector, output: str, index: tuple[int, ...]) -> Element | None:
    """Return the largest magnitude in the input block of an element of a ``block_quantize`` output.

    Args:
        vector: the vector.
        output: "scales", "elements" or "tensor_scale".
        index: index of the element.

    Returns:
        The element; NaN and infinity count as larger than every number. None for other ops.
    """
    if vector.op != "block_quantize" or output not in ("scales", "elements", "tensor_scale"):
        return None
    x, scales = vector.inputs["x"], vector.outputs["scales"]
    inside = np.ones(x.shape, np.bool_)
    if output != "tensor_scale":
        numbers = np.arange(scales.codes.size, dtype=np.float32).reshape(scales.shape)
        block = Blocks(cast_of(**vector.attributes), np.zeros(x.shape, np.float32), numbers, 1.0).scale_of_each()
        inside = block == (numbers[index] if output == "scales" else block[index])
    size = np.where(inside, np.where(np.isnan(x.values), np.inf, np.abs(x.values)), -1.0)
    place = np.unravel_index(int(size.argmax()), size.shape)
    return Element.of(x, tuple(int(i) for i in place))


_ELEMENTS = 6
"""Number of elements of an array that ``vector_in_words`` shows."""


def vector_in_words(vector: Vector) -> list[str]:
    """Return one vector in full: op, attributes, the start of every array, the meaning of its flags.

    Args:
        vector: the vector; a bulk vector is generated again.
    """
    vector = complete(vector)
    lines = [f"{vector.id}  ({vector.op})"]
    lines += [f"  {vector.comment}"] if vector.comment else []
    lines += [f"  {name} = {shown(json_text(value), 400)}" for name, value in vector.attributes.items()]
    for title, arrays in (("input", vector.inputs), ("output", vector.outputs)):
        for name, x in arrays.items():
            places = list(np.ndindex(x.shape))[:_ELEMENTS] if x.codes.size < 1 << 16 else []
            first = ", ".join(str(Element.of(x, place)) for place in places)
            more = ", …" if x.codes.size > len(places) else ""
            lines.append(f"  {title} {name}: {x.format} {list(x.shape)}  {first}{more}")
    lines += [f"  {flag}: {FLAGS[flag]}" for flag in vector.flags if flag in FLAGS]
    return lines


def matrix(runs: Sequence[tuple[Backend, Sequence[Result]]]) -> str:
    """Return a Markdown table: families by backend, each cell "same bits + within bound / run", and the failed flags.

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


def bisection_in_words(found: Bisection) -> str:
    """Return the first deviating call, and the number of checked calls."""
    judged = found.calls - sum(found.missing.values())
    coverage = f"{judged} of {counted(found.calls, 'call')} judged"
    if found.missing:
        coverage += ", not implemented: " + ", ".join(f"{n} {name}" for name, n in found.missing.items())
    if found.culprit is None:
        return f"{found.where}: no judged call deviates; {coverage}"
    c = found.culprit
    way = "forward" if c.output == "y" else f"backward, {c.output}"
    head = f"{found.where}: output {c.position} of {c.checked} is the first that deviates ({way})"
    return "\n".join([head, *describe(c.result), "", coverage])


def to_json(
    backend: Backend,
    results: Sequence[Result],
    vectors: GoldenSet,
    problems: Sequence[str] = (),
    lost: str = "",
) -> dict[str, Any]:
    """Return the whole report as JSON values; counts, codes, values and indices are numbers.

    Args:
        backend: backend of the run.
        results: results of the run, possibly ended early.
        vectors: the set.
        problems: unsatisfied requirements.
        lost: reason of an early end; "" for a complete run.
    """
    return document(backend_entry(backend), [entry(r) for r in results], vectors, problems, lost)


def backend_entry(backend: Backend) -> dict[str, Any]:
    """Return the entry of the backend in ``to_json``."""
    claims = {k: list(x) if isinstance(x, tuple) else x for k, x in vars(backend.claims).items()}
    return {"name": backend.name, "version": backend.version, "claims": claims}


def document(
    backend: dict[str, Any],
    entries: Sequence[dict[str, Any]],
    vectors: GoldenSet,
    problems: Sequence[str] = (),
    lost: str = "",
) -> dict[str, Any]:
    """Return the content of ``to_json`` from the entries of its vectors."""
    totals = Counter(e["verdict"] for e in entries)
    wrong = totals["fail"] + totals["unexpectedly fixed"]
    return {
        "schema": SCHEMA,
        "refscale": __version__,
        "backend": backend,
        "set": {"version": vectors.version, "sha256": vectors.sha256},
        "complete": not lost,
        "lost": shown(lost, 400),
        "passed": not lost and not problems and not wrong,
        "problems": list(problems),
        "totals": {v: totals[v] for v in VERDICTS},
        "vectors": list(entries),
    }


def entry(r: Result) -> dict[str, Any]:
    """Return the entry of one vector in ``to_json``."""
    found: dict[str, Any] = {"id": r.vector.id, "verdict": r.verdict, "flags": list(r.vector.flags)}
    if r.reason:
        found["reason"] = shown(r.reason, 1000)
    if r.unjudged:
        found["unjudged"] = list(r.unjudged)
    if r.bound:
        found["bound"] = r.bound
    if r.mismatches:
        found["deviation"] = "; ".join(m.deviation for m in r.mismatches)
        found["mismatches"] = [_mismatch(r.vector, m) for m in r.mismatches]
    if len(r.outputs) > 1:
        found["outputs"] = dict(r.outputs)
    return found


def _mismatch(vector: Vector, m: Mismatch) -> dict[str, Any]:
    found: dict[str, Any] = {"output": m.output, "index": list(m.index), "wrong": m.wrong, "size": m.size}
    amax = block_amax(vector, m.output, m.index)
    for name, element in (("actual", m.actual), ("expected", m.expected), ("source", m.source), ("amax", amax)):
        if element is not None:
            found[name] = {"format": element.format, "value": element.value}
            found[name] |= {} if element.format in PLAIN else {"code": element.code}
    if m.ulps is not None:
        found["ulps"] = m.ulps
    if m.allowed is not None:
        found["allowed"] = list(m.allowed)
    return found
