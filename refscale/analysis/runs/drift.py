"""The change of tensors' scales during training: read from a run's ``scales.jsonl``, as a table, as a figure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from refscale.errors import DataError
from refscale.files import DATA, read_json, read_json_lines, write_text
from refscale.records import check_schema, reading, record_text
from refscale.stats.measurement import HIGH, KINDS, LOW, Kind

SCHEMA = "refscale.drift/1"


@dataclass(frozen=True)
class Series:
    """The scale of one tensor at each recorded step: σ, or the RMS if judged by it; 0 if it is all zero."""

    name: str
    kind: Kind
    scales: tuple[float, ...]


@dataclass(frozen=True)
class Drift:
    """The scales of a run.

    Attributes:
        label: label of the run, such as "unit fp32".
        steps: recorded steps; step 1 is measured before the first update.
        tensors: tensors that are judged at every recorded step, in the order of the forward pass; without biases, which
            start at zero.
    """

    label: str
    steps: tuple[int, ...]
    tensors: tuple[Series, ...]

    def of_kind(self, kind: Kind) -> list[Series]:
        """Return the tensors of one kind."""
        return [t for t in self.tensors if t.kind == kind]


def read_drift(out: str | Path) -> Drift:
    """Read the scales of the run in a directory, up to its last whole line.

    Raises:
        DataError: the run has no records (option ``--scales-every``), or its lines are invalid.
    """
    call = f"read_drift({str(out)!r})"
    path = Path(out) / "scales.jsonl"
    for needed in (Path(out) / "config.json", path):
        if not needed.exists():
            raise DataError(f"{call}: no {needed.name}, expected a run with --scales-every N")
    with reading(call, "train"):
        config = read_json(Path(out) / "config.json", f"{call}: config.json")["config"]
        lines = list(read_json_lines(path, f"{call}: {path.name}"))
        found: dict[tuple[Kind, str], dict[int, float]] = {}
        for line in lines:
            for t in line["tensors"]:
                if t["judged"]:
                    found.setdefault((t["kind"], t["name"]), {})[line["step"]] = float(t["scale"])
    if not found:
        raise DataError(f"{call}: no step recorded, expected a run with --scales-every N")
    steps = tuple(line["step"] for line in lines)
    label = " ".join(config[k] for k in ("scheme", "precision", "scaling") if config[k] != "none")
    tensors = (
        Series(name, kind, tuple(by[s] for s in steps)) for (kind, name), by in found.items() if len(by) == len(steps)
    )
    return Drift(label, steps, tuple(tensors))


def render_drift(drifts: Sequence[Drift]) -> list[str]:
    """Return for each run, kind and recorded step: median, smallest and largest scale, number outside [1/4, 4]."""
    lines = ["log2 of scales: median [smallest, largest], and how many of the tensors are outside [1/4, 4]"]
    for drift in drifts:
        columns = [["step", *map(str, drift.steps)]]
        for kind in KINDS:
            series = drift.of_kind(kind)
            columns.append([f"{kind} /{len(series)}", *(_cell(series, i) for i in range(len(drift.steps)))])
        widths = [max(6, *map(len, cells)) for cells in columns]
        rows = zip(*columns, strict=True)
        lines += ["", drift.label]
        lines += ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    return lines


def _cell(series: Sequence[Series], i: int) -> str:
    scales = [s.scales[i] for s in series]
    outside = sum(not LOW <= x <= HIGH for x in scales)
    logs = [math.log2(x) for x in scales if x > 0]
    if not logs:
        return "all zero"
    return f"{median(logs):.1f} [{min(logs):.1f}, {max(logs):.1f}] {outside:>2}"


def save_drifts(path: str | Path, drifts: Sequence[Drift]) -> None:
    """Write drifts as JSON, atomically; raise OSError on failure."""
    write_text(path, record_text(SCHEMA, {"runs": [_content(d) for d in drifts]}, indent=None))


def load_drifts(path: str | Path) -> list[Drift]:
    """Read the drifts in a file of ``save_drifts``; raise DataError or OSError on failure."""
    call = f"load_drifts({str(path)!r})"
    with reading(call, "save_drifts"):
        content = read_json(path, call, most=DATA)
        check_schema(content, SCHEMA, call)
        return list(_drifts(content["runs"]))


def _content(drift: Drift) -> dict[str, Any]:
    content = asdict(drift)
    for series in content["tensors"]:
        series["scales"] = [float(f"{x:.4g}") for x in series["scales"]]
    return content


def _drifts(runs: Sequence[dict[str, Any]]) -> Iterator[Drift]:
    for run in runs:
        tensors = tuple(Series(t["name"], t["kind"], tuple(map(float, t["scales"]))) for t in run["tensors"])
        yield Drift(run["label"], tuple(run["steps"]), tensors)
