"""The class of a golden vector: named inputs and outputs as codes, attributes, and flags that name the bugs it catches.

A vector states that ``op`` with ``attributes``, applied to ``inputs``, returns exactly the bits of ``outputs``. Arrays
are stored as codes, unsigned integers of their format's width, so that NaN, -0 and payloads have one meaning in every
language. Arrays without a floating-point format have their own dtype: indices (``int64``), masks (``bool``), random
words (``uint32``), codes that are only moved (``uint8``), and the binary64 inputs of casts (``float64``, as uint64).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from refscale.arrays import kept, plain
from refscale.errors import ArgumentError, FormatError
from refscale.formats import decode, encode, get_format

Array = NDArray[Any]

PLAIN: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {name: np.dtype(name) for name in ("int64", "bool", "uint32", "uint8")}
)
"""Array types without a floating-point format, stored unchanged."""

_NATIVE = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}


@dataclass(frozen=True, eq=False)
class Codes:
    """An array by its bits.

    Attributes:
        format: full name of a format, ``float64``, or one of ``PLAIN``.
        codes: unsigned integers of the format's width, any shape (for ``PLAIN``: that dtype itself); read-only.
    """

    format: str
    codes: Array

    def __post_init__(self) -> None:
        expected = code_dtype(self.format)
        codes = plain("Codes", "codes", self.codes)
        if codes.dtype != expected:
            raise FormatError(f"Codes({self.format!r}): an array of {codes.dtype}, expected {expected}")
        object.__setattr__(self, "codes", kept(np.ascontiguousarray(codes).reshape(codes.shape)))

    @classmethod
    def of(cls, values: ArrayLike, format: str) -> Codes:
        """Return the codes of values that the format represents; float64 by its bits, ``PLAIN`` unchanged."""
        if format in PLAIN:
            return cls(format, plain("Codes.of", "values", values).astype(PLAIN[format], copy=False))
        if format == "float64":
            wide = plain("Codes.of", "values", values).astype(np.float64, order="C", copy=False)
            return cls(format, wide.view(np.uint64))
        return cls(get_format(format).name, encode(values, format))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.codes.shape

    @property
    def data(self) -> bytes:
        """Codes as bytes, little-endian, in the order of the index."""
        return self.codes.astype(self.codes.dtype.newbyteorder("<"), copy=False).tobytes()

    @property
    def sha256(self) -> str:
        """SHA-256 of ``data``, in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def values(self) -> Array:
        """Values that the codes represent: float32, float64, or the plain array."""
        if self.format in PLAIN:
            return self.codes
        return self.codes.view(np.float64) if self.format == "float64" else decode(self.codes, self.format)

    @property
    def native(self) -> Array:
        """Array as a backend receives it: float16, bfloat16, float32, float64 by their own dtype, bits preserved;
        narrower formats, and tf32, as float32 values."""
        dtype = _NATIVE.get(self.format)
        return self.values if dtype is None else self.codes.view(dtype)


def code_dtype(format: str) -> np.dtype[Any]:
    """Return the dtype that stores an array of that format.

    Raises:
        FormatError: there is no format of that name.
    """
    if format in PLAIN:
        return PLAIN[format]
    return np.dtype(np.uint64) if format == "float64" else get_format(format).code_dtype


@dataclass(frozen=True, eq=False)
class Vector:
    """One golden vector.

    Attributes:
        id: unique path, family first: "cast/float8_e4m3fn/nearest_even/saturate/float32/ties".
        op: method of a backend that it tests: "cast", "decode", "unary", "matmul", "scaled_matmul", "op".
        attributes: keyword arguments of that call beside the arrays; JSON values.
        inputs: arrays by argument name, in order.
        outputs: arrays by name, in order; a single one is called "y".
        flags: names in ``FLAGS``: bugs that this vector catches.
        comment: one line for the reader of a failure.
        bulk: whether the vector is large, so that the set has only hashes and samples, and its family generates it
            again.
        conventions: conventions that the outputs follow where no standard defines them, by topic; see
            ``golden.conventions``.
    """

    id: str
    op: str
    attributes: Mapping[str, Any]
    inputs: Mapping[str, Codes]
    outputs: Mapping[str, Codes]
    flags: tuple[str, ...] = ()
    comment: str = ""
    bulk: bool = False
    conventions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "attributes", _as_json(self.id, self.attributes))

    @property
    def family(self) -> str:
        """First part of the id."""
        return self.id.partition("/")[0]


