"""Executors of runs: processes of this machine, or the workers of a Dask cluster; each with one BLAS thread."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager

from refscale import memory
from refscale.errors import ArgumentError

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")

Make = Callable[[], Executor]
"""Function that makes the executor; it is called again if the processes die."""


def _begin() -> None:
    """Initialize a process: it keeps freed memory, and ends with its parent in every case."""
    memory.keep()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def local(jobs: int) -> Iterator[Make]:
    """Provide worker processes of this machine, each initialized by ``_begin``."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))  # read by the BLAS of each new process
    made: list[Executor] = []

    def make() -> Executor:
        made.append(ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin))
        return made[-1]

    try:
        yield make
    finally:
        for pool in made:
            pool.shutdown(cancel_futures=True)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def blas_threads() -> str:
    """Return the number of BLAS threads in the environment of this process."""
    return os.environ.get(THREADS[0], "")


@contextmanager
def open_executor(text: str) -> Iterator[Executor]:
    """Open ``dask:ADDRESS``: the workers of a cluster's scheduler, through dask.distributed (the extra ``dask``).

    All workers must have access to the directory of the sweep.

    Raises:
        ArgumentError: another text, no dask.distributed, no scheduler, no workers, or workers with several BLAS
            threads.
    """
    kind, _, address = text.partition(":")
    if kind != "dask" or not address:
        raise ArgumentError(f"sweep(executor={text!r}): expected dask:ADDRESS, such as dask:tcp://10.0.0.1:8786")
    try:
        from distributed import Client
    except ImportError as error:
        raise ArgumentError(f"sweep(executor={text!r}): needs pip install 'refscale[dask]'") from error
    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise ArgumentError(f"sweep(executor={text!r}): no scheduler answers: {error}") from error
    with client:
        threads = client.run(blas_threads)
        if not threads or set(threads.values()) != {"1"}:
            found = f"{len(threads)} workers with {THREADS[0]} = {sorted(set(threads.values()))}"
            expected = f"some, all started with {THREADS[0]}=1 and --nthreads 1"
            raise ArgumentError(f"sweep(executor={text!r}): {found}, expected {expected}")
        with client.get_executor(pure=False) as executor:
            yield executor
