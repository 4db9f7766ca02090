"""The rows of a sweep as figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from refscale.analysis.runs.sweeps import plot_against, plot_rates
from refscale.sweep.rows import Row
from refscale.sweep.spec import SweepSpec
from refscale.sweep.summary import outcomes, seed_interval


def draw(path: str | Path, spec: SweepSpec, rows: Mapping[str, Row]) -> None:
    """Plot the figure of a spec: each variant against the first, or loss by learning rate and first grid axis.

    Raises:
        ArgumentError: matplotlib is not installed, or the name does not end in .svg, .png or .pdf.
    """
    found = [o for o in outcomes(spec, rows) if o.losses]
    axis = next(iter(spec.grid), "")
    unit = spec.config(next(spec.cells()).settings, 0.0, 0).kind.unit
    if spec.plot == "rates":
        curves: dict[str, dict[str, dict[float, float]]] = {}
        for o in found:
            value = str(o.cell.point.get(axis, ""))
            curves.setdefault(o.cell.variant, {})[value] = dict(o.rates)
        plot_rates(path, curves, axis.removeprefix("model."), unit)
        return
    first, *others = spec.variants
    reference = {tuple(o.cell.point.items()): o.loss for o in found if o.cell.variant == first}
    points = {
        name: [
            (str(o.cell.point.get(axis, "")), reference[key], o.loss)
            for o in found
            if o.cell.variant == name and (key := tuple(o.cell.point.items())) in reference
        ]
        for name in others
    }
    groups = list(map(str, spec.grid.get(axis, ("",))))
    plot_against(path, first, groups, points, unit, seed_interval(found))
