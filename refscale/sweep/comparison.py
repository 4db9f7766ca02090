"""The comparison: every precision and every scaling technique, on the same text, from the same seeds.

It checks the statements of the paper's Table 1 and of its Table 2 on SQuAD (in full: tutorials/06-bert.md) at a size
that a laptop can run: the validation loss of a masked language model. A learning rate is chosen for each scheme in
FP32, on
a grid of powers of two; nothing else is tuned. Each run has its own directory, and the same call continues an
interrupted comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from refscale.engine import Tape, settle
from refscale.errors import ArgumentError, DataError, counted
from refscale.files import DATA, read_json, write_json
from refscale.programs import checked_loss, leaves
from refscale.progress import Progress
from refscale.records import check_schema, reading, record_content
from refscale.sweep.engine import sweep
from refscale.sweep.rows import Row
from refscale.sweep.spec import SweepSpec, run_id
from refscale.sweep.summary import outcomes
from refscale.tasks import Data
from refscale.train import Run, TrainConfig

SCHEMA = "refscale.comparison/1"


@dataclass(frozen=True)
class Variant:
    """One row of the comparison.

    Attributes:
        scheme, precision, scaling: names.
        seeds: number of the comparison's seeds that it uses; None: all.
    """

    scheme: str
    precision: str
    scaling: str = "none"
    seeds: int | None = None

    @property
    def name(self) -> str:
        """Name, such as ``regular fp8 automatic``."""
        return " ".join((self.scheme, self.precision, *([self.scaling] if self.scaling != "none" else [])))


STATIC = "static:2^15"
"""A loss scale for FP16 and FP8. The paper's BERTs had 512 (base), 32768 and 128 (large, its two phases)."""

_PRETRAINING = (
    Variant("regular", "fp32"),
    Variant("regular", "fp16"),
    Variant("regular", "fp8"),
    Variant("regular", "fp16", STATIC),
    Variant("regular", "fp16", "automatic"),
    Variant("regular", "fp8", STATIC),
    Variant("regular", "fp8", "automatic"),
    Variant("regular", "fp8", "current"),
    Variant("regular", "fp8", "delayed"),
    Variant("unit", "fp32"),
    Variant("unit", "fp16"),
    Variant("unit", "bf16"),
    Variant("unit", "fp8"),
    Variant("unit", "fp8-fnuz"),
    Variant("u-mup", "fp32"),
    Variant("u-mup", "fp8"),
)

_FINE_TUNING = (
    Variant("regular", "fp32"),
    Variant("regular", "fp8"),
    Variant("regular", "fp8", STATIC),
    Variant("regular", "fp8", "static:2^7"),
    Variant("regular", "fp8", "current"),
    Variant("unit", "fp32"),
    Variant("unit", "fp8"),
)

_PROGRAM = (
    Variant("regular", "fp32"),
    Variant("regular", "fp16"),
    Variant("regular", "fp8"),
    Variant("regular", "fp16", STATIC),
    Variant("regular", "fp8", STATIC),
    Variant("regular", "fp8", "current"),
    Variant("unit", "fp32"),
    Variant("unit", "fp16"),
    Variant("unit", "fp8"),
)

BLOCKS = (
    Variant("regular", "fp32"),
    Variant("regular", "mxfp8"),
    Variant("regular", "fp8-tiles"),
    Variant("regular", "mxfp4"),
    Variant("regular", "nvfp4"),
    Variant("regular", "fp4", "current"),
    Variant("unit", "fp32"),
    Variant("unit", "fp8"),
    Variant("unit", "mxfp8"),
    Variant("unit", "fp8-tiles"),
    Variant("unit", "mxfp4"),
    Variant("unit", "nvfp4"),
    Variant("unit", "fp4"),
    Variant("unit", "fp4", "current"),
)
"""Block-scaled formats, and the same elements with one scale for each tensor, or none."""

VARIANTS = {"masked-lm": _PRETRAINING, "next-token": _PRETRAINING, "squad": _FINE_TUNING, "program": _PROGRAM}
"""Default rows of the comparison, by task."""

