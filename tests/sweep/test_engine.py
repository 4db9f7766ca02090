"""Sweeps: every run once, whichever process is killed; a failed run is a row; one process in a directory."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from refscale.cli import main
from refscale.errors import ArgumentError, DataError, InUseError
from refscale.files import locked
from refscale.sweep import SweepSpec, outcomes, read_rows, summary, sweep
from refscale.sweep import engine as engine_module
from refscale.sweep.rows import RESULTS

BASE = {
    "model": "charlm-conv:layers=1,width=16,groups=2,multiple=1.0",
    "steps": 3,
    "batch": 2,
    "seq": 16,
    "evaluate_every": 3,
    "evaluation_batches": 2,
}
SPEC = SweepSpec(
    "two schemes",
    BASE,
    grid={"model.norm": ("pre", "none")},
    variants={"regular": {"scheme": "regular"}, "unit FP8": {"scheme": "unit", "precision": "fp8"}},
    seeds=2,
    search="grid",
    start=({"scheme": "regular", "exponents": [-9, -7]}, {"exponents": [-6]}),
    rate_of={"precision": "fp32"},
)


class Inline(Executor):
    """Runs at once, in this process; counts."""

    def __init__(self):
        self.runs = Counter()

    def submit(self, fn, /, *args, **kwargs):
        self.runs[args[1]] += 1
        future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


SMALL = SweepSpec(**vars(SPEC) | {"grid": {"model.norm": ("pre",)}})
"""Half as many runs."""


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog, and the dog sleeps on. " * 40)
    return path


@pytest.fixture(scope="module")
def swept(tmp_path_factory, text):
    """The directory of a sweep, its rows, and what counted the runs."""
    executor, out = Inline(), tmp_path_factory.mktemp("swept") / "out"
    return out, sweep(SPEC, out, executor=executor, data=text), executor


@pytest.fixture
def rows(tmp_path, swept):
    """The rows of that sweep, whose directory is copied to ``out``."""
    shutil.copytree(swept[0], tmp_path / "out")
    return swept[1]


def test_every_run_once(tmp_path, text, swept, rows):
    executor = swept[2]
    # regular: 2 rates × seed 0, and seed 1 at the best; unit: 1 rate in FP32, 2 seeds in FP8; times 2 norms
    assert len(rows) == sum(executor.runs.values()) == 2 * (3 + 3)
    assert all(r.status == "done" and r.loss is not None and 0 <= r.share <= 1 for r in rows.values())
    assert not list((tmp_path / "out").glob("runs/*/checkpoint-*"))
    found = outcomes(SPEC, rows)
    assert [len(o.losses) for o in found] == [2] * 4
    for o in found:
        assert o.loss == pytest.approx(sum(o.losses) / 2)
    again = Inline()
    assert sweep(SPEC, tmp_path / "out", executor=again, data=text) == rows
    assert not again.runs
    text_of_it = summary(SPEC, rows)
    assert "two schemes: 12 runs (0 diverged, 0 failed)" in text_of_it
    assert "| unit FP8 | 2 " in text_of_it


def test_the_same_on_any_executor(tmp_path, text, swept):
    with ThreadPoolExecutor(3) as pool:
        other = sweep(SPEC, tmp_path / "b", executor=pool, data=text)
    assert {k: r.loss for k, r in swept[1].items()} == {k: r.loss for k, r in other.items()}


def test_a_row_that_was_lost_is_read_not_run(tmp_path, text, rows, monkeypatch):
    """Killed after a run and before its row, or in the middle of a row: the run's own summary stands."""
    path = tmp_path / "out" / RESULTS
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    monkeypatch.setattr(engine_module, "train", None)
    assert sweep(SPEC, tmp_path / "out", executor=Inline(), data=text) == rows
    assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())


@pytest.mark.usefixtures("rows")
def test_a_damaged_row(tmp_path):
    path = tmp_path / "out" / RESULTS
    _, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"{}\n" + b"".join(rest))
    with pytest.raises(DataError, match="record 1: not a row"):
        read_rows(tmp_path / "out")


