"""Identification of a backend's accumulator: its sums of the ``probes``, compared with those of every model.

The candidates, in order of simplicity: the exact sum; float32 in order, whole and in blocks; exact blocks; truncated
sums of 8 to 28 bits and blocks of 2 to 128. Candidates that match the basic probes are refined by promotion after 64,
128 or 256 and by floors of −120 to −139; last come the names of ``exact.HARDWARE`` for the format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.errors import BackendLostError, GoldenError, RefscaleError, counted
from refscale.exact import HARDWARE, Accumulator, bound, get_accumulator, matmul_float64
from refscale.exact.accumulators import InOrder, Rounded, Truncated
from refscale.formats import Format, get_format
from refscale.golden.inputs import cast_for
from refscale.golden.kit.backend import Backend
from refscale.golden.kit.probes import INNER, MOST, Probe, probes, start_probes
from refscale.golden.kit.verdicts import as_codes, ask
from refscale.golden.schema import Codes, Vector

Float32 = NDArray[np.float32]

FORMATS = ("bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "float32")
"""Formats to try, in this order, if none is named."""

_FLOORS = sorted(range(-139, -119), key=lambda e: abs(e + 133))
"""Alignment floors to try: first that of Hopper, then its neighbors."""

_EXACT = Rounded(INNER)
"""A block that contains every probe: the exact sum, rounded once."""


@dataclass(frozen=True)
class ProbeAnswer:
    """A probe with the sum that the backend returned.

    Attributes:
        probe: the probe.
        sum: sum of the backend, a float32.
        expected: sum of the nearest model.
    """

    probe: Probe
    sum: float
    expected: float


@dataclass(frozen=True)
class Identified:
    """The result of the probes.

    Attributes:
        backend: name and version.
        format: format of both operands.
        answers: every answered probe.
        starts: whether the backend accepts a start value.
        model: simplest model that matches all answers, a name of ``get_accumulator``; "" if none does.
        names: GPUs of ``exact.HARDWARE`` whose model matches all answers.
        others: further matching models, which the probes do not distinguish.
        tried: number of models.
        nearest: model that matches the most answers before its first wrong one; equal to ``model`` if there is one.
        unexplained: first answer that no model matches together with all before it; None if a model matches.
        within: number of answers within the bound of ``any-order``.
    """

    backend: str
    format: str
    answers: tuple[ProbeAnswer, ...]
    starts: bool
    model: str
    names: tuple[str, ...]
    others: tuple[str, ...]
    tried: int
    nearest: str
    unexplained: ProbeAnswer | None
    within: int


def identify(backend: Backend, format: str | None = None) -> Identified:
    """Run a backend on the probes and compare every model.

    Args:
        backend: backend with a method ``matmul``, or ``answer``; a start value is a third array, c.
        format: format of both operands; None: the first of ``FORMATS`` that the backend multiplies.

    Raises:
        GoldenError: the backend does not compute such a product to float32, or raises an error.
        BackendLostError: a program ends or does not answer.
    """
    known, sums = _first_format(backend, format)
    asked = probes(known)
    starting = start_probes(known)
    started = _sums_from_start(backend, known, starting)
    if started is not None:
        asked, sums = [*asked, *starting], np.concatenate([sums, started])
    assert len(asked) <= MOST
    models = dict(_candidates(known))
    depth = {name: _agreeing(model, asked, sums) for name, model in models.items()}
    for model in _refined(models, depth, asked):
        models[model.name] = model
        depth[model.name] = _agreeing_last(model, asked, sums)
    named = {h.name: get_accumulator(h.name) for h in HARDWARE.values() if h.format == known.name}
    models |= named
    depth |= {name: _agreeing(model, asked, sums) for name, model in named.items()}
    nearest = max(depth, key=depth.__getitem__)
    fitting = [name for name, d in depth.items() if d == len(asked)]
    expected = _model_sums(models[nearest], asked)
    answers = [ProbeAnswer(p, float(s), float(e)) for p, s, e in zip(asked, sums, expected, strict=True)]
    plain = [n for n in fitting if n not in named]
    return Identified(
        f"{backend.name} {backend.version}",
        known.name,
        tuple(answers),
        started is not None,
        plain[0] if plain else "",
        tuple(n for n in fitting if n in named),
        tuple(plain[1:]),
        len(models),
        plain[0] if plain else nearest,
        None if fitting else answers[depth[nearest]],
        _within(asked, sums),
    )


# --- the backend -----------------------------------------------------------------------------------------------------


def _first_format(backend: Backend, format: str | None) -> tuple[Format, Float32]:
    reasons = []
    for name in FORMATS if format is None else (format,):
        known = get_format(name)
        try:
            return known, _backend_sums(backend, known, probes(known))
        except NotImplementedError as error:
            reasons.append(f"{known.name}: {error or 'not implemented'}")
    raise GoldenError(f"accumulator: {backend.name} computes no product to float32 ({'; '.join(reasons)})")


def _sums_from_start(backend: Backend, format: Format, asked: Sequence[Probe]) -> Float32 | None:
    """Return None for a backend without start values: it refuses the array, or returns the product without it."""
    if not asked:
        return None
    try:
        sums = _backend_sums(backend, format, asked)
    except (NotImplementedError, GoldenError, BackendLostError):
        return None
    ignored = asked[0].a[0] * asked[0].b[0]
    return None if sums[0] == ignored else sums


def _backend_sums(backend: Backend, format: Format, asked: Sequence[Probe]) -> Float32:
    vector = _vector(format, asked)
    if missing := replace(backend.claims, start=True).missing(vector):
        raise NotImplementedError(f"{missing} is not claimed")
    expected = vector.outputs["y"]
    try:
        with np.errstate(all="ignore"):
            answer = ask(backend, vector)
        if isinstance(answer, dict):
            answer = answer.get("y", next(iter(answer.values()), None))
        codes = as_codes(answer, expected)
    except (NotImplementedError, BackendLostError):
        raise
    except RefscaleError as error:
        raise GoldenError(f"accumulator: {backend.name}, {format.name} products: {error}") from None
    except Exception as error:  # a backend may raise any exception
        where = f"accumulator: {backend.name}, {format.name} products"
        raise GoldenError(f"{where} raised {type(error).__name__}: {error}") from None
    return np.diagonal(codes.view(np.float32))[: len(asked)].copy()


def _vector(format: Format, asked: Sequence[Probe]) -> Vector:
    """Return one product that contains the probes, with a row and a column for each possible probe."""
    a, b = np.zeros((MOST, INNER), np.float32), np.zeros((INNER, MOST), np.float32)
    inputs = {"a": a, "b": b}
    if any(p.c for p in asked):
        inputs["c"] = np.zeros((MOST, MOST), np.float32)
    for i, probe in enumerate(asked):
        a[i], b[:, i] = probe.a, probe.b
        if "c" in inputs:
            inputs["c"][i, i] = probe.c
    codes = {n: Codes.of(x, "float32" if n == "c" else format.name) for n, x in inputs.items()}
    cast = cast_for("float32")
    attributes: dict[str, Any] = {"a_format": format.name, "b_format": format.name, "format": "float32"}
    attributes |= {"rounding": cast.rounding, "overflow": cast.overflow, "factor": 1.0}
    y = {"y": Codes.of(np.zeros((MOST, MOST), np.float32), "float32")}
    return Vector("matmul/accumulator", "matmul", attributes, codes, y)


# --- the models ------------------------------------------------------------------------------------------------------


def _candidates(format: Format) -> Iterator[tuple[str, Accumulator]]:
    """Yield every model without promotion and floor."""
    yield "exact", _EXACT
    sizes = product((None, format.emin), range(8, 29), (2, 4, 8, 16, 32, 64, 128))
    plain: tuple[Accumulator, ...] = (
        *map(InOrder, (0, 4, 8, 16, 32, 64, 128, 256)),
        *map(Rounded, (1, 2, 4, 8, 16, 32, 64, 128, 256)),
        *(Truncated(bits, block, emin=emin) for emin, bits, block in sizes),
    )
    yield from ((model.name, model) for model in plain)


def _refined(
    models: Mapping[str, Accumulator], depth: Mapping[str, int], asked: Sequence[Probe]
) -> Iterator[Truncated]:
    """Yield truncated sums that match the basic answers, with promotions and, if the format shows them, floors."""
    basic = sum(p.basic for p in asked)
    floors = (None, *_FLOORS) if any(p.name.startswith("floor") for p in asked) else (None,)
    agreeing = [m for name, m in models.items() if depth[name] >= basic and isinstance(m, Truncated)]
    for base, promoted, floor in product(agreeing, (0, 64, 128, 256), floors):
        if promoted or floor is not None:
            yield replace(base, promoted=promoted, floor=floor)


def _agreeing_last(model: Accumulator, asked: Sequence[Probe], sums: Float32) -> int:
    """Count as ``_agreeing`` does, for a model that usually fails after the basic probes."""
    basic = sum(p.basic for p in asked)
    rest = _agreeing(model, asked[basic:], sums[basic:])
    return basic + rest if basic + rest < len(asked) else _agreeing(model, asked, sums)


def _agreeing(model: Accumulator, asked: Sequence[Probe], sums: Float32) -> int:
    """Count the answers that a model matches before its first wrong one; by question, as most models fail early."""
    start = 0
    for _, group in groupby(asked, key=lambda p: (p.purpose, p.basic)):
        some = list(group)
        right = _model_sums(model, some).view(np.uint32) == sums[start : start + len(some)].view(np.uint32)
        if not right.all():
            return start + int(right.argmin())
        start += len(some)
    return start


def _model_sums(model: Accumulator, asked: Sequence[Probe]) -> Float32:
    last = max(p.length for p in asked)
    a, b = (np.stack([getattr(p, name)[:last] for p in asked]) for name in "ab")
    c = np.array([p.c for p in asked], np.float32)[:, None, None]
    return model.matmul(a[:, None, :], b[:, :, None], c)[:, 0, 0]


def _within(asked: Sequence[Probe], sums: Float32) -> int:
    """Count the answers that float32 in some order could return; the start value counts as one more product."""
    a, b = (np.stack([getattr(p, name) for p in asked]) for name in "ab")
    c = np.array([p.c for p in asked])[:, None]
    left = np.concatenate([a, c], 1)[:, None, :].astype(np.float64)
    right = np.concatenate([b, np.ones_like(c)], 1)[:, :, None].astype(np.float64)
    error = np.abs(sums - matmul_float64(left, right)[:, 0, 0])
    return int((error <= bound(left, right, "any-order")[:, 0, 0]).sum())


# --- in words ---------------------------------------------------------------------------------------------------------


def identified_in_words(found: Identified) -> str:
    """Return a report: the matching model with its names, or the first probe that no model explains."""
    started = sum(bool(a.probe.c) for a in found.answers)
    start = f", {started} of them from a start value c" if found.starts else "; it takes no start value c"
    lines = [
        f"{found.backend}: {found.format} products to float32",
        f"{counted(len(found.answers), 'probe')} of {INNER} products each{start}; {found.tried} models tried",
    ]
    if found.unexplained is None:
        lines += _fits(found)
    else:
        a = found.unexplained
        agreeing = found.answers.index(a)
        lines += [
            "model: none",
            f"first probe that no model explains: {a.probe.name}, after {agreeing} that {found.nearest} explains",
            f"  {a.probe.purpose}",
            f"  {a.probe.terms}",
            f"  the sum is {_number(a.sum)}, by {found.nearest} {_number(a.expected)}",
            f"{found.within} of {len(found.answers)} sums lie within the bound of any-order, float32 in some order",
        ]
    return "\n".join(lines)


def _fits(found: Identified) -> list[str]:
    """Return the lines on a matching model."""
    lines = [f"model: {found.model or found.names[0]}"]
    for compared in dict.fromkeys(HARDWARE[name].compared for name in found.names):
        names = [name for name in found.names if HARDWARE[name].compared == compared]
        lines += [f"  the sums of {', '.join(names)}, each compared with", f"  {compared}"]
    if found.others:
        more = f" and {len(found.others) - 4} more" if len(found.others) > 4 else ""
        lines.append(f"not told apart by these probes: {', '.join(found.others[:4])}{more}")
    lines.append(f"conform judges it bit by bit under the claim accumulate={found.model or found.names[0]}")
    return lines


def _number(x: float) -> str:
    return f"0x{int(np.float32(x).view(np.uint32)):08x} ({x:.9g})"


def identified_to_json(found: Identified) -> dict[str, Any]:
    """Return the whole result as JSON values; a missing model or probe is null."""

    def answer(a: ProbeAnswer) -> dict[str, Any]:
        return {
            "name": a.probe.name,
            "purpose": a.probe.purpose,
            "terms": a.probe.terms,
            "sum": a.sum,
            "expected": a.expected,
        }

    return {
        "schema": 1,
        "backend": found.backend,
        "format": found.format,
        "model": found.model or next(iter(found.names), None),
        "names": list(found.names),
        "others": list(found.others),
        "models_tried": found.tried,
        "start_value": found.starts,
        "nearest": found.nearest,
        "unexplained": None if found.unexplained is None else answer(found.unexplained),
        "within_any_order": found.within,
        "probes": [answer(a) for a in found.answers],
    }
