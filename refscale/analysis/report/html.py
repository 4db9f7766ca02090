"""Reports as one HTML page: a table to sort and to filter, whose rows open to histogram, factors and consumers.

The page loads nothing: it contains style, script and data, and a content security policy forbids every request. Names
enter the page as text: the script sets ``textContent`` only, and the data are JSON without the characters that HTML
interprets.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path

from refscale.analysis.report.files import to_json
from refscale.analysis.report.text import heading, mark, summary_lines
from refscale.analysis.tables.formats import format_label
from refscale.errors import ArgumentError
from refscale.files import json_text, parse_json, read_text, write_text
from refscale.formats import get_format
from refscale.stats.measurement import TensorStats
from refscale.stats.report import Report

_PAGE = resources.files("refscale.analysis.report") / "page"


def to_html(reports: Sequence[Report]) -> str:
    """Return reports as the text of an HTML page.

    Args:
        reports: at least one, of the same model and formats.

    Returns:
        The page. Its element "data" contains the result of ``to_json``, on one line; "derived" the values in each row:
        scale, mark, σ over the predicted one; "formats" the ranges of the formats.

    Raises:
        ArgumentError: ``reports`` is empty, or the formats of the reports differ.
    """
    if not reports or len({r.formats for r in reports}) > 1:
        raise ArgumentError(f"to_html: got {len(reports)} reports, expected at least one, all of the same formats")
    parts = {
        "title": escape(f"Scales of {reports[0].model}"),
        "style": _file("page.css"),
        "summaries": "\n".join(map(_summary, reports)),
        "formats": _embedded([_range(name) for name in reports[0].formats]),
        "derived": _embedded([[_derived(t) for t in r.tensors] for r in reports]),
        "data": _embedded(parse_json(to_json(reports), "to_html")),
        "script": _file("page.js"),
    }
    page = _file("page.html")
    before, *rest = page.split("{")
    pieces = [before]
    for piece in rest:
        name, _, after = piece.partition("}")
        pieces += [parts[name], after]
    return "".join(pieces)


def save_html(path: str | Path, reports: Sequence[Report]) -> None:
    """Write ``to_html`` to a file, atomically; raise ArgumentError or OSError on failure."""
    write_text(path, to_html(reports))


def _file(name: str) -> str:
    return read_text(_PAGE / name, "to_html").rstrip("\n")


def _embedded(content: object) -> str:
    """Return JSON for a script element: the characters that HTML interprets are escaped, as JSON allows."""
    text = json_text(content)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _summary(report: Report) -> str:
    first, loss = heading(report)
    count, *rest = summary_lines(report)
    lines = "\n".join(f"<p>{escape(line.strip())}</p>" for line in [loss, *rest])
    about = f"<details>\n<summary>{escape(count)}</summary>\n{lines}\n</details>"
    return f"<h2>{escape(first.strip('━ '))}</h2>\n{about}"


def _range(name: str) -> dict[str, object]:
    """Return the exponents of a format: ⌊log2⌋ of its smallest value, its smallest normal and its largest value."""
    f = get_format(name)
    return {
        "name": name,
        "label": format_label(name),
        "smallest": f.emin - f.mantissa_bits,
        "emin": f.emin,
        "emax": f.emax,
    }


def _derived(t: TensorStats) -> dict[str, object]:
    return {"scale": t.scale, "mark": mark(t).strip(), "ratio": t.over_predicted}