def test_a_run_that_diverges_or_fails_is_a_row(tmp_path, text, monkeypatch):
    right = engine_module.train

    def train(config, *args, **kwargs):
        if config.scheme == "unit" and config.seed == 1:
            raise MemoryError("no room")
        return right(config, *args, **kwargs)

    monkeypatch.setattr(engine_module, "train", train)
    start = ({"scheme": "regular", "exponents": [-9, 120]}, {"exponents": [-6]})
    spec = SweepSpec(**vars(SPEC) | {"start": start})
    rows = sweep(spec, tmp_path / "out", executor=Inline(), data=text)
    status = Counter((r.settings["scheme"], r.status) for r in rows.values())
    assert status == {("regular", "done"): 4, ("regular", "diverged"): 2, ("unit", "done"): 4, ("unit", "failed"): 2}
    (message,) = {r.message for r in rows.values() if r.status == "failed"}
    assert message == "MemoryError: no room"
    assert all("diverged at step" in r.message for r in rows.values() if r.status == "diverged")
    shown = summary(spec, rows)
    assert "(2 diverged, 2 failed)" in shown


def test_a_run_whose_validation_is_not_finite_has_diverged(tmp_path, text):
    """Its one step is finite, the forward pass after it is not: a row at once, and no second try."""
    spec = SweepSpec(
        "too high",
        BASE | {"steps": 1, "warmup": 0},
        variants={"regular": {"scheme": "regular", "precision": "fp16"}},
        search="grid",
        start=({"exponents": [-9, 20]},),
    )
    executor = Inline()
    rows = sweep(spec, tmp_path / "out", executor=executor, data=text)
    low, high = sorted(rows.values(), key=lambda r: r.log2_lr)
    assert (low.status, low.message) == ("done", "")
    assert (high.status, high.loss, high.share) == ("diverged", None, None)
    assert high.message == "train: diverged at step 1: bits of the validation is nan"
    assert "too high: 2 runs (1 diverged, 0 failed)" in summary(spec, rows)
    assert max(executor.runs.values()) == 1
    again = Inline()
    assert sweep(spec, tmp_path / "out", executor=again, data=text) == rows
    assert not again.runs


def test_a_process_that_dies_is_tried_again(tmp_path, text):
    """An executor whose worker is lost at the first two tries."""

    class Dying(Inline):
        def submit(self, fn, /, *args, **kwargs):
            self.runs[args[1]] += 1
            if self.runs[args[1]] < deaths:
                future = Future()
                future.set_exception(RuntimeError("worker died"))
                return future
            return super().submit(fn, *args, **kwargs)

    deaths = 3
    rows = sweep(SMALL, tmp_path / "a", executor=Dying(), data=text)
    assert {r.status for r in rows.values()} == {"done"}
    deaths = 9
    rows = sweep(SMALL, tmp_path / "b", executor=Dying(), data=text)
    assert {r.status for r in rows.values()} == {"failed"}
    assert {r.message for r in rows.values()} == {"its process died 3 times: RuntimeError: worker died"}


@pytest.mark.usefixtures("rows")
def test_another_sweep_in_the_directory(tmp_path, text):
    other = SweepSpec(**vars(SPEC) | {"base": BASE | {"steps": 4}})
    with pytest.raises(ArgumentError, match=r"contains another sweep, whose base differs from \{'steps': 4\}"):
        sweep(other, tmp_path / "out", executor=Inline(), data=text)
    with pytest.raises(ArgumentError, match="jobs=0"):
        sweep(SPEC, tmp_path / "new", jobs=0, data=text)
    assert not (tmp_path / "new").exists()


def test_a_report_of_nothing(capsys, tmp_path):
    assert main(["sweep", "quick", "--report", "--out", str(tmp_path)]) == 2
    assert "contains no sweep, expected a directory with results.jsonl" in capsys.readouterr().err


@pytest.mark.usefixtures("rows")
def test_more_of_the_same_goes_on(tmp_path, text):
    """Another value in the grid, another variant: what stands is not run again."""
    more = SweepSpec(**vars(SPEC) | {"grid": {"model.norm": ("pre", "none", "post")}})
    executor = Inline()
    assert len(sweep(more, tmp_path / "out", executor=executor, data=text)) == 18
    assert sum(executor.runs.values()) == 6


COMMAND = "import sys; from refscale.cli import main; sys.exit(main(sys.argv[1:]))"
TOML = """
title = "killed"
seeds = 2
[base]
model = "charlm-conv:layers=1,width=32,groups=2"
steps = 24
batch = 4
seq = 64
evaluate_every = 24
evaluation_batches = 2
checkpoint_every = 5
[grid]
"model.norm" = ["pre", "none"]
[[variants]]
name = "unit"
scheme = "unit"
[rate]
search = "grid"
[[rate.start]]
exponents = [-7, -6]
"""


def arguments(tmp_path, text):
    return ["sweep", str(tmp_path / "spec.toml"), "--out", str(tmp_path / "out"), "--text", str(text)]


