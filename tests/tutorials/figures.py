"""The data of a figure in numbers, stored in the SVG file: the drawn lines depend on matplotlib, the data do not.

And whether its words can be read, on a telephone too.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

NEAR = 0.01
"""Of a panel's range of data: what sums on another machine may differ by after some steps of training."""


PHONE = 360
"""CSS pixels that a telephone gives a figure."""

LEAST = 7.5
"""CSS pixels, the height of the smallest words there."""


@contextmanager
def fingerprinted() -> Iterator[None]:
    """Figures saved here hold their fingerprint, as the description in an SVG file's metadata, and are legible."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    save = Figure.savefig

    def savefig(self: Figure, *args: Any, metadata: dict[str, Any], **kwargs: Any) -> None:
        save(self, *args, metadata={**metadata, "Description": json.dumps(fingerprint(self))}, **kwargs)
        assert_legible(self)

    mpl.use("Agg")
    with mock.patch.object(Figure, "savefig", savefig):
        yield


def fingerprint(figure: Any) -> list[dict[str, Any]]:
    """Of each panel: its words, its limits, and a summary of each thing drawn."""
    return [
        {
            "words": [ax.get_title("left"), ax.get_title(), ax.get_xlabel(), ax.get_ylabel()],
            "texts": [t.get_text() for t in ax.texts],
            "limits": _rounded([*ax.get_xlim(), *ax.get_ylim()]),
            "drawn": [summary(a) for a in (*_arrays(ax),)],
        }
        for ax in figure.axes
    ]


def assert_legible(figure: Any) -> None:
    """No word is smaller than ``LEAST`` on a ``PHONE``, outside the figure, on another word, or crossed by a line.

    Lines are curves, and the frame of a panel.
    """
    words = _words(figure)
    inches, page = figure.get_size_inches()[0], figure.bbox
    for text, box, _ in words:
        size = text.get_fontsize() / 72 * PHONE / inches
        assert size >= LEAST, f"{text.get_text()!r} is {size:.1f} pixels high on a telephone"
        inside = page.x0 - 1 <= box.x0 and box.x1 <= page.x1 + 1 and page.y0 - 1 <= box.y0 and box.y1 <= page.y1 + 1
        assert inside, f"{text.get_text()!r} leaves the figure"
    for (a, first, _), (b, second, _) in combinations(words, 2):
        assert not _overlap(first, second), f"{a.get_text()!r} is on {b.get_text()!r}"
    for text, box, _ in words:
        for frame in (ax.bbox for ax in figure.axes):
            within = min(box.x0 - frame.x0, frame.x1 - box.x1, box.y0 - frame.y0, frame.y1 - box.y1)
            assert within > -1 or not _overlap(box, frame), f"{text.get_text()!r} is crossed by the frame of a panel"
    for ax in figure.axes:
        mine = [(text, box) for text, box, owner in words if owner is ax]
        for line in ax.lines:
            points = line.get_transform().transform(np.column_stack([line.get_xdata(), line.get_ydata()]))
            if not points.size or min(np.ptp(points, axis=0)) < 2:  # the line of a limit may cross its label
                continue
            if line.get_linestyle() != "None" and line.get_linewidth():
                points = np.concatenate([np.linspace(p, q, 50) for p, q in pairwise(points)])
            for text, box in mine:
                assert not box.count_contains(points), f"{text.get_text()!r} is crossed by a curve"


def _words(figure: Any) -> list[tuple[Any, Any, Any]]:
    """All words that are drawn, with the box of each in pixels; and the panel, of those inside one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    figure.set_layout_engine("none")  # it stays as it was saved
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    found = []
    for ax in figure.axes:
        for axis, low, high in ((ax.xaxis, *sorted(ax.get_xlim())), (ax.yaxis, *sorted(ax.get_ylim()))):
            ticks = [t for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
            if ax.axison:
                found += [(text, None) for t in ticks for text in (t.label1, t.label2)]
                found.append((axis.label, None))
        found += [(text, None) for text in (ax.title, ax._left_title, ax._right_title)]
        legend = ax.get_legend()
        found += [(text, ax) for text in (*ax.texts, *(legend.findobj(Text) if legend else ()))]
    found += [(text, None) for legend in figure.legends for text in legend.findobj(Text)]
    shown = [(text, ax) for text, ax in found if text.get_text().strip() and text.get_visible()]
    return [(text, text.get_window_extent(), ax) for text, ax in shown]


def _overlap(a: Any, b: Any) -> bool:
    """By more than a pixel each way."""
    return min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1


def _arrays(ax: Any) -> Iterator[Any]:
    for line in ax.lines:
        yield from (line.get_xdata(), line.get_ydata())
    for patch in ax.patches:
        yield patch.get_path().vertices[:, 0] if not hasattr(patch, "get_height") else [patch.get_height()]
    for image in ax.images:
        yield image.get_array().filled(np.nan)
    for collection in ax.collections:
        yield collection.get_offsets()


def summary(a: Any) -> list[float]:
    """Number of numbers, and of finite ones; their mean, least, greatest, and mean weighted by place."""
    flat = np.asarray(a, np.float64).ravel()
    there = np.isfinite(flat)
    x = flat[there]
    if not x.size:
        return [flat.size, 0]
    place = np.flatnonzero(there) / flat.size
    return [flat.size, *_rounded([x.size, x.mean(), x.min(), x.max(), (x * place).mean()])]


def _rounded(values: Any) -> list[float]:
    return [float(f"{v:.6g}") for v in values]


def read_fingerprint(path: Path) -> list[dict[str, Any]]:
    """Of a figure that was saved by ``fingerprinted``."""
    found = re.search(r"<dc:description>(.*?)</dc:description>", path.read_text(encoding="utf-8"), re.DOTALL)
    assert found, f"{path} has no fingerprint: {DRAW_AGAIN}"
    panels: list[dict[str, Any]] = json.loads(html.unescape(found[1]))
    return panels


DRAW_AGAIN = "draw it with REFSCALE_FIGURES=write python -m pytest tests/tutorials"


def assert_same_data(old: list[dict[str, Any]], new: list[dict[str, Any]], name: str) -> None:
    """Same words and things drawn; numbers within ``NEAR`` of the panel's range."""
    stale = f"{name} is not what its code draws now: {DRAW_AGAIN}"
    assert len(old) == len(new), stale
    for a, b in zip(old, new, strict=True):
        assert (a["words"], a["texts"]) == (b["words"], b["texts"]), stale
        assert [len(s) for s in a["drawn"]] == [len(s) for s in b["drawn"]], stale
        left, right, low, high = b["limits"]
        near = NEAR * max(abs(right - left), abs(high - low))
        assert np.allclose(a["limits"], b["limits"], rtol=0, atol=near), stale
        for x, y in zip(a["drawn"], b["drawn"], strict=True):
            assert x[:2] == y[:2], stale
            assert np.allclose(x[2:], y[2:], rtol=NEAR / 10, atol=near / 2), stale
