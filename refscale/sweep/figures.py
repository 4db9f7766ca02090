"""The rows of a sweep as figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refscale.analysis.runs.sweeps import plot_against, plot_rates
from refscale.errors import ArgumentError
from refscale.sweep.rows import Row
from refscale.sweep.spec import SweepSpec
from refscale.sweep.summary import outcomes, seed_interval


def draw(path: str | Path, spec: SweepSpec, rows: Mapping[str, Row]) -> None:
    """Plot the figure of a spec: each variant against the first, or loss by learning rate and first grid axis.

    Raises:
        ArgumentError: as in ``analysis.check_plot``.
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


def draw_values(
    path: str | Path,
    spec: SweepSpec,
    rows: Mapping[str, Row],
    axis: str,
    reference: Any,
    value: Any,
    panels: Mapping[str, str],
) -> None:
    """Draw the cells with one value of an axis against those with another, a panel for each variant.

    Args:
        path: .svg, .png or .pdf.
        spec: the sweep.
        rows: by id.
        axis: of the grid, such as "model.tau"; not the first, which gives the colors.
        reference: value of the axis, on the horizontal axes.
        value: value of the axis, on the vertical axes.
        panels: the title of the panel of each variant to draw.

    Raises:
        ArgumentError: the grid lacks the axis or a value, or a variant is unknown; see also ``draw``.

    Source: paper, character models: the default rule against fixed(0.5), fixed(0.5) against the running mean.
    """
    call = f"draw_values({axis!r}, {reference!r}, {value!r})"
    first, *others = spec.grid
    if axis not in others or not {reference, value} <= set(spec.grid[axis]):
        raise ArgumentError(f"{call}: expected one of {others}, and two of its values")
    if unknown := panels.keys() - spec.variants.keys():
        raise ArgumentError(f"{call}: variants {sorted(unknown)}, expected some of {list(spec.variants)}")
    found = [o for o in outcomes(spec, rows) if o.losses]
    losses = {(o.cell.variant, tuple(o.cell.point.items())): o.loss for o in found}
    points: dict[str, list[tuple[str, float, float]]] = {title: [] for title in panels.values()}
    for o in found:
        other = (o.cell.variant, tuple((o.cell.point | {axis: reference}).items()))
        if o.cell.variant in panels and o.cell.point[axis] == value and other in losses:
            points[panels[o.cell.variant]].append((str(o.cell.point[first]), losses[other], o.loss))
    unit = spec.config(next(spec.cells()).settings, 0.0, 0).kind.unit
    plot_against(path, str(reference), list(map(str, spec.grid[first])), points, unit, seed_interval(found))
