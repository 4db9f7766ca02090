"""What a figure shows, in numbers, kept inside the SVG file: the drawn lines depend on matplotlib, the data do not."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

NEAR = 0.01
"""Of a panel's range of data: what sums on another machine may differ by after some steps of training."""


@contextmanager
def fingerprinted() -> Iterator[None]:
    """Figures saved here hold their fingerprint, as the description in an SVG file's metadata."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    save = Figure.savefig

    def savefig(self: Figure, *args: Any, metadata: dict[str, Any], **kwargs: Any) -> None:
        save(self, *args, metadata={**metadata, "Description": json.dumps(fingerprint(self))}, **kwargs)

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
