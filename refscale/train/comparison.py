"""The comparison: every precision and every scaling technique, on the same text, from the same seeds.

What the paper's Table 1 says in words and its Table 2 on SQuAD, at a size that a laptop can check: the validation loss
of a masked language model.  A learning rate is chosen for each scheme in FP32, on a grid of powers of two; nothing else
is tuned.  Runs stand in directories of their own, and a comparison that was interrupted continues where it stopped.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from refscale import memory
from refscale.engine import Tape
from refscale.errors import ArgumentError, DataError, DivergedError
from refscale.layers import on_tape
from refscale.progress import Progress
from refscale.train.config import DEFAULT_LOG2_LR, TASKS, TrainConfig
from refscale.train.loop import train, write_json
from refscale.train.run import Data, Run

SCHEMA = "refscale.comparison/1"


@dataclass(frozen=True)
class Variant:
    """One row of the comparison.

    Attributes:
        scheme, precision, scaling: names.
        seeds: how many of the comparison's seeds it is run with; None for all.
    """

    scheme: str
    precision: str
    scaling: str = "none"
    seeds: int | None = None

    @property
    def name(self) -> str:
        """``regular fp8 automatic``."""
        return " ".join((self.scheme, self.precision, *([self.scaling] if self.scaling != "none" else [])))


STATIC = "static:2^15"
"""A loss scale for FP16 and FP8; the paper needed 512 and 32768 for its two BERTs."""

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
"""Block-scaled formats, and the same elements with one scale to a tensor, or none."""

VARIANTS = {"masked-lm": _PRETRAINING, "squad": _FINE_TUNING}
"""The rows that are compared if nothing is said, by task."""

SWEEP = tuple(Variant("regular", "fp16", f"static:2^{e}", seeds=1) for e in (-10, -5, 20, 25))
"""What a static loss scale costs in tuning: the same run at other scales, one seed each.

