"""Execution of a sweep: searches first, then every cell at its best rate; the same call continues an interrupted sweep.

A sweep's directory contains

==================  ==================================================================================================
``sweep.json``      title and base settings
``results.jsonl``   a line for every ended run, with any result
``runs/ID``         the files of ``train``, without its checkpoints
==================  ==================================================================================================
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from refscale.errors import ArgumentError, DivergedError, InUseError, RefscaleError
from refscale.files import locked, read_json, read_json_lines, write_json
from refscale.progress import Progress
from refscale.sweep.executors import Make, local
from refscale.sweep.rows import Row, append_row, drop_cut_line, read_rows
from refscale.sweep.search import best
from refscale.sweep.spec import Cell, Settings, SweepSpec, run_id
from refscale.sweep.summary import tried_rates
from refscale.tasks import Data, get_kind
from refscale.train import TrainConfig, train

DEATHS = 3
"""Number of deaths of its process after which a run counts as failed."""

POLL = 0.2
"""Seconds between checks of a directory that another process uses."""


def run_one(config: TrainConfig, out: str, data: Data, keep: bool) -> dict[str, Any]:
    """Run one configuration in a process of its own: continue an interrupted run, read the result of a completed one.

    Returns:
        The run's ``summary.json``, also for a diverged run; or {"failed": message}.

    Raises:
        ArgumentError: the directory contains another run.
    """
    directory = Path(out)
    path = directory / "summary.json"
    try:
        while not path.exists():
            try:
                train(config, out, data=data, resume=True, report=lambda _: None)
            except InUseError:  # by a worker that was given up as lost but still runs
                time.sleep(POLL)
    except DivergedError:
        pass  # summary.json has the message
    except ArgumentError as error:
        if "contains another run" in str(error):
            raise
        return {"failed": str(error)}
    except (RefscaleError, OSError, MemoryError) as error:
        return {"failed": f"{type(error).__name__}: {error}"}
    summary = read_json(path, f"sweep: {str(path)!r}")
    if summary["config"] != asdict(config):
        raise ArgumentError(f"sweep: {out!r} contains another run; choose another directory")
    if not keep:
        for checkpoint in directory.glob("checkpoint-*.npz"):
            checkpoint.unlink(missing_ok=True)
    return summary | dict(zip(("flushed", "dead"), lost(directory / "scales.jsonl"), strict=True))


def lost(path: Path) -> tuple[float | None, float | None]:
    """Return (flushed, dead) of a ``comparison.RunResult``, from a run's ``scales.jsonl``."""
    if not path.exists():
        return None, None
    first, *_, last = list(read_json_lines(path, f"sweep: {str(path)!r}")) * 2
    casts = [c for c in first["casts"] if c["place"] in ("gradient", "operand_gradient")]
    gradients = [t["scale"] for t in last["tensors"] if t["judged"] and "gradient" in t["kind"]]
    flushed = max((c["flushed"] / c["elements"] for c in casts if c["elements"]), default=0.0)
    return flushed, gradients.count(0) / len(gradients)


def to_row(id: str, settings: Settings, log2_lr: float, seed: int, summary: Mapping[str, Any]) -> Row:
    """Return the result of ``run_one`` as a row; to compare runs, a program's validation needs a score "loss"."""
    failed = summary.get("failed", "")
    if not failed and not summary["diverged"]:
        score = get_kind(summary["config"]["task"]).loss
        if score not in (summary["validation"] or {}):
            failed = f"no score {score!r} in the validation, expected one to compare runs by"
    if failed:
        return Row(
            id=id,
            settings=settings,
            log2_lr=log2_lr,
            seed=seed,
            status="failed",
            loss=None,
            share=None,
            message=failed,
            seconds=0.0,
            overhead={},
        )
    kind = get_kind(summary["config"]["task"])
    validation = None if summary["diverged"] else summary["validation"]
    return Row(
        id=id,
        settings=settings,
        log2_lr=log2_lr,
        seed=seed,
        status="diverged" if summary["diverged"] else "done",
        loss=validation and validation[kind.loss],
        share=validation and validation.get(kind.share),
        message=summary["diverged"],
        seconds=summary["seconds"],
        overhead=summary["overhead"],
        flushed=summary.get("flushed"),
        dead=summary.get("dead"),
    )


