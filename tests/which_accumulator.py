"""Which accumulator a GPU's matrix product is: its float32 sums beside the models of ``exact.accumulators``.

    python -m tests.which_accumulator [FILE.npz]

Needs torch and a GPU whose tensor cores take FP8 (compute capability 8.9 or more). Operands are random codes, so that
terms of one sum are up to 2^30 apart and cutting shows. Prints, for every product and inner size, how many bits of a
float32 significand its sums use and the models that agree in most of 1024 sums; FILE takes 256 of them. That of an
H200 (PyTorch 2.11, CUDA 13.0) is tests/exact/h200.npz, and ``tests/exact/test_hardware.py`` holds the models to it.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from refscale.exact.accumulators import get_accumulator
from refscale.formats import decode, get_format
from refscale.golden.inputs import Words

PRODUCTS = {
    "e4m3 × e4m3, fast": ("float8_e4m3fn", "float8_e4m3fn", "truncated:13:32"),
    "e4m3 × e4m3": ("float8_e4m3fn", "float8_e4m3fn", "truncated:13:32:128"),
    "e5m2 × e4m3, fast": ("float8_e5m2", "float8_e4m3fn", "truncated:13:32"),
    "e5m2 × e4m3": ("float8_e5m2", "float8_e4m3fn", "truncated:13:32:128"),
    "fp16 × fp16": ("float16", "float16", "truncated:25:16"),
    "bf16 × bf16": ("bfloat16", "bfloat16", "truncated:25:16"),
}
"""Formats of a and b, and the accumulator of an H200's sums; fast: ``use_fast_accum=True``."""
SIZES = (16, 32, 64, 128, 256)
SIDE, KEPT = 32, 16
BLOCKED = [f"truncated:{n}:{b}" for n in range(11, 28) for b in (4, 8, 16, 32, 64, 128)]
MODELS = ("float32", *BLOCKED, *(f"{m}:{p}" for m in BLOCKED for p in (64, 128)))


def operands(left: str, right: str, inner: int) -> tuple[np.ndarray, np.ndarray]:
    """(SIDE, inner) and (inner, SIDE): finite codes, decoded to float32; of 16-bit formats those from 2^-8 to 2^8."""

    def some(name: str, seed: int, *shape: int) -> np.ndarray:
        f = get_format(name)
        x = decode(np.arange(f.code_count, dtype=f.code_dtype), f)
        x = x[np.isfinite(x)] if f.bits <= 8 else x[(np.abs(x) >= 2.0**-8) & (np.abs(x) <= 2.0**8)]
        return x[Words(seed).below(len(x), *shape)]

    return some(left, inner, SIDE, inner), some(right, inner + 1, inner, SIDE)


def bits_used(sums: np.ndarray) -> int:
    """The bits of the widest significand among float32 values."""
    significand = (sums.view(np.uint32) & 0x7FFFFF) | 0x800000
    return 24 - min(int(s & -s).bit_length() - 1 for s in significand.ravel().tolist())


def multiplier(torch: Any, name: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The product of that name on the GPU, of float32 arrays that hold values of its formats."""
    left, right, _ = PRODUCTS[name]

    def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(a).cuda().to(getattr(torch, left))
        y = torch.from_numpy(b).cuda().to(getattr(torch, right))
        if not left.startswith("float8"):
            return torch.mm(x, y, out_dtype=torch.float32).cpu().numpy()
        one = torch.ones((), device="cuda")
        by_columns = y.t().contiguous().t()
        fast = name.endswith("fast")
        return torch._scaled_mm(x, by_columns, one, one, out_dtype=torch.float32, use_fast_accum=fast).cpu().numpy()

    return multiply


def main(arguments: list[str]) -> int:
    import torch

    print(torch.cuda.get_device_name(), "torch", torch.__version__, "cuda", torch.version.cuda)
    kept = {}
    for name, (left, right, _) in PRODUCTS.items():
        multiply = multiplier(torch, name)
        for inner in SIZES:
            a, b = operands(left, right, inner)
            y = multiply(a, b)
            kept[f"{name}, {inner}"] = y[:KEPT, :KEPT]
            equal = {m: int((get_accumulator(m).matmul(a, b) == y).sum()) for m in MODELS}
            best = sorted(equal, key=equal.__getitem__, reverse=True)[:4]
            found = ", ".join(f"{m} {equal[m]}" for m in best)
            print(f"{name}, K = {inner}: {bits_used(y)} bits; of {y.size}: {found}", flush=True)
    for path in arguments:
        np.savez(path, **kept)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
