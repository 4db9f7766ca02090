"""How long a training step takes, forward and backward: refscale against PyTorch, JAX, HIPS autograd and unit-scaling.

    python tests/bench/step.py                                # three sizes of a BERT, all contestants
    python tests/bench/step.py --sizes tiny --only regular,torch --threads 1
    python tests/bench/step.py --memory --sizes base2         # peak memory instead of time
    python tests/bench/step.py --sweep width                  # time against size, beside the count of multiplications
    python tests/bench/step.py --figure scaling.svg           # all four sweeps, drawn

Not a test. All contestants take turns within a round, so that a busy machine slows all of them; ratios are medians of
those of the rounds, with quartiles. Before anything is timed, losses and gradients are compared.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

sys.path.pop(0)  # this folder, whose profile.py would pass for Python's own
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from refscale import memory
from refscale.analysis.figures import COLORS, SCHEME_COLORS, open_figure
from refscale.analysis.flops import tape_flops
from tests.bench import peers, work
from tests.bench.work import SIZES, Size, Step

REGULAR, UNIT, UNIT_FP8, TORCH = "regular fp32", "unit fp32", "unit, fp8 policy", "torch eager fp32"

REFSCALE: dict[str, tuple[str, str]] = {
    REGULAR: ("regular", "fp32"),
    UNIT: ("unit", "fp32"),
    "unit, FP8 matmul inputs": ("unit", "operand=e4m3fn,operand_gradient=e5m2"),
    UNIT_FP8: ("unit", "fp8"),
}
"""Scheme and precision."""

PEERS: dict[str, Callable[[Size], Step]] = {
    TORCH: peers.faster_torch_step,
    "jax fp32, jit": peers.jax_step,
    "autograd fp32": peers.autograd_step,
    "unit-scaling fp32": peers.unit_scaling_step,
}

OTHER_LOSS = ("unit-scaling fp32",)
"""Peers whose rules are their own, so that neither loss nor gradients are those of ``REGULAR``."""

WAYS: dict[str, Callable[[Size], Step]] = {
    f"{TORCH}, {attention} attention": partial(peers.torch_step, attention=attention)
    for attention in ("explicit", "fused")
}
"""For ``--memory``, where the faster of the two cannot be found out without running both; the second for sweeps."""

SWEEP = (REGULAR, UNIT_FP8, list(WAYS)[-1])
BASE = Size(layers=2, width=256, heads=4, hidden=1024, vocabulary=2048, batch=4, sequence=128)
SWEEPS: dict[str, list[tuple[int, Size]]] = {
    "width": [(n, replace(BASE, width=n, heads=n // 64, hidden=4 * n)) for n in (64, 128, 256, 512, 1024)],
    "depth": [(n, replace(BASE, layers=n)) for n in (1, 2, 4, 8, 16)],
    "batch": [(n, replace(BASE, batch=n)) for n in (1, 2, 4, 8, 16)],
    "sequence": [(n, replace(BASE, sequence=n)) for n in (32, 64, 128, 256, 512)],
}


def make(name: str, size: Size) -> Step:
    """A contestant's step. Raises ImportError where its library is missing."""
    if name in REFSCALE:
        return work.step(size, *REFSCALE[name])
    return (PEERS | WAYS)[name](size)


def chosen(names: Iterable[str], only: str) -> list[str]:
    """Those whose name holds one of the texts in ``only``."""
    return [name for name in names if any(text in name for text in only.split(","))]


def contestants(names: Sequence[str], size: Size) -> dict[str, Step]:
    """Their steps; those that are not installed are skipped with a line."""
    found = {}
    for name in names:
        try:
            found[name] = make(name, size)
        except ImportError as error:
            print(f"{name}: skipped, {error}")
    return found


# --- the same result --------------------------------------------------------------------------------------------------


