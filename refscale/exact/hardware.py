"""Matrix units by name, such as ``h100:bf16``: the parameters of their sums, and the range of the comparison.

Each entry agrees in every bit with the sums that north-numerical-computing/MATLAB-tensor-core publishes in
``model_validation``: one MMA instruction d = a·b + c each, in FP8 on H100 and H200 with c = 0. A test compares the
first 1500 cases of each GPU and format (REFSCALE_TENSOR_CORE_SUMS), whose operands, products and c lie between the
powers of two of ``COMPARED``; of all 160,000 cases, 5000 each, one differs: e5m2 on B200, number 3936, is 0.81 ulp from
the real sum, where the other 9999 FP8 sums of B200 are within half an ulp. Beyond these cases:

* More products than one instruction: sums of 16 to 256 terms on an H200, FP8 (e5m2 · e4m3fn too), FP16 and BF16
  (tests/exact/test_hardware.py). On every other GPU the block size is that of one instruction.
* ``floor``: measured on BF16 sums near 2^-149 (the repository's issues 2 and 7); its models have −133 on H100, H200
  and B200, −132 on A100, A2, Ada and L40S, and none on V100.
* ``emin``: the exponent of a subnormal operand, and of a subnormal sum, is the one its encoding has. Both
  MATLAB-tensor-core and MMA-Sim (arXiv 2511.10909) model it so; no published sum depends on it.
* TF32: four products only, so that 25:8 on H100, H200 and B200, and 24:4 on the others, are one choice of several.
* FP8 on B200: 32 products only, each sum the real number rounded once to nearest; of longer sums nothing is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from refscale.errors import ArgumentError, FormatError
from refscale.formats import get_format

_NARROW = ("float8_e4m3fn", "float8_e5m2")
_WIDE = ("bfloat16", "float16")


@dataclass(frozen=True)
class Hardware:
    """The sums of one matrix unit.

    Attributes:
        name: ``GPU:FORMAT``, an argument of ``get_accumulator``.
        model: the accumulator with these sums, such as ``truncated:13:32``.
        inner: number of products of each published sum.
        start: True if the published sums start from values other than 0.
    """

    name: str
    model: str
    inner: int
    start: bool = True

    @property
    def gpu(self) -> str:
        """Name of the GPU, in lower case."""
        return self.name.partition(":")[0]

    @property
    def format(self) -> str:
        """Full name of the format of both operands."""
        return get_format(self.name.partition(":")[2]).name

    @property
    def compared(self) -> str:
        """The range in which the model was compared, in words."""
        operands, products, start = COMPARED[self.format]
        c = f"c of 2^{start[0]} to 2^{start[1]}" if self.start else "c = 0"
        return (
            f"1500 published sums of {self.inner} products: operands of 2^{operands[0]} to 2^{operands[1]}, "
            f"products of 2^{products[0]} to 2^{products[1]}, {c}"
        )


COMPARED: Mapping[str, tuple[tuple[int, int], tuple[int, int], tuple[int, int]]] = MappingProxyType(
    {
        "bfloat16": ((-16, 3), (-17, 3), (-15, 0)),
        "float16": ((-16, 3), (-17, 3), (-14, 0)),
        "tf32": ((-13, 2), (-17, 3), (-12, 0)),
        "float8_e4m3fn": ((-9, 3), (-18, 4), (-12, 0)),
        "float8_e5m2": ((-16, 3), (-20, 4), (-13, 0)),
    }
)
"""Exponents between which the nonzero operands, products and start values of the published sums lie, by format."""


def _entries() -> dict[str, Hardware]:
    found: dict[str, Hardware] = {}

    def add(gpus: str, formats: tuple[str, ...], model: str, inner: int, floor: int | None, start: bool = True) -> None:
        for gpu in gpus.split():
            for format in formats:
                emin = "" if model.startswith("rounded") else f":emin={get_format(format).emin}"
                alignment = "" if floor is None else f":floor={floor}"
                found[f"{gpu}:{format}"] = Hardware(f"{gpu}:{format}", f"{model}{alignment}{emin}", inner, start)

    add("v100", ("float16",), "truncated:23:4", 4, None)
    add("a100 a2 ada l40s", _WIDE, "truncated:24:8", 8, -132)
    add("a100 a2 ada l40s", ("tf32",), "truncated:24:4", 4, -132)
    add("ada l40s", _NARROW, "truncated:13:16", 32, -132)
    add("h100 h200 b200", _WIDE, "truncated:25:16", 16, -133)
    add("h100 h200 b200", ("tf32",), "truncated:25:8", 4, -133)
    add("h100 h200", _NARROW, "truncated:13:32", 32, -133, start=False)
    add("b200", _NARROW, "rounded:32", 32, None)
    return found


HARDWARE: Mapping[str, Hardware] = MappingProxyType(_entries())
"""Matrix units by ``GPU:FORMAT``, with the full name of the format."""


GPUS = tuple(dict.fromkeys(h.gpu for h in HARDWARE.values()))
"""GPUs of the table."""


def model_of(gpu: str, left: str, right: str) -> str | None:
    """Return the model of a GPU's products of two formats, given by their full names; None if the table has none.

    Instructions multiply two different formats only in FP8, where each operand has its own ``emin``; e5m2 · e4m3fn was
    compared on an H200.
    """
    first, second = HARDWARE.get(f"{gpu}:{left}"), HARDWARE.get(f"{gpu}:{right}")
    if first is None or second is None or (left != right and {left, right} != set(_NARROW)):
        return None
    if left == right or "emin" not in first.model:
        return first.model
    return f"{first.model}/{get_format(right).emin}"


def find_hardware(name: str) -> Hardware | None:
    """Return the entry of a name such as ``h100:bf16``, its format by any alias; None if the name has no known GPU.

    Raises:
        ArgumentError: the table has the GPU, but not with this format.
    """
    gpu, _, format = name.partition(":")
    known = [h for h in HARDWARE.values() if h.gpu == gpu]
    if not known:
        return None
    try:
        found = HARDWARE.get(f"{gpu}:{get_format(format).name}")
    except FormatError as error:
        raise ArgumentError(f"get_accumulator({name!r}): {error}") from None
    if found is None:
        raise ArgumentError(f"get_accumulator({name!r}): expected one of {', '.join(h.name for h in known)}")
    return found
