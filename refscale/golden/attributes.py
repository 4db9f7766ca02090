"""Attributes and inputs of every op of a vector, and the check of a set from another source."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from refscale.errors import GoldenError, shown
from refscale.formats import FORMATS, OVERFLOWS, ROUNDINGS

FORMAT = "name of a format"
_OPTIONAL_FORMAT = "name of a format, or null"
_CAST = {"format": FORMAT, "rounding": "rounding", "overflow": "overflow"}
_BLOCK = "list of lengths"

ATTRIBUTES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "cast": _CAST,
        "decode": {"format": FORMAT},
        "unary": {"function": "string", "derivative": "boolean", **_CAST},
        "matmul": {"a_format": FORMAT, "b_format": FORMAT, **_CAST, "factor": "number"},
        "scaled_matmul": {"a_format": FORMAT, "b_format": FORMAT, "block": "length, or null", **_CAST},
        "block_quantize": {
            "format": FORMAT,
            "block": _BLOCK,
            "scale_format": FORMAT,
            "rule": "string",
            "axis": "integer",
            "tensor_scale": "boolean",
            "least": "number",
            "nonfinite": "string",
            "rounding": "rounding",
            "overflow": "overflow",
        },
        "block_matmul": {
            "a_format": FORMAT,
            "a_block": _BLOCK,
            "a_scale_format": FORMAT,
            "b_format": FORMAT,
            "b_block": _BLOCK,
            "b_scale_format": FORMAT,
            **_CAST,
        },
        "block_dequantize": {
            "element_format": FORMAT,
            "block": _BLOCK,
            "scale_format": FORMAT,
            "axis": "integer",
            **_CAST,
        },
        "block_layout": {"layout": "string"},
        "op": {
            "name": "string",
            "attributes": "object",
            "alpha": "number",
            "beta": "list of numbers and nulls",
            "store": FORMAT,
            "operand": _OPTIONAL_FORMAT,
            "operand_gradient": _OPTIONAL_FORMAT,
        },
        "model": {
            "name": "string",
            "scheme": "string",
            "precision": "string",
            "store": FORMAT,
            "operand": _OPTIONAL_FORMAT,
            "operand_gradient": _OPTIONAL_FORMAT,
            "calls": "list of objects",
        },
        "adamw": {
            "t": "integer",
            "lr": "number",
            "b1": "number",
            "b2": "number",
            "eps": "number",
            "weight_decay": "number",
        },
    }
)
"""Attributes of every vector of an op, with their kinds, by op."""

INPUTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "cast": ("x",),
        "decode": ("codes",),
        "unary": ("x",),
        "matmul": ("a", "b"),
        "scaled_matmul": ("a", "b", "a_scale", "b_scale"),
        "block_quantize": ("x",),
        "block_matmul": ("a", "a_scales", "b", "b_scales"),
        "block_dequantize": ("elements", "scales"),
        "block_layout": ("codes",),
        "op": (),
        "model": ("gradient",),
        "adamw": ("parameter", "gradient", "m", "v"),
    }
)
"""Inputs of every vector of an op, by op."""


LONGEST_ID = 300
"""Largest number of characters of an id."""


def check_vector(where: str, entry: Mapping[str, Any]) -> None:
    """Check the fields of a vector in a manifest.

    Args:
        where: name of the set, for messages.
        entry: entry of the manifest.

    Raises:
        GoldenError: a field has another type, or the vector lacks an attribute or input that its op requires.
    """
    types: dict[str, type] = {
        "id": str,
        "op": str,
        "attributes": dict,
        "inputs": dict,
        "outputs": dict,
        "flags": list,
        "comment": str,
    }
    for key, type_ in types.items():
        if not isinstance(entry.get(key), type_):
            found = _value(entry.get(key))
            raise GoldenError(f"{where}: {_name(entry)} has {key} {found}, expected a {type_.__name__}")
    op = entry["op"]
    if not entry["id"].isprintable() or len(entry["id"]) > LONGEST_ID:
        raise GoldenError(f"{where}: {_name(entry)} is not an id of at most {LONGEST_ID} printable characters")
    if op not in ATTRIBUTES:
        raise GoldenError(f"{where}: {_name(entry)} has op {_value(op)}, expected one of {', '.join(ATTRIBUTES)}")
    for key, kind in ATTRIBUTES[op].items():
        if key not in entry["attributes"]:
            raise GoldenError(f"{where}: {_name(entry)} has no attribute {key}, expected a {kind}")
        if not _is(entry["attributes"][key], kind):
            raise GoldenError(
                f"{where}: {_name(entry)} has {key} {_value(entry['attributes'][key])}, expected a {kind}"
            )
    for key in INPUTS[op]:
        if key not in entry["inputs"]:
            raise GoldenError(f"{where}: {_name(entry)} has no input {key}")
    if not entry["outputs"] or not all(isinstance(flag, str) for flag in entry["flags"]):
        raise GoldenError(f"{where}: {_name(entry)} has no outputs, or flags that are not strings")
    if not "".join([entry["comment"], *entry["flags"]]).isprintable():
        raise GoldenError(f"{where}: {_name(entry)} has a comment or flags with control characters")


def _name(entry: Mapping[str, Any]) -> str:
    return shown(entry["id"]) if isinstance(entry.get("id"), str) else f"a vector with id {_value(entry.get('id'))}"


def _value(x: object) -> str:
    return shown(repr(x), 80)


def _is(x: object, kind: str) -> bool:
    number = isinstance(x, int | float) and not isinstance(x, bool)
    match kind:
        case "name of a format":
            return x in FORMATS if isinstance(x, str) else False
        case "name of a format, or null":
            return x is None or (isinstance(x, str) and x in FORMATS)
        case "rounding":
            return x in ROUNDINGS
        case "overflow":
            return x in OVERFLOWS
        case "string":
            return isinstance(x, str)
        case "boolean":
            return isinstance(x, bool)
        case "object":
            return isinstance(x, dict)
        case "integer":
            return number and isinstance(x, int)
        case "length, or null":
            return x is None or (number and isinstance(x, int) and x > 0)
        case "list of lengths":
            return isinstance(x, list) and len(x) in (1, 2) and all(type(n) is int and n > 0 for n in x)
        case "list of objects":
            return isinstance(x, list) and all(isinstance(n, dict) for n in x)
        case "list of numbers and nulls":
            return isinstance(x, list) and all(n is None or type(n) in (int, float) for n in x)
    return number
