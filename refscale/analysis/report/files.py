"""Reports in files: JSON with a schema version, written atomically."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from refscale.files import DATA, parse_json, read_json, write_text
from refscale.records import check_schema, dataclass_of, reading, record_text
from refscale.stats.causes import Cause
from refscale.stats.measurement import Lost, TensorStats, TensorUse
from refscale.stats.report import CastSummary, Report, summarize

SCHEMA = "refscale.report/1"


def to_json(reports: Sequence[Report]) -> str:
    """Return reports as JSON text: ``schema``, ``version``, and ``reports``, each with its ``summary``.

    Args:
        reports: reports, any number.

    Returns:
        Text that ``from_json`` reads back to the same reports. It has no time stamp: the same run returns the same
        text.
    """
    return record_text(SCHEMA, {"reports": [_report_to(r) for r in reports]})


def from_json(text: str) -> list[Report]:
    """Return the reports in the text of ``to_json``.

    Raises:
        DataError: invalid JSON, another schema, or missing fields.
    """
    return _reports_from(parse_json(text, "from_json"), "from_json")


def _reports_from(content: dict[str, Any], call: str) -> list[Report]:
    with reading(call, "to_json"):
        check_schema(content, SCHEMA, call)
        return [_report_from(r) for r in content["reports"]]


def save(path: str | Path, reports: Sequence[Report]) -> None:
    """Write ``to_json`` to a file, atomically; raise OSError on failure."""
    text = to_json(reports)
    write_text(path, text)


def load(path: str | Path) -> list[Report]:
    """Read the reports in a file of ``save``; raise DataError or OSError on failure."""
    call = f"load({str(path)!r})"
    return _reports_from(read_json(path, call, most=DATA), call)


def _report_to(report: Report) -> dict[str, Any]:
    content = asdict(report)
    s = summarize(report.tensors)
    content["summary"] = {
        "judged": s.judged,
        "outside": s.outside,
        "worst": {"name": s.worst.name, "kind": s.worst.kind, "scale": s.worst.scale},
        "zero": s.zero,
        "damped": s.damped,
    }
    return content


def _report_from(content: dict[str, Any]) -> Report:
    own = {
        "formats": tuple(content["formats"]),
        "losses": {name: float(x) for name, x in content["losses"].items()},
        "tensors": tuple(_tensor_from(t) for t in content["tensors"]),
        "casts": tuple(dataclass_of(CastSummary, {"rule": "", **c}) for c in content["casts"]),
        "causes": tuple(dataclass_of(Cause, c) for c in content.get("causes", ())),
    }
    return dataclass_of(Report, {"rules": {}, **content, **own})


def _tensor_from(content: dict[str, Any]) -> TensorStats:
    own = {
        "shape": tuple(content["shape"]),
        "exponents": {int(e): n for e, n in content["exponents"].items()},
        "lost": {name: dataclass_of(Lost, counts) for name, counts in content["lost"].items()},
        "uses": tuple(dataclass_of(TensorUse, use) for use in content.get("uses", ())),
    }
    return dataclass_of(TensorStats, {"alpha": None, **content, **own})  # reports before 0.2 have no factors
