"""Documentation of a set as files: format tables, schemas and the meaning of every op.

``golden write`` writes them beside the top manifest, so that a directory can be read without this package.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module, resources
from typing import Any

from refscale.files import json_text
from refscale.formats import FORMATS, Format
from refscale.golden.attributes import ATTRIBUTES
from refscale.golden.schema import FLAGS, OPS

SCHEMAS = (
    *("manifest.schema.json", "set.schema.json", "report.schema.json"),
    *("trace.schema.json", "trace_result.schema.json"),
)
"""JSON Schemas of ``FAMILY/manifest.json``, the top ``manifest.json``, ``conform --json``, the index of a trace, and
``conform --trace DIR --json``."""


GUIDE = (*SCHEMAS, "formats.json", "README.md")
"""Names of the files; no vector depends on them, and the top manifest does not list them."""


def guide_files(conventions: Mapping[str, Any]) -> dict[str, bytes]:
    """Return every file of the guide, content by name.

    Args:
        conventions: topics with their names, as in the top manifest.
    """
    files = {name: (resources.files("refscale.golden") / name).read_bytes() for name in SCHEMAS}
    table = {"formats": [format_entry(f) for f in FORMATS.values()]}
    files["formats.json"] = (json_text(table, indent=1) + "\n").encode()
    files["README.md"] = _readme(conventions).encode()
    return files


def format_entry(f: Format) -> dict[str, Any]:
    """Return a format as numbers and codes; ``README.md`` explains the fields."""
    return {
        "name": f.name,
        "bits": f.bits,
        "exponent_bits": f.exponent_bits,
        "mantissa_bits": f.mantissa_bits,
        "bias": f.bias,
        "signed": f.signed,
        "has_zero": f.has_zero,
        "twos_complement": f.nan == "twos_complement",
        "max": float(f.max),
        "min_normal": float(f.min_normal),
        "min_subnormal": float(f.min_subnormal),
        "infinity_code": f.inf_code,
        "nan_code": f.nan_code,
        "nan_rule": f.nan,
        "signed_zero": f.has_signed_zero,
        "signed_nan": f.has_signed_nan,
        "source": f.source,
    }


_HEAD = """# Golden vectors

Inputs that each target one bug, and the expected bits. `manifest.json` has the version of the set, the definition of
every op (`ops`), the meaning of every flag (`flags`), the topics that no standard defines (`conventions`), and the
SHA-256 of every file of vectors. `FAMILY/manifest.json` lists the arrays and vectors of a family. `set.schema.json`,
`manifest.schema.json` and `report.schema.json` are the JSON Schemas of these two and of `refscale conform --json`;
`trace.schema.json` is that of the index of a recorded step, which `refscale conform --trace` checks, and
`trace_result.schema.json` that of its verdict.
`formats.json` is the table of formats. The sections below come from the package that generated the vectors.

## Arrays

An array is `{"format", "shape", "sha256", "file", "offset"}`: its elements are those of `FAMILY/file`, a NumPy `.npy`
file of version 1.0, from element `offset` on, in row-major order (the last index varies fastest). Elements are
*codes*: unsigned integers of 8, 16, 32 or 64 bits, little-endian, the smallest that holds the format. A code of 6 or 4
bits is in the low bits of a byte of its own; only `block_layout` packs two into a byte. `float64` is stored as its bits
in uint64; `int64`, `uint32`, `uint8` and `bool` are stored unchanged. `sha256` is of these bytes, without padding. An
array of a vector with `"bulk": true` may have no `file` but a `sample`: every `step`-th element from the first, `count`
of them.

A vector names its arrays by their position in `arrays`. It defines: `op` with `attributes`, applied to `inputs`,
returns exactly the bits of `outputs`. `flags` name the bugs that it catches. An output `y` is the only one of its
vector, or the forward result beside the gradients `grad_NAME`.

## Formats

A code is, from the top, a sign bit s (if `signed`), `exponent_bits` bits E and `mantissa_bits` = m bits M:

    (-1)^s · 2^(E - bias) · (1 + M/2^m)       E > 0, or not has_zero
    (-1)^s · 2^(1 - bias) · (M/2^m)           E = 0 and has_zero

`nan_rule` names the codes that are not numbers:

* `top_exponent`: E all ones; M = 0 is infinity (`infinity_code`, with the sign bit), any other M is NaN.
* `all_ones`: E and M all ones is NaN, with either sign; no infinity.
* `negative_zero`: the code of the sign bit alone is NaN; no infinity, no -0.
* `none`: neither.
* `twos_complement`: the code is a two's complement integer times 2^-m; neither.

