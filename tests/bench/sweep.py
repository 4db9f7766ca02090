"""The cost of a sweep: core-seconds of one training step of every cell of a spec, multiplied; and an executor's cost.

    python -m tests.bench.sweep cost charlm-full [--steps 3] [--rates 6]
    python -m tests.bench.sweep executors [--runs 12]

``cost`` takes processor time, which a busy machine changes little, of steps in each kind of cell that differs in model,
depth, scheme or precision; runs are counted as ``--rates`` of a search, times its repetitions, and the seeds
of every cell. ``executors`` runs the same short runs in a pool of one process and on a Dask cluster of one worker, and
prints seconds per run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from refscale import memory
from refscale.sweep import Spec, load_spec, open_executor, sweep
from refscale.train import Run, training_step


def seconds_per_step(run: Run, steps: int) -> float:
    """Processor time of a step, after a first one that does not count."""
    state = run.initial_state()
    batches = run.batches(0)
    state, _ = training_step(run, state, next(batches))
    started = time.process_time()
    for _ in range(steps):
        state, _ = training_step(run, state, next(batches))
    return (time.process_time() - started) / steps


def cost(name: str, steps: int, rates: float) -> None:
    """Of every kind of cell, and of all."""
    memory.keep()
    spec = load_spec(name)
    known: dict[tuple[str, int, str, str], float] = {}
    total, runs = 0.0, 0.0
    for cell in spec.cells():
        config = spec.config(cell.settings, -9.0, 0)
        kind = (config.model.split(":")[0], cell.settings.get("model.layers", 0), config.precision, config.scheme)
        if kind not in known:
            known[kind] = seconds_per_step(Run.of(replace(config, steps=steps + 2, warmup=0)), steps)
            print(f"{' '.join(map(str, kind)):44} {known[kind]:8.3f} s a step", flush=True)
        own = spec.rate_settings(cell.settings) == cell.settings
        count = max(cell.seeds, spec.rate_seeds) + (rates - 1) * spec.rate_seeds if own else cell.seeds
        runs += count
        total += count * config.steps * known[kind]
    print(f"{len(list(spec.cells()))} cells, about {runs:.0f} runs, {total / 3600:.0f} core-hours")


TINY = Spec(
    "tiny",
    {"model": "charlm-conv:layers=1,width=16,groups=2", "steps": 20, "batch": 2, "seq": 32, "evaluation_batches": 2},
    variants={"unit": {"scheme": "unit"}},
    search="grid",
)


def executors(runs: int) -> None:
    """Seconds per run, each way, without what starting the workers takes."""
    spec = Spec(**vars(TINY) | {"start": ({"exponents": [-6 - k / 64 for k in range(runs)]},)})
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        for way in ("processes", "dask"):
            if way == "processes":
                rows = timed(way, lambda: sweep(spec, root / "processes"), runs)
                continue
            file = root / "scheduler.json"
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            base = [sys.executable, "-m"]
            scheduler = [*base, "distributed.cli.dask_scheduler", "--scheduler-file", str(file), "--no-dashboard"]
            worker = [*base, "distributed.cli.dask_worker", "--scheduler-file", str(file), "--nthreads", "1"]
            with subprocess.Popen([*scheduler, "--port", "0"], **quiet) as first:
                while not (file.exists() and file.stat().st_size):
                    time.sleep(0.1)
                with subprocess.Popen([*worker, "--no-nanny", "--no-dashboard"], **quiet) as second:
                    import json

                    from distributed import Client

                    address = json.loads(file.read_text())["address"]
                    with Client(address) as client:
                        client.wait_for_workers(1)
                    with open_executor(f"dask:{address}") as executor:
                        timed(way, lambda: sweep(spec, root / "dask", executor=executor), runs)
                    second.terminate()
                first.terminate()
        print(f"training itself: {sum(r.seconds for r in rows.values()) / len(rows):.3f} s")


def timed(way: str, run, runs: int):
    """Print the result, and return it."""
    started = time.perf_counter()
    rows = run()
    print(f"{way:10} {(time.perf_counter() - started) / runs:.3f} s per run", flush=True)
    return rows


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["cost", "executors"])
    parser.add_argument("spec", nargs="?", default="charlm-full")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rates", type=float, default=6)
    parser.add_argument("--runs", type=int, default=12)
    args = parser.parse_args()
    if args.what == "cost":
        cost(args.spec, args.steps, args.rates)
    else:
        executors(args.runs)


if __name__ == "__main__":
    main()
