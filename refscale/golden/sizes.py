"""Generated vectors at the sizes where kernels fail: beside the edges of tiles, with odd lengths and leading axes.

The set on disk has small vectors. These are generated on demand, from a seed, with exact expected results. In one round
each of ``EDGES`` is once a number of rows, once a number of columns and once the length of the contracted axis; so is
each of ``LONG``. Formats, sources, outputs, ops and leading axes change from size to size. A run also has
``tiny_sums``, near the smallest exponent to which matrix units align.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale import ops
from refscale.blocks import BLOCK_FORMATS, get_block_cast, split_blocks
from refscale.engine import Op
from refscale.errors import ArgumentError
from refscale.exact import FUNCTIONS, evaluate
from refscale.formats import Cast, Overflow
from refscale.golden.block_products import PAIRS, product_of
from refscale.golden.blocks import quantized
from refscale.golden.cast import rounded
from refscale.golden.dequantize import dequantized, random_blocks
from refscale.golden.inputs import Words, cast_for, normal_codes
from refscale.golden.ops import op_vector
from refscale.golden.products import product, scaled_product
from refscale.golden.schema import Codes, Vector
from refscale.precision import get_precision

Shape = tuple[int, int, int]
Make = Callable[[], Vector]

EDGES = (1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257)
"""Sizes: 1, and one less than, exactly and one more than the sizes of tiles."""

LONG = (511, 513, 1023, 1025, 2049, 4097)
"""Additional lengths of the contracted axis."""

_SHORT = (1, 15, 16, 17, 31, 33)

FULL_ROUNDS = 4
"""Number of rounds of a full run; a usual run has one."""

SHAPE_ROUNDS = 15
"""Number of rounds in which a single size covers every pair of formats, every op and every function."""

_OPERANDS = (
    ("bfloat16", "bfloat16"),
    ("float16", "float16"),
    ("float32", "float32"),
    ("float8_e4m3fn", "float8_e4m3fn"),
    ("float8_e4m3fn", "float8_e5m2"),
    ("float8_e5m2", "float8_e4m3fn"),
    ("float8_e4m3fnuz", "float8_e5m2fnuz"),
)
_OUTPUTS = ("float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2")
_SOURCES = ("float32", "bfloat16", "float16")
_NARROW = ("float8_e4m3fn", "float8_e5m2", "float4_e2m1fn", "float6_e2m3fn", "bfloat16", "float16", "float8_e4m3fnuz")
_OVERFLOWS: tuple[Overflow, ...] = ("saturate", "nonsaturate")
_LEADING: tuple[tuple[int, ...], ...] = ((), (), (3,), (), (2, 2))


_OPS: tuple[tuple[Op, tuple[str, ...]], ...] = (
    (ops.Softmax(), ("mk",)),
    (ops.LayerNorm(), ("mk", "k", "k")),
    (ops.SoftmaxCrossEntropy(), ("mk", "m")),
    (ops.Matmul(), ("mk", "kn")),
    (ops.RmsNorm(), ("mk", "k")),
    (ops.Gelu(), ("mk",)),
    (ops.LogSoftmax(), ("mk",)),
    (ops.Bias(), ("mk", "k")),
    (ops.AttentionScores(), ("mk", "nk")),
    (ops.Sum((-1,)), ("mk",)),
    (ops.SiluGlu(), ("mk", "mk")),
    (ops.Readout(), ("mk", "kn")),
    (ops.Silu(), ("mk",)),
    (ops.Mean((0,)), ("mk",)),
    (ops.Multiply(), ("mk", "k")),
)
"""Ops, and the lengths of the axes of their inputs."""


def shapes_of(seed: int, round: int) -> list[Shape]:
    """Return the sizes (M, N, K) of one round, in an order from the seed; M and N are short if K is long."""
    words = Words(_stream(seed, round, 0))
    orders = (np.argsort(words.words(len(EDGES)), kind="stable") for _ in range(3))
    found = [(EDGES[m], EDGES[n], EDGES[k]) for m, n, k in zip(*orders, strict=True)]
    rows, columns = words.below(len(_SHORT), len(LONG)), words.below(len(_SHORT), len(LONG))
    return found + [(_SHORT[m], _SHORT[n], k) for m, n, k in zip(rows, columns, LONG, strict=True)]


def generate(
    seed: int = 0,
    rounds: int = 1,
    shapes: Sequence[Shape] | None = None,
    only: Callable[[str], bool] | None = None,
    first: int = 0,
) -> Iterator[Vector]:
    """Yield generated vectors, always the same for the same arguments.

    Args:
        seed: random seed of sizes, formats and values, 0 to 2^32 − 1.
        rounds: number of uses of each size, each with other formats and values.
        shapes: sizes (M, N, K) to use instead of the edges of tiles.
        only: predicate on ids; None: all.
        first: number of the first round.

    Raises:
        ArgumentError: a seed or a size is out of range.
    """
    if not 0 <= seed < 2**32:
        raise ArgumentError(f"sizes: seed is {seed}, expected 0 to 2^32 - 1")
    for shape in shapes or ():
        if len(shape) != 3 or min(shape) < 1 or shape[0] * shape[1] * shape[2] > 2**32:
            raise ArgumentError(f"sizes: shape {shape}, expected M, N, K of at least 1 and a product of at most 2^32")
    for r in range(first, first + rounds):
        for i, shape in enumerate(shapes or shapes_of(seed, r)):
            for id, make in _vectors(seed, r, i, shape):
                if only is None or only(id):
                    yield make()


def sample(
    seed: int = 0, full: bool = False, repeat: int = 1, only: Callable[[str], bool] | None = None
) -> list[Vector]:
    """Return the generated vectors of a usual run, or of a full one.

    Args:
        seed: first random seed.
        full: whether each size is used ``FULL_ROUNDS`` times.
        repeat: number of consecutive seeds, 1 or more.
        only: predicate on ids; None: all.

    Raises:
        ArgumentError: the number of seeds or a seed is out of range.
    """
    if repeat < 1:
        raise ArgumentError(f"--repeat {repeat}: expected at least 1")
    rounds = FULL_ROUNDS if full else 1
    found = [v for i in range(repeat) for v in generate(seed + i, rounds, only=only)]
    return found + [v for v in tiny_sums() if only is None or only(v.id)]


def tiny_sums() -> Iterator[Vector]:
    """Yield sums m·2^-149 − 2^-e, e = 150 … 166, on which accumulators with different alignment floors differ.

    Without a floor a sum just below m·2^-149 is cut to (m − 1)·2^-149. With a floor E, and N bits below it, a product
    below 2^(E − N) is cut first, and m·2^-149 remains: for N = 25 from e = 159 on with E = −133, from 158 on with −132.
    A zero between the two products moves them into other blocks.
    """
    for format, spread in itertools.product(("bfloat16", "float32"), (1, 9)):
        rows = np.zeros((3, spread + 1))
        columns = np.zeros((spread + 1, 17))
        rows[:, 0], rows[:, spread] = np.ldexp([1.0, 2.0, 5.0], -74), -(2.0**-80)
        columns[0], columns[spread] = 2.0**-75, np.ldexp(1.0, -np.arange(70, 87))
        a, b = Codes.of(rows, format), Codes.of(columns, format)
        comment = f"m·2^-149 - 2^-e, {spread} apart"
        yield product(f"sizes/tiny-sums/{format}/{spread}", a, b, "float32", 1.0, ("accumulator",), comment)


def until(seconds: float, seed: int, shapes: Sequence[Shape] | None, only: Callable[[str], bool]) -> Iterator[Vector]:
    """Yield generated vectors, round after round, until a number of seconds has passed.

    Args:
        seconds: time from the first vector on.
        seed, shapes, only: as in ``generate``.
    """
    end, round, some = time.monotonic() + seconds, 0, True
    while some:  # after a round without a vector, no later round has one
        some = False
        for vector in generate(seed, 1, shapes, only, first=round):
            if time.monotonic() > end:
                return
            some = True
            yield vector
        round += 1


def _stream(seed: int, round: int, place: int) -> int:
    return (seed << 64) + (round << 32) + place


def _vectors(seed: int, round: int, i: int, shape: Shape) -> Iterator[tuple[str, Make]]:
    """Yield the ids of one size, and the function that generates each vector."""
    m, n, k = shape
    for kind, make in enumerate(_KINDS):
        turn = i + 11 * round + kind
        place = 1 + _FIRST * i + kind if kind < _FIRST else (kind << 28) + i
        where = f"sizes/{make.__name__[1:].replace('_', '-')}/{m}x{n}x{k}/seed-{seed}/{round}.{i}"
        yield where, partial(make, where, Words(_stream(seed, round, place)), shape, turn)


def _leading(turn: int, size: int) -> tuple[int, ...]:
    """Return leading axes, unless the arrays are already large."""
    return _LEADING[turn % len(_LEADING)] if size <= 1 << 18 else ()


def _flags(*names: str, batch: bool = False, source: str = "") -> tuple[str, ...]:
    short = ("source-16",) if source in ("float16", "bfloat16") else ()
    return (*names, *short, *(("batch",) if batch else ()))


def _product(where: str, words: Words, shape: Shape, turn: int) -> Vector:
    m, n, k = shape
    left, right = _OPERANDS[turn % len(_OPERANDS)]
    leading = _leading(turn, m * k + k * n)
    a, b = normal_codes(words, left, *leading, m, k), normal_codes(words, right, *leading, k, n)
    factor = (1.0, 0.7, 2.0**-3)[turn % 3]
    cast = Cast(_OUTPUTS[turn % len(_OUTPUTS)], "nearest_even", _OVERFLOWS[turn % 2])
    comment = f"a {a.shape} · b {b.shape}, {left} · {right}"
    return product(where, a, b, cast, factor, _flags("tile-edge", batch=bool(leading)), comment)


def _block_product(where: str, words: Words, shape: Shape, turn: int) -> Vector:
    m, n, k = shape
    left, right = PAIRS[turn % len(PAIRS)]
    first, second = BLOCK_FORMATS[left], BLOCK_FORMATS[right]
    second = second if len(second.block) == 2 else get_block_cast(second, axis=-2)
    leading = _leading(turn, m * k + k * n)
    a = random_blocks(words, first, (*leading, m, k), 0.7 if first.tensor_scale else 1.0)
    b = random_blocks(words, second, (*leading, k, n), 0.3 if second.tensor_scale else 1.0)
    cast = cast_for(("float32", "bfloat16", "float16")[turn % 3])
    comment = f"{left} {a.shape} · {right} {b.shape}"
    return product_of(where, a, b, cast, _flags("tile-edge", batch=bool(leading)), comment)


def _cast(where: str, words: Words, shape: Shape, turn: int) -> Vector:
    m, n, _ = shape
    source, format = _SOURCES[turn % len(_SOURCES)], _NARROW[turn % len(_NARROW)]
    leading = _leading(turn, m * n)
    values = words.normal(*leading, m, n) * np.ldexp(1.0, words.below(16, *leading, m, n) - 10)
    x, cast = Codes.of(cast_for(source)(values), source), Cast(format, "nearest_even", _OVERFLOWS[turn % 2])
    flags = _flags("tile-edge", "tail", batch=bool(leading), source=source)
    return rounded(where, cast, x, flags, f"{source} {x.shape} to {format}")


def _conversion(where: str, words: Words, shape: Shape, turn: int) -> Vector:
    m, _, k = shape
    name, cast = list(BLOCK_FORMATS.items())[turn % len(BLOCK_FORMATS)]
    source = _SOURCES[turn % len(_SOURCES)]
    leading = _leading(turn, m * k)
    values = words.normal(*leading, m, k) * np.ldexp(1.0, words.below(8, *leading, m, k) - 4)
    x = Codes.of(cast_for(source)(values), source)
    if len(cast.block) == 1 and turn % 2:
        cast = get_block_cast(cast, axis=-2)
    flags = _flags("tile-edge", "tail", batch=bool(leading), source=source)
    return quantized(where, x, cast, flags, f"{source} {x.shape} to {name}")


def _values(where: str, words: Words, shape: Shape, turn: int) -> Vector:
    m, _, k = shape
    name, cast = list(BLOCK_FORMATS.items())[turn % len(BLOCK_FORMATS)]
    leading = _leading(turn, m * k)
    x = random_blocks(words, cast, (*leading, m, k), 0.7 if cast.tensor_scale else 1.0)
    output = cast_for(("float32", "bfloat16", "float16")[turn % 3])
    return dequantized(where, x, output, _flags("tile-edge", "tail", batch=bool(leading)), f"{name} {x.shape}")


def _started_product(where: str, words: Words, shape: Shape, turn: int) -> Vector:
    m, n, k = shape
    left, right = _OPERANDS[turn % len(_OPERANDS)]
    leading = _leading(turn, m * k + k * n)
    a, b = normal_codes(words, left, *leading, m, k), normal_codes(words, right, *leading, k, n)
    c = words.normal(*leading, m, n) * np.ldexp(1.0, words.below(24, *leading, m, n) - 6)
    start = Codes.of(c.astype(np.float32), "float32")
    flags, comment = _flags("tile-edge", "start-value", batch=bool(leading)), f"c + a {a.shape} · b {b.shape}"
    return product(where, a, b, "float32", 1.0, flags, f"{comment}, {left} · {right}", start)


def _scaled_product(where: str, words: Words, shape: Shape, turn: int) -> Vector:
    m, n, k = shape
    left, right = _OPERANDS[turn % len(_OPERANDS)]
    a, b = normal_codes(words, left, m, k), normal_codes(words, right, k, n)
    block = (None, 32, 128)[turn % 3]
    count = () if block is None else (-(-k // block),)
    rows, columns = (np.ldexp(np.float32(1), words.below(9, *s) - 4) for s in ((m, *count), (*count, n)))
    cast = Cast(_OUTPUTS[turn % len(_OUTPUTS)], "nearest_even", _OVERFLOWS[turn % 2])
    comment = f"a {a.shape} · b {b.shape}, {left} · {right}, scales {rows.shape} and {columns.shape}"
    return scaled_product(where, (a, rows), (b, columns), block, cast, _flags("tile-edge"), comment)


def _block_cancellation(where: str, words: Words, shape: Shape, turn: int) -> Vector:
    """Return a product whose first half of the axis cancels: the remaining sum is that of the last block or less."""
    m, n, k = shape
    left, right = PAIRS[turn % len(PAIRS)]
    first, second = BLOCK_FORMATS[left], BLOCK_FORMATS[right]
    second = second if len(second.block) == 2 else get_block_cast(second, axis=-2)
    half = k // 2 // (2 * first.block[-1]) * 2 * first.block[-1] or k // 2
    half = min(half, (k - 1) // 2)
    x, w = words.normal(m, k), words.normal(k, n)
    x[:, half : 2 * half], w[half : 2 * half] = -x[:, :half], w[:half]
    x[:, 2 * half :] /= 64
    a, b = (split_blocks(y.astype(np.float32), cast) for y, cast in ((x, first), (w, second)))
    comment = f"{left} {a.shape} · {right} {b.shape}, the first {2 * half} products nearly cancel"
    return product_of(where, a, b, cast_for("float32"), _flags("tile-edge", "cancellation", "accumulator"), comment)


def _op(where: str, words: Words, shape: Shape, turn: int) -> Vector:
    op, names = _OPS[turn % len(_OPS)]
    sizes = dict(zip("mnk", sorted(shape), strict=True))  # the longest is the contracted axis
    arrays: list[NDArray[Any]] = [words.normal(*(sizes[axis] for axis in name)) for name in names]
    if isinstance(op, ops.SoftmaxCrossEntropy):
        arrays[1] = words.below(sizes["k"], sizes["m"])
    with np.errstate(all="ignore"):
        out = op.forward(*arrays)[0].shape
    gradient = np.asarray(words.normal(*out)) if out else np.ones(())
    scales = op.scale(*(x.shape for x in arrays))
    precision = get_precision(("fp16", "fp32", "fp8")[turn % 3])
    comment = f"{op.name} of {' and '.join(str(x.shape) for x in arrays)}"
    return op_vector(where, op, arrays, gradient, scales, precision, _flags("tile-edge"), None, comment)


def _function(where: str, words: Words, shape: Shape, turn: int) -> Vector:
    m, n, _ = shape
    name, function = list(FUNCTIONS.items())[turn // 2 % len(FUNCTIONS)]
    source, derivative = _SOURCES[turn % len(_SOURCES)], bool(turn % 2)
    leading = _leading(turn, m * n)
    values = words.normal(*leading, m, n) * np.ldexp(1.0, words.below(6, *leading, m, n) - 3)
    x = Codes.of(cast_for(source)(np.abs(values) if name in ("log", "sqrt", "rsqrt") else values), source)
    cast = cast_for(("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")[turn % 4])
    y = Codes.of(evaluate(function.name, x.values, cast, derivative), cast.format.name)
    attributes = {"function": name, "derivative": derivative, "format": cast.format.name}
    attributes |= {"rounding": cast.rounding, "overflow": cast.overflow}
    more = ("derivative",) if derivative else ()
    flags = _flags("tile-edge", "tail", *more, batch=bool(leading), source=source)
    return Vector(where, "unary", attributes, {"x": x}, {"y": y}, flags, f"{name} of {source} {x.shape}")


_KINDS = (
    *(_product, _block_product, _cast, _conversion, _values),
    *(_started_product, _scaled_product, _block_cancellation, _op, _function),
)
"""Kinds of vectors generated for each size."""

_FIRST = 5
"""Number of kinds that share a numbering of their streams, frozen; each later kind has its own."""