`nan_code` is the code of a NaN result; in a format with `signed_nan` its sign is that of the input. Two NaN of a format
are equal unless a backend claims the code (convention `nan_code`). Rounding of a value to a format is defined as
follows.

"""

_TOLERANCES = """## Comparison and tolerances

The expected result of every vector is the exact result, rounded once. The verdict compares bits. It compares with an
interval if a backend claims less: another accumulator, or functions within a number of ulp. A product that is summed in
float32 in any order, K terms, u = 2^-24, T = Σ|a·b| of exact products, is correct if

    |s − Σ a·b| ≤ T·γ,    γ = (K + 1)·u / (1 − (K + 1)·u)

before it is multiplied by the factor (one more rounding, 2·u·|factor·s|). Rounding the two ends of that interval to the
output format bounds the output, as rounding is monotonic. An output outside `[round(low), round(high)]` is wrong. A NaN
end means no bound. The other accumulators, their error bounds and the bounds of other ops:

"""

_SECTIONS = (
    ("Rounding", "refscale.formats.rounding"),
    ("Block-scaled formats: scales and elements", "refscale.blocks.rounding"),
    ("Ops with factors", "refscale.golden.ops"),
    ("Training steps", "refscale.golden.steps"),
    ("Conventions where no standard decides", "refscale.golden.conventions"),
)
_BOUNDS = (("Accumulators", "refscale.exact.accumulators"), ("Bounds by op", "refscale.golden.kit.bounds"))

_MODES = """### Modes of a cast

x lies between two neighbors, multiples m·S of the spacing S of the format at x (its exponent unbounded above).

| `rounding` | the result |
|---|---|
| `nearest_even` | the nearer neighbor; ties to even: the one whose significand is even |
| `nearest_away` | the nearer neighbor; at a tie the one away from zero |
| `toward_zero`, `up`, `down` | the neighbor toward zero, +∞, −∞ |
| `stochastic` | see "Random words" |

| `overflow` | a rounded result beyond the largest value |
|---|---|
| `saturate` | ± the largest value, also for ±∞ |
| `nonsaturate` | ±∞; NaN in a format without infinity; ± the largest value in one without NaN, too |

Directed roundings of finite x toward the format's range return the largest value under both (IEEE 754-2019, 7.4).
Without these attributes, rounding is `nearest_even`, and formats of at most 8 bits saturate; others do not.

"""

_RANDOM = """## Random words

A cast with `rounding` = "stochastic" has an input `random_bits`: a uint32 for each element, at the same index. With S
the spacing of the format at x and rest = |x|/S − ⌊|x|/S⌋, the element is rounded outward (away from zero) if
⌊2^32·rest⌋ + word ≥ 2^32, else inward. In a `block_quantize` the words decide elements, not scales.

"""


def _readme(conventions: Mapping[str, Any]) -> str:
    parts = [_HEAD]
    parts += [_section(*s) for s in _SECTIONS[:1]]
    parts += [_MODES, _RANDOM]
    parts += [_section(*s) for s in _SECTIONS[1:]]
    for name, topic in conventions.items():
        parts.append(f"* `{name}`: {', '.join(f'`{n}`' for n in topic['names'])}. {topic['clause']}\n")
    parts += ["\n", _TOLERANCES]
    parts += [_section(title, module, "###") for title, module in _BOUNDS]
    parts.append("## Ops\n\n")
    for name, op in OPS.items():
        parts.append(f"* `{name}`: {op['computes']}. Accumulates: {op['accumulate']}. Factor: {op['factor']}.\n")
        parts.append(f"  Attributes: {', '.join(f'{k} ({kind})' for k, kind in ATTRIBUTES[name].items())}.\n")
    parts.append("\n## Flags\n\n")
    parts += [f"* `{flag}`: {text}\n" for flag, text in FLAGS.items()]
    return "".join(parts)


def _section(title: str, module: str, level: str = "##") -> str:
    text = inspect.getdoc(import_module(module)) or ""
    return f"{level} {title}\n\n{_indented(text)}"


def _indented(text: str) -> str:
    """Return a docstring with the columns of its tables and formulas unchanged."""
    lines = ["```text", *text.split("\n"), "```", ""]
    return "\n".join(lines) + "\n"
