"""The verdict on a backend's result: the same bits, within its bound, or a failure with the first wrong element.

==================  ================================================================================================
``same bits``       every code is the expected one of the claimed accumulator (a NaN matches any NaN, unless
                    ``Claims.nan`` is "same"; elements of a block whose scale is NaN may be anything)
``within bound``    the backend claims an accumulator without a defined order, or inexact functions, and every element
                    is within that bound
``fail``            anything else: another shape, an exception, an output that is missing or has another name, no
                    answer to a vector of an op in ``Claims.ops``
``waived``          a failure exactly as a waiver describes it
``unexpectedly fixed``  a waiver names the vector, and it passes
``not implemented``     no such method, NotImplementedError, or not claimed
==================  ================================================================================================
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from refscale.arrays import plain
from refscale.errors import BackendLostError, FormatError, GoldenError, RefscaleError, shown
from refscale.exact import inside
from refscale.formats import decode, encode, get_format
from refscale.golden.blocks import in_nan_blocks
from refscale.golden.conventions import concerned
from refscale.golden.families import complete
from refscale.golden.kit.backend import Backend, Claims
from refscale.golden.kit.bounds import bound_in_words, intervals
from refscale.golden.kit.claimed import as_claimed
from refscale.golden.schema import PLAIN, Codes, Vector, code_dtype

Array = NDArray[Any]
Mask = NDArray[np.bool_]
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
class Element:
    """One element of an array.

    Attributes:
        format: format, as in ``Codes``.
        code: its code; for ``PLAIN`` arrays the element itself.
        value: number that it represents.
    """

    format: str
    code: int
    value: float | int | bool

    @classmethod
    def of(cls, x: Codes, index: tuple[int, ...]) -> Element:
        """Return the element at an index."""
        one = Codes(x.format, x.codes[index])
        return cls(x.format, int(one.codes), one.values.item())

    def __str__(self) -> str:
        """Return its code in hexadecimal, and its value."""
        if self.format in PLAIN:
            return str(self.value)
        return f"0x{self.code:0{2 * code_dtype(self.format).itemsize}x} ({self.value:.9g})"


@dataclass(frozen=True)
class Mismatch:
    """The deviation of one output, with its first deviating element.

    Attributes:
        output: name of the output.
        index: index of the element.
        wrong, size: number of deviating elements, and of all elements.
        actual, expected: the element.
        deviation: place and size of the whole deviation, on one line, as waivers quote it.
        source: input element of an elementwise op; None for other ops.
        ulps: distance in units of the last place of the format; None if either is not finite.
        allowed: interval of the bound; None if the same bits are expected.
    """

    output: str
    index: tuple[int, ...]
    wrong: int
    size: int
    actual: Element
    expected: Element
    deviation: str
    source: Element | None = None
    ulps: int | None = None
    allowed: tuple[float, float] | None = None


@dataclass(frozen=True)
class Result:
    """The verdict on one vector.

    Attributes:
        vector: the vector.
        verdict: verdict, as in the module's docstring.
        outputs: verdict of each expected output.
        mismatches: deviation of each deviating output, scales before elements.
        reason: reason of "not implemented" or "waived", or the error.
        bound: claim that allows the deviation, if the verdict is "within bound".
        unanswered: whether the backend has a method for the vector that does not implement it.
        unjudged: conventions, "topic:name", whose elements were not checked, as another one or none is claimed.
    """

    vector: Vector
    verdict: Verdict
    outputs: Mapping[str, Verdict]
    mismatches: tuple[Mismatch, ...] = ()
    reason: str = ""
    bound: str = ""
    unanswered: bool = False
    unjudged: tuple[str, ...] = ()

    @property
    def mismatch(self) -> Mismatch | None:
        """First of ``mismatches``; None without any."""
        return self.mismatches[0] if self.mismatches else None

    @property
    def deviation(self) -> str:
        """Place and size of a failure, on one line, for every deviating output, or the error; "" without a failure."""
        if self.verdict != "fail":
            return ""
        parts = [m.deviation for m in self.mismatches]
        return "; ".join([*parts, f"error: {self.reason}"] if self.reason else parts)


def without_arrays(result: Result) -> Result:
    """Return the result without the arrays of its vector, to save memory in a long run."""
    return replace(result, vector=replace(result.vector, inputs={}, outputs={}))


def judge(backend: Backend, vector: Vector) -> Result:
    """Run a backend on one vector and compare its results.

    Raises:
        BackendLostError: the backend was lost; it cannot answer other vectors, either.
    """
    vector = complete(vector)  # a shipped bulk vector has no arrays
    if missing := backend.claims.missing(vector):
        return whole_result(vector, "not implemented", f"{missing} is not claimed")
    topics = backend.claims.unclaimed(vector)
    chosen = concerned(vector, topics)
    unjudged = tuple(f"{t}:{vector.conventions[t]}" for t in topics if t != "nan_code" or vector.family == "convention")
    if topics and (vector.family == "convention" or all(mask.all() for mask in chosen.values())):
        return whole_result(vector, "not implemented", f"convention {', '.join(unjudged)} is not claimed")
    try:
        with np.errstate(all="ignore"):
            answer = ask(backend, vector)
    except NotImplementedError as error:
        reason = shown(error) or "NotImplementedError"
        if backend.claims.ops is not None:
            return whole_result(vector, "fail", f"{vector.op} is claimed and not answered: {reason}")
        if "c" in vector.inputs and backend.claims.start:
            return whole_result(vector, "fail", f"a start value of sums is claimed and not answered: {reason}")
        exists = not hasattr(backend, "answer") and callable(getattr(backend, vector.op, None))
        return replace(whole_result(vector, "not implemented", reason), unanswered=exists)
    except BackendLostError:
        raise
    except Exception as error:  # after any exception of a backend, the run continues
        return whole_result(vector, "fail", f"{vector.op} raised {type(error).__name__}: {shown(error)}")
    answers = answer if isinstance(answer, Mapping) else {"y": answer}
    return replace(_compare(backend.claims, vector, answers, chosen), unjudged=unjudged)


def ask(backend: Backend, vector: Vector) -> Any:
    """Return the answer of a backend, by its method for the op or by ``answer``.

    Raises:
        NotImplementedError: the backend has no such method, or its method raises this.
        Exception: any exception of the backend.
    """
    if hasattr(backend, "answer"):  # it needs the vector itself, as a pipe does, for the formats of its arrays
        return backend.answer(vector)
    method = getattr(backend, vector.op, None)
    if method is None:
        raise NotImplementedError(f"no method {vector.op}")
    arrays = {name: (x.codes if vector.op == "decode" else x.native).copy() for name, x in vector.inputs.items()}
    if "strides" in vector.flags:
        arrays = {name: apart(x) for name, x in arrays.items()}
    return method(**arrays, **vector.attributes)


def apart(x: Array) -> Array:
    """Return the same values with gaps between elements: every second column of a larger array."""
    if x.ndim == 0:
        return x
    wide = np.repeat(x, 2, -1)
    wide[..., 1::2] = x.dtype.type(1)
    return wide[..., ::2]


def whole_result(vector: Vector, verdict: Verdict, reason: str) -> Result:
    """Return a result with the same verdict on every output."""
    outputs: dict[str, Verdict] = {name: verdict for name in vector.outputs}  # noqa: C420
    return Result(vector, verdict, outputs, (), reason)


_SCALES = ("tensor_scale", "scales")
"""Outputs that determine others: if both deviate, these are the cause."""


def _compare(claims: Claims, vector: Vector, answers: Mapping[str, Any], chosen: Mapping[str, Mask]) -> Result:
    claims = claims.of(vector)
    vector = as_claimed(vector, claims)
    outputs: dict[str, Verdict] = dict.fromkeys(vector.outputs, "not implemented")
    mismatches: list[Mismatch] = []
    found, reason = _codes_of(claims, vector, answers, outputs)
    bounds: Mapping[str, tuple[Array, Array]] | None = None
    for name in sorted(found, key=lambda n: n not in _SCALES):
        codes, expected = found[name], vector.outputs[name]
        wrong = ~_same(codes, expected, vector, claims) & ~chosen[name]
        if vector.op == "block_quantize" and name == "elements":
            wrong &= ~in_nan_blocks(vector)
        if not wrong.any():
            outputs[name] = "same bits"
            continue
        if bounds is None:
            values = {n: Codes(vector.outputs[n].format, c).values for n, c in found.items()}
            bounds = intervals(vector, claims, values)
        allowed = bounds.get(name)
        if allowed is not None:
            wrong &= ~inside(decode(codes, expected.format), *allowed)
        outputs[name] = "fail" if wrong.any() else "within bound"
        if wrong.any():
            mismatches.append(mismatch(vector, name, codes, wrong, allowed))
    given_verdicts = set(outputs.values())
    order: tuple[Verdict, ...] = ("fail", "not implemented", "within bound", "same bits")
    verdict: Verdict = next((v for v in order if v in given_verdicts), "same bits")
    if verdict == "not implemented":
        reason = f"no {', '.join(n for n, v in outputs.items() if v == 'not implemented')}"
    bound = bound_in_words(vector, claims) if verdict == "within bound" else ""
    return Result(vector, verdict, outputs, tuple(mismatches), reason, bound)


def _codes_of(
    claims: Claims, vector: Vector, answers: Mapping[str, Any], outputs: dict[str, Verdict]
) -> tuple[dict[str, Array], str]:
    """Return the codes of each answered output, and the error of the first of the others.

    Args:
        claims: claims of the backend.
        vector: the vector.
        answers: arrays by name.
        outputs: verdicts by name; missing outputs, and those that are not arrays of their format, are set to "fail".
    """
    found: dict[str, Array] = {}
    reason = ""
    for name in sorted(vector.outputs, key=lambda n: n not in _SCALES):
        if name not in answers:
            outputs[name] = "fail"
            given = ", ".join(shown(n, 40) for n in list(answers)[:8]) or "none"
            reason = reason or f"output {name} is missing; the outputs are: {given}"
        elif answers[name] is None and vector.outputs.keys() != {"y"}:
            if claims.ops is not None:
                outputs[name] = "fail"
                reason = reason or f"{vector.op} is claimed, and its output {name} is not implemented"
        else:
            try:
                found[name] = as_codes(answers[name], vector.outputs[name])
            except RefscaleError as error:
                outputs[name], reason = "fail", reason or f"{name}: {error}"
    return found, reason


def as_codes(answer: Any, expected: Codes) -> Array:
    """Return a backend's array as codes of the expected format.

    Raises:
        GoldenError: another shape or dtype.
        FormatError: a value that the format cannot represent.
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


