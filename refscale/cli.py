"""One command, thin: ``refscale report``, ``train``, ``compare``, …; also ``python -m refscale``."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refscale import __version__
from refscale.errors import ArgumentError, RefscaleError

if TYPE_CHECKING:
    from refscale.analysis import Report

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
        if args.command is None:
            args = _parser().parse_args(["report"])
        _COMMANDS[args.command](args)
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
    if args.checkpoint:
        _report_checkpoint(args)
        return
    if args.flops and args.plot:
        raise ArgumentError("report: --flops with --plot, expected one of the two")
    model = args.model or args.option or DEFAULT_MODEL
    batch = args.batch if args.batch is not None else 8 if model in SMALL else 1
    schemes = ("regular", "unit") if args.scheme == "both" else (args.scheme,)
    precision = get_precision(args.precision)
    if args.plot:
        analysis.check_plot(args.plot)
    _check_directories(args.plot, args.json)
    if args.flops:
        counts = [
            analysis.count_flops(model, scheme, batch=batch, seq=args.seq, constraint=args.constraint)
            for scheme in schemes
        ]
        if args.json:
            analysis.save_flops(args.json, counts)
        print("\n".join(analysis.render_flops(counts)))
        return
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
    _show(args, reports)


def _report_checkpoint(args: argparse.Namespace) -> None:
    from refscale import analysis
    from refscale.progress import Progress
    from refscale.train import checkpoint_report, load_checkpoint
    from refscale.train.report import newest

    given = [name for name, value in _OF_A_MODEL.items() if getattr(args, name) != value]
    if given:
        names = ", ".join("--model" if name == "option" else f"--{name}" for name in given)
        raise ArgumentError(f"report: --checkpoint {args.checkpoint!r} with {names}, but a checkpoint has its own")
    if args.plot:
        analysis.check_plot(args.plot)
    _check_directories(args.plot, args.json)
    path = Path(args.checkpoint)
    checkpoint = newest(path) if path.is_dir() else load_checkpoint(path)
    parameters = sum(p.size for p in checkpoint.state.parameters.values())
    with Progress(2 * parameters / 1e6, "M elements", checkpoint.config.model) as progress:
        _show(args, [checkpoint_report(checkpoint, text=args.text, progress=progress)])


_OF_A_MODEL: dict[str, object] = {
    "model": None,
    "option": None,
    "scheme": "both",
    "precision": "fp32",
    "constraint": "geometric",
    "batch": None,
    "seq": 128,
    "seed": 0,
    "flops": False,
}
"""Options of ``report`` that say what a checkpoint knows, with their defaults."""


def _show(args: argparse.Namespace, reports: list[Report]) -> None:
    from refscale import analysis

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


def _train(args: argparse.Namespace) -> None:
    from refscale.progress import Progress
    from refscale.train import TrainConfig, train
    from refscale.train.loop import read_config

    given = {f.name: getattr(args, f.name) for f in fields(TrainConfig) if hasattr(args, f.name)}
    out = Path(args.out)
    if args.resume and (out / "config.json").exists():
        config = replace(read_config(out)[0], **given)  # what differs is refused by name
    else:
        config = TrainConfig(**given)
    with Progress(config.steps, "steps", f"{config.model} {config.scheme} {config.precision}") as progress:
        summary = train(config, out, text=args.text, resume=args.resume, progress=progress, report=progress.print)
    print(f"{config.steps} steps in {summary.seconds:.0f} s; {out}")


def _compare(args: argparse.Namespace) -> None:
    from refscale import analysis
    from refscale.progress import Progress
    from refscale.train import TrainConfig
    from refscale.train.comparison import SWEEP, VARIANTS, compare
    from refscale.train.tables import tables

    base = TrainConfig(
        model=args.model,
        steps=args.steps,
        batch=args.batch,
        seq=args.seq,
        weight_decay=0.0,  # λ times a learning rate would be another decay under every scheme
        evaluate_every=args.steps,
        evaluation_batches=args.evaluation_batches,
        checkpoint_every=max(1, args.steps // 5),
    )
    if args.plot:
        analysis.check_plot(args.plot)
    _check_directories(args.plot)
    runs = len(VARIANTS) * args.seeds + len(SWEEP) + 3 * len({v.scheme for v in VARIANTS})
    with Progress(runs, "runs", "compare") as progress:
        result = compare(
            base,
            args.out,
            seeds=range(args.seeds),
            variants=VARIANTS + SWEEP,
            jobs=args.jobs,
            text=args.text,
            progress=progress,
        )
    if args.plot:
        analysis.plot_losses(args.plot, result.losses())
    print(tables(result), end="")


def _scales(args: argparse.Namespace) -> None:
    from refscale import analysis

    if args.plot:
        analysis.check_plot(args.plot)
    _check_directories(args.plot, args.json)
    drifts = [analysis.read_drift(out) for out in args.runs]
    if args.json:
        analysis.save_drifts(args.json, drifts)
    if args.plot:
        analysis.plot_drift(args.plot, drifts)
    print("\n".join(analysis.render_drift(drifts)))


_COMMANDS = {
    "report": _report,
    "scales": _scales,
    "train": _train,
    "compare": _compare,
    "formats": _formats,
    "snr": _snr,
    "ops": _ops,
}


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
    _add_train(commands.add_parser("train", help="train a BERT on real text, in any scheme, precision, technique"))
    _add_compare(commands.add_parser("compare", help="train with every precision and technique; print the tables"))
    scales = commands.add_parser("scales", help="how the scales of tensors moved in runs of train")
    scales.add_argument("runs", nargs="+", metavar="DIR", help="directories of runs with --scales-every")
    scales.add_argument("--json", metavar="FILE", help="also write every tensor's scales as JSON")
    scales.add_argument("--plot", metavar="FILE", help="also draw it, as .svg, .png or .pdf (needs refscale[plots])")
    commands.add_parser("formats", help="the floating-point formats, in figures")
    snr = commands.add_parser("snr", help="signal-to-noise ratio of Gaussian numbers in each format, by their scale")
    snr.add_argument("--formats", metavar="A,B", help="names, separated by commas (default: FP16, BF16 and four FP8)")
    snr.add_argument("--plot", metavar="FILE", help="also draw it, as .svg, .png or .pdf (needs refscale[plots])")
    ops = commands.add_parser("ops", help="the op table: factors of every op at given sizes")
    ops.add_argument("--shape", default="", metavar="SIZES", help="such as b=1024,m=768,n=3072,s=512 (the default)")
    return parser


_MODEL_CONSTRAINTS = ("geometric", "harmonic", "arithmetic", "to_output_scale", "none")
"""Those of ``scales.CONSTRAINTS`` that fit every op of a model, whatever its number of constrained inputs."""


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
        choices=_MODEL_CONSTRAINTS,
        default="geometric",
        help="ties factors inside residual branches (default: geometric, the paper's; none: forks repay the rest)",
    )
    parser.add_argument("--batch", type=int, metavar="N", help="sequences (default: 8; base, large: 1)")
    parser.add_argument("--seq", type=int, default=128, metavar="N", help="tokens in each (default: 128)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of weights and batch (default: 0)")
    parser.add_argument("--text", metavar="FILE", help="UTF-8 text to read (default: text that comes with Python)")
    parser.add_argument("--json", metavar="FILE", help="also write everything as JSON")
    parser.add_argument("--plot", metavar="FILE", help="also draw it, as .svg, .png or .pdf (needs refscale[plots])")
    parser.add_argument("--checkpoint", metavar="PATH", help="of a run of train, in place of a model at initialization")
    parser.add_argument("--flops", action="store_true", help="count multiplications instead, and those by factors")
    parser.add_argument("--all", action="store_true", help="a line for every tensor, however large the model")


def _add_train(parser: argparse.ArgumentParser) -> None:
    from refscale.models.bert import CONFIGS
    from refscale.optim import OPTIMIZERS, SCHEDULES
    from refscale.precision import POLICIES
    from refscale.scales import SCHEMES
    from refscale.train import TrainConfig

    default = TrainConfig()
    parser.description = (
        "Train a BERT (masked LM and next sentence) on real text. Killed at any moment, the same command with --resume "
        "continues to the same bits."
    )

    def add(name: str, help: str, **options: Any) -> None:
        # No defaults here: what is not given is the configuration's own, or that of the run being resumed.
        shown = getattr(default, name.replace("-", "_"))
        suffix = "" if shown is None else f" (default: {shown})"
        parser.add_argument(f"--{name}", help=help + suffix, default=argparse.SUPPRESS, **options)

    parser.add_argument(
        "model",
        nargs="?",
        default=argparse.SUPPRESS,
        metavar="MODEL",
        help=f"{', '.join(CONFIGS)} (default: bert-mini)",
    )
    add("scheme", "how tensors are scaled", choices=list(SCHEMES))
    add("precision", f"{', '.join(POLICIES)}, or a mix such as store=bf16,operand=e4m3fn", metavar="NAME")
    add("scaling", "none, static:2^15, automatic, current or delayed: the rivals of unit scaling", metavar="NAME")
    add("constraint", "ties factors inside residual branches", choices=_MODEL_CONSTRAINTS)
    add("steps", "optimizer steps", type=int, metavar="N")
    add("batch", "sequences", type=int, metavar="N")
    add("seq", "tokens in each", type=int, metavar="N")
    add("lr", "peak learning rate, such as 0.01 or 2^-6 (default: the scheme's)", type=_power, metavar="RATE")
    add("optimizer", f"{', '.join(OPTIMIZERS)}; with options as in sgd:momentum=0.9, adamw:independent", metavar="NAME")
    add("weight-decay", "of the optimizer", type=float, metavar="X")
    add("schedule", "of the learning rate", choices=list(SCHEDULES))
    add("warmup", "steps of warm-up (default: a tenth)", type=int, metavar="N")
    add("halve-every", "steps between halvings, for that schedule", type=int, metavar="N")
    add("dropout", "probability", type=float, metavar="P")
    add("seed", "of weights, text, dropout and stochastic rounding", type=int, metavar="N")
    add("evaluate-every", "steps between validations", type=int, metavar="N")
    add("evaluation-batches", "batches of a validation", type=int, metavar="N")
    add("scales-every", "steps between records of every tensor's scale; 0: none", type=int, metavar="N")
    add("checkpoint-every", "steps between checkpoints", type=int, metavar="N")
    parser.add_argument("--text", metavar="FILE", help="UTF-8 text to read (default: text that comes with Python)")
    parser.add_argument("--out", required=True, metavar="DIR", help="directory of the run")
    parser.add_argument("--resume", action="store_true", help="continue the run in DIR, if there is one")


def _add_compare(parser: argparse.ArgumentParser) -> None:
    from refscale.train import TrainConfig

    default = TrainConfig()
    parser.description = (
        "Train one model in FP32, FP16, BF16 and FP8, regular, unit-scaled and with the rival techniques; choose a "
        "learning rate for each scheme. An interrupted comparison continues where it stopped."
    )
    parser.add_argument("model", nargs="?", default=default.model, metavar="MODEL", help=f"default: {default.model}")
    parser.add_argument("--steps", type=int, default=default.steps, metavar="N", help=f"default: {default.steps}")
    parser.add_argument("--batch", type=int, default=default.batch, metavar="N", help=f"default: {default.batch}")
    parser.add_argument("--seq", type=int, default=default.seq, metavar="N", help=f"default: {default.seq}")
    parser.add_argument("--evaluation-batches", type=int, default=64, metavar="N", help="default: 64")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="how many (default: 3)")
    parser.add_argument("--plot", metavar="FILE", help="also draw it, as .svg, .png or .pdf (needs refscale[plots])")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes at a time (default: 1)")
    parser.add_argument("--text", metavar="FILE", help="UTF-8 text to read (default: text that comes with Python)")
    parser.add_argument("--out", required=True, metavar="DIR", help="directory of the runs")


def _power(text: str) -> float:
    """``0.01`` or ``2^-6``."""
    base, caret, exponent = text.partition("^")
    return float(base) ** float(exponent) if caret else float(text)
