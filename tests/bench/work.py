"""The reference work of the benchmarks: one training step of a BERT, forward and backward, in float32.

Post-norm, gelu by erf, no dropout, no mask; a masked-LM head over the whole vocabulary at every position, its decoder
tied to the word embedding. The model is written once here for every scheme and precision of refscale, and once in
``peers`` for the other libraries.
"""

import argparse
import ctypes
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refscale import functional as F  # noqa: N812
from refscale import memory, ops
from refscale.engine import Tape, Tensor, apply, backward
from refscale.layers import Specs, Tensors, initialize, norm, on_tape, transformer_layer
from refscale.models import bert
from refscale.precision import get_precision
from refscale.scales import get_scheme, none

Array = NDArray[Any]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Size:
    """How large the model and its batch are."""

    layers: int
    width: int
    heads: int
    hidden: int
    vocabulary: int
    batch: int
    sequence: int

    @property
    def config(self) -> bert.BertConfig:
        """The model's configuration."""
        return bert.BertConfig(self.layers, self.width, self.heads, self.hidden, self.vocabulary, dropout=0.0)

    @property
    def specs(self) -> Specs:
        """The parameters that the reference work uses: all but those of the next-sentence head."""
        return {name: spec for name, spec in bert.specs(self.config).items() if not name.startswith("nsp.")}

    def __str__(self) -> str:
        return (
            f"{self.layers} × {self.width} ({self.heads} heads, {self.hidden}), vocabulary {self.vocabulary}, "
            f"batch {self.batch} × {self.sequence}"
        )


SIZES = {
    "tiny": Size(2, 128, 2, 512, 1024, 8, 64),
    "small": Size(4, 256, 4, 1024, 4096, 8, 128),
    "base2": Size(2, 768, 12, 3072, 30522, 4, 128),
}


class Data(NamedTuple):
    """One batch: ids, segments and labels (batch, sequence), positions (sequence,)."""

    ids: Ids
    positions: Ids
    segments: Ids
    labels: Ids


class Result(NamedTuple):
    """The result of a step: the loss, and a function that returns the gradients by refscale's names and layouts."""

    loss: float
    gradients: Callable[[], dict[str, Array]]


Step = Callable[[], Result]


@lru_cache
def data(size: Size) -> Data:
    """Random tokens and labels, every position with one; two segments."""
    rng, shape = np.random.default_rng(1), (size.batch, size.sequence)
    ids, labels = (rng.integers(0, size.vocabulary, shape) for _ in range(2))
    positions = np.arange(size.sequence)
    segments = np.broadcast_to(positions * 2 // size.sequence, shape).copy()
    return Data(ids, positions, segments, labels)


@lru_cache(maxsize=2)  # both schemes of one size
def parameters(size: Size, scheme: str) -> dict[str, Array]:
    """Initial parameters; shared by all contestants, which do not write to them."""
    return initialize(size.specs, get_scheme(scheme), np.random.default_rng(0), partial(bert.initial_std, size.config))


def loss(p: Tensors, batch: Data, config: bert.BertConfig) -> Tensor:
    """The mean cross-entropy, every factor settled. Nothing but the tape keeps the logits."""
    tape = p["embeddings.word"].tape
    with tape.scope("embeddings.word"):
        word, table = F.fork(p["embeddings.word"], 2)
        decoder = apply(ops.Transpose((1, 0)), table)
    with tape.scope("embeddings"):
        x = F.embedding_sum(
            (word, batch.ids),
            (p["embeddings.position"], batch.positions),
            (p["embeddings.segment"], batch.segments),
        )
        x = norm(p, "embeddings.norm", x, config.eps)
    for i in range(config.layers):
        with tape.scope(f"encoder.{i}"):
            x = transformer_layer(p, f"encoder.{i}", x, None, config.block, i, None)
    with tape.scope("mlm"):
        x = F.linear(x, p["mlm.transform.weight"], p["mlm.transform.bias"], constraint=none)
        x = norm(p, "mlm.norm", apply(ops.ACTIVATIONS[config.activation], x), config.eps)
        return F.cross_entropy(F.readout(x, decoder, p["mlm.decoder.bias"]), batch.labels)


def forward(size: Size, scheme: str, precision: str) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a fresh tape, and the parameters on it."""
    tape = Tape(get_scheme(scheme), get_precision(precision))
    p = on_tape(tape, parameters(size, scheme), size.specs)
    return loss(p, data(size), size.config), p


def step(size: Size, scheme: str, precision: str) -> Step:
    """A function that runs one step of refscale, all gradients included."""
    parameters(size, scheme), data(size)  # made beforehand

    def run() -> Result:
        output, p = forward(size, scheme, precision)
        backward(output)
        return Result(float(output.value), lambda: {name: np.asarray(t.grad) for name, t in p.items()})

    return run


# --- process ----------------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``restart``."""
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, default=cores, help=f"of BLAS and of the peers (default: {cores})")
    parser.add_argument(
        "--keep-memory",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="freed memory stays with the process: fresh pages cost up to as much as the work itself",
    )