def _same(codes: Array, expected: Codes, vector: Vector, claims: Claims) -> Mask:
    same = codes == expected.codes
    by_bits = claims.nan == "same"
    if "nan_code" in vector.conventions and claims.conventions:
        by_bits = "nan_code" not in claims.unclaimed(vector)
    if expected.format in PLAIN or by_bits:
        return np.asarray(same)
    return np.asarray(same | (np.isnan(decode(codes, expected.format)) & np.isnan(expected.values)))


def _as_pair(low: float, high: float) -> tuple[float, float]:
    """Return the ends of an interval; NaN twice if it contains only NaN."""
    return (low, high) if not low > high else (np.nan, np.nan)


def mismatch(
    vector: Vector, name: str, codes: Array, wrong: NDArray[np.bool_], allowed: tuple[Array, Array] | None = None
) -> Mismatch:
    """Return the deviation of one output.

    Args:
        vector: the vector.
        name: name of the output.
        codes: codes of the backend, in the shape of the output.
        wrong: mask of the deviating elements, at least one.
        allowed: bounds of each element; None if the same bits are expected.
    """
    expected = vector.outputs[name]
    actual = Codes(expected.format, codes)
    flat = np.flatnonzero(wrong)
    first, last = (tuple(int(i) for i in np.unravel_index(int(f), wrong.shape)) for f in (flat[0], flat[-1]))
    apart = _ulps(actual.codes[wrong], expected.codes[wrong], expected.format)
    source = None
    x = next(iter(vector.inputs.values()))
    if vector.op in ("cast", "decode", "unary") and x.shape == wrong.shape:
        source = Element.of(x, first)
    places = hashlib.sha256(np.packbits(wrong).tobytes()).hexdigest()[:8]
    parts = [f"{name}: {flat.size} of {wrong.size} elements from {list(first)} to {list(last)} (places {places})"]
    known = apart[apart >= 0]
    parts += [f"at most {int(known.max())} ulp"] if known.size else []
    parts += (
        [f"{apart.size - known.size} not finite"] if known.size < apart.size and expected.format not in PLAIN else []
    )
    return Mismatch(
        name,
        first,
        int(flat.size),
        int(wrong.size),
        Element.of(actual, first),
        Element.of(expected, first),
        ", ".join(parts),
        source,
        int(apart[0]) if apart[0] >= 0 else None,
        None if allowed is None else _as_pair(*(float(end[first]) for end in allowed)),
    )


def _ulps(actual: Array, expected: Array, format: str) -> NDArray[np.int64]:
    """Return the distance in values of the format (−0 and +0 are the same value); −1 if either number is not finite."""
    if format in PLAIN:
        return np.full(actual.shape, -1)
    x, y = Codes(format, actual), Codes(format, expected)
    half = 1 << 63 if format == "float64" else get_format(format).code_count // 2
    twos = format != "float64" and get_format(format).nan == "twos_complement"

    def on_line(x: Codes) -> list[int]:
        negative, wide = np.signbit(x.values).tolist(), x.codes.tolist()
        return [c if not n else c - 2 * half if twos else half - c for c, n in zip(wide, negative, strict=True)]

    finite = np.isfinite(x.values) & np.isfinite(y.values)
    apart = [abs(a - b) for a, b in zip(on_line(x), on_line(y), strict=True)]
    return np.where(finite, np.array([min(a, (1 << 63) - 1) for a in apart], np.int64), -1)
