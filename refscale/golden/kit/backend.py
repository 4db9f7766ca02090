"""The interface of a backend: a class with a name, claims, and a method for each op that it implements."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from refscale.blocks import SCALE_RULES
from refscale.errors import ArgumentError, GoldenError, shown
from refscale.exact import get_accumulator
from refscale.exact.hardware import GPUS, model_of
from refscale.formats import FORMATS, OVERFLOWS, ROUNDINGS, get_format
from refscale.golden.conventions import claimed, unclaimed
from refscale.golden.replay import make_op
from refscale.golden.schema import OPS, Vector
from refscale.modules import load_object

METHODS = tuple(OPS)
"""Methods that a backend may define; each is called with the arrays and attributes of a vector as keyword arguments."""

MOST_ULPS = 1 << 16
"""Largest bound in ulp of float32: one ulp of bfloat16, the coarsest output format of functions."""

_FORMAT_ATTRIBUTES = (
    *("format", "a_format", "b_format", "element_format", "store", "operand", "operand_gradient"),
    *("scale_format", "a_scale_format", "b_scale_format"),
)


_KINDS = {"op": "name", "unary": "function", "model": "name", "block_layout": "layout"}
"""Attribute with the kind of an op, for claims such as "op:gelu"."""

_KIND = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Claims:
    """The claims of a backend; vectors outside them are "not implemented".

    Attributes:
        formats: names of supported formats; None: all.
        roundings: supported rounding modes; None: all.
        overflows: supported overflow rules; None: both, as requested.
        nan: "any": a NaN matches every NaN of its format, since IEEE 754 leaves sign and payload open; "same": bits.
        accumulate: accumulator of its products, a name of ``exact.get_accumulator``, or "blocks:NAME": each block of a
            block-scaled product separately (``blocks.block_matmul``). The verdict compares with the bits of that
            accumulator; "any-order", float32 in an unspecified order, has a bound instead. A GPU alone, such as "h100",
            is its accumulator for the formats of each product; products missing in ``exact.HARDWARE`` are not claimed.
        function_ulps: error of its elementary functions before rounding, in ulp of float32; 0: the same bits; at most
            ``MOST_ULPS``.
        op_ulps: error of the functions inside other ops (exp, log, tanh, …), in ulp of float32; the other roundings of
            an op, and of ``adamw``, have the bound that its formulas derive (``Op.bound``). 0: the same bits; at most
            ``MOST_ULPS``.
        scale_rules: supported rules for the scales of blocks; None: any rule, as requested.
        conventions: its conventions where no standard defines the result: names by topic, or text, "cuda" or
            "e8m0_zero:smallest,nan_code:payload"; see ``golden.conventions``. Stored as a mapping.
        ops: names of ``METHODS``, or of one kind: "op:gelu", "unary:exp", "model:ffn", "block_layout:nibbles". The
            backend must answer every vector of these. None: the existing methods, each of which must answer one vector;
            for a program, each op that it answers once.
        sources: formats of the array that ``cast``, ``unary`` and ``block_quantize`` read; None: all.
        start: whether the sums of ``matmul`` start from a third array, ``c``; if so, every such vector must be
            answered.
    """

    formats: tuple[str, ...] | None = None
    roundings: tuple[str, ...] | None = None
    overflows: tuple[str, ...] | None = None
    nan: Literal["any", "same"] = "any"
    accumulate: str = "exact"
    function_ulps: float = 0.0
    op_ulps: float = 0.0
    scale_rules: tuple[str, ...] | None = None
    conventions: str | Mapping[str, str] = field(default_factory=dict)
    ops: tuple[str, ...] | None = None
    sources: tuple[str, ...] | None = None
    start: bool = False

    def __post_init__(self) -> None:
        if self.formats is not None:
            object.__setattr__(self, "formats", tuple(get_format(f).name for f in self.formats))
        if self.sources is not None:
            names = tuple(f if f == "float64" else get_format(f).name for f in self.sources)
            object.__setattr__(self, "sources", names)
        if self.ops is not None:
            for op in self.ops:
                method, colon, kind = op.partition(":")
                right = method in _KINDS and _KIND.fullmatch(kind) if colon else method in METHODS
                if not right:
                    raise GoldenError(
                        f"Claims(ops={shown(op, 40)!r}): expected some of {', '.join(METHODS)}, or one kind, "
                        "such as op:gelu"
                    )
        for name, known in (("roundings", ROUNDINGS), ("overflows", OVERFLOWS), ("scale_rules", SCALE_RULES)):
            if unknown := set(getattr(self, name) or ()) - set(known):
                raise GoldenError(f"Claims({name}={sorted(unknown)}): expected some of {', '.join(known)}")
        if self.nan not in ("any", "same"):
            raise GoldenError(f"Claims(nan={self.nan!r}): expected 'any' or 'same'")
        for name in ("function_ulps", "op_ulps"):
            if not 0 <= getattr(self, name) <= MOST_ULPS:
                raise GoldenError(
                    f"Claims({name}={getattr(self, name):g}): expected 0 to {MOST_ULPS}, an ulp of bfloat16"
                )
        if not isinstance(self.start, bool):
            raise GoldenError(f"Claims(start={self.start!r}): expected True or False")
        object.__setattr__(self, "conventions", claimed(self.conventions))
        try:
            if self.accumulate not in GPUS:
                get_accumulator(self.accumulate.removeprefix("blocks:") if self.accumulate else "")
        except ArgumentError as error:
            raise GoldenError(f"Claims: {error}") from None

    def missing(self, vector: Vector) -> str:
        """Return the part of a vector that is not claimed, in words; "" if all is claimed."""
        kind = f"{vector.op}:{vector.attributes.get(_KINDS.get(vector.op, ''), '')}"
        if self.ops is not None and vector.op not in self.ops and kind not in self.ops:
            return f"op {kind if vector.op in _KINDS else vector.op}"
        source = vector.inputs.get("x") if vector.op in ("cast", "unary", "block_quantize") else None
        if source is not None and self.sources is not None and source.format not in self.sources:
            return f"source {source.format}"
        for key in _FORMAT_ATTRIBUTES:
            format = vector.attributes.get(key)
            if format and self.formats is not None and format in FORMATS and format not in self.formats:
                return f"format {format}"
        rounding, overflow = vector.attributes.get("rounding"), vector.attributes.get("overflow")
        if rounding and self.roundings is not None and rounding not in self.roundings:
            return f"rounding {rounding}"
        if overflow and self.overflows is not None and overflow not in self.overflows:
            return f"overflow {overflow}"
        rule = vector.attributes.get("rule") if vector.op == "block_quantize" else None
        if rule and self.scale_rules is not None and rule not in self.scale_rules:
            return f"scale rule {rule}"
        if vector.op == "matmul" and "c" in vector.inputs and not self.start:
            return "a start value of sums"
        if self.accumulate in GPUS and _on_gpu(vector, self.accumulate) is None:
            return f"this product on {self.accumulate}"
        return ""

    def unclaimed(self, vector: Vector) -> tuple[str, ...]:
        """Return the topics of a vector whose recorded convention the backend is not checked with."""
        return unclaimed(vector, claimed(self.conventions))

    def of(self, vector: Vector) -> Claims:
        """Return the claims on one vector; a GPU is replaced by its accumulator for the formats of the product."""
        accumulate = _on_gpu(vector, self.accumulate) if self.accumulate in GPUS else None
        return replace(self, accumulate=accumulate) if accumulate else self


def _on_gpu(vector: Vector, gpu: str) -> str | None:
    """Return the accumulator of a product on a GPU, None if unknown; for other ops "exact", which they do not use."""
    v = vector.attributes
    if vector.op in ("matmul", "scaled_matmul"):
        return model_of(gpu, v["a_format"], v["b_format"])
    if vector.op == "op" and make_op(v["name"], v["attributes"]).contraction:
        formats = {v["operand"] or v["store"], v["operand_gradient"] or v["operand"] or v["store"]}
        return model_of(gpu, *formats, *formats) if len(formats) == 1 else None
    return None if vector.op == "block_matmul" else "exact"


class Backend(Protocol):
    """The minimal interface of a backend; the methods in ``METHODS`` are optional.

    A method receives NumPy arrays: float16, bfloat16, float32 and float64 by their own dtype; narrower formats, and
    tf32, as float32 values; codes, indices, masks and random words as integers and booleans. It returns an array or, if
    a vector has several outputs, a dict of arrays by name. An array contains codes (unsigned integers of the format's
    width), or has the dtype of the format (float16, or one of ml_dtypes), or contains float32 or float64 values that
    the format represents. For an unsupported call a method raises NotImplementedError.

    Instead of methods a backend may have one, ``answer(vector)``, which receives the ``Vector`` and returns the dict.
    """

    name: str
    version: str
    claims: Claims


def load_backend(where: str) -> Backend:
    """Return an instance of "module:Class", or of "path/to/file.py:Class".

    Raises:
        GoldenError: there is no such module or class, its creation fails, or the object is not a backend.
    """
    made, _ = load_object(where, "backend", GoldenError, "Class")
    try:
        backend = made()
    except Exception as error:
        name = where.rpartition(":")[2]
        raise GoldenError(f"backend {where!r}: {name}() raised {type(error).__name__}: {error}") from error
    return check_backend(backend, where)


def check_backend(backend: Any, where: str) -> Backend:
    """Return the backend after checking its interface.

    Raises:
        GoldenError: it lacks a name, version, claims or every method, or its name is not printable.
    """
    for attribute, kind in (("name", str), ("version", str), ("claims", Claims)):
        if not isinstance(getattr(backend, attribute, None), kind):
            raise GoldenError(f"backend {where}: expected an attribute {attribute!r}, a {kind.__name__}")
    for attribute in ("name", "version"):
        check_name(getattr(backend, attribute), attribute)
    if not any(callable(getattr(backend, m, None)) for m in (*METHODS, "answer")):
        raise GoldenError(f"backend {where}: expected at least one method of {', '.join(METHODS)}")
    found: Backend = backend
    return found


LONGEST_NAME = 200
"""Largest number of characters of a backend's name or version."""


def check_name(text: str, what: str) -> str:
    """Return a name or version of a backend after checking that it is printable.

    Raises:
        GoldenError: the text is empty, too long, or has control characters.
    """
    if not text or len(text) > LONGEST_NAME or not text.isprintable():
        raise GoldenError(f"{what} {shown(text, 40)!r}: expected 1 to {LONGEST_NAME} printable characters")
    return text


def matches(id: str, patterns: tuple[str, ...] | list[str]) -> bool:
    """Return whether a vector's id matches one of the patterns; * matches any text."""
    return any(fnmatch.fnmatchcase(id, p) for p in patterns)
