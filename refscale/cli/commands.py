"""What each command does: read its arguments, call the package, print."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from refscale.cli.arguments import DEFAULT_MODEL
from refscale.errors import ArgumentError

if TYPE_CHECKING:
    from refscale.analysis import Report

SMALL = ("bert-tiny", "bert-mini")
"""Models that get a batch of 8 by default; others get 1."""


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
    from refscale.analysis import ops_table

    rows = ops_table.rows(ops_table.parse_shape(args.shape))
    print("α: factor of the output. β: of the gradient of each input; - is none. statistic: what α normalizes, where")
    print("it matters. constrained: α = β of the first input by the recipe, for an edge that is no cut-edge.\n")
    print(ops_table.render(rows))


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


def _verify(args: argparse.Namespace) -> int:
    from refscale.cli import claims

    _check_directories(args.json)
    return claims.verify(args)


def _golden(args: argparse.Namespace) -> None:
    from refscale.cli import conformance

    conformance.golden(args)


def _conform(args: argparse.Namespace) -> int:
    from refscale.cli import conformance

    _check_directories(args.json)
    return conformance.conform(args)


COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "report": _report,
    "scales": _scales,
    "train": _train,
    "compare": _compare,
    "formats": _formats,
    "snr": _snr,
    "ops": _ops,
    "verify": _verify,
    "golden": _golden,
    "conform": _conform,
}


def _check_directories(*paths: str | None) -> None:
    """Say before a long run that its result could not be written."""
    for path in paths:
        if path and not Path(path).parent.is_dir():
            raise ArgumentError(f"cannot write {path!r}: there is no directory {str(Path(path).parent)!r}")
        if path and Path(path).is_dir():
            raise ArgumentError(f"cannot write {path!r}: it is a directory")
