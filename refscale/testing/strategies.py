"""Hypothesis strategies: formats, casts, arrays, shapes, generators and graphs.

The only module of the package that imports Hypothesis (`pip install refscale[test]`). Examples shrink toward the most
readable ones: the first format, round to nearest, zeros and ones, short shapes, chains.

    >>> from hypothesis import given
    >>> from refscale.testing import assert_same_bits
    >>> @given(casts(), float_arrays(allow_nan=False))
    ... def test_a_cast_is_idempotent(cast, x):
    ...     once = cast(x)
    ...     finite = once[np.isfinite(once)]
    ...     assert_same_bits(cast(finite), finite)
    >>> test_a_cast_is_idempotent()
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refscale.blocks import (
    BLOCK_FORMATS,
    ELEMENT_ARITHMETICS,
    NONFINITES,
    SCALE_ARITHMETICS,
    SCALE_RULES,
    BlockCast,
)
from refscale.engine import Example, Op, Sizes, example
from refscale.errors import ArgumentError, CarrierError
from refscale.formats import (
    FORMATS,
    OVERFLOWS,
    ROUNDINGS,
    Cast,
    Format,
    FormatLike,
    Overflow,
    Rounding,
    decode,
    encode,
    get_format,
)
from refscale.ops import Elementwise
from refscale.testing.graphs import Dag, undirected_edges
from refscale.testing.places import Place

__all__ = [
    "DEFAULT_KINDS",
    "Dag",
    "arrays_in",
    "block_casts",
    "broadcastable_shapes",
    "casts",
    "dags",
    "float_arrays",
    "formats",
    "generators",
    "matmul_shapes",
    "op_examples",
    "overflows",
    "places",
    "roundings",
    "seeds",
    "shapes",
    "undirected_edges",
]

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
Shapes = int | Shape | st.SearchStrategy[Shape]

DEFAULT_KINDS: Mapping[str, int] = MappingProxyType({"tanh": 1, "add": 2, "multiply": 2, "scaled": 1})
"""Kinds of ops with their arity, the default of `dags`; examples shrink to the first."""


# Formats and casts.


def formats(*, min_bits: int = 4, max_bits: int = 32, scales: bool = False) -> st.SearchStrategy[Format]:
    """Return a strategy of formats of the table, narrowest first.

    Args:
        min_bits: smallest width of a code in bits.
        max_bits: largest width of a code in bits.
        scales: whether to include formats without zero and sign (float8_e8m0fnu), which represent scales, not elements.

    Returns:
        A strategy of `Format`; shrinks toward the narrowest.

    Raises:
        ArgumentError: no format remains.
    """
    chosen = [f for f in FORMATS.values() if min_bits <= f.bits <= max_bits and (scales or f.has_zero)]
    if not chosen:
        raise ArgumentError(f"formats: no format has {min_bits} to {max_bits} bits")
    return st.sampled_from(sorted(chosen, key=lambda f: f.bits))


def roundings(*, stochastic: bool = False) -> st.SearchStrategy[Rounding]:
    """Return a strategy of names of rounding modes, nearest even first.

    Args:
        stochastic: whether to include stochastic rounding, whose calls need random bits.
    """
    return st.sampled_from([r for r in ROUNDINGS if stochastic or r != "stochastic"])


def overflows() -> st.SearchStrategy[Overflow]:
    """Return a strategy of names of overflow rules, saturating first."""
    return st.sampled_from(OVERFLOWS)


def casts(into: st.SearchStrategy[Format] | None = None, *, stochastic: bool = False) -> st.SearchStrategy[Cast]:
    """Return a strategy of casts: a format, a rounding and an overflow rule.

    Args:
        into: strategy of formats; default: `formats()`.
        stochastic: whether to include stochastic rounding, whose calls need random bits.

    Returns:
        A strategy of `Cast`; shrinks toward the narrowest format, nearest even, saturating.
    """
    return st.builds(Cast, formats() if into is None else into, roundings(stochastic=stochastic), overflows())


def block_casts(
    into: st.SearchStrategy[BlockCast] | None = None, *, dims: int = 2, max_block: int = 5
) -> st.SearchStrategy[BlockCast]:
    """Return a strategy of block-scaled formats, with every rule and rounding they allow, in small blocks on any axis.

    Args:
        into: strategy of block formats, whose blocks and axes are replaced; default: those of the table.
        dims: dimensions of the arrays that they convert, at least 2.
        max_block: largest side length of a block.

    Returns:
        A strategy of `BlockCast`, without stochastic rounding; shrinks toward MXFP8 by the rule of MX, blocks of 1.
        With `nonfinite="ignore"`, formats without NaN refuse a NaN element.
    """

    def varied(cast: BlockCast) -> st.SearchStrategy[BlockCast]:
        powers = cast.rule != "amax"
        arithmetics = [f"{s}+{e}" for s in SCALE_ARITHMETICS for e in ELEMENT_ARITHMETICS]
        side = st.integers(1, max_block)
        return st.builds(
            replace,
            st.just(cast),
            block=st.tuples(*[side] * len(cast.block)),
            axis=st.integers(-dims, dims - 1) if len(cast.block) == 1 else st.just(-1),
            rule=st.sampled_from([r for r in SCALE_RULES if (r != "amax") == powers]),
            arithmetic=st.just("exact") if powers else st.sampled_from(arithmetics),
            least=st.just(0.0) if powers else st.sampled_from([0.0, 2.0**-6]),
            nonfinite=st.sampled_from(NONFINITES),
            rounding=roundings(),
            overflow=overflows(),
        )

    return (st.sampled_from(list(BLOCK_FORMATS.values())) if into is None else into).flatmap(varied)


# Arrays.


def arrays_in(
    format: FormatLike,
    shape: Shapes | None = None,
    *,
    allow_nan: bool = False,
    allow_infinity: bool = False,
    dtype: npt.DTypeLike = np.float32,
) -> st.SearchStrategy[Array]:
    """Return a strategy of wide arrays that carry values of a format, as an op receives them.

    Drawn over codes, so that all binades have the same probability, and the edges a high one: both zeros, one and its
    neighbors, the smallest normal, the smallest and the largest subnormal, the largest value.

    Args:
        format: a format or its name.
        shape: the shape, or a strategy of shapes; default: `shapes()`.
        allow_nan: whether to draw NaN, if the format has it.
        allow_infinity: whether to draw infinities, if the format has them.
        dtype: float32 or float64.

    Returns:
        A strategy of arrays; shrinks toward zeros and ones.

    Raises:
        CarrierError: another dtype.
        FormatError: an unknown format.
    """
    format, dtype = get_format(format), np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise CarrierError(f"arrays_in: dtype is {dtype}, expected float32 or float64")
    specials = [format.inf_code] if allow_infinity and format.inf_code is not None else []
    specials += [format.nan_code] if allow_nan and format.nan_code is not None else []

    def values(drawn: Array) -> Array:
        magnitude, negative = drawn >> np.uint64(1), drawn & np.uint64(1)
        if format.nan == "twos_complement":
            codes = np.where(negative, np.uint64(format.code_count) - magnitude, magnitude)
            codes &= np.uint64(format.code_count - 1)
            return np.asarray(decode(codes.astype(format.code_dtype), format), dtype)
        codes = magnitude | negative * np.uint64(format.sign_code)
        if not format.has_signed_zero:
            codes = np.where(drawn == 1, np.uint64(0), codes)
        return np.asarray(decode(codes.astype(format.code_dtype), format), dtype)

    largest = int(encode(np.float32(format.max), format))
    return _drawn(shape, _edges(format), largest, specials).map(values)


def _edges(format: Format) -> list[int]:
    """Return the codes of magnitudes at which something changes, the simplest first."""
    unit = 1 << format.mantissa_bits  # codes per binade
    one, largest = (int(encode(np.float32(x), format)) for x in (1.0, format.max))
    edges = [one, one + unit, one - 1, one + 1, 0, largest, largest - 1]
    if format.has_zero:
        edges = [0, *(e for e in edges if e <= largest), unit, 1, unit - 1]
    return edges


def float_arrays(
    dtype: npt.DTypeLike = np.float32,
    shape: Shapes | None = None,
    *,
    allow_nan: bool = True,
    allow_infinity: bool = True,
) -> st.SearchStrategy[Array]:
    """Return a strategy of arrays over all bit patterns of a float dtype; edges are drawn often.

    Uniform over codes, not over values, so that all binades, subnormals and both zeros have the same probability. NaN
    are quiet and signaling, of both signs and any payload.

    Args:
        dtype: float16, float32, float64 or bfloat16.
        shape: the shape, or a strategy of shapes; default: `shapes()`.
        allow_nan: whether to draw NaN.
        allow_infinity: whether to draw infinities.

    Returns:
        A strategy of arrays; shrinks toward zeros and ones.

    Raises:
        CarrierError: another dtype.
    """
    dtype = np.dtype(dtype)
    if dtype.name not in ("float16", "float32", "float64", "bfloat16"):
        raise CarrierError(f"float_arrays: dtype is {dtype}, expected float16, float32, float64 or bfloat16")
    top = 8 * dtype.itemsize - 1
    unsigned = np.dtype(f"u{dtype.itemsize}")

    def code(value: float) -> int:
        return int(np.array([value], dtype).view(unsigned)[0])

    info = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    one, two, infinity, largest = code(1.0), code(2.0), code(np.inf), code(float(info.max))
    normal = code(float(info.smallest_normal))
    edges = [0, one, two, normal, 1, normal - 1, largest, largest - 1, one - 1, one + 1]
    specials = [infinity] * allow_infinity
    if allow_nan:
        specials += [code(np.nan), infinity + 1, 2**top - 1]  # quiet, signaling, every payload bit

    def patterns(drawn: Array) -> Array:
        codes = (drawn >> np.uint64(1)) | ((drawn & np.uint64(1)) << np.uint64(top))
        return np.asarray(codes.astype(unsigned).view(dtype))

    return _drawn(shape, edges, largest, specials, range(infinity + 1, 2**top) if allow_nan else range(0)).map(patterns)


def _drawn(
    shape: Shapes | None, edges: list[int], largest: int, specials: list[int], more: range = range(0)
) -> st.SearchStrategy[Array]:
    """Return arrays of 2 m + s, for codes with magnitude m and sign s: small integers for simple values.

    A third each of edges (and specials), of all codes up to the largest finite, and of all codes in `more`.
    """
    elements: st.SearchStrategy[int] = st.sampled_from([2 * m + s for m in edges + specials for s in (0, 1)])
    elements |= st.integers(0, 2 * largest + 1)
    if more:
        elements |= st.integers(2 * more.start, 2 * more.stop - 1)
    return hnp.arrays(np.uint64, shapes() if shape is None else shape, elements=elements)


# Shapes.


def shapes(min_dims: int = 0, max_dims: int = 3, max_side: int = 6, *, min_side: int = 1) -> st.SearchStrategy[Shape]:
    """Return a strategy of shapes of arrays.

    Args:
        min_dims: smallest number of dimensions, >= 0; () is the shape of a scalar.
        max_dims: largest number of dimensions.
        max_side: largest side length.
        min_side: smallest side length; 0 allows empty arrays.

    Returns:
        A strategy of tuples; shrinks toward few and short dimensions.
    """
    return hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, min_side=min_side, max_side=max_side)


def matmul_shapes(
    *, max_side: int = 6, max_batch_dims: int = 2, min_side: int = 1
) -> st.SearchStrategy[tuple[Shape, Shape]]:
    """Return a strategy of pairs of shapes for `x @ w`: (..., b, m) and (..., m, n), batch dimensions broadcast.

    Args:
        max_side: largest side length.
        max_batch_dims: largest number of batch dimensions, each operand separately; 0 for plain matrices.
        min_side: smallest side length.

    Returns:
        A strategy of pairs of shapes.
    """
    return hnp.mutually_broadcastable_shapes(
        signature="(b,m),(m,n)->(b,n)", max_dims=max_batch_dims, min_side=min_side, max_side=max_side
    ).map(lambda shapes: (shapes.input_shapes[0], shapes.input_shapes[1]))


def broadcastable_shapes(
    count: int = 2, *, min_dims: int = 0, max_dims: int = 3, max_side: int = 6, min_side: int = 1
) -> st.SearchStrategy[tuple[Shape, ...]]:
    """Return a strategy of shapes that broadcast against each other.

    Args:
        count: number of shapes, >= 1.
        min_dims: smallest number of dimensions of each.
        max_dims: largest number of dimensions of each.
        max_side: largest side length.
        min_side: smallest side length.

    Returns:
        A strategy of tuples of `count` shapes.
    """
    return hnp.mutually_broadcastable_shapes(
        num_shapes=count, min_dims=min_dims, max_dims=max_dims, min_side=min_side, max_side=max_side
    ).map(lambda shapes: shapes.input_shapes)


# Randomness.


def seeds() -> st.SearchStrategy[int]:
    """Return a strategy of seeds of generators: integers in [0, 2^32), shrinking toward 0."""
    return st.integers(0, 2**32 - 1)


def generators() -> st.SearchStrategy[np.random.Generator]:
    """Return a strategy of fresh `numpy.random.Generator`s; a failing example prints as `default_rng(seed)`."""
    return seeds().map(np.random.default_rng)


# Ops.


def op_examples(kind: type[Op], *, max_size: int = 6) -> st.SearchStrategy[Example]:
    """Return a strategy of uses of an op: the examples of its class at drawn sizes; for element-wise ops, any shape.

    Args:
        kind: class of the op.
        max_size: largest of the sizes b, m, n and s.

    Returns:
        A strategy of `Example`; `example.arrays(rng)` draws its inputs. Shrinks toward sizes of 1.

    Raises:
        ArgumentError: the class declares no examples.
    """
    if not kind.examples(Sizes(1, 1, 1, 1)):
        raise ArgumentError(f"op_examples: {kind.__name__} declares no examples; define its method examples")
    if issubclass(kind, Elementwise):
        attributes = st.sampled_from([e.op for e in kind.examples(Sizes(1, 1, 1, 1))])
        return st.builds(example, attributes, shapes())
    sizes = st.builds(Sizes, *[st.integers(1, max_size)] * 4)
    return sizes.flatmap(lambda at: st.sampled_from(kind.examples(at)))


# Places.


def places(sizes: str = "bmns", *, max_size: int = 96) -> st.SearchStrategy[Place]:
    """Return a strategy of places: sizes and a seed at which a claim is tested.

    Args:
        sizes: letters of the sizes to draw, of b, m, n and s; the others have their defaults.
        max_size: largest size.

    Returns:
        A strategy of `Place`; shrinks toward sizes of 1 and the seed 0.

    Raises:
        ArgumentError: another letter.
    """
    if unknown := set(sizes) - set("bmns"):
        raise ArgumentError(f"places: sizes are {sizes!r}, expected letters of 'bmns', not {sorted(unknown)}")
    drawn = {name: st.integers(1, max_size) for name in sizes}
    return st.builds(Place, seed=seeds(), **drawn)


# Graphs.


def dags(
    kinds: Mapping[str, int] = DEFAULT_KINDS,
    *,
    max_leaves: int = 4,
    max_ops: int = 8,
) -> st.SearchStrategy[Dag]:
    """Return a strategy of random graphs of ops: chains, trees, shared nodes, multi-edges, dead ends.

    Args:
        kinds: name and arity of each kind of op, arity >= 1.
        max_leaves: largest number of leaves, >= 1.
        max_ops: largest number of ops, >= 1.

    Returns:
        A strategy of `Dag`; shrinks toward one leaf and a chain of the first kind. Inputs are drawn as distances back,
        not as node numbers, so that shrinking can delete an op without changing the rest.

    Raises:
        ArgumentError: there are no kinds, an arity is below 1, or a limit is below 1.
    """
    if not kinds or min(kinds.values()) < 1:
        raise ArgumentError(f"dags: kinds are {dict(kinds)}, expected names with arities >= 1")
    if max_leaves < 1 or max_ops < 1:
        raise ArgumentError(f"dags: max_leaves is {max_leaves} and max_ops is {max_ops}, expected limits >= 1")
    back = st.integers(0, max_leaves + max_ops - 2)
    one_op = st.one_of(*(st.tuples(st.just(kind), st.tuples(*[back] * arity)) for kind, arity in kinds.items()))

    return st.builds(_chained, st.integers(1, max_leaves), st.lists(one_op, min_size=1, max_size=max_ops))


def _chained(n_leaves: int, ops: list[tuple[str, tuple[int, ...]]]) -> Dag:
    """Return a graph of ops whose inputs are distances back.

    Input k of the simplest op is the k-th node back, so two inputs differ unless the draw, or a lack of nodes, makes
    them equal.
    """
    return Dag(
        n_leaves,
        tuple(
            (kind, tuple((node - 1 - k - distance) % node for k, distance in enumerate(distances)))
            for node, (kind, distances) in enumerate(ops, start=n_leaves)
        ),
    )