def command(tmp_path, text, *more):
    return [sys.executable, "-c", COMMAND, *arguments(tmp_path, text), *more]


def test_killed_and_started_again(tmp_path, text, capsys):
    """Twice killed with everything it started; at its end, every run there is, each once."""
    (tmp_path / "spec.toml").write_text(TOML)
    done = 0
    for wanted in (1, 3):
        process = subprocess.Popen(
            command(tmp_path, text, "--jobs", "1"),
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(600):
            done = len(read_rows(tmp_path / "out")) if (tmp_path / "out").exists() else 0
            if done >= wanted or process.poll() is not None:
                break
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert 0 < done <= 6
    finished = subprocess.run(command(tmp_path, text, "--jobs", "2"), capture_output=True, text=True, check=True)
    assert "killed: 6 runs (0 diverged, 0 failed)" in finished.stdout
    lines = [json.loads(line)["id"] for line in (tmp_path / "out" / RESULTS).read_text().splitlines()]
    assert len(lines) == len(set(lines)) == 6
    assert main([*arguments(tmp_path, text), "--report"]) == 0
    assert capsys.readouterr().out == finished.stdout


def test_only_the_sweep_itself_is_killed(tmp_path, text):
    """Its child processes end with it; started again, the sweep continues from the checkpoints."""
    (tmp_path / "spec.toml").write_text(TOML.replace("steps = 24", "steps = 40").replace('"pre", "none"', '"pre"'))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command(tmp_path, text, "--jobs", "1"), start_new_session=True, **pipes)
    for _ in range(600):
        if list((tmp_path / "out").glob("runs/*/metrics.jsonl")):
            break
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=60)  # its processes hold the pipes: nothing is left behind
    finished = subprocess.run(command(tmp_path, text, "--jobs", "2"), capture_output=True, text=True, check=True)
    assert "killed: 3 runs (0 diverged, 0 failed)" in finished.stdout
    assert len((tmp_path / "out" / RESULTS).read_text().splitlines()) == 3


def test_a_run_in_use_is_waited_for(tmp_path, text, monkeypatch):
    """While another process has its directory, it has not failed."""
    config = SPEC.config(next(SPEC.cells()).settings, -9.0, 0)
    right, calls = engine_module.train, []

    def train(*args, **kwargs):
        calls.append(args)
        if len(calls) < 3:
            raise InUseError("train: in use")
        return right(*args, **kwargs)

    monkeypatch.setattr(engine_module, "train", train)
    monkeypatch.setattr(engine_module, "POLL", 0.0)
    assert engine_module.run_one(config, str(tmp_path / "run"), text, False)["diverged"] == ""
    assert len(calls) == 3


def test_what_failed_is_tried_when_started_again(tmp_path, text, monkeypatch):
    def full(*_, **__):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(engine_module, "train", full)
        rows = sweep(SMALL, tmp_path / "out", executor=Inline(), data=text)
    assert {r.status for r in rows.values()} == {"failed"}
    rows = sweep(SMALL, tmp_path / "out", executor=Inline(), data=text)
    done = [r for r in rows.values() if r.status == "done"]
    assert [len(o.losses) for o in outcomes(SMALL, rows)] == [2] * 2
    assert len(done) >= 6


def test_a_broken_pool_blames_only_what_had_begun(tmp_path, text):
    """Runs that waited behind one that kills its process are none that failed."""

    class Breaking(Inline):
        def submit(self, fn, /, *args, **kwargs):
            if "_pre_" in f"_{Path(args[1]).name}" and "unit" in args[1]:
                Path(args[1]).mkdir(parents=True, exist_ok=True)  # it had begun
                broken.add(args[1])
            elif self.runs[args[1]] >= 5:
                return super().submit(fn, *args, **kwargs)
            self.runs[args[1]] += 1
            future = Future()
            future.set_exception(BrokenProcessPool("died"))
            return future

    broken: set[str] = set()
    rows = sweep(SPEC, tmp_path / "out", executor=Breaking(), data=text)
    failed = {id for id, r in rows.items() if r.status == "failed"}
    assert failed == {Path(b).name for b in broken}
    assert {r.status for id, r in rows.items() if id not in failed} == {"done"}


def test_a_second_process_is_refused(tmp_path, text):
    (tmp_path / "spec.toml").write_text(TOML)
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out", "here"):
        second = subprocess.run(command(tmp_path, text), capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert second.stderr == f"refscale: sweep: '{tmp_path / 'out'}' is in use by process {os.getpid()}\n"
    with locked(tmp_path / "out", "here"):
        pass  # the lock ended with the block