def check(steps: dict[str, Step], size: Size) -> None:
    """Raise AssertionError unless the peers compute the loss and the gradients that refscale does."""
    peers_here = [name for name in steps if name in PEERS and name not in OTHER_LOSS]
    if not peers_here:
        return
    ours = make(REGULAR, size)()
    gradients = ours.gradients()
    for name in peers_here:
        theirs = steps[name]()
        assert abs(theirs.loss - ours.loss) <= 1e-4 * abs(ours.loss), f"{name}: loss {theirs.loss}, ours {ours.loss}"
        found = theirs.gradients()
        assert found.keys() == gradients.keys(), f"{name}: {found.keys() ^ gradients.keys()}"
        # Some are zero but for rounding (a key's bias shifts all scores of a query alike): hence the scale of a layer.
        scale: dict[str, float] = {}
        for parameter, g in gradients.items():
            scale[_layer(parameter)] = max(scale.get(_layer(parameter), 0.0), float(np.abs(g).max()))
        for parameter, g in gradients.items():
            error = float(np.abs(found[parameter] - g).max()) / scale[_layer(parameter)]
            assert error <= 1e-3, f"{name}: gradient of {parameter} is off by {error:.1e} of its layer's largest"


def _layer(parameter: str) -> str:
    """``encoder.3.ffn.up.weight`` → ``encoder.3``; ``mlm.norm.gain`` → ``mlm``."""
    parts = parameter.split(".")
    return ".".join(parts[: 2 if parts[0] == "encoder" else 1])


# --- time -------------------------------------------------------------------------------------------------------------


def ratio(times: dict[str, list[float]], name: str, base: str) -> list[float] | None:
    """Quartiles of a contestant's time over another's, round by round."""
    if name not in times or base not in times:
        return None
    return quantiles([a / b for a, b in zip(times[name], times[base], strict=True)], n=4)


def compare(size: Size, names: Sequence[str], rounds: int, pause: float) -> dict[str, dict[str, Any]]:
    """Print the cost of each, and return it."""
    steps = contestants(names, size)
    check(steps, size)
    others = work.Others()
    times = work.interleaved(steps, rounds, pause=pause)
    print(others)
    print(f"{'':26}{'median, ms':>12}{'over torch':>14}{'(quartiles)':>19}{'over regular':>14}{'(quartiles)':>19}")
    found = {}
    for name, t in times.items():
        over = {base: ratio(times, name, base) for base in (TORCH, REGULAR) if base != name}
        if name not in REFSCALE:
            over.pop(REGULAR, None)
        cells = "".join(_quartiles(over.get(base)) for base in (TORCH, REGULAR))
        print(f"{name:26}{1e3 * median(t):12.1f}{cells}".rstrip())
        found[name] = {
            "median_ms": 1e3 * median(t),
            "over_torch": over.get(TORCH),
            "over_regular": over.get(REGULAR),
            "seconds": t,
        }
    return found


def _quartiles(q: list[float] | None) -> str:
    return " " * 33 if q is None else f"{q[1]:14.3f}{f'({q[0]:.3f} … {q[2]:.3f})':>19}"


# --- memory -----------------------------------------------------------------------------------------------------------


def peaks(size_name: str, names: Sequence[str], keep: bool) -> dict[str, float]:
    """Print the peak memory of a step of each, in a process of its own, in MiB; and return it."""
    found = {}
    for name in names:
        command = [sys.executable, __file__, "--memory-of", name, "--sizes", size_name]
        command.append("--keep-memory" if keep else "--no-keep-memory")
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{name}: skipped, {done.stderr.strip().splitlines()[-1]}")
            continue
        found[name] = float(done.stdout)
        print(f"{name:40}{found[name]:10.1f} MiB", flush=True)
    return found


def memory_of(name: str, size: Size) -> float:
    """Peak memory of two steps over what stands when imports and parameters are made, in MiB."""
    return work.peak(make(name, size)) / 2**20


# --- sweeps -----------------------------------------------------------------------------------------------------------


def multiplications(size: Size) -> int:
    """Multiply-adds inside the products of one step, forward and backward."""
    return sum(op.products for op in tape_flops(work.forward(size, "regular", "fp32")[0]))


