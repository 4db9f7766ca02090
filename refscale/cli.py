"""One command, thin: ``refscale report``, ``formats``, ``snr``, ``ops``; also ``python -m refscale``."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from refscale import __version__
from refscale.errors import ArgumentError, RefscaleError

DEFAULT_MODEL = "bert-tiny"
SMALL = ("bert-tiny", "bert-mini")
"""Models that get a batch of 8 by default; others get 1."""

INTERRUPTED, BROKEN_PIPE = 130, 141
"""128 + the number of SIGINT, SIGPIPE: what a shell reports of a command that these end."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; those of the process if None.

    Returns:
        Exit status: 0, 2 after an error with a message on stderr, 130 after Ctrl-C, 141 if the reader of the output
        went away.

    Raises:
        SystemExit: after ``--help`` and ``--version`` (0) and misspelled options (2), as argparse does.
    """
    if sys.stdout is None:  # closed by the caller
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without σ gets ?
    try:
        args = _parser().parse_args(argv)
        {"report": _report, "formats": _formats, "snr": _snr, "ops": _ops}[args.command or "report"](args)
        sys.stdout.flush()
    except RefscaleError as error:
        return _fail(error)
    except BrokenPipeError:
        # What is still buffered would raise again when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else error)
    except MemoryError as error:
        return _fail(f"not enough memory ({error}); a smaller --batch or --seq needs less")
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _fail(error: object) -> int:
    sys.stdout.flush()
    print(f"refscale: {error}", file=sys.stderr)
    return 2


# --- commands ---------------------------------------------------------------------------------------------------------


def _report(args: argparse.Namespace) -> None:
    from refscale import analysis
    from refscale.analysis.record import work
    from refscale.precision import get_precision
    from refscale.progress import Progress

    if args.model and args.option and args.model != args.option:
        raise ArgumentError(f"report: two models, {args.model!r} and --model {args.option!r}, expected one")
    model = args.model or args.option or DEFAULT_MODEL
    batch = args.batch if args.batch is not None else 8 if model in SMALL else 1
    schemes = ("regular", "unit") if args.scheme == "both" else (args.scheme,)
    precision = get_precision(args.precision)
    if args.plot:
        analysis.check_plot(args.plot)
    _check_directories(args.plot, args.json)
    reports = []
    for scheme in schemes:
        with Progress(work(model), "M elements", f"{model} {scheme}") as progress:
            reports.append(
                analysis.record(
                    model,
                    scheme,
                    precision,
                    constraint=args.constraint,
                    batch=batch,
                    seq=args.seq,
                    seed=args.seed,
                    text=args.text,
                    progress=progress,
                )
            )
    if args.json:  # files first: a reader that goes away early takes no result along
        analysis.save(args.json, reports)
    if args.plot:
        analysis.plot(args.plot, reports)
    print(analysis.render(reports, everything=args.all), end="")


def _formats(args: argparse.Namespace) -> None:
    from refscale.analysis.formats_table import format_table

    print("\n".join(format_table()))


def _snr(args: argparse.Namespace) -> None:
    from refscale import analysis

    if args.plot:
        analysis.check_plot(args.plot)
    _check_directories(args.plot)
    found = analysis.curves(args.formats.split(",")) if args.formats else analysis.curves()
    if args.plot:
        analysis.plot_snr(args.plot, found)
    print("\n".join(analysis.render_snr(found)))


def _ops(args: argparse.Namespace) -> None:
    from refscale.ops import table

    rows = table.rows(table.parse_shape(args.shape))
    print("α: factor of the output. β: of the gradient of each input; - is none. statistic: what α normalizes, where")
    print("it matters. constrained: α = β of the first input by the recipe, for an edge that is no cut-edge.\n")
    print(table.render(rows))


def _check_directories(*paths: str | None) -> None:
    """Say before a long run that its result could not be written."""
    for path in paths:
        if path and not Path(path).parent.is_dir():
            raise ArgumentError(f"cannot write {path!r}: there is no directory {str(Path(path).parent)!r}")
        if path and Path(path).is_dir():
            raise ArgumentError(f"cannot write {path!r}: it is a directory")


# --- arguments --------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="refscale",
        description="Unit Scaling (arXiv 2303.11257) in NumPy. Without a command: refscale report bert-tiny.",
    )
    parser.add_argument("--version", action="version", version=f"refscale {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_report(commands.add_parser("report", help="every tensor of one BERT training step: scale, exponents, losses"))
    commands.add_parser("formats", help="the floating-point formats, in figures")
    snr = commands.add_parser("snr", help="signal-to-noise ratio of Gaussian numbers in each format, by their scale")
    snr.add_argument("--formats", metavar="A,B", help="names, separated by commas (default: FP16, BF16 and four FP8)")
    snr.add_argument("--plot", metavar="FILE", help="also draw it, as .svg, .png or .pdf (needs refscale[plots])")
    ops = commands.add_parser("ops", help="the op table: factors of every op at given sizes")
    ops.add_argument("--shape", default="", metavar="SIZES", help="such as b=1024,m=768,n=3072,s=512 (the default)")
    # Without a command the report's defaults apply.
    report_defaults = argparse.ArgumentParser()
    _add_report(report_defaults)
    parser.set_defaults(**vars(report_defaults.parse_args([])))
    return parser


def _add_report(parser: argparse.ArgumentParser) -> None:
    from refscale.models.bert import CONFIGS
    from refscale.precision import POLICIES
    from refscale.scales import SCHEMES

    parser.description = (
        "Run one pre-training step of a BERT at initialization, on real text, and report the scale of every weight, "
        "activation and gradient, and what FP16 and FP8 would lose of it."
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help=f"{', '.join(CONFIGS)} (default: {DEFAULT_MODEL})")
    parser.add_argument("--model", dest="option", metavar="MODEL", help="the same")
    parser.add_argument("--scheme", choices=["both", *SCHEMES], default="both", help="default: regular beside unit")
    parser.add_argument(
        "--precision",
        default="fp32",
        metavar="NAME",
        help=f"{', '.join(POLICIES)}, or a mix such as store=bf16,operand=e4m3fn (default: fp32)",
    )
    parser.add_argument(
        "--constraint",
        choices=["geometric", "harmonic", "arithmetic", "to_output_scale", "none"],
        default="geometric",
        help="ties factors inside residual branches (default: geometric, the paper's; none: forks repay the rest)",
    )
    parser.add_argument("--batch", type=int, metavar="N", help="sequences (default: 8; base, large: 1)")
    parser.add_argument("--seq", type=int, default=128, metavar="N", help="tokens in each (default: 128)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of weights and batch (default: 0)")
    parser.add_argument("--text", metavar="FILE", help="UTF-8 text to read (default: text that comes with Python)")
    parser.add_argument("--json", metavar="FILE", help="also write everything as JSON")
    parser.add_argument("--plot", metavar="FILE", help="also draw it, as .svg, .png or .pdf (needs refscale[plots])")
    parser.add_argument("--all", action="store_true", help="a line for every tensor, however large the model")
