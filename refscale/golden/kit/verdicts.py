"""What a backend's result is worth: the same bits, within its bound, or a failure with the first element that deviates.

==================  ================================================================================================
``same bits``       every code is the expected one, of the accumulator that is claimed (a NaN matches any NaN, unless
                    ``Claims.nan`` says "same"; in a block whose scale is NaN elements may be any)
``within bound``    it claims an accumulator without a defined order, or inexact functions, and every element is within
                    that bound
``fail``            anything else, an exception and a wrong shape included
``waived``          a failure that the waivers file knows, with its reason
``unexpectedly fixed``  a waiver of which no vector fails any more
``not implemented``     no such method, NotImplementedError, or not claimed
==================  ================================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from refscale.arrays import plain
from refscale.errors import BackendLostError, FormatError, GoldenError, RefscaleError
from refscale.exact import inside
from refscale.formats import decode, encode, get_format
from refscale.golden.blocks import in_nan_blocks
from refscale.golden.families import complete
from refscale.golden.kit.backend import Backend, Claims
from refscale.golden.kit.bounds import bound_in_words, intervals
from refscale.golden.kit.claimed import as_claimed
from refscale.golden.schema import PLAIN, Codes, Vector, code_dtype

Array = NDArray[Any]
Verdict = Literal["same bits", "within bound", "fail", "waived", "unexpectedly fixed", "not implemented"]

VERDICTS: tuple[Verdict, ...] = (
    "same bits",
    "within bound",
    "fail",
    "waived",
    "unexpectedly fixed",
    "not implemented",
)


@dataclass(frozen=True)
class Mismatch:
    """The first element that deviates.

    Attributes:
        output: name of the output.
        index: of the element.
        wrong, size: how many elements deviate, of how many.
        actual, expected: codes, in hexadecimal, with the value they stand for.
        source: the input element of an elementwise op, likewise; "" for other ops.
        ulps: distance in units of the last place of the format; None where either is no number.
        allowed: the interval of a bound, in words; "" where the same bits were asked for.
    """

    output: str
    index: tuple[int, ...]
    wrong: int
    size: int
    actual: str
    expected: str
    source: str = ""
    ulps: int | None = None
    allowed: str = ""


@dataclass(frozen=True)
class Result:
    """The verdict on one vector.

    Attributes:
        vector: what was asked.
        verdict: see the module.
        outputs: verdict of each output that was compared.
        mismatch: the first element that deviates, if one does.
        reason: why not implemented, why waived, or which error.
        bound: which claim allows the deviation, where the verdict is "within bound".
    """

    vector: Vector
    verdict: Verdict
    outputs: Mapping[str, Verdict]
    mismatch: Mismatch | None = None
    reason: str = ""
    bound: str = ""


def judge(backend: Backend, vector: Vector) -> Result:
    """Run a backend on one vector and compare.

    Raises:
        BackendLostError: from the backend; it would answer no other vector, either.
    """
    vector = complete(vector)  # a bulk vector as it is shipped has no arrays
    if missing := backend.claims.missing(vector):
        return _all(vector, "not implemented", f"{missing} is not claimed")
    try:
        with np.errstate(all="ignore"):
            answer = ask(backend, vector)
    except NotImplementedError as error:
        return _all(vector, "not implemented", str(error) or "NotImplementedError")
    except BackendLostError:
        raise
    except Exception as error:  # whatever a backend does, the run goes on
        return _all(vector, "fail", f"{vector.op} raised {type(error).__name__}: {error}")
    answers = answer if isinstance(answer, Mapping) else {"y": answer}
    if set(vector.outputs) == {"y"} and len(answers) == 1:
        answers = {"y": next(iter(answers.values()))}
    return _compare(backend.claims, vector, answers)


def ask(backend: Backend, vector: Vector) -> Any:
    """The answer of a backend, by its method of the op or by ``answer``.

    Raises:
        NotImplementedError: it has no such method, or says so.
        Exception: anything that the backend raises.
    """
    if hasattr(backend, "answer"):  # it wants the vector itself, as a pipe does, for the formats of its arrays
        return backend.answer(vector)
    method = getattr(backend, vector.op, None)
    if method is None:
        raise NotImplementedError(f"no method {vector.op}")
    arrays = {name: (x.codes if vector.op == "decode" else x.native).copy() for name, x in vector.inputs.items()}
    return method(**arrays, **vector.attributes)


def _all(vector: Vector, verdict: Verdict, reason: str) -> Result:
    outputs: dict[str, Verdict] = {name: verdict for name in vector.outputs}  # noqa: C420
    return Result(vector, verdict, outputs, None, reason)


def _compare(claims: Claims, vector: Vector, answers: Mapping[str, Any]) -> Result:
    claims = claims.of(vector)
    vector = as_claimed(vector, claims)
    outputs: dict[str, Verdict] = {}
    first: Mismatch | None = None
    reason = ""
    bounds: Mapping[str, tuple[Array, Array]] | None = None
    for name, expected in vector.outputs.items():
        if name not in answers:
            outputs[name] = "not implemented"
            continue
        try:
            codes = as_codes(answers[name], expected)
        except RefscaleError as error:
            outputs[name], reason = "fail", reason or f"{name}: {error}"
            continue
        wrong = ~_same(codes, expected, claims)
        if vector.op == "block_quantize" and name == "elements":
            wrong &= ~in_nan_blocks(vector)
        if not wrong.any():
            outputs[name] = "same bits"
            continue
        if bounds is None:
            bounds = intervals(vector, claims)
        allowed = bounds.get(name)
        if allowed is not None:
            wrong &= ~inside(decode(codes, expected.format), *allowed)
        outputs[name] = "fail" if wrong.any() else "within bound"
        if wrong.any() and first is None:
            first = _mismatch(vector, name, codes, expected, wrong, allowed)
    given = set(outputs.values())
    order: tuple[Verdict, ...] = ("fail", "not implemented", "within bound", "same bits")
    verdict: Verdict = next((v for v in order if v in given), "same bits")
    if verdict == "not implemented":
        reason = f"no {', '.join(n for n, v in outputs.items() if v == 'not implemented')}"
    bound = bound_in_words(vector, claims) if verdict == "within bound" else ""
    return Result(vector, verdict, outputs, first, reason, bound)


def as_codes(answer: Any, expected: Codes) -> Array:
    """A backend's array as codes of the expected format.

    Raises:
        GoldenError: another shape or dtype.
        FormatError: a value that the format cannot hold.
    """
    x = plain("answer", "the array", answer)
    if x.shape != expected.shape:
        raise GoldenError(f"shape {x.shape}, expected {expected.shape}")
    format = expected.format
    if format in PLAIN:
        if x.dtype != PLAIN[format]:
            raise GoldenError(f"dtype {x.dtype}, expected {format}")
        return x
    if x.dtype == code_dtype(format):
        if x.size and int(x.max()) >= get_format(format).code_count:
            raise GoldenError(f"code {int(x.max()):#x}, expected less than {get_format(format).code_count:#x}")
        return x
    if x.dtype.name == format:
        return np.ascontiguousarray(x).reshape(x.shape).view(code_dtype(format))
    if x.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
        raise GoldenError(f"dtype {x.dtype}, expected codes ({code_dtype(format)}), {format}, float32 or float64")
    try:
        return encode(x, format)
    except FormatError as error:
        raise FormatError(f"{error} (the result was not rounded to {format})") from None


def _same(codes: Array, expected: Codes, claims: Claims) -> NDArray[np.bool_]:
    same = codes == expected.codes
    if expected.format in PLAIN or claims.nan == "same":
        return np.asarray(same)
    return np.asarray(same | (np.isnan(decode(codes, expected.format)) & np.isnan(expected.values)))


def _mismatch(
    vector: Vector, name: str, codes: Array, expected: Codes, wrong: Array, allowed: tuple[Array, Array] | None
) -> Mismatch:
    flat = int(np.flatnonzero(wrong)[0])
    index = tuple(int(i) for i in np.unravel_index(flat, wrong.shape))
    actual, right = Codes(expected.format, codes[index]), Codes(expected.format, expected.codes[index])
    source = ""
    first = next(iter(vector.inputs.values()))
    if vector.op in ("cast", "decode", "unary") and first.shape == wrong.shape:
        source = in_words(Codes(first.format, first.codes[index]))
    words = f"{float(allowed[0][index])!r} to {float(allowed[1][index])!r}" if allowed is not None else ""
    return Mismatch(
        name,
        index,
        int(wrong.sum()),
        int(wrong.size),
        in_words(actual),
        in_words(right),
        source,
        None if expected.format in PLAIN else _ulps(actual, right),
        words,
    )


def in_words(x: Codes) -> str:
    """One element: its code in hexadecimal, and what it stands for."""
    if x.format in PLAIN:
        return str(x.codes)
    digits = x.codes.dtype.itemsize * 2
    return f"0x{int(x.codes):0{digits}x} ({float(x.values):.9g})"


def _ulps(actual: Codes, expected: Codes) -> int | None:
    """How many values of the format lie between, one of the two included; −0 and +0 are the same."""
    if not (np.isfinite(actual.values) and np.isfinite(expected.values)):
        return None
    half = get_format(expected.format).code_count // 2

    def on_line(x: Codes) -> int:
        code = int(x.codes)
        return code if not np.signbit(x.values) else -(code - half)

    return abs(on_line(actual) - on_line(expected))
