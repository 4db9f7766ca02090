"""How long a unit-scaled training step takes, against a regular one of the same model: forward and backward.

    python tests/bench/overhead.py                       # bert-base, 1 × 128
    python tests/bench/overhead.py bert-mini --batch 8 --precision fp8

Not a test.  The two take turns within a round, so that a busy machine slows both; each figure is a median over rounds.
Freed memory stays with the process (glibc's settings below): fresh pages for hundreds of megabytes a step cost a
virtual machine up to as much as the step itself, now one scheme, now the other.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from refscale.analysis.record import first_batch
from refscale.engine import Tape, backward
from refscale.models import bert
from refscale.precision import get_precision
from refscale.scales import get_scheme


def step(model: str, scheme: str, precision: str, batch: int, seq: int) -> Callable[[], None]:
    """A function that runs one step, all gradients included, on parameters and text made beforehand."""
    config = bert.get_config(model)
    parameters = bert.initial_parameters(config, get_scheme(scheme), np.random.default_rng(0))
    data = first_batch(config, None, batch, seq, seed=0)

    def run() -> None:
        tape = Tape(get_scheme(scheme), get_precision(precision))
        backward(bert.pretraining_loss(bert.parameters_on(tape, parameters, config), data, config).total)

    return run


KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 36)}


def main() -> None:
    if not KEEP_MEMORY.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEEP_MEMORY)
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="?", default="bert-base")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seq", type=int, default=128)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--schemes", default="regular,unit", help="two, separated by a comma")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    names = args.schemes.split(",")
    steps = [step(args.model, name, args.precision, args.batch, args.seq) for name in names]
    for run in (*steps, *steps):
        run()  # warm
    times: tuple[list[float], list[float]] = ([], [])
    for round_ in range(args.rounds):
        for i in (0, 1) if round_ % 2 else (1, 0):
            start = time.perf_counter()
            steps[i]()
            times[i].append(time.perf_counter() - start)
    ratios = [b / a for a, b in zip(*times, strict=True)]
    low, middle, high = quantiles(ratios, n=4)
    print(
        f"{args.model}, {args.batch} × {args.seq}, {args.precision}, {args.rounds} rounds; numpy {np.__version__}; ",
        end="",
    )
    print(f"load {os.getloadavg()[0]:.1f}")
    for name, found in zip(names, times, strict=True):
        print(f"{name:10} {1e3 * median(found):8.1f} ms")
    print(f"ratio      {middle:8.3f}     (quartiles {low:.3f} … {high:.3f})")


if __name__ == "__main__":
    main()
