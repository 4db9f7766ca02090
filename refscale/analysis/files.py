"""Reports in files: JSON with a schema version, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from refscale import __version__
from refscale.errors import DataError
from refscale.files import DATA, json_text, parse_json, read_json, write_text
from refscale.stats.measurement import Lost, TensorStats
from refscale.stats.report import CastSummary, Report, summarize

SCHEMA = "refscale.report/1"
"""Raised by one whenever a reader of the former could go wrong."""

_Record = TypeVar("_Record")


def to_json(reports: Sequence[Report]) -> str:
    """Reports as JSON text: ``schema``, ``version``, and ``reports``, each with its ``summary``.

    Args:
        reports: any number.

    Returns:
        Text that ``from_json`` reads back to the same reports.  No time stamp: the same run gives the same text.
    """
    content = {"schema": SCHEMA, "version": __version__, "reports": [_report_to(r) for r in reports]}
    return json_text(content, indent=1) + "\n"


def from_json(text: str) -> list[Report]:
    """Reports from the text that ``to_json`` makes.

    Raises:
        DataError: no JSON, another schema, or fields that are missing.
    """
    return _reports_from(parse_json(text, "from_json"), "from_json")


def _reports_from(content: dict[str, Any], call: str) -> list[Report]:
    try:
        if content["schema"] != SCHEMA:
            raise DataError(f"{call}: schema is {content['schema']!r}, expected {SCHEMA!r}")
        return [_report_from(r) for r in content["reports"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{call}: {type(error).__name__} {error}, expected what to_json makes") from error


def save(path: str | Path, reports: Sequence[Report]) -> None:
    """Write ``to_json`` to a file, atomically.  Raises OSError."""
    text = to_json(reports)
    write_text(path, text)


def load(path: str | Path) -> list[Report]:
    """Read what ``save`` wrote.  Raises DataError, OSError."""
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
        "casts": tuple(record(CastSummary, c) for c in content["casts"]),
    }
    return record(Report, {**content, **own})


def _tensor_from(content: dict[str, Any]) -> TensorStats:
    own = {
        "shape": tuple(content["shape"]),
        "exponents": {int(e): n for e, n in content["exponents"].items()},
        "lost": {name: record(Lost, counts) for name, counts in content["lost"].items()},
    }
    return record(TensorStats, {**content, **own})


def record(kind: type[_Record], content: Mapping[str, Any]) -> _Record:
    """Make a dataclass of its fields as ``json_text`` wrote them: a float may be a string.

    Raises:
        KeyError: a field is missing.
        ValueError, TypeError: a float is neither a number nor the name of one.
    """
    values = {f.name: content[f.name] for f in fields(kind)}  # type: ignore[arg-type]
    floats = [f.name for f in fields(kind) if f.type in ("float", "float | None")]  # type: ignore[arg-type]
    return kind(**values | {name: float(values[name]) for name in floats if values[name] is not None})