A scale below 1 stands for a larger batch: the gradients of a mean over 2^10 times as many words are as small.
"""


@dataclass(frozen=True)
class RunResult:
    """What one run of a comparison came to.

    Attributes:
        variant, seed, log2_lr: which run.
        loss, accuracy: the task's two scores: of masked words, on the held-out text; or of questions, with F1 in place
            of the accuracy.  None if it diverged.
        diverged: the message, or empty.
        seconds: it took, on one thread.
        flushed: share of the elements of gradients that casts of one place took to zero in the first step, of the
            place where it is largest; None if nothing was recorded.
        dead: share of the gradients that were all zero in the last recorded step.
        overhead: totals of ``precision.Outcome``.
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
        base: what the runs have in common.
        seeds: that every variant was run with.
        grid: validation loss of the FP32 runs by scheme and log2 of the learning rate; None where it diverged.
        log2_lr: chosen, by scheme.
        factors: how many constants other than 1 a step multiplies by, by scheme.
        runs: of the variants, in their order.
    """

    base: TrainConfig
    seeds: tuple[int, ...]
    grid: dict[str, dict[float, float | None]]
    log2_lr: dict[str, float]
    factors: dict[str, int]
    runs: tuple[RunResult, ...]

    def of(self, variant: Variant) -> list[RunResult]:
        """The runs of one variant, by seed."""
        return [r for r in self.runs if r.variant == variant]

    def losses(self) -> dict[str, list[float | None]]:
        """The losses of every variant by its name, for ``analysis.plot_losses``; None where a run diverged."""
        return {v.name: [r.loss for r in self.of(v)] for v in dict.fromkeys(r.variant for r in self.runs)}


def compare(
    base: TrainConfig,
    out: str | Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    variants: Sequence[Variant] | None = None,
    jobs: int = 1,
    data: Data = None,
    progress: Progress | None = None,
) -> Comparison:
    """Choose learning rates, run everything, write ``comparison.json``.

    Args:
        base: model, steps, batch and so on; scheme, precision, scaling, learning rate and seed are replaced.
        out: directory, made if it does not exist; runs that are there already are not repeated.
        seeds: at least one.
        variants: rows; None: ``VARIANTS`` of the task, and the ``SWEEP`` of pre-training.
        jobs: processes at a time, each with one BLAS thread; they keep freed memory, see ``memory.keep``.
        data: see ``train``.
        progress: advanced by one per run.

    Returns:
        All results.

    Raises:
        ArgumentError: no seed, no variant, or jobs < 1; or ``out`` holds other runs.
        DataError: the data cannot be used.
    """
    if variants is None:
        variants = VARIANTS[base.task] + (SWEEP if base.task == "masked-lm" else ())
    if not seeds or not variants or jobs < 1:
        raise ArgumentError(
            f"compare(seeds={tuple(seeds)}, {len(variants)} variants, jobs={jobs}): expected at least one of each"
        )
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))  # read by the BLAS of each new process
    try:
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), memory.keep) as pool:
            work = _Pool(pool, base, out, data, progress)
            schemes = tuple(dict.fromkeys(v.scheme for v in variants))
            grid = _grid(work, schemes, seeds[0])
            log2_lr = {scheme: _best(losses) for scheme, losses in grid.items()}
            wanted = [(v, seed, log2_lr[v.scheme]) for v in variants for seed in seeds[: v.seeds]]
            found = work.run(wanted, seeds[0])
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    factors = {scheme: _count_factors(replace(base, scheme=scheme), data) for scheme in schemes}
    comparison = Comparison(base, tuple(seeds), grid, log2_lr, factors, tuple(found))
    write_json(out / "comparison.json", to_content(comparison))
    return comparison


_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_Job = tuple[Variant, int, float]


@dataclass(frozen=True, eq=False)
class _Pool:
    pool: ProcessPoolExecutor
    base: TrainConfig
    out: Path
    data: Data
    progress: Progress | None

    def run(self, jobs: Sequence[_Job], traced_seed: int) -> list[RunResult]:
        """The results of jobs, in their order; of the traced seed every tensor's scale is recorded, too."""
        futures = {
            self.pool.submit(_run, self._config(job, traced_seed), str(self.out / _directory(job)), self.data): job
            for job in dict.fromkeys(jobs)
        }
        found = {}
        for future in as_completed(futures):
            job = futures[future]
            found[job] = _result(job, future.result(), self.out / _directory(job))
            if self.progress:
                self.progress.advance(1, job[0].name)
        return [found[job] for job in jobs]

    def _config(self, job: _Job, traced_seed: int) -> TrainConfig:
        variant, seed, log2_lr = job
        return replace(
            self.base,
            scheme=variant.scheme,
            precision=variant.precision,
            scaling=variant.scaling,
            seed=seed,
            lr=2.0**log2_lr,
            scales_every=max(1, self.base.steps // 10) if seed == traced_seed else 0,
        )


def _directory(job: _Job) -> str:
    variant, seed, log2_lr = job
    return f"{variant.name.replace(' ', '_').replace(':', '-').replace('^', '')}_lr{log2_lr:g}_seed{seed}"


def _run(config: TrainConfig, out: str, data: Data) -> dict[str, Any]:
    """One run, in a process of its own: continued if it was interrupted, read if it is done."""
    path = Path(out) / "summary.json"
    if not path.exists():
        with suppress(DivergedError):  # summary.json says so
            train(config, out, data=data, resume=True, report=lambda _: None)
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if summary["config"] != asdict(config):
        raise ArgumentError(f"compare: {out!r} holds another run; choose another directory")
    return summary


def _result(job: _Job, summary: dict[str, Any], out: Path) -> RunResult:
    variant, seed, log2_lr = job
    validation = None if summary["diverged"] else summary["validation"]
    loss, share = TASKS[summary["config"]["task"]]
    return RunResult(
        variant,
        seed,
        log2_lr,
        validation and validation[loss],
        validation and validation[share],
        summary["diverged"],
        summary["seconds"],
        *_lost(out / "scales.jsonl"),
        summary["overhead"],
    )


def _lost(path: Path) -> tuple[float | None, float | None]:
    """(flushed, dead) of a ``RunResult``."""
    if not path.exists():
        return None, None
    first, *_, last = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] * 2
    casts = [c for c in first["casts"] if c["place"] in ("gradient", "operand_gradient")]
    gradients = [t["scale"] for t in last["tensors"] if t["judged"] and "gradient" in t["kind"]]
    flushed = max((c["flushed"] / c["elements"] for c in casts if c["elements"]), default=0.0)
    return flushed, gradients.count(0) / len(gradients)


