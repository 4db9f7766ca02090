"""Many runs of training: a grid of settings, a learning rate chosen in each, on one machine or many.

In reading order:

1. ``spec``: the definition of a sweep as data; read from TOML.
2. ``search``: rules that choose the next learning rates from the results so far.
3. ``rows``: the result of each run: a line of JSON.
4. ``engine``: runs the missing runs, on any ``concurrent.futures.Executor``; ``executors`` has built-in ones.
5. ``summary``, ``markdown``, ``figures``: the rows as tables and figures: each setting at its best rate, each variant
   beside the first.
6. ``comparison``, ``comparison_tables``: ``refscale compare``, a sweep whose variants are precisions and techniques.
"""

from typing import TYPE_CHECKING

from refscale.names import lazily
from refscale.sweep.comparison import (
    BLOCKS,
    STATIC,
    SWEEP,
    VARIANTS,
    Comparison,
    RunResult,
    Variant,
    compare,
    load_comparison,
)
from refscale.sweep.comparison_tables import tables
from refscale.sweep.engine import sweep
from refscale.sweep.executors import open_executor
from refscale.sweep.figures import draw, draw_values
from refscale.sweep.rows import Row, read_rows
from refscale.sweep.search import Bracket, Grid, Search, Walk
from refscale.sweep.spec import SHIPPED, Cell, SweepSpec, load_spec, run_id
from refscale.sweep.summary import CellResult, outcomes, summary

__all__ = [
    "BLOCKS",
    "SHIPPED",
    "STATIC",
    "SWEEP",
    "VARIANTS",
    "Bracket",
    "Cell",
    "CellResult",
    "Comparison",
    "Grid",
    "Row",
    "RunResult",
    "Search",
    "SweepSpec",
    "Variant",
    "Walk",
    "compare",
    "draw",
    "draw_values",
    "load_comparison",
    "load_spec",
    "open_executor",
    "outcomes",
    "read_rows",
    "run_id",
    "summary",
    "sweep",
    "tables",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__, {}, {"Spec": "SweepSpec", "Outcome": "CellResult"})
