"""A comparison as Markdown tables, as ``refscale compare`` prints them and the docs show them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, stdev

from refscale.errors import counted
from refscale.precision import get_precision
from refscale.rivals import get_scaling
from refscale.sweep.comparison import Comparison, RunResult, Variant
from refscale.sweep.markdown import Table, render

REFERENCE = Variant("regular", "fp32")
"""Variant that every other row is compared with."""


def tables(comparison: Comparison) -> str:
    """Return all tables: learning rates, losses, costs of the techniques.

    Args:
        comparison: a comparison with at least one run.

    Returns:
        Markdown that is readable in a terminal.
    """
    base = comparison.base
    of = "" if base.task == "program" else f" of {base.batch} × {base.seq} tokens"
    setting = (
        f"{base.model}, {counted(base.steps, 'step')}{of}, {base.optimizer}, "
        f"{base.schedule} schedule; seeds {', '.join(map(str, comparison.seeds))}."
    )
    parts = (
        setting,
        render(_grid(comparison)),
        render(_losses(comparison)),
        render(_techniques(comparison)),
    )
    return "\n\n".join(parts) + "\n"


def _grid(c: Comparison) -> Table:
    """Yield validation losses of the FP32 runs, by scheme and learning rate."""
    exponents = sorted({e for losses in c.grid.values() for e in losses})
    yield ("loss by learning rate, FP32", *(f"2^{e:g}" for e in exponents))
    for scheme, losses in c.grid.items():
        cells = []
        for e in exponents:
            cell = _loss(losses[e]) if e in losses else ""
            cells.append(f"**{cell}**" if e == c.log2_lr[scheme] else cell)
        yield (scheme, *cells)


def _losses(c: Comparison) -> Table:
    """Yield one row for each variant.

    "flushed, first step": share of gradient elements that the casts of one place flush to zero, for the place with the
    largest share. "zero, last step": share of gradients that are all zero.
    """
    share = c.base.kind.share.rpartition("_")[2]  # a program has none
    head = (
        "run",
        "validation loss",
        "± sd",
        f"− {REFERENCE.name}",
        *([share] if share else []),
        "flushed, first step",
        "zero, last step",
        "seconds, least",
    )
    yield head
    reference = {r.seed: r.loss for r in c.of(REFERENCE)}
    for variant in dict.fromkeys(r.variant for r in c.runs):
        runs = c.of(variant)
        losses = [r.loss for r in runs if r.loss is not None]
        if len(losses) < len(runs):
            shown = [f"diverged in {len(runs) - len(losses)} of {len(runs)}", "", "", *([""] if share else [])]
        else:
            shown = [_loss(mean(losses)), _spread(losses), _difference(runs, reference)]
            known = [r.accuracy for r in runs if r.accuracy is not None]
            shown += [f"{mean(known):.1%}"] if share else []
        seconds = min(r.seconds for r in runs)  # of the least disturbed run
        lost = (_share(runs, [r.flushed for r in runs]), _share(runs, [r.dead for r in runs]))
        yield (variant.name, *shown, *lost, f"{seconds:.0f}")


def _techniques(c: Comparison) -> Table:
    """Yield the columns of the paper's Table 1 as numbers: per training step, mean over the runs."""
    yield (
        "technique",
        "scale factors",
        "chosen by hand",
        "changed while training",
        "statistics per step",
        "extra passes per step",
        "skipped steps",
        "state size",
    )
    for variant in dict.fromkeys(r.variant for r in c.runs if r.variant.seeds is None):
        runs = [r for r in c.of(variant) if not r.diverged]
        if not runs:
            continue
        scaled, blocks = variant.scheme != "regular", get_precision(variant.precision).blocks is not None
        if not (blocks or variant.scaling != "none" or (scaled and variant.precision == "fp8")):
            continue

        def per_step(name: str, runs: Sequence[RunResult] = runs) -> str:
            return f"{mean(r.overhead[name] for r in runs) / c.base.steps:.3g}"

        def per_run(name: str, runs: Sequence[RunResult] = runs) -> str:
            return f"{mean(r.overhead[name] for r in runs):.3g}"

        factors = [f"{c.factors[variant.scheme]} constants"] if scaled else []
        if not scaled or variant.scaling != "none" or blocks:
            factors.append(per_run("scales"))
        yield (
            variant.name,
            " and ".join(factors),
            ", ".join(get_scaling(variant.scaling).tuned) or "nothing",
            "every step" if variant.scaling == "current" or blocks else per_run("changes"),
            per_step("statistics"),
            per_step("extra_passes"),
            per_run("skipped"),
            per_run("state"),
        )


def _loss(x: float | None) -> str:
    return "diverged" if x is None else f"{x:.3f}"


def _spread(losses: Sequence[float]) -> str:
    return f"{stdev(losses):.3f}" if len(losses) > 1 else ""


def _difference(runs: Sequence[RunResult], reference: dict[int, float | None]) -> str:
    """Return mean and standard error of the loss minus the reference's of the same seed, text and weights."""
    pairs = [(r.loss, reference.get(r.seed)) for r in runs]
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    if len(differences) < len(pairs) or runs[0].variant == REFERENCE:
        return ""
    error = f" ± {stdev(differences) / math.sqrt(len(differences)):.3f}" if len(differences) > 1 else ""
    return f"{mean(differences):+.3f}{error}"


def _share(runs: Sequence[RunResult], shares: Sequence[float | None]) -> str:
    known = [share for share in shares if share is not None]
    return f"{mean(known):.1%}" if known and runs[0].variant.precision != "fp32" else ""