def _count_factors(config: TrainConfig, data: Data) -> int:
    """How many constants other than 1 a training step multiplies by: α of every call, β of every gradient."""
    run = Run.of(config, data)
    tape = Tape(run.scheme)
    run.task.loss(on_tape(tape, run.initial_state().parameters, run.specs), next(run.batches(0)))
    return sum(
        (node.scales.alpha != 1)
        + sum(v.requires_grad and b not in (None, 1) for v, b in zip(node.inputs, node.scales.beta, strict=True))
        for node in tape.nodes
    )


# --- learning rates ---------------------------------------------------------------------------------------------------


def _grid(work: _Pool, schemes: Iterable[str], seed: int) -> dict[str, dict[float, float | None]]:
    """FP32 losses on a grid of powers of two around each scheme's default, extended until the best is inside."""
    losses: dict[str, dict[float, float | None]] = {s: {} for s in schemes}
    wanted = {s: [DEFAULT_LOG2_LR[work.base.task][s] + k for k in (-1, 0, 1)] for s in schemes}
    while any(wanted.values()):
        jobs = [(Variant(s, "fp32"), seed, e) for s, exponents in wanted.items() for e in exponents]
        for result in work.run(jobs, seed):
            losses[result.variant.scheme][result.log2_lr] = result.loss
        wanted = {s: list(_beyond(losses[s])) for s in schemes}
    return {s: dict(sorted(found.items())) for s, found in losses.items()}


def _beyond(losses: dict[float, float | None]) -> Iterator[float]:
    """The next exponent beyond an edge of the grid that is its best; none if the best is inside."""
    best = _best(losses)
    if best == min(losses):
        yield best - 1
    elif best == max(losses):
        yield best + 1


def _best(losses: dict[float, float | None]) -> float:
    """The exponent with the lowest loss; if all diverged, the smallest."""
    return min(losses, key=lambda e: (math.inf if losses[e] is None else losses[e], e))


# --- files ------------------------------------------------------------------------------------------------------------


def to_content(comparison: Comparison) -> dict[str, Any]:
    """As plain values for JSON."""
    return {
        "schema": SCHEMA,
        "base": asdict(comparison.base),
        "seeds": list(comparison.seeds),
        "grid": {s: [[e, loss] for e, loss in found.items()] for s, found in comparison.grid.items()},
        "log2_lr": comparison.log2_lr,
        "factors": comparison.factors,
        "runs": [asdict(r) for r in comparison.runs],
    }


def load_comparison(path: str | Path) -> Comparison:
    """Read ``comparison.json``.

    Raises:
        DataError: it is no such file.
        OSError: it cannot be read.
    """
    call = f"load_comparison({str(path)!r})"
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise DataError(f"{call}: schema is {content['schema']!r}, expected {SCHEMA!r}")
        return Comparison(
            TrainConfig.from_mapping(content["base"], call),
            tuple(content["seeds"]),
            {s: {float(e): loss for e, loss in found} for s, found in content["grid"].items()},
            content["log2_lr"],
            content["factors"],
            tuple(RunResult(**{**r, "variant": Variant(**r["variant"])}) for r in content["runs"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{call}: {type(error).__name__} {error}, expected what compare writes") from error
