"""The commands ``refscale report`` and ``refscale fidelity``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refscale.cli.arguments import DEFAULT_MODEL, PANELS
from refscale.cli.outputs import check_outputs
from refscale.errors import ArgumentError
from refscale.files import name_of

if TYPE_CHECKING:
    from refscale.stats import Report

SMALL = 20_000_000
"""Number of parameters below which a model has a batch of 8 by default; larger models have 1."""


def report(args: argparse.Namespace) -> None:
    """Print the scales of a model or a checkpoint or, with ``--pretrained``, the errors of narrow formats."""
    from refscale import analysis
    from refscale.analysis.report.first_step import work
    from refscale.precision import get_precision
    from refscale.progress import Progress

    if args.model and args.option and args.model != args.option:
        raise ArgumentError(f"report: two models, {args.model!r} and --model {args.option!r}, expected one")
    if args.panels and not args.plot:
        raise ArgumentError(f"report: --panels {args.panels} without --plot FILE, expected both")
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
    check_outputs(args.json, args.html, plot=args.plot)
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
    """Return the data options and constraint of a built-in model; none for a program, which defines its own."""
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
    from refscale.progress import Progress
    from refscale.train import checkpoint_report, load_checkpoint, newest

    if names := _given(args, _OF_A_MODEL):
        raise ArgumentError(f"report: --checkpoint {args.checkpoint!r} with {names}, but a checkpoint has its own")
    check_outputs(args.json, args.html, plot=args.plot)
    path = Path(args.checkpoint)
    checkpoint = newest(path) if path.is_dir() else load_checkpoint(path)
    parameters = sum(p.size for p in checkpoint.state.parameters.values())
    with Progress(2 * parameters / 1e6, "M elements", checkpoint.config.model) as progress:
        _show(args, [checkpoint_report(checkpoint, text=args.text, progress=progress)])


def fidelity(args: argparse.Namespace) -> None:
    """Print the errors of narrow formats in a program."""
    from refscale.programs import load_program

    check_outputs(args.json, plot=args.plot)
    _fidelity(args, load_program(args.model), args.model)


def _report_pretrained(args: argparse.Namespace) -> None:
    from refscale.train import load_trained

    if names := _given(args, _NOT_OF_A_TRAINED_MODEL):
        raise ArgumentError(f"report: --pretrained {args.pretrained!r} with {names}, not applicable to it")
    check_outputs(args.json, plot=args.plot)
    model = load_trained(args.pretrained, args.text)
    batch = 2 if args.batch is None else args.batch
    _fidelity(args, model, name_of(args.pretrained), text=args.text, batch=batch, seq=args.seq)


def _fidelity(args: argparse.Namespace, model: Any, name: str, **data: Any) -> None:
    from refscale import analysis
    from refscale.analysis.fidelity.run import POLICIES, passes
    from refscale.progress import Progress

    policies = (args.precision,) if args.precision else POLICIES
    schemes = None if args.scheme == "both" else (args.scheme,)
    with Progress(passes(model, policies, schemes), "passes", name) as progress:
        report = analysis.fidelity(model, policies=policies, schemes=schemes, seed=args.seed, progress=progress, **data)
    if args.json:
        analysis.save_fidelity(args.json, report)
    if args.plot:
        analysis.plot_fidelity(args.plot, report)
    print(analysis.render_fidelity(report), end="")


def _given(args: argparse.Namespace, defaults: Mapping[str, object]) -> str:
    """Return the options in ``defaults`` with another value, as the user writes them; empty if there are none."""
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
"""Options of ``report`` that a checkpoint defines itself, with their defaults."""

_OF_A_TEXT: dict[str, object] = {"constraint": "geometric", "batch": None, "seq": 128, "text": None}
"""Options of ``report`` that a program defines itself, with their defaults."""

_NOT_OF_A_TRAINED_MODEL: dict[str, object] = {
    "model": None,
    "option": None,
    "constraint": "geometric",
    "checkpoint": None,
    "flops": False,
    "html": None,
    "panels": None,
    "all": False,
}
"""Options of ``report`` that do not apply to ``--pretrained``, with their defaults."""


def _show(args: argparse.Namespace, reports: list[Report]) -> None:
    from refscale import analysis

    if args.json:  # written before printing: a closed pipe must not lose the result
        analysis.save(args.json, reports)
    if args.html:
        analysis.save_html(args.html, reports)
    if args.plot:
        analysis.plot(args.plot, reports, [PANELS[args.panels]] if args.panels else [*PANELS.values()])
    print(analysis.render(reports, everything=args.all), end="")