SWEEP = tuple(Variant("regular", "fp16", f"static:2^{e}", seeds=1) for e in (-10, -5, 20, 25))
"""The tuning cost of a static loss scale: the same run at other scales, one seed each.

A scale below 1 represents a larger batch: the gradients of a mean over 2^10 times as many words are smaller by 2^-10.
"""


@dataclass(frozen=True)
class RunResult:
    """The result of one run of a comparison.

    Attributes:
        variant, seed, log2_lr: settings of the run.
        loss, accuracy: the task's two scores: for masked words, on the held-out text; for questions, with F1 as the
            accuracy. None if the run diverged; the accuracy of a program is None.
        diverged: message of a diverged run, else empty.
        seconds: duration on one thread.
        flushed: share of the gradients' elements that casts flushed to zero in the first step, for the place of casts
            with the largest share; None without records.
        dead: share of the gradients that were all zero in the last recorded step.
        overhead: totals of ``rivals.Outcome``.
    """

    variant: Variant
    seed: int
    log2_lr: float
    loss: float | None
    accuracy: float | None
    diverged: str
    seconds: float
    flushed: float | None
    dead: float | None
    overhead: dict[str, int]


@dataclass(frozen=True)
class Comparison:
    """All runs of a comparison.

    Attributes:
        base: common settings of the runs.
        seeds: seeds of every variant.
        grid: validation loss of the FP32 runs by scheme and log2 of the learning rate; None for a diverged run.
        log2_lr: chosen log2 of the learning rate, by scheme.
        factors: number of constants other than 1 in a step, by scheme.
        runs: runs of the variants, in their order.
    """

    base: TrainConfig
    seeds: tuple[int, ...]
    grid: dict[str, dict[float, float | None]]
    log2_lr: dict[str, float]
    factors: dict[str, int]
    runs: tuple[RunResult, ...]

    def of(self, variant: Variant) -> list[RunResult]:
        """Return the runs of one variant, by seed."""
        return [r for r in self.runs if r.variant == variant]

    def losses(self) -> dict[str, list[float | None]]:
        """Return the losses of every variant by name, for ``analysis.plot_losses``; None for a diverged run."""
        return {v.name: [r.loss for r in self.of(v)] for v in dict.fromkeys(r.variant for r in self.runs)}


def compare(
    base: TrainConfig,
    out: str | Path,
    *,
    seeds: int = 3,
    variants: Sequence[Variant] | None = None,
    jobs: int = 1,
    data: Data = None,
    progress: Progress | None = None,
) -> Comparison:
    """Choose learning rates, run everything, write ``comparison.json``.

    Args:
        base: model, steps, batch and so on; scheme, precision, scaling, learning rate and seed are replaced.
        out: directory, created if absent; existing runs are not repeated.
        seeds: number of seeds, at least one.
        variants: rows; None: ``VARIANTS`` of the task, and the ``SWEEP`` of pre-training.
        jobs: number of parallel processes, as in ``sweep``.
        data: data, as in ``train``.
        progress: progress bar, advanced by one per run.

    Returns:
        All results.

    Raises:
        ArgumentError: there is no seed or variant, jobs < 1, or ``out`` contains other runs or is in use.
        DataError: the data are not usable, or a run failed.
    """
    if variants is None:
        variants = VARIANTS[base.task] + (SWEEP if base.task == "masked-lm" else ())
    if seeds < 1 or not variants or jobs < 1:
        raise ArgumentError(
            f"compare(seeds={seeds}, {len(variants)} variants, jobs={jobs}): expected at least one of each"
        )
    out = Path(out)
    spec = to_spec(base, seeds, variants)
    rows = sweep(spec, out, jobs=jobs, data=data, traced=True, keep=True, progress=progress)
    failed = [row for row in rows.values() if row.status == "failed"]
    if failed:
        raise DataError(f"compare: {counted(len(failed), 'run')} could not be run; {failed[0].id}: {failed[0].message}")
    found = outcomes(spec, rows)
    schemes = tuple(dict.fromkeys(v.scheme for v in variants))
    grid = {scheme: _rates(rows, scheme) for scheme in schemes}
    log2_lr = {v.scheme: o.log2_lr for v, o in zip(variants, found, strict=True) if o.log2_lr is not None}
    runs = [
        _result(v, rows[run_id(o.cell.settings, log2_lr[v.scheme], seed)])
        for v, o in zip(variants, found, strict=True)
        for seed in range(o.cell.seeds)
    ]
    factors = {scheme: _count_factors(replace(base, scheme=scheme), data) for scheme in schemes}
    comparison = Comparison(base, tuple(range(seeds)), grid, log2_lr, factors, tuple(runs))
    write_json(out / "comparison.json", to_content(comparison))
    return comparison


