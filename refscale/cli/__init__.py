"""The command line: ``refscale report``, ``train``, ``compare``, …; also ``python -m refscale``.

``arguments`` declares the options of each command, ``commands`` runs each command, and ``main`` reports errors.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from refscale import memory
from refscale.cli.arguments import parser
from refscale.cli.commands import COMMANDS
from refscale.cli.encoding import degrade
from refscale.errors import RefscaleError

__all__ = ["BROKEN_PIPE", "INTERRUPTED", "main"]

INTERRUPTED, BROKEN_PIPE = 130, 141
"""Exit statuses after SIGINT and SIGPIPE, as a shell reports them: 128 + the signal's number."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; default: those of the process.

    Returns:
        Exit status: 0 on success; 1 if a claim or a backend fails; 2 after an error, with a message on stderr; 130
        after Ctrl-C; 141 if the reader of the output has closed it.

    Raises:
        SystemExit: after ``--help`` and ``--version`` (0) and misspelled options (2), as argparse does.
    """
    if sys.stdout is None:  # closed by the caller
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    degrade(sys.stdout)
    degrade(sys.stderr)
    try:
        args = parser().parse_args(argv)
        memory.keep()
        if args.command is None:
            args = parser().parse_args(["report"])
        status = COMMANDS[args.command](args) or 0
        sys.stdout.flush()
    except RefscaleError as error:
        return _fail(error)
    except BrokenPipeError:
        # The buffered output would raise again when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else error)
    except MemoryError as error:
        return _fail(f"not enough memory ({error}); a smaller --batch or --seq needs less")
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


def _fail(error: object) -> int:
    sys.stdout.flush()
    print(f"refscale: {error}", file=sys.stderr)
    return 2
