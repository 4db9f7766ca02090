"""Where a training step's time goes: matrix products, element-wise passes, casts, and the engine.

    python tests/bench/profile.py --size small --scheme unit
    python tests/bench/profile.py --precision fp8 --steps 20 --json profile.json
    python tests/bench/profile.py --engine                    # microseconds of the engine for each op

Not a test. Forward and backward of every op, its kernel and every cast are wrapped while the step runs. Each moment
counts once, for what runs innermost; an op that calls another stays one op.
"""

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

sys.path.pop(0)  # this folder, whose profile.py would pass for Python's own
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from refscale.engine import Array, Op, Tape, Tensor, apply, backward
from refscale.formats import Cast
from refscale.scales import Scales, Shape, get_scheme
from tests.bench import work
from tests.bench.work import SIZES


class Part(NamedTuple):
    """The part that a moment counts for."""

    kind: str  # one of KINDS
    name: str = ""
    way: str = ""  # forward or backward


KINDS = {
    "products": "matrix products, their factors included",
    "passes": "element-wise passes: all other ops, and what kernels multiply by",
    "casts": "rounding",
    "engine": "all the rest: bookkeeping, sums of gradients, factors of ops without a kernel",
}
ENGINE = Part("engine")


class Clock:
    """Time by part, each moment for the innermost that is entered."""

    def __init__(self) -> None:
        self.seconds: dict[Part, float] = defaultdict(float)
        self.calls: dict[Part, int] = defaultdict(int)
        self.stack: list[Part] = []
        self.last = 0.0

    def charge(self) -> None:
        """What has passed since the last change is the innermost part's."""
        now = time.perf_counter()
        if self.stack:
            self.seconds[self.stack[-1]] += now - self.last
        self.last = now

    @contextmanager
    def within(self, part: Part) -> Iterator[None]:
        """Enter a part, and leave it."""
        self.charge()
        self.stack.append(part)
        self.calls[part] += 1
        try:
            yield
        finally:
            self.charge()
            self.stack.pop()

    def watched(self, function: Callable[..., Any], part: Callable[[Any], Part], once: bool) -> Callable[..., Any]:
        """The function, timed as the part that its first argument says.

        Args:
            function: what to call.
            part: of the first argument, an op or a cast.
            once: whether a call within an op counts for that op.
        """

        @wraps(function)
        def run(first: Any, *args: Any, **kwargs: Any) -> Any:
            inside = bool(self.stack) and self.stack[-1].kind in ("products", "passes")
            if not self.stack or (once and inside):
                return function(first, *args, **kwargs)
            with self.within(part(first)):
                return function(first, *args, **kwargs)

        return run


def every_op(base: type[Op] = Op) -> Iterator[type[Op]]:
    """All classes of ops there are."""
    for kind in base.__subclasses__():
        yield kind
        yield from every_op(kind)


@contextmanager
def watching(clock: Clock) -> Iterator[None]:
    """Wrap all ops, kernels and casts; put everything back in the end."""
    replaced: list[tuple[type, str, Any]] = []

    def replace(owner: type, attribute: str, value: Any) -> None:
        replaced.append((owner, attribute, vars(owner)[attribute]))
        setattr(owner, attribute, value)

    def part(way: str) -> Callable[[Op], Part]:
        return lambda op: Part("products" if op.contraction else "passes", op.name, way)

    try:
        for kind in set(every_op()):
            for attribute, value in list(vars(kind).items()):
                run = ("forward", "backward") if kind.fast_forward is None else ("fast_forward", "fast_backward")
                if attribute in run and callable(value):
                    way = attribute.removeprefix("fast_")
                    replace(kind, attribute, clock.watched(value, part(way), once=True))
        cast = clock.watched(Cast.__call__, lambda cast: Part("casts", f"to {cast.format}"), once=False)
        replace(Cast, "__call__", cast)
        yield
    finally:
        for owner, attribute, value in reversed(replaced):
            setattr(owner, attribute, value)


def profile(size: str, scheme: str, precision: str, steps: int, rows: int) -> dict[str, Any]:
    """Print shares and the most expensive ops of a step, and return them."""
    run = work.step(SIZES[size], scheme, precision)
    for _ in range(2):
        run()  # warm
    plain = median(work.seconds(run) for _ in range(steps))
    clock = Clock()
    with watching(clock):
        for _ in range(steps):
            with clock.within(ENGINE):
                run()
    total = sum(clock.seconds.values())
    shares = {kind: sum(t for part, t in clock.seconds.items() if part.kind == kind) / total for kind in KINDS}
    print(f"\n{size}: {SIZES[size]}; {scheme}, {precision}")
    print(f"{1e3 * plain:.1f} ms a step, {1e3 * total / steps:.1f} ms while watched; means of {steps} steps:\n")
    for kind, what in KINDS.items():
        print(f"{kind:10}{shares[kind]:7.1%}{1e3 * total * shares[kind] / steps:10.2f} ms   {what}")
    print(f"\n{'':26}{'':10}{'':10}{'calls':>8}{'ms':>10}{'share':>8}")
    parts = sorted(clock.seconds, key=lambda part: -clock.seconds[part])
    for part in [part for part in parts if part != ENGINE][:rows]:
        ms, calls = 1e3 * clock.seconds[part] / steps, clock.calls[part] / steps
        print(f"{part.name:26}{part.way:10}{part.kind:10}{calls:8.0f}{ms:10.2f}{clock.seconds[part] / total:8.1%}")
    return {
        "size": size,
        "scheme": scheme,
        "precision": precision,
        "step_ms": 1e3 * plain,
        "watched_ms": 1e3 * total / steps,
        "shares": shares,
        "parts": [
            part._asdict() | {"calls": clock.calls[part] / steps, "ms": 1e3 * clock.seconds[part] / steps}
            for part in parts
        ],
    }


