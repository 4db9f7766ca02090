"""Cases that no standard defines: topics, the names of their conventions, and the elements of a vector they concern.

A vector records the convention of its expected bits, by topic (``Vector.conventions``). A backend claims conventions by
name (``kit.Claims.conventions``). An element that a topic concerns is checked if the recorded name is the claimed one;
all other elements are mandated by a standard, and are always checked. There are three kinds of topics:

* requested: attributes of the call name the convention (``nonfinite``, ``arithmetic``). Without a claim a backend is
  checked with every name that a call requests, with a claim with that name alone.
* with a default: a standard recommends one name; without a claim a backend is checked with it.
* without a default: without a claim these elements are not checked, and the report counts them.

The code of a NaN is a special case. A standard mandates that the result is a NaN (IEEE 754-2019, 6.2), which is always
checked; the claimed name defines its code, which is checked under that claim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.blocks import (
    DEQUANTIZE_ARITHMETICS,
    ELEMENT_ARITHMETICS,
    NONFINITES,
    SCALE_ARITHMETICS,
    BlockCast,
    Blocks,
    dequantize_blocks,
)
from refscale.blocks.parts import block_axes
from refscale.errors import GoldenError
from refscale.formats import CONVENTIONS, FORMATS, Cast, get_format
from refscale.golden.records import cast_of, dequantize_operand
from refscale.golden.schema import Codes, Vector

__all__ = [
    "SETS",
    "TOPICS",
    "Topic",
    "claimed",
    "concerned",
    "is_claimed",
    "of_blocks",
    "of_cast",
    "of_dequantize",
    "unclaimed",
]

Array = NDArray[Any]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Topic:
    """A case that no standard defines.

    Attributes:
        names: names of its conventions; the first is the default of ``formats`` and ``blocks``.
        clause: sentence of a standard that leaves the case open, or recommends ``default``.
        asked: whether the attributes of a vector name the convention.
        default: name with which a backend without a claim is checked; "" for none.
    """

    names: tuple[str, ...]
    clause: str
    asked: bool = False
    default: str = ""


_ARITHMETIC = "no standard; arXiv 2509.25149, appendix C, is one of several orders in use; refscale.blocks.rounding"

TOPICS: Mapping[str, Topic] = MappingProxyType(
    {
        "e8m0_zero": Topic(CONVENTIONS["e8m0_zero"], "OCP MX 1.0, 5.4.1: E8M0 has no zero; no rule for a conversion"),
        "e8m0_negative": Topic(
            CONVENTIONS["e8m0_negative"], "OCP MX 1.0, 5.4.1: E8M0 has no sign; ONNX Cast 25: 'Unspecified'"
        ),
        "e8m0_small": Topic(CONVENTIONS["e8m0_small"], "OCP MX 1.0, 5.4.1: no rule for underflow of a conversion"),
        "nan_code": Topic(
            CONVENTIONS["nan_code"], "IEEE 754-2019, 6.2.3: 'should' keep the payload; sign not specified (6.3)"
        ),
        "nan_without": Topic(CONVENTIONS["nan_without"], "OCP MX 1.0, 5.3: no NaN; a conversion of NaN is not defined"),
        "float32_subnormals": Topic(
            CONVENTIONS["float32_subnormals"],
            "IEEE 754-2019, 3.4 and 7.5: subnormal operands are numbers; a flush is an option of hardware",
            default="kept",
        ),
        "block_infinity": Topic(NONFINITES, "OCP MX 1.0, 6.3: Inf in the input is implementation-defined", asked=True),
        "block_nan": Topic(
            ("nan", "ignore"), "OCP MX 1.0, 6.3: NaN in the input is implementation-defined", asked=True
        ),
        "block_zero": Topic(("smallest", "one"), "OCP MX 1.0, 6.3: log2 of zero is not defined; any scale gives zeros"),
        "nvfp4_scale": Topic(SCALE_ARITHMETICS, _ARITHMETIC, asked=True),
        "nvfp4_element": Topic(ELEMENT_ARITHMETICS, _ARITHMETIC, asked=True),
        "tile_scale": Topic(SCALE_ARITHMETICS, "no standard; DeepSeek-V3, arXiv 2412.19437, divides", asked=True),
        "tile_element": Topic(ELEMENT_ARITHMETICS, "no standard; DeepSeek-V3, arXiv 2412.19437, divides", asked=True),
        "scale_sign": Topic(("signed", "ignored"), "no standard; cuBLAS reads UE4M3, E4M3 without its sign"),
        "dequantize": Topic(
            DEQUANTIZE_ARITHMETICS, "no standard; OCP MX 1.0, 6.2, defines the value, and its scales multiply exactly"
        ),
    }
)
"""Topics by name."""

SETS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "refscale": {
            **{topic: names[0] for topic, names in CONVENTIONS.items()},
            "block_zero": "smallest",
            "scale_sign": "signed",
            "dequantize": "exact",
        },
        # cuda_fp8.hpp, cuda_fp6.hpp, cuda_fp4.hpp of CUDA 13.0; PTX ISA 9.0, cvt: .satfinite.
        "cuda": {
            "e8m0_zero": "smallest",
            "e8m0_negative": "magnitude",
            "e8m0_small": "smallest",
            "nan_code": "positive_ones",
            "nan_without": "largest",
            "block_infinity": "largest",
        },
        # ONNX operator Cast, opset 25, the table of FLOAT8E8M0; technical/float4.
        "onnx": {"e8m0_zero": "saturating", "e8m0_small": "nan", "nan_without": "largest"},
        # Tensor.to of PyTorch 2.13 on a CPU; the code of a bfloat16 NaN depends on the processor.
        "torch": {
            "e8m0_zero": "smallest",
            "e8m0_negative": "magnitude",
            "e8m0_small": "smallest",
            "nan_code/float8_e4m3fn": "ones",
            "nan_code/float8_e5m2": "ones",
            "nan_code/float16": "payload",
            "nan_code/float32": "payload",
        },
        # astype of ml_dtypes 0.6; float16 and float32 are NumPy's.
        "ml_dtypes": {
            "e8m0_zero": "nan",
            "e8m0_negative": "nan",
            "e8m0_small": "smallest",
            "nan_code": "canonical",
            "nan_code/float16": "payload",
            "nan_code/float32": "payload",
            "nan_without": "opposite_zero",
        },
        # The documentation of cuBLAS: 1D block scaling, VEC16_UE4M3.
        "cublas": {"scale_sign": "ignored"},
    }
)
"""Conventions of known libraries, by topic or by "topic/format"."""


def claimed(conventions: str | Mapping[str, str]) -> dict[str, str]:
    """Return the claims of a backend as names by topic.

    Args:
        conventions: mapping from "topic" or "topic/format" to a name; or text, parts joined by commas, each the name of
            a set or "topic:name": "cuda,nan_code:payload". Later parts override earlier ones.

    Raises:
        GoldenError: an unknown set, topic, format or name.
    """
    found: dict[str, str] = {}
    if isinstance(conventions, str):
        for part in conventions.split(",") if conventions else ():
            topic, colon, name = part.strip().partition(":")
            if not colon and topic not in SETS:
                raise GoldenError(f"Claims: unknown conventions {part!r}, expected topic:name or {', '.join(SETS)}")
            found |= {topic: name} if colon else SETS[topic]
    else:
        found = dict(conventions)
    for key, name in found.items():
        topic, slash, format = key.partition("/")
        if topic not in TOPICS:
            raise GoldenError(f"Claims: unknown topic {topic!r} of a convention, expected one of {', '.join(TOPICS)}")
        if slash and format not in FORMATS:
            raise GoldenError(f"Claims: unknown format {format!r} of convention {topic}")
        if name not in TOPICS[topic].names:
            raise GoldenError(f"Claims: unknown convention {topic}:{name}, expected {', '.join(TOPICS[topic].names)}")
    return found


def is_claimed(vector: Vector, topic: str, claims: Mapping[str, str]) -> bool:
    """Return whether the convention that a vector records for a topic is the one that the backend is checked with."""
    name = claims.get(f"{topic}/{vector.attributes.get('format')}", claims.get(topic, ""))
    if not name and TOPICS[topic].asked:
        return True
    return vector.conventions[topic] == (name or TOPICS[topic].default)


def unclaimed(vector: Vector, claims: Mapping[str, str]) -> tuple[str, ...]:
    """Return the topics of a vector whose recorded convention is not the one that the backend is checked with."""
    return tuple(topic for topic in vector.conventions if not is_claimed(vector, topic, claims))


def concerned(vector: Vector, topics: tuple[str, ...]) -> dict[str, Mask]:
    """Return the elements of each output that some topics concern; for ``nan_code``, only in family ``convention``."""
    masks = {name: np.zeros(y.shape, np.bool_) for name, y in vector.outputs.items()}
    for topic in topics:
        if topic != "nan_code" or vector.family == "convention":
            for name, mask in _PLACES[vector.op](vector, topic).items():
                masks[name] |= mask
    return masks


# --- which elements ---------------------------------------------------------------------------------------------------


def of_cast(x: Codes, format: str, overflow: str) -> dict[str, str]:
    """Return the conventions of ``formats`` that the result of a cast follows."""
    wide = x.values
    topics = [t for t in CONVENTIONS if _of_numbers(wide, x.format, format, overflow, t).any()]
    return {topic: CONVENTIONS[topic][0] for topic in topics}


def of_blocks(x: Codes, cast: BlockCast) -> dict[str, str]:
    """Return the conventions of ``blocks`` that the result of a conversion follows."""
    found = {}
    if cast.rule == "amax":
        kind = "nvfp4" if cast.tensor_scale else "tile"
        found = {f"{kind}_scale": cast.scale_arithmetic, f"{kind}_element": cast.element_arithmetic}
    wide = x.values
    if np.isinf(wide).any():
        found["block_infinity"] = cast.nonfinite
    if np.isnan(wide).any():
        found["block_nan"] = "ignore" if cast.nonfinite == "ignore" else "nan"
    if cast.rule != "amax" and not _any_of_blocks(wide != 0, cast).all():
        found["block_zero"] = "smallest"
    if _subnormal(wide, x.format).any():
        found["float32_subnormals"] = "kept"
    return found


def of_dequantize(attributes: Mapping[str, Any], blocks: Blocks) -> dict[str, str]:
    """Return the conventions of ``blocks`` that the values of an array follow."""
    return {"dequantize": "exact"} if _by_order(attributes, blocks).any() else {}


def _by_order(attributes: Mapping[str, Any], blocks: Blocks) -> Mask:
    """Return the elements whose value depends on the order of multiplications."""
    cast = Cast(attributes["format"], attributes["rounding"], attributes["overflow"])
    exact, *others = (dequantize_blocks(blocks, cast, a).view(np.uint32) for a in DEQUANTIZE_ARITHMETICS)
    return np.asarray(np.logical_or.reduce([exact != y for y in others]))


def _subnormal(wide: Array, source: str) -> Mask:
    size = np.abs(wide)
    return np.asarray((source in ("float32", "bfloat16")) & (size > 0) & (size < 2.0**-126))


def _of_numbers(wide: Array, source: str, format: str, overflow: str, topic: str) -> Mask:
    """Return the numbers of a cast, from a source format to another, that a topic concerns."""
    f = get_format(format)
    nan, negative = np.isnan(wide), np.signbit(wide)
    match topic:
        case "e8m0_zero":
            return np.asarray((wide == 0) & ~negative & (not f.has_zero))
        case "e8m0_negative":
            return np.asarray(negative & ~nan & (not f.has_zero))
        case "e8m0_small":
            return np.asarray((wide > 0) & (wide < f.min_normal) & (not f.has_zero) & (overflow == "nonsaturate"))
        case "nan_code":
            return np.asarray(nan & f.has_signed_nan)
        case "nan_without":
            return np.asarray(nan & (not f.has_nan))
    return _subnormal(wide, source)


def _of_cast(vector: Vector, topic: str) -> dict[str, Mask]:
    v, x = vector.attributes, vector.inputs["x"]
    return {"y": _of_numbers(x.values, x.format, v["format"], v["overflow"], topic)}


def _of_blocks(vector: Vector, topic: str) -> dict[str, Mask]:
    """Return whole blocks; the whole tensor if its own scale depends on the topic."""
    x, cast = vector.inputs["x"], cast_of(**vector.attributes)
    wide = x.values
    chosen = {
        "block_infinity": np.isinf(wide),
        "block_nan": np.isnan(wide),
        "float32_subnormals": _subnormal(wide, x.format),
        "block_zero": wide != 0,
    }
    if topic not in chosen or (cast.tensor_scale and topic != "float32_subnormals"):
        return {name: np.ones(y.shape, np.bool_) for name, y in vector.outputs.items()}
    blocks = _any_of_blocks(chosen[topic], cast)
    if topic == "block_zero":
        return {"scales": ~blocks}  # with any scale, the elements are zero
    each = Blocks(cast, wide, blocks.astype(np.float32), 1.0).scale_of_each() != 0
    return {"elements": each, "scales": blocks}


def _any_of_blocks(mask: Mask, cast: BlockCast) -> Mask:
    """Return whether any element of each block is set."""
    for axis, n in zip(block_axes(cast, mask.shape), cast.block, strict=True):
        if mask.size:
            mask = np.logical_or.reduceat(mask, np.arange(0, mask.shape[axis], n), axis)
    return mask


def _of_all(vector: Vector, topic: str) -> dict[str, Mask]:
    return {name: np.ones(y.shape, np.bool_) for name, y in vector.outputs.items()}


def _of_dequantize(vector: Vector, topic: str) -> dict[str, Mask]:
    if topic != "dequantize":
        return _of_all(vector, topic)
    x = {name: c.values for name, c in vector.inputs.items()}
    blocks = dequantize_operand(vector.attributes, x["elements"], x["scales"], float(x.get("tensor_scale", 1.0)))
    return {"y": _by_order(vector.attributes, blocks)}


_PLACES: Mapping[str, Callable[[Vector, str], dict[str, Mask]]] = {
    "cast": _of_cast,
    "block_quantize": _of_blocks,
    "block_matmul": _of_all,
    "block_dequantize": _of_dequantize,
}
