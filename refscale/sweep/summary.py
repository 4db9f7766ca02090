"""The rows of a sweep as tables: every setting at its best rate, and a comparison of each variant with the first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, variance

from refscale.errors import counted
from refscale.sweep.markdown import Table, render
from refscale.sweep.rows import Row, loss_of
from refscale.sweep.search import best, replay
from refscale.sweep.spec import Cell, Settings, SweepSpec, run_id

_NO_INTERVAL = "No interval: no cell has two finished seeds, so no variant counts as better or worse than the first."


@dataclass(frozen=True)
class CellResult:
    """The result of a cell at its best learning rate.

    Attributes:
        cell: the cell.
        log2_lr: log2 of its rate; None during the search.
        losses: losses of its seeds, in their order; infinite for a diverged or failed run.
        rates: median loss by log2 of the learning rate, for all rates tried with the cell's own settings.
    """

    cell: Cell
    log2_lr: float | None
    losses: tuple[float, ...]
    rates: Mapping[float, float]

    @property
    def loss(self) -> float:
        """Median loss over the seeds."""
        return median(self.losses) if self.losses else math.inf


def outcomes(spec: SweepSpec, rows: Mapping[str, Row]) -> list[CellResult]:
    """Return the result of every cell; it lacks the runs that have no row yet."""
    own: dict[str, dict[float, list[float]]] = {}
    most = spec.diverged_above
    for row in rows.values():
        own.setdefault(run_id(row.settings, 0.0, 0), {}).setdefault(row.log2_lr, []).append(loss_of(row, most))
    found = []
    for cell in spec.cells():
        tried, wanted = tried_rates(spec, spec.rate_settings(cell.settings), rows)
        log2_lr = best(tried) if tried and not wanted else None
        ids = [] if log2_lr is None else [run_id(cell.settings, log2_lr, seed) for seed in range(cell.seeds)]
        losses = tuple(loss_of(rows[id], most) for id in ids if id in rows)
        rates = {e: median(xs) for e, xs in sorted(own.get(run_id(cell.settings, 0.0, 0), {}).items())}
        found.append(CellResult(cell, log2_lr, losses, rates))
    return found


def tried_rates(
    spec: SweepSpec, settings: Settings, rows: Mapping[str, Row]
) -> tuple[dict[float, float | None], list[float]]:
    """Replay the search for the rate of some settings with the existing rows; see ``search.replay``."""

    def loss(e: float) -> float | None:
        ids = [run_id(settings, e, seed) for seed in range(spec.rate_seeds)]
        known = all(id in rows for id in ids)
        return median(loss_of(rows[id], spec.diverged_above) for id in ids) if known else None

    return replay(spec.search_of(settings), loss)


def seed_interval(found: Sequence[CellResult]) -> float:
    """Return half of the 95 % interval of a difference of two medians over the seeds, at the cells' typical variance.

    The typical variance is the median of the cells' variances, over the median of χ²/ν (Wilson and Hilferty 1931), so
    that a few cells near the edge of stability do not widen all intervals. Medians of few normal numbers vary by at
    most √(π/2) times the variation of means. Cells without a run do not count. Without a cell of two finished seeds the
    result is 0, which is not an interval.
    """
    spread = _variances(found)
    if not spread:
        return 0.0
    seeds = median(len(o.losses) for o in found if o.losses)
    return 1.96 * math.sqrt(median(spread) * (2 / seeds) * (math.pi / 2))


def _variances(found: Sequence[CellResult]) -> list[float]:
    """Return the variance of every cell with at least two finished seeds, over the median of χ²/ν."""
    finite = [[x for x in o.losses if math.isfinite(x)] for o in found]
    return [variance(xs) / (1 - 2 / (9 * (len(xs) - 1))) ** 3 for xs in finite if len(xs) > 1]


def summary(spec: SweepSpec, rows: Mapping[str, Row]) -> str:
    """Return both tables in Markdown, with the number of runs."""
    found = outcomes(spec, rows)
    seconds = sum(row.seconds for row in rows.values())
    failed = sum(row.status == "failed" for row in rows.values())
    lost = sum(not math.isfinite(loss_of(row, spec.diverged_above)) for row in rows.values())
    head = (
        f"{spec.title}: {counted(len(rows), 'run')} ({lost - failed} diverged, {failed} failed), "
        f"{seconds / 3600:.2f} core-hours; {counted(spec.seeds, 'seed')}."
    )
    tables = [render(_points(spec, found))]
    if len(spec.variants) > 1:
        interval = seed_interval(found) if _variances(found) else None
        tables.append(render(_shares(spec, found, interval)))
        about = "the 95 % interval of a difference, from the cells' typical spread over seeds"
        tables.append(_NO_INTERVAL if interval is None else f"Within ± {interval:.4f}: {about}.")
    return "\n\n".join([head, *tables]) + "\n"


def _points(spec: SweepSpec, found: Sequence[CellResult]) -> Table:
    """Yield a row for every point, a column for every variant: median loss, and log2 of the rate."""
    axes = [name for name, values in spec.grid.items() if len(values) > 1]
    yield (*(a.removeprefix("model.") for a in axes), *spec.variants)
    for point in _unique(found):
        cells = {o.cell.variant: o for o in found if o.cell.point == point}
        yield (*(str(point[a]) for a in axes), *(_shown(cells.get(v)) for v in spec.variants))


def _shown(o: CellResult | None) -> str:
    if o is None or o.log2_lr is None or not o.losses:
        return ""
    return f"{o.loss:.3f} (2^{o.log2_lr:g})" if math.isfinite(o.loss) else "diverged"


def _unique(found: Sequence[CellResult]) -> list[dict[str, object]]:
    points: list[dict[str, object]] = []
    for o in found:
        if o.cell.point not in points:
            points.append(o.cell.point)
    return points


def _shares(spec: SweepSpec, found: Sequence[CellResult], interval: float | None) -> Table:
    """Yield a comparison of every variant with the first, over the points; without an interval, no verdicts."""
    first = next(iter(spec.variants))
    reference = {tuple(sorted(o.cell.point.items())): o.loss for o in found if o.cell.variant == first and o.losses}
    verdicts = () if interval is None else (f"not worse than {first}", "better", "worse")
    yield ("variant", "points", *verdicts, "median difference", "diverged")
    for name in spec.variants:
        mine = [o for o in found if o.cell.variant == name and o.losses]
        pairs = [(o.loss, reference.get(tuple(sorted(o.cell.point.items())), math.inf)) for o in mine]
        known = [(a, b) for a, b in pairs if math.isfinite(b)]
        if name == first or not known:
            continue
        n = len(known)
        counts: tuple[str, ...] = ()
        if interval is not None:
            worse = sum(a > b + interval for a, b in known)
            better = sum(a < b - interval for a, b in known)
            counts = (f"{n - worse} ({(n - worse) / n:.0%})", str(better), str(worse))
        differences = [a - b for a, b in known if math.isfinite(a)]
        shown = f"{median(differences):+.4f}" if differences else ""
        lost = sum(not math.isfinite(a) for a, _ in known)
        yield (name, str(n), *counts, shown, str(lost))
