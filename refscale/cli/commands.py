"""What each command does: read its arguments, call the package, print."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refscale.cli.arguments import DEFAULT_MODEL
from refscale.errors import ArgumentError, counted
from refscale.files import name_of

if TYPE_CHECKING:
    from refscale.analysis import FidelityReport
    from refscale.stats import Report
    from refscale.tasks import Data, SpanData
    from refscale.train import TrainConfig

SMALL = 20_000_000
"""Parameters: models with fewer get a batch of 8 by default; others get 1."""


def _report(args: argparse.Namespace) -> None:
    from refscale import analysis
    from refscale.analysis.report.first_step import work
    from refscale.precision import get_precision
    from refscale.progress import Progress

    if args.model and args.option and args.model != args.option:
        raise ArgumentError(f"report: two models, {args.model!r} and --model {args.option!r}, expected one")
    if args.pretrained:
        _report_pretrained(args)
        return
    if args.checkpoint:
        _report_checkpoint(args)
        return
    if args.flops and (args.plot or args.html):
        other = "--plot" if args.plot else "--html"
        raise ArgumentError(f"report: --flops with {other}, expected one of the two")
    model = args.model or args.option or DEFAULT_MODEL
    data = _first_data(args, model)
    schemes = ("regular", "unit") if args.scheme == "both" else (args.scheme,)
    precision = get_precision(args.precision or "fp32")
    if args.plot:
        analysis.check_plot(args.plot)
    _check_directories(args.plot, args.json, args.html)
    if args.flops:
        counts = [
            analysis.count_flops(model, scheme, **{k: v for k, v in data.items() if k != "text"}) for scheme in schemes
        ]
        if args.json:
            analysis.save_flops(args.json, counts)
        print("\n".join(analysis.render_flops(counts)))
        return
    reports = []
    for scheme in schemes:
        with Progress(work(model), "M elements", f"{model} {scheme}") as progress:
            reports.append(
                analysis.report(
                    model,
                    scheme,
                    precision,
                    seed=args.seed,
                    progress=progress,
                    **data,
                )
            )
    _show(args, reports)


def _first_data(args: argparse.Namespace, model: str) -> dict[str, Any]:
    """The options of a built-in model's data and constraint; none for a program, which defines them itself."""
    from refscale.analysis.report.first_step import work
    from refscale.programs import is_place

    if is_place(model):
        if names := _given(args, _OF_A_TEXT):
            raise ArgumentError(f"report: {model} with {names}, which a program defines itself")
        return {}
    batch = args.batch
    if batch is None:
        batch = 8 if 5e5 * work(model) < SMALL else 1
    return {"constraint": args.constraint, "batch": batch, "seq": args.seq, "text": args.text}


def _report_checkpoint(args: argparse.Namespace) -> None:
    from refscale import analysis
    from refscale.progress import Progress
    from refscale.train import checkpoint_report, load_checkpoint, newest

    if names := _given(args, _OF_A_MODEL):
        raise ArgumentError(f"report: --checkpoint {args.checkpoint!r} with {names}, but a checkpoint has its own")
    if args.plot:
        analysis.check_plot(args.plot)
    _check_directories(args.plot, args.json, args.html)
    path = Path(args.checkpoint)
    checkpoint = newest(path) if path.is_dir() else load_checkpoint(path)
    parameters = sum(p.size for p in checkpoint.state.parameters.values())
    with Progress(2 * parameters / 1e6, "M elements", checkpoint.config.model) as progress:
        _show(args, [checkpoint_report(checkpoint, text=args.text, progress=progress)])


def _fidelity(args: argparse.Namespace) -> None:
    from refscale import analysis
    from refscale.analysis.fidelity.run import POLICIES, passes
    from refscale.programs import load_program
    from refscale.progress import Progress

    if args.plot:
        analysis.check_plot(args.plot)
    _check_directories(args.plot, args.json)
    program = load_program(args.model)
    policies = (args.precision,) if args.precision else POLICIES
    schemes = None if args.scheme == "both" else (args.scheme,)
    with Progress(passes(program, policies, schemes), "passes", args.model) as progress:
        report = analysis.fidelity(program, policies=policies, schemes=schemes, seed=args.seed, progress=progress)
    _show_fidelity(args, report)


def _show_fidelity(args: argparse.Namespace, report: FidelityReport) -> None:
    from refscale import analysis

    if args.json:
        analysis.save_fidelity(args.json, report)
    if args.plot:
        analysis.plot_fidelity(args.plot, report)
    print(analysis.render_fidelity(report), end="")


def _report_pretrained(args: argparse.Namespace) -> None:
    from refscale import analysis
    from refscale.analysis.fidelity.run import POLICIES, passes
    from refscale.progress import Progress
    from refscale.train import load_trained

    if names := _given(args, _NOT_OF_A_TRAINED_MODEL):
        raise ArgumentError(f"report: --pretrained {args.pretrained!r} with {names}, which it does not take")
    if args.plot:
        analysis.check_plot(args.plot)
    _check_directories(args.plot, args.json)
    model = load_trained(args.pretrained, args.text)
    policies = (args.precision,) if args.precision else POLICIES
    schemes = None if args.scheme == "both" else (args.scheme,)
    batch = 2 if args.batch is None else args.batch
    with Progress(passes(model, policies, schemes), "passes", name_of(args.pretrained)) as progress:
        report = analysis.fidelity(
            model,
            policies=policies,
            schemes=schemes,
            text=args.text,
            batch=batch,
            seq=args.seq,
            seed=args.seed,
            progress=progress,
        )
    _show_fidelity(args, report)


