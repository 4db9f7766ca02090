"""Your own model: parameters with their specs, a loss and batches, as every instrument takes them.

In reading order:

1. ``program``: what a program defines, most of it optional; how instruments call one, and what they check.
2. ``load``: a program by its place, ``mine.py:model``, and its identity.
"""

from refscale.programs.load import digest, is_place, load_program
from refscale.programs.program import (
    Loss,
    Program,
    Scores,
    check_program,
    checked_loss,
    first_loss,
    leaves,
    name_of,
    next_batch,
)

__all__ = [
    "Loss",
    "Program",
    "Scores",
    "check_program",
    "checked_loss",
    "digest",
    "first_loss",
    "is_place",
    "leaves",
    "load_program",
    "name_of",
    "next_batch",
]
