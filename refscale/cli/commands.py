"""The function that runs each command: it reads the options, calls the package and prints."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refscale.cli.outputs import check_outputs
from refscale.errors import ArgumentError, counted
from refscale.files import name_of

if TYPE_CHECKING:
    from refscale.tasks import Data, SpanData
    from refscale.train import TrainConfig


def _report(args: argparse.Namespace) -> None:
    from refscale.cli import reports

    reports.report(args)


def _fidelity(args: argparse.Namespace) -> None:
    from refscale.cli import reports

    reports.fidelity(args)


def _formats(args: argparse.Namespace) -> None:
    from refscale.analysis.tables.formats import format_table

    print("\n".join(format_table()))


def _snr(args: argparse.Namespace) -> None:
    from refscale import analysis

    check_outputs(plot=args.plot)
    if args.blocks:
        if args.formats:
            raise ArgumentError("snr: --blocks with --formats, expected one of the two")
        if args.plot:
            analysis.plot_snr(args.plot, analysis.curves_over_scale())
        print("\n".join(analysis.render_block_snr(analysis.block_curves(_matrices(args.pretrained)))))
        return
    if args.pretrained:
        raise ArgumentError("snr: --pretrained is for --blocks")
    found = analysis.curves(args.formats.split(",")) if args.formats else analysis.curves()
    if args.plot:
        analysis.plot_snr(args.plot, found)
    print("\n".join(analysis.render_snr(found)))


def _matrices(directory: str | None) -> list[Any]:
    """Return the matrices of a trained model; the rows run along the inner dimension of their products."""
    if directory is None:
        return []
    from refscale.train import load_trained

    return [x.T for x in load_trained(directory).parameters.values() if x.ndim == 2]


def _ops(args: argparse.Namespace) -> None:
    if args.measure is not None:
        _measure(args)
        return
    if args.json:
        raise ArgumentError("ops: --json without --measure, expected both")
    from refscale.analysis.tables import ops as ops_table

    rows = ops_table.rows(ops_table.parse_shape(args.shape))
    print("α: factor of the output. β: factor of the gradient of each input; -: no gradient. statistic: the")
    print("statistic that α normalizes, if the choice matters. constrained: α = β of the first input, unless")
    print("its edge is a cut-edge.\n")
    print(ops_table.render(rows))


def _measure(args: argparse.Namespace) -> None:
    from refscale.analysis.tables import measure

    check_outputs(args.json)
    shapes = measure.parse_shapes(args.shape)
    found = measure.measure(measure.load_function(args.measure), shapes, repeat=args.repeat, seed=args.seed)
    if args.json:
        measure.save_measured(args.json, args.measure, shapes, found)
    print(f"{args.measure}, inputs and incoming gradient N(0, 1), {args.repeat} runs, seed {args.seed}.")
    print("rule: factor of the op, if the function is a single op. A correct rule lies outside the interval in")
    print("about 1 of 20 rows; factors that preserve a state or a mean (α of recurrent cells and of softmax)")
    print("lie outside by design.")
    print()
    print(measure.render_measured(found))


def _train(args: argparse.Namespace) -> None:
    from refscale.train import TrainConfig, default_config

    config = default_config(getattr(args, "model", TrainConfig().model))
    if config.task == "program" and args.text:
        raise ArgumentError(f"train: {config.model} with --text, but a program has its own data")
    _run(args, config, args.text)


def _finetune(args: argparse.Namespace) -> None:
    from refscale.cli import finetuned
    from refscale.train import FINE_TUNING

    check_outputs(args.predictions, args.null_odds)
    data = _span_data(args)
    run = _run(args, replace(FINE_TUNING, model=name_of(args.pretrained)), data)
    if args.predictions or args.null_odds or args.save:
        finetuned.write(run, data, args.out, args.predictions, args.null_odds, args.save)


def _span_data(args: argparse.Namespace) -> SpanData:
    from refscale.tasks import SpanData

    return SpanData(args.pretrained, args.train, args.dev, args.text)


def _run(args: argparse.Namespace, default: TrainConfig, data: Data) -> TrainConfig:
    """Train or resume a run, and return its configuration."""
    from refscale.progress import Progress
    from refscale.train import train
    from refscale.train.loop import read_config

    out = Path(args.out)
    given = {f.name: getattr(args, f.name) for f in fields(default) if hasattr(args, f.name)}
    resumed = args.resume and (out / "config.json").exists()
    config = replace(read_config(out)[0] if resumed else default, **given)  # train refuses differences by name
    with Progress(config.steps, "steps", f"{config.model} {config.scheme} {config.precision}") as progress:
        summary = train(config, out, data=data, resume=args.resume, progress=progress, report=progress.print)
    print(f"{counted(config.steps, 'step')} in {summary.seconds:.0f} s; {out}")
    return config


def _compare(args: argparse.Namespace) -> None:
    from refscale import analysis
    from refscale.progress import Progress
    from refscale.sweep import tables
    from refscale.sweep.comparison import BLOCKS, SWEEP, VARIANTS, compare
    from refscale.train import FINE_TUNING, TrainConfig, default_config

    if args.pretrained and args.model:
        raise ArgumentError(f"compare: MODEL {args.model!r} and --pretrained {args.pretrained!r}, expected one")
    if not args.pretrained and (args.train or args.dev):
        raise ArgumentError("compare: --train and --dev are for --pretrained")
    if args.pretrained:
        default = replace(FINE_TUNING, model=name_of(args.pretrained))
    else:
        default = default_config(args.model or TrainConfig().model)
    given = {
        name: value
        for name in ("model", "steps", "batch", "seq", "evaluation_batches")
        if (value := getattr(args, name)) is not None
    }
    base = replace(
        default, **({} if args.pretrained or default.task == "program" else {"evaluation_batches": 64}) | given
    )
    base = replace(
        base,
        weight_decay=0.0,  # decay scales with the learning rate, which differs between schemes
        evaluate_every=base.steps,
        checkpoint_every=max(1, base.steps // 5),
    )
    check_outputs(plot=args.plot)
    variants = BLOCKS if args.blocks else VARIANTS[base.task] + (SWEEP if base.task == "masked-lm" else ())
    runs = sum(v.seeds or args.seeds for v in variants) + 3 * len({v.scheme for v in variants})
    with Progress(runs, "runs", "compare") as progress:
        result = compare(
            base,
            args.out,
            seeds=args.seeds,
            variants=variants,
            jobs=args.jobs,
            data=_span_data(args) if args.pretrained else args.text,
            progress=progress,
        )
    if args.plot:
        analysis.plot_losses(args.plot, result.losses())
    print(tables(result), end="")


def _sweep(args: argparse.Namespace) -> None:
    from refscale.progress import Progress
    from refscale.sweep import draw, load_spec, open_executor, read_rows, summary, sweep
    from refscale.sweep.rows import RESULTS

    spec = load_spec(args.spec)
    check_outputs(plot=args.plot)
    if args.report:
        if not (Path(args.out) / RESULTS).exists():
            raise ArgumentError(f"sweep: {args.out!r} contains no sweep, expected a directory with {RESULTS}")
        rows = read_rows(args.out)
    else:
        runs = sum(c.seeds for c in spec.cells())
        with Progress(runs, "runs", "sweep") as progress, ExitStack() as stack:
            executor = stack.enter_context(open_executor(args.executor)) if args.executor else None
            rows = sweep(
                spec, args.out, executor=executor, jobs=args.jobs, data=args.text, keep=args.keep, progress=progress
            )
    if args.plot:
        draw(args.plot, spec, rows)
    print(summary(spec, rows), end="")


def _scales(args: argparse.Namespace) -> None:
    from refscale import analysis

    check_outputs(args.json, plot=args.plot)
    drifts = [analysis.read_drift(out) for out in args.runs]
    if args.json:
        analysis.save_drifts(args.json, drifts)
    if args.plot:
        analysis.plot_drift(args.plot, drifts)
    print("\n".join(analysis.render_drift(drifts)))


def _verify(args: argparse.Namespace) -> int:
    from refscale.cli import claims

    check_outputs(args.json)
    return claims.verify(args)


def _golden(args: argparse.Namespace) -> None:
    from refscale.cli import conformance

    conformance.golden(args)


def _conform(args: argparse.Namespace) -> int:
    from refscale.cli import conformance

    check_outputs(args.json)
    return conformance.conform(args)


def _accumulator(args: argparse.Namespace) -> int:
    from refscale.cli import accumulator

    check_outputs(args.json)
    return accumulator.accumulator(args)


def _bring(args: argparse.Namespace) -> None:
    from refscale.cli import bring

    bring.bring(args)


COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "report": _report,
    "fidelity": _fidelity,
    "scales": _scales,
    "train": _train,
    "finetune": _finetune,
    "compare": _compare,
    "sweep": _sweep,
    "bring": _bring,
    "formats": _formats,
    "snr": _snr,
    "ops": _ops,
    "verify": _verify,
    "golden": _golden,
    "conform": _conform,
    "accumulator": _accumulator,
}