def _as_json(id: str, x: Any) -> Any:
    """Return a value as it comes back from JSON: tuples are lists, floats are Python's."""
    if x is None or isinstance(x, str | bool | int):
        return x
    if isinstance(x, float) and math.isfinite(x):
        return float(x)
    if isinstance(x, Mapping) and all(isinstance(key, str) for key in x):
        return {key: _as_json(id, value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [_as_json(id, value) for value in x]
    raise ArgumentError(f"golden vector {id!r}: an attribute is {x!r}, expected a value that JSON represents")


@dataclass(frozen=True)
class Digest:
    """An array of which the set has only the hash; ``families.complete`` generates it again.

    Attributes:
        format, shape: format and shape, as in ``Codes``.
        sha256: hash of its ``data``.
    """

    format: str
    shape: tuple[int, ...]
    sha256: str


OPS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "cast": {
            "computes": "y = x rounded to format, once; random_bits are the words of stochastic rounding",
            "accumulate": "none",
            "factor": "none",
        },
        "decode": {"computes": "y = the float32 value of each code", "accumulate": "none", "factor": "none"},
        "unary": {
            "computes": "y = function(x), or its derivative, the exact result rounded once",
            "accumulate": "none",
            "factor": "none",
        },
        "matmul": {
            "computes": "y = factor · (c + a @ b), the exact result rounded once; c is 0 unless it is an input",
            "accumulate": "exact",
            "factor": "on the sum, before it is rounded",
        },
        "scaled_matmul": {
            "computes": "y = (a · a_scale) @ (b · b_scale), the exact result rounded once; without block a scale per "
            "row of a and per column of b, else one per block of the inner dimension",
            "accumulate": "exact",
            "factor": "scales: on the operands",
        },
        "block_quantize": {
            "computes": "x in a block-scaled format: elements (codes), scales (codes, one to a block, in the array's "
            "shape), tensor_scale; refscale.blocks.rounding defines the rules by name",
            "accumulate": "none",
            "factor": "none",
        },
        "block_matmul": {
            "computes": "y = T_a·T_b·Σ s_a·s_b·a·b, the exact result rounded once; blocks of a along its columns, of b "
            "along its rows, or over both axes if a block has two lengths",
            "accumulate": "exact",
            "factor": "scales: on the elements; tensor scales: on the sum",
        },
        "block_dequantize": {
            "computes": "y = T·s·e, elements times the scales of their blocks and the scale of the tensor, the exact "
            "result rounded once to format",
            "accumulate": "none",
            "factor": "scales: on the elements, before they are rounded",
        },
        "block_layout": {
            "computes": "y = codes in a memory layout: 'nibbles', two in a byte, the first in the low half; "
            "'cublas-scales', in tiles of 128 rows × 4 blocks",
            "accumulate": "none",
            "factor": "none",
        },
        "op": {
            "computes": "y = alpha · forward(inputs) and grad_i = beta_i · vjp_i(gradient), each rounded to store; "
            "inputs of contractions are first rounded to operand, their gradient to operand_gradient; losses stay "
            "float32",
            "accumulate": "exact",
            "factor": "on outputs and gradients, before they are rounded",
        },
        "model": {
            "computes": "a training step: every activation, its gradient, losses, gradients of parameters",
            "accumulate": "exact",
            "factor": "on outputs and gradients, before they are rounded",
        },
        "adamw": {
            "computes": "m = b1·m + (1 − b1)·g; v = b2·v + (g·g)·(1 − b2); "
            "u = (m/(√v·(1 − b2^t)^-½ + eps))·(1/(1 − b1^t)); p = p − (u·lr + (lr·weight_decay)·p); numbers in "
            "binary64, rounded to float32 before they are combined with an array; operations on arrays in float32",
            "accumulate": "none",
            "factor": "none",
        },
    }
)
"""Every op of a vector: its definition, the accumulation of sums, and the place of the factor. Rounding is to nearest
even unless the attributes state otherwise; formats of at most 8 bits then saturate, others do not."""


