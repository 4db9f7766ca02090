"""How fast a cast is, against the round trip through ml_dtypes: x.astype(narrow).astype(float32).

    python tests/bench/quantize.py

Not a test. Both ways take turns within a round, so that a busy machine slows both; each figure is a median over rounds.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import ml_dtypes
import numpy as np

from refscale.formats import FORMATS, Cast, Format

LARGE, SMALL, ROUNDS, CALLS = 1 << 22, 1 << 10, 7, 200


def seconds(f: Callable[[], object], calls: int = 1) -> float:
    """Mean time of a call."""
    start = time.perf_counter()
    for _ in range(calls):
        f()
    return (time.perf_counter() - start) / calls


def round_trip(x: np.ndarray, format: Format) -> np.ndarray | None:
    return None if format.dtype is None else x.astype(format.dtype).astype(np.float32)


def row(format: Format, x: np.ndarray, small: np.ndarray) -> str:
    """Rates at 4 M elements, and microseconds for 1 K, of one format."""
    saturating, other = (Cast(format, "nearest_even", o) for o in ("saturate", "nonsaturate"))
    random = np.random.default_rng(1).integers(0, 2**32, x.size, np.uint32)
    stochastic, out = Cast(format, "stochastic", "saturate"), np.empty_like(x)
    with np.errstate(all="ignore"):
        ways: dict[str, Callable[[], object]] = {
            "ml_dtypes": lambda: round_trip(x, format),
            "saturate": lambda: saturating(x),
            "out=": lambda: saturating(x, out=out),
            "clipped": lambda: saturating(wide),
            "nonsaturate": lambda: other(x),
            "float64": lambda: saturating(x64),
            "stochastic": lambda: stochastic(x, random),
        }
        # Enough beyond max that every block takes the longer way.
        wide, x64 = x * np.float32(format.max / 3 if format.max < 1e30 else 1), x.astype(np.float64)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS + 1):
            for name, f in ways.items():
                times[name].append(seconds(f))
        rate = {name: x.size / median(t[1:]) / 1e6 for name, t in times.items()}
        little = [
            (seconds(lambda: round_trip(small, format), CALLS), seconds(lambda: saturating(small), CALLS))
            for _ in range(ROUNDS)
        ]
    if format.dtype in (None, np.dtype(np.float32)):  # nothing, or a copy, to compare with
        rate["ml_dtypes"] = float("nan")
    ratio = rate["saturate"] / rate["ml_dtypes"]
    columns = "".join(f"{rate[name]:12.0f}" for name in ways)
    micro = "".join(f"{median(t) * 1e6:8.1f}" for t in zip(*little, strict=True))
    return f"{format.name:20}{columns}{ratio:8.1f}{micro}"


def main() -> None:
    rng = np.random.default_rng(0)
    x, small = (rng.standard_normal(n).astype(np.float32) for n in (LARGE, SMALL))
    print(f"numpy {np.__version__}, ml_dtypes {ml_dtypes.__version__}; {LARGE} float32 ~ N(0,1), medians of {ROUNDS}")
    print("million elements per second (ratio: saturate / ml_dtypes), and microseconds for", SMALL, "elements")
    print(f"{'format':20}{'ml_dtypes':>12}{'saturate':>12}{'out=':>12}{'clipped':>12}{'nonsaturate':>12}", end="")
    print(f"{'float64':>12}{'stochastic':>12}{'ratio':>8}{'µs ml':>8}{'µs':>8}")
    for format in FORMATS.values():
        print(row(format, x, small), flush=True)


if __name__ == "__main__":
    main()
