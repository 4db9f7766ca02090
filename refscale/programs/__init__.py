"""User-defined models as programs: parameter specs, a loss and batches, the input of every instrument.

In reading order:

1. ``program``: the interface of a program, mostly optional; the calls and checks of instruments.
2. ``load``: loading of a program by location, ``mine.py:model``, and its digest.
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
