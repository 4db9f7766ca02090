"""Reports: one training step at initialization, with statistics of every tensor; as text, as plots, as JSON.

In reading order:

1. ``first_step``: one training step of a model at initialization as a ``Report``.
2. ``text``, ``histogram``: reports as text.
3. ``plots``: heat-maps of exponents.
4. ``files``: reports as JSON.
5. ``html``, with the folder ``page``: reports as one HTML page.
"""

from refscale.analysis.report.files import from_json, load, save, to_json
from refscale.analysis.report.first_step import FirstStep, first_step, report, work
from refscale.analysis.report.histogram import histograms
from refscale.analysis.report.html import save_html, to_html
from refscale.analysis.report.plots import plot
from refscale.analysis.report.text import render

__all__ = [
    "FirstStep",
    "first_step",
    "from_json",
    "histograms",
    "load",
    "plot",
    "render",
    "report",
    "save",
    "save_html",
    "to_html",
    "to_json",
    "work",
]
