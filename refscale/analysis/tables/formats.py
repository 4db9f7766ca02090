"""The formats, as a table (paper, Table A.1, and more)."""

from __future__ import annotations

from collections.abc import Iterator

from refscale.formats import FORMATS, Format

_COLUMNS = ("name", "bits", "E", "M", "bias", "max", "normal", "subnormal", "inf", "NaN", "codes")


def format_table() -> Iterator[str]:
    """Yield one line for each of ``FORMATS``: widths, bias, range, codes of infinity and NaN, number of codes.

    Returns:
        Lines of at most 100 columns. Source: that of each format, see ``Format.source``; paper, Table A.1.
    """
    rows = [_COLUMNS, *map(_row, FORMATS.values())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    for row in rows:
        name, *rest = (
            cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join([name, *rest])
    yield ""
    yield "E, M: number of exponent and mantissa bits. normal, subnormal: the smallest positive one. inf, NaN:"
    yield "code of the positive, canonical one; -: the format has none."


def _row(f: Format) -> tuple[str, ...]:
    return (
        f.name,
        str(f.bits),
        str(f.exponent_bits),
        str(f.mantissa_bits),
        str(f.bias),
        f"{f.max:.6g}",
        f"2^{f.emin}",
        f"2^{f.emin - f.mantissa_bits}" if f.has_zero else "-",
        _code(f.inf_code, f),
        _code(f.nan_code, f),
        str(f.code_count) if f.bits <= 16 else f"2^{f.bits}",
    )


def _code(code: int | None, f: Format) -> str:
    return "-" if code is None else f"{code:#0{2 + -(-f.bits // 4)}x}"


def format_label(name: str) -> str:
    """Return a short name for the head of a column: ``FP16``, ``E4M3``, ``E5M2``, ``E4M3FNUZ``; all are distinct."""
    short = {
        "float16": "FP16",
        "bfloat16": "BF16",
        "float8_e4m3fn": "E4M3",  # name in hardware
        "float8_e4m3": "E4M3IEEE",
        "float8_e4m3b11fnuz": "E4M3B11",
        "int8_q6": "INT8",
    }
    return short.get(name, name.rpartition("_")[2].upper())
