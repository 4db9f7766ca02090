"""Probes of an accumulator: sums on which the models of ``exact.accumulators`` disagree.

A probe is one sum of products, Σ a_k·b_k. Each function below yields the probes of one question, and its docstring is
that question; all of them together are at most 64. They run as one product: the terms of probe i are row i of a and
column i of b, padded with zeros to ``INNER``, and its sum is on the diagonal. Probes that start from a value c run in a
second product.

"1" in a question is 2^E, the smallest power of two, at least 1, below which 28 places are products of normal numbers of
the format. A probe that the format cannot represent is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from inspect import getdoc

import numpy as np
from numpy.typing import NDArray

from refscale.formats import Format
from refscale.golden.inputs import Words, cast_for

MOST = 64
"""Largest number of probes of one format."""
INNER = 512
"""Number of products of each probe, zeros included."""

Terms = list[tuple[float, float]]


@dataclass(frozen=True)
class Probe:
    """One sum of products that distinguishes accumulators.

    Attributes:
        name: name of the question, and a number.
        purpose: the question in words.
        a, b: operands, ``INNER`` each, zeros after the last term.
        c: start value.
        length: number of terms; zeros follow.
        basic: whether only the size and the precision of a block matter, not promotion, floor or start value.
    """

    name: str
    purpose: str
    a: NDArray[np.float32]
    b: NDArray[np.float32]
    length: int
    c: float = 0.0
    basic: bool = False

    @property
    def terms(self) -> str:
        """Return the non-zero products in the order of the index, with their places if zeros are between them."""
        found: list[str] = []
        for k in np.flatnonzero(self.a * self.b.astype(np.float64)).tolist():
            place = f"[{k}]" if k > len(found) else ""
            found.append(f"{place}{_in_words(self.a[k])}·{_in_words(self.b[k])}")
        shown = found if len(found) <= 6 else [*found[:3], "…", f"({len(found)} terms)"]
        return " + ".join(([f"c = {_in_words(np.float32(self.c))}"] if self.c else []) + shown)


def _in_words(x: np.float32) -> str:
    size, exponent = np.frexp(np.float64(x))
    return f"{'-' if size < 0 else ''}2^{exponent - 1}" if abs(size) == 0.5 else f"{float(x):.9g}"


class _UnrepresentableError(Exception):
    """A probe that a format cannot represent."""


def power(format: Format, exponent: int, sign: float = 1.0) -> tuple[float, float]:
    """Return two numbers of a format whose product is ±2^exponent, normal ones if possible.

    Raises:
        _UnrepresentableError: the format has no such numbers.
    """
    least = format.emin - (format.mantissa_bits if format.has_zero else 0)
    first = min(max(exponent // 2, format.emin), format.emax)
    second = min(max(exponent - first, least), format.emax)
    first = exponent - second
    if not least <= first <= format.emax:
        raise _UnrepresentableError
    return sign * 2.0**first, 2.0**second


def one(format: Format) -> int:
    """Return E of the module's docstring."""
    return min(max(0, 28 + 2 * format.emin), 2 * format.emax - 1)


def _at(places: dict[int, tuple[float, float]]) -> Terms:
    terms = [(0.0, 0.0)] * (max(places) + 1)
    for place, term in places.items():
        terms[place] = term
    return terms


# --- the questions ---------------------------------------------------------------------------------------------------


def places_kept(f: Format) -> Iterator[Terms]:
    """2^-n + 1 − 1: is a term n places below the largest of its block kept, for n from 8 to 27?"""
    for n in range(8, 28):
        yield [power(f, one(f) - n), power(f, one(f)), power(f, one(f), -1.0)]


def block_size(f: Format) -> Iterator[Terms]:
    """1 − 1, and 2^-28 at index p = 2, 4, …, 128: is the small term aligned with the large ones, in their block?"""
    for p in (2, 4, 8, 16, 32, 64, 128):
        yield _at({0: power(f, one(f)), 1: power(f, one(f), -1.0), p: power(f, one(f) - 28)})


def rounding(f: Format) -> Iterator[Terms]:
    """±(1 + 1.5·2^-24): is a sum between two float32 rounded to the nearest, or cut, and toward zero?"""
    for sign in (1.0, -1.0):
        small = power(f, one(f) - 24, sign)
        yield [power(f, one(f), sign), (1.5 * small[0], small[1])]