def sweep(of: str, names: Sequence[str], rounds: int, pause: float) -> list[dict[str, Any]]:
    """Print the cost of each against one of the sizes, and return it."""
    print(f"\n{of}; else {BASE}; medians of {rounds} rounds")
    found: list[dict[str, Any]] = []
    others = work.Others()
    for value, size in SWEEPS[of]:
        steps = contestants(names, size)
        times = work.interleaved(steps, rounds, pause=pause)
        if not found:
            print(f"{of:>9}{'multiply-adds, M':>18}" + "".join(f"{f'{name}, ms':>42}" for name in times))
        row: dict[str, Any] = {
            "value": value,
            "multiplications": multiplications(size),
            "seconds": {name: median(t) for name, t in times.items()},
        }
        found.append(row)
        cells = "".join(f"{1e3 * t:42.2f}" for t in row["seconds"].values())
        print(f"{value:9}{row['multiplications'] / 1e6:18.1f}{cells}", flush=True)
    print(others)
    return found


def draw(sweeps: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Seconds against multiplications, a panel for each sweep."""
    from matplotlib.ticker import LogLocator

    colors = [SCHEME_COLORS.get(name.split()[0].rstrip(","), COLORS["bfloat16"]) for name in SWEEP]
    with open_figure(path, 2.7 * -(-len(sweeps) // 2)) as figure:
        panels = figure.subplots(-(-len(sweeps) // 2), 2, sharey=True, squeeze=False)
        for panel, (of, rows) in zip(panels.flat, sweeps.items(), strict=True):
            for name, color in zip(SWEEP, colors, strict=True):
                if name in rows[0]["seconds"]:
                    x, y = [row["multiplications"] for row in rows], [row["seconds"][name] for row in rows]
                    panel.loglog(x, y, marker="o", markersize=3, color=color, label=name)
            panel.set(title=f"{of} {rows[0]['value']} … {rows[-1]['value']}", xlabel="multiply-adds of a step")
            panel.xaxis.set_minor_formatter("")  # which would print one number over another
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter("{x:g}")
            panel.yaxis.set_minor_formatter("")
        for panel in panels[:, 0]:
            panel.set_ylabel("seconds")
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)


# --- command ----------------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", help=f"some of {','.join(SIZES)} (default: all; with --memory, base2)")
    parser.add_argument("--rounds", type=int, default=9, help="at least 2 (default: 9)")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds before each step, for threads to settle")
    parser.add_argument("--only", default="", help="contestants whose names hold one of these, separated by commas")
    parser.add_argument("--json", type=Path, help="also write what was found there")
    parser.add_argument("--memory", action="store_true", help="peak memory of a step instead of its time")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # the process that ``peaks`` starts
    parser.add_argument("--sweep", choices=(*SWEEPS, "all"), help="time against one of the sizes")
    parser.add_argument("--figure", type=Path, help="draw all sweeps there, as SVG")
    work.add_arguments(parser)
    args = parser.parse_args()
    args.sizes = (args.sizes or ("base2" if args.memory else ",".join(SIZES))).split(",")
    if unknown := set(args.sizes) - SIZES.keys():
        parser.error(f"unknown sizes {', '.join(sorted(unknown))}")
    if args.rounds < 2:
        parser.error("--rounds: at least 2, for quartiles")
    return args


def main() -> None:
    args = arguments()
    if args.memory_of:  # threads are those of its parent
        if args.keep_memory:
            memory.keep()
        print(memory_of(args.memory_of, SIZES[args.sizes[0]]))
        return
    work.restart(args)
    found: dict[str, Any] = {"facts": work.print_facts()}
    if args.sweep or args.figure:
        wanted = SWEEPS if args.figure or args.sweep == "all" else (args.sweep,)
        names = chosen(SWEEP, args.only)
        found["sweeps"] = {of: sweep(of, names, args.rounds, args.pause) for of in wanted}
        if args.figure:
            draw(found["sweeps"], args.figure)
    elif args.memory:
        every = [*REFSCALE, *(name for peer in PEERS for name in (WAYS if peer == TORCH else (peer,)))]
        found["memory_mib"] = {}
        for name in args.sizes:
            print(f"\n{name}: {SIZES[name]}; peak memory of a step over what stood before it")
            found["memory_mib"][name] = peaks(name, chosen(every, args.only), args.keep_memory)
    else:
        found["rounds"], found["sizes"] = args.rounds, {}
        for name in args.sizes:
            print(f"\n{name}: {SIZES[name]}; {args.rounds} rounds", flush=True)
            names = chosen((*REFSCALE, *PEERS), args.only)
            found["sizes"][name] = compare(SIZES[name], names, args.rounds, args.pause)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