# --- the engine alone -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Double(Op):
    """2·x, as little work as an op can do."""

    inputs = ("x",)
    source = "none"

    def forward(self, x: Array) -> tuple[Array, tuple[()]]:
        return x + x, ()

    def backward(self, g: Array) -> tuple[Array]:
        return (g + g,)

    def scale(self, x: Shape) -> Scales:
        return Scales(0.5, (0.5,))


@dataclass(frozen=True)
class Both(Op):
    """x + y."""

    inputs = ("x", "y")
    source = "none"

    def forward(self, x: Array, y: Array) -> tuple[Array, tuple[()]]:
        return x + y, ()

    def backward(self, g: Array) -> tuple[Array, Array]:
        return g, g

    def scale(self, x: Shape, y: Shape) -> Scales:
        return Scales(0.5, (0.5, 0.5))


@dataclass(frozen=True)
class Fast(Double):
    """2·x in a fast form."""

    def fast_forward(self, alpha: float, x: Array) -> tuple[Array, tuple[Any, ...]]:
        return x * (2 * alpha), ()

    def fast_backward(self, betas: Sequence[float], g: Array) -> tuple[Array, ...]:
        return tuple([g * (2 * beta) for beta in betas])


def chains() -> dict[str, tuple[str, Op]]:
    """The chained calls, by what they show: a scheme, and an op."""
    return {
        "one input, factors 1": ("regular", Double()),
        "one input, factors ½": ("unit", Double()),
        "two inputs, factors 1": ("regular", Both()),
        "two inputs, factors ½": ("unit", Both()),
        "one input, factors ½, kernel": ("unit", Fast()),
    }


def overhead(scheme: str, op: Op, length: int, rounds: int) -> dict[str, float]:
    """Microseconds for each op of a chain: in apply and in backward, and in the op's own functions alone."""
    inputs, x = len(op.inputs), np.ones(1, np.float32)
    scales = get_scheme(scheme)
    factors = Scales(1.0, (1.0,) * inputs) if scheme == "regular" else op.scale(*[x.shape] * inputs)
    times: dict[str, list[float]] = defaultdict(list)

    def forward(t: Tensor) -> Tensor:
        for _ in range(length):
            t = apply(op, *[t] * inputs)
        return t

    def own_forward() -> None:
        for _ in range(length):
            op.forward(*[x] * inputs) if op.fast_forward is None else op.fast_forward(factors.alpha, *[x] * inputs)

    def own_backward() -> None:
        for _ in range(length):
            op.backward(x) if op.fast_backward is None else op.fast_backward(list(factors.beta), x)

    # Doubling 200 times leaves float32; the cost and the warning of that are not the engine's.
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for _ in range(rounds + 2):
            leaf = Tape(scales).tensor(x)
            start = time.perf_counter()
            output = forward(leaf)
            between = time.perf_counter()
            backward(output)
            times["apply"].append(between - start)
            times["backward"].append(time.perf_counter() - between)
            times["own forward"].append(work.seconds(own_forward))
            times["own backward"].append(work.seconds(own_backward))
    return {name: 1e6 * median(t[2:]) / length for name, t in times.items()}


def engine_alone(length: int, rounds: int) -> dict[str, dict[str, float]]:
    """Print the engine's cost for each op, and return it."""
    print(f"\nmicroseconds an op, arrays of one element, chains of {length}, medians of {rounds} rounds")
    columns = ("apply", "own forward", "engine", "backward", "own backward", "engine")
    print(f"{'':30}" + "".join(f"{column:>14}" for column in columns))
    found = {}
    for name, (scheme, op) in chains().items():
        t = overhead(scheme, op, length, rounds)
        t["engine forward"] = t["apply"] - t["own forward"]
        t["engine backward"] = t["backward"] - t["own backward"]
        shown = ("apply", "own forward", "engine forward", "backward", "own backward", "engine backward")
        print(f"{name:30}" + "".join(f"{t[column]:14.2f}" for column in shown))
        found[name] = t
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--scheme", default="unit")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rows", type=int, default=20, help="of the table of ops (default: 20)")
    parser.add_argument("--engine", action="store_true", help="what the engine adds to each op, instead of a step")
    parser.add_argument("--length", type=int, default=200, help="with --engine, ops in a chain (default: 200)")
    parser.add_argument("--rounds", type=int, default=51, help="with --engine (default: 51)")
    parser.add_argument("--json", type=Path, help="also write what was found there")
    work.add_arguments(parser)
    args = parser.parse_args()
    work.restart(args)
    found: dict[str, Any] = {"facts": work.print_facts()}
    if args.engine:
        found["engine"] = engine_alone(args.length, args.rounds)
    else:
        found["profile"] = profile(args.size, args.scheme, args.precision, args.steps, args.rows)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