FLAGS: Mapping[str, str] = MappingProxyType(
    {
        # cast
        "tie-even": "a tie rounds to the neighbor with even significand",
        "tie-zero": "a tie rounds toward zero, or away from it, if the mode requires it",
        "truncation": "bits below the last place are rounded, not dropped",
        "rounding-mode": "up, down, toward zero, nearest away: the requested mode",
        "double-rounding": "one rounding, not two through an intermediate format",
        "carry": "a carry out of the significand increments the exponent",
        "top-binade": "values between the largest and the overflow threshold stay finite",
        "overflow": "beyond the threshold: saturate, or not, as requested",
        "infinity": "±inf: preserved, saturated, or NaN in a format without it",
        "nan-code": "the code of NaN in this format",
        "nan-sign": "the sign of a NaN, if the format has one",
        "negative-zero": "-0 stays -0, or is +0 in a format without it",
        "fn-fnuz": "FN and FNUZ formats differ: bias, largest value, NaN",
        "ieee-fn": "E4M3 with infinities (maximum 240) and without (448) differ",
        "bias": "the exponent bias",
        "subnormal-flush": "subnormals are values, not zeros",
        "subnormal-rounding": "rounding to a subnormal has the spacing of the smallest binade",
        "underflow": "half the smallest value and its neighbors: zero or the smallest value",
        "sign": "the sign of the result",
        "stochastic-words": "stochastic rounding: all 32 random bits count, and decide outward or inward as specified",
        # decode
        "decode-subnormal": "codes with a zero exponent field",
        "decode-special": "codes of infinity and NaN",
        "decode-top": "codes of the top exponent that are ordinary values in this format",
        # unary
        "function-tail": "relative accuracy where the result is small",
        "function-tie": "the exact result lies just beside a tie",
        "function-overflow": "results beyond the largest value, and inputs at the ends",
        "function-form": "the erf and the tanh form of gelu differ",
        "derivative": "the derivative, not a difference that cancels",
        # products
        "accumulator": "sums in a narrower format than the exact result, or rounded before the end",
        "cancellation": "large terms cancel, small ones remain",
        "big-small": "small terms beside a large one",
        "k-order": "the result does not depend on the order of summation",
        "start-value": "sums start from c: it is not added after a rounding, nor left out",
        "k-tail": "an inner dimension that is not a multiple of a block",
        "inner-overflow": "a partial sum beyond the output format, a result within it",
        "non-square": "different numbers of rows and columns: no transposed or swapped dimension",
        "gradient-operands": "the gradient of x multiplies by w transposed, that of w by x transposed",
        "factor": "the factor multiplies",
        "factor-before-rounding": "the factor multiplies the sum before it is rounded",
        "scale-row": "one scale per row of a",
        "scale-column": "one scale per column of b",
        "scale-block": "one scale per block of the inner dimension",
        "inf-nan": "infinities and NaN follow IEEE 754",
        "zero-sum": "an empty sum, and one that is exactly zero, is +0",
        # blocks
        "scale-power": "the scale of an exact power of two, not twice that",
        "scale-low": "the exponent of the scale, not one less",
        "scale-threshold": "the scale one ulp to each side of where the rule changes",
        "scale-rule": "the requested rule, not another",
        "scale-zero": "a block of zeros, or so small that its scale is the smallest",
        "scale-range": "scales beyond either end of their format are clipped to it",
        "scale-nonfinite": "the effect of an infinity or a NaN on its block, as requested",
        "block-elements": "elements are the numbers over the scale, rounded once",
        "block-saturate": "elements beyond the largest saturate, if the rule allows them",
        "block-low-end": "small numbers of a block are subnormals of the element format, or zero",
        "block-axis": "blocks lie along the requested axis",
        "block-short": "the last block of an axis may be shorter, and has its own amax",
        "block-square": "blocks of r × c over the last two axes",
        "block-stochastic": "random bits decide elements, not scales",
        "block-tensor-scale": "the scale of the tensor comes first, from the whole tensor",
        "block-arithmetic": "the order and precision of the operations on scales and elements, as requested",
        "block-nan": "a block whose scale is NaN is NaN as a whole",
        "block-scale-index": "each block is multiplied by its own scale",
        "block-scale-once": "a scale multiplies once",
        "source-16": "float16 and bfloat16 inputs are read by their own format, and rounded once",
        "tail": "lengths that are not a multiple of a vector width: the last elements too",
        "batch": "each matrix of the leading axes, not the first alone",
        "strides": "inputs that are not contiguous in memory",
        "tile-edge": "sizes at, below and above the edge of a tile: every row, column and term",
        "output-saturate": "a product beyond the largest value: saturate, or not, as requested",
        "scale-ends": "the smallest, subnormal and largest codes of scales are numbers, the code of NaN is NaN",
        "element-special": "subnormal, infinite and NaN elements of a block have the values of their codes",
        "convention": "the claimed convention, where no standard defines the result",
        "nibble-order": "the first of two 4-bit codes is in the low half of the byte",
        "scale-tiles": "scales in tiles of 128 × 4, interleaved by 32 rows",
        # ops and models
        "alpha": "the output is multiplied by α before it is rounded",
        "beta": "each gradient is multiplied by its own β before it is rounded",
        "vjp": "the gradient formula",
        "vjp-sign": "the sign of a gradient",
        "broadcast": "gradients are summed over broadcast axes",
        "duplicates": "gradients of rows that were read twice are added",
        "counted-rows": "a mean over the counted rows, not over all",
        "masked": "masked positions have no gradient",
        "causal": "the keys that a query sees",
        "variance": "the biased variance, and eps inside the square root",
        "loss-unrounded": "the value of a loss is not rounded to the storage format",
        "operand-cast": "operands of a contraction are cast to their format",
        "gradient-cast": "the gradient that a contraction receives is cast to its own format",
        "gradient-sum": "gradients of several uses are added, then stored",
        "optimizer": "the update: moments, bias correction, decay",
    }
)
"""Meaning of every flag: the property that a failing backend violates."""
