"""The result of each run: a line of JSON in ``results.jsonl``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from refscale.errors import DataError
from refscale.files import append_line, json_text, read_json_lines

RESULTS = "results.jsonl"


@dataclass(frozen=True)
class Row:
    """The result of one run.

    Attributes:
        id: name of the run, see ``spec.run_id``.
        settings: settings that differ between runs.
        log2_lr, seed: log2 of the learning rate, and random seed.
        status: "done", "diverged" or "failed" (the run could not be executed; the message has the reason).
        loss, share: the task's two scores at the end; None unless the run is done.
        message: message of the error, or empty.
        seconds: seconds of training.
        overhead: totals of ``rivals.Outcome``.
        flushed, dead: as in ``comparison.RunResult``; None without records of scales.
    """

    id: str
    settings: dict[str, Any]
    log2_lr: float
    seed: int
    status: str
    loss: float | None
    share: float | None
    message: str
    seconds: float
    overhead: Mapping[str, int]
    flushed: float | None = None
    dead: float | None = None


def loss_of(row: Row, most: float = math.inf) -> float:
    """Return the loss of a run; infinite if it diverged, failed, or ended above ``most``."""
    return math.inf if row.loss is None or row.loss > most else row.loss


def read_rows(out: str | Path) -> dict[str, Row]:
    """Return the rows of a sweep's directory by id; an incomplete last line is ignored.

    Raises:
        DataError: a line does not have the form of a row.
    """
    path = Path(out) / RESULTS
    rows: dict[str, Row] = {}
    if not path.exists():
        return rows
    call = f"read_rows({str(out)!r})"
    names = {f.name for f in fields(Row)}
    for number, content in enumerate(read_json_lines(path, call), 1):
        try:
            if content.keys() != names:
                raise KeyError(f"{sorted(names ^ content.keys())}")
            rows[content["id"]] = Row(**content)
        except (KeyError, TypeError) as error:
            raise DataError(f"{call}, record {number}: not a row: {error}") from error
    return rows


def append_row(out: Path, row: Row) -> None:
    """Append a row durably: it is on the disk when this returns; an incomplete line before it is removed."""
    append_line(out / RESULTS, json_text(asdict(row)), durable=True)


def drop_cut_line(out: Path) -> None:
    """Remove the text after the last whole line."""
    path = out / RESULTS
    if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