def sweep(
    spec: SweepSpec,
    out: str | Path,
    *,
    executor: Executor | None = None,
    jobs: int = 1,
    data: Data = None,
    traced: bool = False,
    keep: bool = False,
    progress: Progress | None = None,
) -> dict[str, Row]:
    """Run the missing runs of a sweep.

    Args:
        spec: definition of the sweep.
        out: directory, created if absent; existing runs are not repeated.
        executor: any ``concurrent.futures.Executor`` whose workers can access ``out``; None: processes of this machine.
        jobs: number of processes, each with one BLAS thread.
        data: data, as in ``train``.
        traced: whether to record the scales of every tensor in runs of seed 0.
        keep: whether to keep the checkpoints of runs.
        progress: progress bar, advanced by one per run.

    Returns:
        Rows by id. A diverged or failed run has a row. A run whose process died is tried again, and a failed run is
        tried again when the sweep is started again.

    Raises:
        ArgumentError: ``out`` contains another sweep or is in use by another process, or a setting is invalid.
        DataError: a file in ``out`` is invalid.
    """
    out = Path(out)
    if executor is None and jobs < 1:
        raise ArgumentError(f"sweep(jobs={jobs}): expected at least 1")
    for cell in spec.cells():  # reports every error in a spec before the first run
        spec.config(cell.settings, 0.0, 0)
        spec.search_of(spec.rate_settings(cell.settings))
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(locked(out, "sweep"))
        _claim(out, spec)
        drop_cut_line(out)

        def same() -> Executor:
            assert executor is not None
            return executor

        make: Make = stack.enter_context(local(jobs)) if executor is None else same
        rows = {id: row for id, row in read_rows(out).items() if row.status != "failed"}
        _Sweep(spec=spec, out=out, make=make, data=data, traced=traced, keep=keep, progress=progress, rows=rows).run()
        return read_rows(out)


def _claim(out: Path, spec: SweepSpec) -> None:
    """Raise ArgumentError if the directory belongs to another base."""
    path, content = out / "sweep.json", {"title": spec.title, "base": spec.base}
    if path.exists():
        known = read_json(path, f"sweep: {str(path)!r}")
        if known["base"] != spec.base:
            ours = {k: v for k, v in spec.base.items() if known["base"].get(k) != v}
            raise ArgumentError(f"sweep: {str(out)!r} contains another sweep, whose base differs from {ours}")
    else:
        write_json(path, content)


_Run = tuple[str, Settings, float, int]
"""Id, settings, log2 of the learning rate, seed."""


@dataclass(eq=False)
class _Rate:
    """The settings of a learning-rate search, and the cells that wait for its result."""

    settings: Settings
    cells: list[Cell] = field(default_factory=list)


@dataclass(eq=False)
class _Sweep:
    spec: SweepSpec
    out: Path
    make: Make
    data: Data
    traced: bool
    keep: bool
    progress: Progress | None
    rows: dict[str, Row]
    pending: dict[Future[Any], _Run] = field(default_factory=dict)
    waiting: dict[str, list[_Rate]] = field(default_factory=lambda: defaultdict(list))
    deaths: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def run(self) -> None:
        self.pool = self.make()
        rates: dict[str, _Rate] = {}
        for cell in self.spec.cells():
            settings = self.spec.rate_settings(cell.settings)
            key = run_id(settings, 0.0, 0)
            rates.setdefault(key, _Rate(settings)).cells.append(cell)
        for rate in rates.values():
            self.advance(rate)
        while self.pending:
            done, _ = wait(self.pending, return_when=FIRST_COMPLETED)
            for future in done:
                self.finish(future)

    def advance(self, rate: _Rate) -> None:
        """Submit the next runs of a search; after its end, those of the cells."""
        tried, wanted = tried_rates(self.spec, rate.settings, self.rows)
        for e in wanted:
            for seed in range(self.spec.rate_seeds):
                self.want(rate.settings, e, seed, rate)
        if not wanted:
            for cell in rate.cells:
                for seed in range(cell.seeds):
                    self.want(cell.settings, best(tried), seed)

    def want(self, settings: Settings, log2_lr: float, seed: int, rate: _Rate | None = None) -> None:
        """Submit a run, unless it is done or in progress."""
        id = run_id(settings, log2_lr, seed)
        if rate is not None and id not in self.rows and rate not in self.waiting[id]:
            self.waiting[id].append(rate)
        if id not in self.rows and all(id != run[0] for run in self.pending.values()):
            self.submit((id, settings, log2_lr, seed))

    def submit(self, run: _Run) -> None:
        id, settings, log2_lr, seed = run
        config = self.spec.config(settings, log2_lr, seed, self.traced and seed == 0)
        arguments = (config, str(self.out / "runs" / id), self.data, self.keep)
        try:
            future = self.pool.submit(run_one, *arguments)
        except BrokenProcessPool:
            self.pool = self.make()
            future = self.pool.submit(run_one, *arguments)
        self.pending[future] = run

    def finish(self, future: Future[Any]) -> None:
        run = self.pending.pop(future)
        id, settings, log2_lr, seed = run
        try:
            found = future.result()
        except ArgumentError:
            raise
        except Exception as error:  # the executor's report of a process that died
            # A broken pool also fails the runs that wait in it: a run that has not begun has no directory.
            self.deaths[id] += not isinstance(error, BrokenProcessPool) or (self.out / "runs" / id).exists()
            if self.deaths[id] < DEATHS:
                self.submit(run)
                return
            found = {"failed": f"its process died {DEATHS} times: {type(error).__name__}: {error}"}
        self.rows[id] = to_row(id, settings, log2_lr, seed, found)
        append_row(self.out, self.rows[id])
        if self.progress:
            self.progress.advance(1, id)
        for rate in self.waiting.pop(id, []):
            self.advance(rate)
