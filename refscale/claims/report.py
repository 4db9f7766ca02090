"""Output of claims: a table of results, failures with their commands, the list of claims, JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from refscale.claims.catalog import SECTIONS
from refscale.claims.claim import Claim, Figure
from refscale.claims.run import ClaimResult
from refscale.errors import counted
from refscale.records import record_content

SCHEMA = "refscale.claims/1"
WIDTH = 30
"""Columns of the worst figure's name in the table."""


def table(results: Iterable[ClaimResult]) -> Iterator[str]:
    """Yield a line for every claim: id, name, worst figure over all places, expected, measured, verdict."""
    names = f"{'id':5} {'claim':25}{'figures':>7}  {'figure nearest to failing':{WIDTH}}"
    yield f"{names}{'expected':>11}{'measured':>11} verdict"
    by_claim: dict[str, list[ClaimResult]] = {}
    for result in results:
        by_claim.setdefault(result.claim.id, []).append(result)
    for several in by_claim.values():
        yield _line(several)


def _line(several: Sequence[ClaimResult]) -> str:
    worst = max(several, key=lambda r: (r.verdict == "fails", r.strain))
    figure = worst.worst
    count = sum(len(r.figures) for r in several)
    cells = f"{worst.claim.id:5} {_cut(worst.claim.name, 24):25}{count:>7}  "
    if worst.error or figure is None:
        first, _, _ = worst.error.partition("\n")
        return cells + f"{_cut(first, WIDTH + 22):{WIDTH + 22}} {worst.verdict}"
    numbers = f"{figure.expected:>11.4g}{figure.measured:>11.4g}"
    return f"{cells}{_cut(figure.what, WIDTH - 1):{WIDTH}}{numbers} {worst.verdict}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def failures(results: Iterable[ClaimResult], shown: int = 5) -> Iterator[str]:
    """Yield for every failing result: claim, statement, failing figures, and the command that reproduces it."""
    for result in results:
        if result.verdict == "holds":
            continue
        c = result.claim
        yield f"\n{c.id} {c.name} fails"
        yield from textwrap.wrap(c.title, 100, initial_indent="  ", subsequent_indent="  ")
        if result.error:
            yield textwrap.indent(result.error, "  ")
        wrong = [f for f in result.figures if not f.holds]
        yield from (f"  {f}" for f in wrong[:shown])
        if len(wrong) > shown:
            yield f"  and {len(wrong) - shown} more"
        yield f"  reproduce: {result.command}"


def summary(results: Sequence[ClaimResult]) -> str:
    """Return the number of claims that hold, the number of figures and the time."""
    ids = {r.claim.id for r in results}
    failed = {r.claim.id for r in results if r.verdict == "fails"}
    figures = sum(len(r.figures) for r in results)
    seconds = sum(r.seconds for r in results)
    return f"{len(ids) - len(failed)} of {len(ids)} claims hold: {counted(figures, 'figure')} in {seconds:.0f} s"


def listing() -> Iterator[str]:
    """Yield the list of claims as Markdown lines."""
    yield "# The claims"
    yield ""
    yield "The specification: numbered statements, each with its source and a function that checks it"
    yield "(`claim_3_09_matmul` checks 3.9). Sizes are those of `--shape`; *slow* claims run with `--slow` or by id."
    yield "*Paper*: arXiv 2303.11257. *Authors' code*: github.com/graphcore-research/unit-scaling-demo, the"
    yield "directories `examples` and `bert` in its branch 2023-01-paper."
    yield "`refscale verify --list` prints this page."
    for section in SECTIONS:
        yield ""
        yield f"## {section.number}. {section.title}"
        for module in section.modules:
            yield ""
            yield (module.__doc__ or "").strip()
        for claim in section.claims:
            yield ""
            yield from _entry(claim)


def _entry(claim: Claim) -> Iterator[str]:
    marks = [f"sizes {', '.join(claim.sizes)}"] if claim.sizes else []
    marks += ["*slow*"] if claim.slow else []
    yield f"**{claim.id} · {claim.name.replace('_', ' ')}**" + (f" ({'; '.join(marks)})" if marks else "")
    yield claim.statement
    yield f"*Source: {claim.source}.*"


def to_json(results: Sequence[ClaimResult]) -> dict[str, Any]:
    """Return every result with every figure as JSON content."""
    holds = all(r.verdict == "holds" for r in results)
    return record_content(SCHEMA, {"holds": holds, "results": [_result(r) for r in results]})


def _result(r: ClaimResult) -> Mapping[str, Any]:
    return {
        "id": r.claim.id,
        "name": r.claim.name,
        "statement": r.claim.statement,
        "source": r.claim.source,
        "place": {**r.place.sizes, "seed": r.place.seed},
        "verdict": r.verdict,
        "error": r.error,
        "seconds": round(r.seconds, 3),
        "command": r.command,
        "figures": [_figure(f) for f in r.figures],
    }


def _figure(f: Figure) -> Mapping[str, Any]:
    return {
        "what": f.what,
        "measured": f.measured,
        "expected": f.expected,
        "allowed": f.allowed,
        "kind": f.kind,
        "holds": f.holds,
    }