def _given(args: argparse.Namespace, defaults: Mapping[str, object]) -> str:
    """The options among these that are not at their defaults, as they are written; empty if there are none."""
    given = [name for name, value in defaults.items() if getattr(args, name) != value]
    return ", ".join({"model": f"MODEL {args.model}", "option": "--model"}.get(name, f"--{name}") for name in given)


_OF_A_MODEL: dict[str, object] = {
    "model": None,
    "option": None,
    "scheme": "both",
    "precision": None,
    "constraint": "geometric",
    "batch": None,
    "seq": 128,
    "seed": 0,
    "flops": False,
}
"""Options of ``report`` that say what a checkpoint knows, with their defaults."""

_OF_A_TEXT: dict[str, object] = {"constraint": "geometric", "batch": None, "seq": 128, "text": None}
"""Options of ``report`` that a program defines itself, with their defaults."""

_NOT_OF_A_TRAINED_MODEL: dict[str, object] = {
    "model": None,
    "option": None,
    "constraint": "geometric",
    "checkpoint": None,
    "flops": False,
    "html": None,
    "all": False,
}
"""Options of ``report`` that say nothing to ``--pretrained``, with their defaults."""


def _show(args: argparse.Namespace, reports: list[Report]) -> None:
    from refscale import analysis

    if args.json:  # files first: a reader that goes away early takes no result along
        analysis.save(args.json, reports)
    if args.html:
        analysis.save_html(args.html, reports)
    if args.plot:
        analysis.plot(args.plot, reports)
    print(analysis.render(reports, everything=args.all), end="")


def _formats(args: argparse.Namespace) -> None:
    from refscale.analysis.tables.formats import format_table

    print("\n".join(format_table()))


def _snr(args: argparse.Namespace) -> None:
    from refscale import analysis

    if args.plot:
        analysis.check_plot(args.plot)
    _check_directories(args.plot)
    if args.blocks:
        if args.formats:
            raise ArgumentError("snr: --blocks is a table of its own, without --formats")
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
    """The matrices of a trained model, with their rows along the inputs that products sum over."""
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
    print("α: factor of the output. β: of the gradient of each input; - is none. statistic: what α normalizes,")
    print("where it matters. constrained: α = β of the first input by the recipe, if its edge is no cut-edge.\n")
    print(ops_table.render(rows))


def _measure(args: argparse.Namespace) -> None:
    from refscale.analysis.tables import measure

    _check_directories(args.json)
    shapes = measure.parse_shapes(args.shape)
    found = measure.measure(measure.load_function(args.measure), shapes, repeat=args.repeat, seed=args.seed)
    if args.json:
        measure.save_measured(args.json, args.measure, shapes, found)
    print(f"{args.measure}, inputs and incoming gradient N(0, 1), {args.repeat} runs, seed {args.seed}.")
    print("rule: the factor of the op, if the function is one op. A right one is outside about once in 20;")
    print("one that keeps a state or a mean, such as α of recurrent cells and of softmax, is so on purpose.")
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

    _check_directories(args.predictions, args.null_odds)
    data = _span_data(args)
    run = _run(args, replace(FINE_TUNING, model=name_of(args.pretrained)), data)
    if args.predictions or args.null_odds or args.save:
        finetuned.write(run, data, args.out, args.predictions, args.null_odds, args.save)


def _span_data(args: argparse.Namespace) -> SpanData:
    from refscale.tasks import SpanData

    return SpanData(args.pretrained, args.train, args.dev, args.text)


def _run(args: argparse.Namespace, default: TrainConfig, data: Data) -> TrainConfig:
    """Train, or continue to; returns the configuration."""
    from refscale.progress import Progress
    from refscale.train import train
    from refscale.train.loop import read_config

    out = Path(args.out)
    given = {f.name: getattr(args, f.name) for f in fields(default) if hasattr(args, f.name)}
    resumed = args.resume and (out / "config.json").exists()
    config = replace(read_config(out)[0] if resumed else default, **given)  # what differs is refused by name
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
        weight_decay=0.0,  # λ times a learning rate would be another decay under every scheme
        evaluate_every=base.steps,
        checkpoint_every=max(1, base.steps // 5),
    )
    if args.plot:
        analysis.check_plot(args.plot)
    _check_directories(args.plot)
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
    from refscale import analysis
    from refscale.progress import Progress
    from refscale.sweep import draw, load_spec, open_executor, read_rows, summary, sweep
    from refscale.sweep.rows import RESULTS

    spec = load_spec(args.spec)
    if args.plot:
        analysis.check_plot(args.plot)
    _check_directories(args.plot)
    if args.report:
        if not (Path(args.out) / RESULTS).exists():
            raise ArgumentError(f"sweep: {args.out!r} holds no sweep, expected a directory with {RESULTS}")
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


def _accumulator(args: argparse.Namespace) -> int:
    from refscale.cli import accumulator

    _check_directories(args.json)
    return accumulator.accumulator(args)


def _bring(args: argparse.Namespace) -> None:
    from refscale.cli import bring

    _check_directories(args.json)
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


def _check_directories(*paths: str | None) -> None:
    """Say before a long run that its result could not be written."""
    for path in paths:
        if path and not Path(path).parent.is_dir():
            raise ArgumentError(f"cannot write {path!r}: there is no directory {str(Path(path).parent)!r}")
        if path and Path(path).is_dir():
            raise ArgumentError(f"cannot write {path!r}: it is a directory")