def to_spec(base: TrainConfig, seeds: int, variants: Sequence[Variant]) -> SweepSpec:
    """Return a comparison as a sweep: rates are found in FP32 with seed 0, and shared by all variants of a scheme."""
    varied = ("scheme", "precision", "scaling")
    plain = {k: v for k, v in asdict(base).items() if k not in (*varied, "lr", "seed", "scales_every")}
    return SweepSpec(
        title="compare",
        base=plain,
        variants={v.name: {k: getattr(v, k) for k in varied} | {"seeds": v.seeds or seeds} for v in variants},
        seeds=seeds,
        rate_of={"precision": "fp32", "scaling": "none"},
    )


def _rates(rows: Mapping[str, Row], scheme: str) -> dict[float, float | None]:
    """Return the losses of the FP32 runs of seed 0 by exponent."""
    plain = {"scheme": scheme, "precision": "fp32", "scaling": "none"}
    return dict(sorted((r.log2_lr, r.loss) for r in rows.values() if r.settings == plain and r.seed == 0))


def _result(variant: Variant, row: Row) -> RunResult:
    return RunResult(
        variant=variant,
        seed=row.seed,
        log2_lr=row.log2_lr,
        loss=row.loss,
        accuracy=row.share,
        diverged=row.message,
        seconds=row.seconds,
        flushed=row.flushed,
        dead=row.dead,
        overhead=dict(row.overhead),
    )


def _count_factors(config: TrainConfig, data: Data) -> int:
    """Count the constants other than 1 in a training step: α of every call, β of every gradient."""
    run = Run.of(config, data)
    tape = Tape(run.scheme)
    settle(checked_loss(run.task, leaves(tape, run.task, run.initial_state().parameters), next(run.batches(0))).total)
    return sum(
        (node.scales.alpha != 1)
        + sum(v.requires_grad and b not in (None, 1) for v, b in zip(node.inputs, node.scales.beta, strict=True))
        for node in tape.nodes
    )


# --- files ------------------------------------------------------------------------------------------------------------


def to_content(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as plain values for JSON."""
    content = {
        "base": asdict(comparison.base),
        "seeds": list(comparison.seeds),
        "grid": {s: [[e, loss] for e, loss in found.items()] for s, found in comparison.grid.items()},
        "log2_lr": comparison.log2_lr,
        "factors": comparison.factors,
        "runs": [asdict(r) for r in comparison.runs],
    }
    return record_content(SCHEMA, content)


def load_comparison(path: str | Path) -> Comparison:
    """Read ``comparison.json``.

    Raises:
        DataError: the file is not a comparison.
        OSError: the file cannot be read.
    """
    call = f"load_comparison({str(path)!r})"
    with reading(call, "compare"):
        content = read_json(path, call, most=DATA)
        check_schema(content, SCHEMA, call)
        return Comparison(
            TrainConfig.from_mapping(content["base"], call),
            tuple(content["seeds"]),
            {s: {float(e): loss for e, loss in found} for s, found in content["grid"].items()},
            content["log2_lr"],
            content["factors"],
            tuple(RunResult(**{**r, "variant": Variant(**r["variant"])}) for r in content["runs"]),
        )