def fused(f: Format) -> Iterator[Terms]:
    """(1 + 2^-23)² − (1 + 2^-22): is a product rounded to float32 before it is added?"""
    if f.mantissa_bits >= 23:
        x = 1 + 2.0**-23
        yield [(-(1 + 2.0**-22), 1.0), (x, x)]


def single_rounding(f: Format) -> Iterator[Terms]:
    """1 + 2^-24, and 2^-24 at index 511: is the sum of all products rounded once, or on the way?"""
    yield _at({0: power(f, one(f)), 1: power(f, one(f) - 24), INNER - 1: power(f, one(f) - 24)})


def promotion(f: Format) -> Iterator[Terms]:
    """1, then 2^-24 at p and p + 16, p = 32 … 256: does a second float32 begin at or before p?"""
    for p in (32, 64, 128, 256):
        yield _at({0: power(f, one(f)), p: power(f, one(f) - 24), p + 16: power(f, one(f) - 24)})


def floor(f: Format) -> Iterator[Terms]:
    """2^-149 alone, then 2^-149 − 2^-q, q = 155 … 160: below which power of two is a tiny term dropped?"""
    yield [power(f, -149)]
    for q in range(155, 161):
        yield [power(f, -149), power(f, -q, -1.0)]


def subnormal_operands(f: Format) -> Iterator[Terms]:
    """A term n places below X − X, X the smallest subnormal times the largest power: which exponent has X?"""
    if f.mantissa_bits and f.has_zero:
        x = f.min_subnormal
        for n in (14, 24, 25, 26):
            yield [power(f, f.emin + f.emax - n), (x, 2.0**f.emax), (-x, 2.0**f.emax)]


def random_terms(f: Format) -> Iterator[Terms]:
    """Up to 512 random products of many magnitudes: does a model that answers the other questions fit here as well?"""
    words, cast = Words(11000), cast_for(f)
    for k in (4, 8, 16, 24, 32, 40, 48, 64, 96, 128, 200, 256, 300, 512):
        x, y = (cast(words.normal(k) * np.ldexp(1.0, words.below(9, k) - 4)).tolist() for _ in "ab")
        yield list(zip(x, y, strict=True))


def start_value(f: Format) -> Iterator[tuple[Terms, float]]:
    """A start value c, tiny, large or random: is it aligned and cut with the products, or added to their sum?"""
    e = one(f)
    yield [power(f, e - 25, -1.0)], 2.0**e
    for n in (14, 28):
        yield [power(f, e), power(f, e, -1.0)], 2.0 ** (e - n)
    yield next(random_terms(f)), 0.7154321


WITHOUT_START: tuple[Callable[[Format], Iterator[Terms]], ...] = (
    *(places_kept, block_size, rounding, fused, floor, subnormal_operands, single_rounding, promotion, random_terms),
)
_BASIC = (places_kept, block_size, rounding, fused, random_terms)
_SHORT = 64
"""Number of terms of the longest random probe that no promotion can affect."""


def _purpose(question: Callable[..., object]) -> str:
    return " ".join((getdoc(question) or "").split())


def _representable(terms: Iterable[Terms]) -> Iterator[tuple[int, Terms]]:
    """Yield the terms with their numbers, up to the first that the format cannot represent."""
    numbered = enumerate(terms, 1)
    while True:
        try:
            yield next(numbered)
        except (StopIteration, _UnrepresentableError):
            return


def probes(format: Format) -> list[Probe]:
    """Return the probes of a format that start from 0, the basic ones first."""
    found = []
    for question in WITHOUT_START:
        for number, terms in _representable(question(format)):
            basic = question in _BASIC and (question is not random_terms or len(terms) <= _SHORT)
            found.append(_probe(question, number, terms, 0.0, basic))
    return sorted(found, key=lambda p: not p.basic)


def start_probes(format: Format) -> list[Probe]:
    """Return the probes of a format that start from a value c."""
    try:
        return [_probe(start_value, n, terms, c, False) for n, (terms, c) in enumerate(start_value(format), 1)]
    except _UnrepresentableError:
        return []


def _probe(question: Callable[..., object], number: int, terms: Terms, c: float, basic: bool) -> Probe:
    a, b = np.zeros(INNER, np.float32), np.zeros(INNER, np.float32)
    a[: len(terms)], b[: len(terms)] = np.array(terms, np.float32).T
    name = f"{getattr(question, '__name__', '').replace('_', '-')}-{number}"
    return Probe(name, _purpose(question), a, b, len(terms), float(np.float32(c)), basic)
