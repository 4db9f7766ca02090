"""The command ``refscale accumulator``."""

from __future__ import annotations

import argparse

from refscale.files import write_json
from refscale.golden.backends import find
from refscale.golden.kit.identify import identified_in_words, identified_to_json, identify
from refscale.golden.kit.pipe import PipeBackend

NONE_FITS = 1
"""Exit status if no model explains every probe."""


def accumulator(args: argparse.Namespace) -> int:
    """Identify and print the accumulator of a backend; return 1 if no model fits."""
    if args.pipe:
        with PipeBackend(args.pipe, args.timeout, args.longest_line) as program:
            found = identify(program, args.format)
    else:
        found = identify(find(args.backend), args.format)
    if args.json:  # written before printing: a closed pipe must not lose the result
        write_json(args.json, identified_to_json(found))
    print(identified_in_words(found))
    return NONE_FITS if found.unexplained else 0
