"""A sweep on a Dask cluster of separate worker processes, one of which is killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("distributed")

from refscale.errors import ArgumentError
from refscale.sweep import load_spec, open_executor, read_rows
from tests.sweep.test_engine import TOML, command

pytestmark = pytest.mark.filterwarnings("ignore")  # of Dask's own making


def start(stack: ExitStack, *arguments: str, threads: str = "1") -> subprocess.Popen:
    environment = os.environ | {"OPENBLAS_NUM_THREADS": threads}
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    stack.callback(lambda: process.poll() is None and os.killpg(process.pid, signal.SIGKILL))
    return process


def scheduler(stack: ExitStack, tmp_path: Path) -> str:
    file = tmp_path / "scheduler.json"
    arguments = ["--scheduler-file", str(file), "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    start(stack, "distributed.cli.dask_scheduler", *arguments)
    for _ in range(200):
        if file.exists() and file.stat().st_size:
            import json

            return json.loads(file.read_text())["address"]
        time.sleep(0.1)
    raise TimeoutError("no scheduler")


def worker(stack: ExitStack, address: str, tmp_path: Path, threads: str = "1") -> subprocess.Popen:
    arguments = [address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(tmp_path)]
    return start(stack, "distributed.cli.dask_worker", *arguments, threads=threads)


def wait_for_workers(address: str, count: int) -> None:
    from distributed import Client

    with Client(address) as client:
        client.wait_for_workers(count, timeout=60)


def test_a_worker_killed_in_the_middle(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog, and the dog sleeps on. " * 40)
    (tmp_path / "spec.toml").write_text(TOML)
    with ExitStack() as stack:
        address = scheduler(stack, tmp_path)
        first, _ = worker(stack, address, tmp_path / "1"), worker(stack, address, tmp_path / "2")
        wait_for_workers(address, 2)
        process = subprocess.Popen(
            command(tmp_path, text, "--executor", f"dask:{address}"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        stack.callback(process.kill)
        for _ in range(1200):
            if (tmp_path / "out").exists() and len(read_rows(tmp_path / "out")) >= 2:
                break
            time.sleep(0.05)
        os.kill(first.pid, signal.SIGKILL)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "killed: 9 runs (0 diverged, 0 failed)" in out
    rows = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert len(rows) == len(read_rows(tmp_path / "out")) == 9


def test_workers_with_several_blas_threads_are_refused(tmp_path):
    with ExitStack() as stack:
        address = scheduler(stack, tmp_path)
        with pytest.raises(ArgumentError, match=r"0 workers with OPENBLAS_NUM_THREADS = \[\], expected some"):
            stack.enter_context(open_executor(f"dask:{address}"))
        worker(stack, address, tmp_path / "1", threads="4")
        wait_for_workers(address, 1)
        with pytest.raises(ArgumentError, match=r"1 workers with OPENBLAS_NUM_THREADS = \['4'\], expected some, all"):
            stack.enter_context(open_executor(f"dask:{address}"))


@pytest.mark.parametrize("text", ["dask", "dask:", "slurm:x"])
def test_other_executors(text):
    with pytest.raises(ArgumentError, match="expected dask:ADDRESS"), open_executor(text):
        pass


def test_the_spec_is_the_one_above(tmp_path):
    (tmp_path / "spec.toml").write_text(TOML)
    assert len(list(load_spec(tmp_path / "spec.toml").cells())) == 3