def restart(args: argparse.Namespace) -> None:
    """Threads and memory as asked; starts this script once more, if need be: BLAS reads its threads when loaded."""
    wanted = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(args.threads))
    cores = sorted(os.sched_getaffinity(0))
    if args.threads < len(cores):
        os.sched_setaffinity(0, cores[: args.threads])  # the only limit that all libraries keep
    if not wanted.items() <= os.environ.items():
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | wanted)
    if args.keep_memory:
        memory.keep()  # of all contestants: they share the process


def threads() -> int:
    """As many as ``restart`` was told."""
    return int(os.environ["OMP_NUM_THREADS"])


def resident(field: str) -> int:
    """Bytes of this process in memory: "VmRSS" now, "VmHWM" at most."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition(f"{field}:")[2].split()[0])


def peak(run: Callable[[], object], steps: int = 2) -> int:
    """Bytes that some steps need beyond what stood before them, at most."""
    ctypes.CDLL(None).malloc_trim(0)  # or a step may use, unseen, memory freed before it
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before = resident("VmRSS")
    for _ in range(steps):
        run()
    return resident("VmHWM") - before


def facts() -> dict[str, str]:
    """The conditions of the figures, besides the code."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    found = {
        "python": platform.python_version(),
        "numpy": f"{np.__version__} ({blas['name']} {blas['version']})",
    }
    for name in ("torch", "jax", "autograd", "unit-scaling"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found | {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
        "freed memory": "kept" if memory.keep.cache_info().currsize else "returned",
        "load": f"{os.getloadavg()[0]:.1f}",
    }


def print_facts() -> dict[str, str]:
    """Print them on one line, and return them."""
    found = facts()
    print("; ".join(f"{name} {value}" for name, value in found.items()), flush=True)
    return found


class Others:
    """What other processes take of the processor from here on; where they do, two threads wait for each other."""

    def __init__(self) -> None:
        self.start = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        """Seconds, and those of a core that other processes took."""
        user, nice, system, _, _, irq, soft, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
        own = os.times()
        busy = (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
        return time.perf_counter(), busy - own.user - own.system

    def __str__(self) -> str:
        (time_then, busy_then), (time_now, busy_now) = self.start, self._now()
        share = max(0.0, busy_now - busy_then) / (time_now - time_then)
        return f"other processes took {share:.0%} of a core meanwhile"


# --- clock ------------------------------------------------------------------------------------------------------------


def seconds(run: Callable[[], object]) -> float:
    """Wall time of a call; its result is freed within it."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def interleaved(runs: dict[str, Step], rounds: int, warm: int = 2, pause: float = 0.0) -> dict[str, list[float]]:
    """Seconds of each, round by round, after ``warm`` untimed calls.

    Every round runs each once, the order reversed from round to round, so that a busy machine slows all of them.

    Args:
        runs: by name.
        rounds: how many.
        warm: calls beforehand.
        pause: seconds of sleep before each call, in which the last one's threads stop waiting for more work.
    """
    for run in runs.values():
        for _ in range(warm):
            run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds):
        for name in list(runs)[:: 1 if round_ % 2 else -1]:
            time.sleep(pause)
            times[name].append(seconds(runs[name]))
    return times
