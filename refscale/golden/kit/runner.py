"""Running a backend over vectors, and what the waivers make of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from refscale.errors import GoldenError, counted
from refscale.files import read_toml
from refscale.golden.kit.backend import Backend, matches
from refscale.golden.kit.verdicts import Result, judge
from refscale.golden.models import calls
from refscale.golden.schema import Vector


@dataclass(frozen=True)
class Waiver:
    """Deviations that are known.

    Attributes:
        ids: patterns of vector ids, where * is anything.
        reason: why they are accepted.
        backend: name of the backend they are for; "" for any.
    """

    ids: tuple[str, ...]
    reason: str
    backend: str = ""


def load_waivers(path: str | Path) -> tuple[Waiver, ...]:
    """Read a waivers file: TOML, with tables ``[[waiver]]`` of ``ids``, ``reason`` and, if need be, ``backend``.

    ::

        [[waiver]]
        ids = ["cast/float8_e4m3fn/*/saturate/*"]
        reason = "the chip has no saturating cast; see its manual, section 4"

    Raises:
        GoldenError: no TOML, an unknown key, or a waiver without ids or reason.
        OSError: no such file.
    """
    document = read_toml(path, f"waivers {path}", GoldenError)
    entries = document.pop("waiver", [])
    if document or not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise GoldenError(f"waivers {path}: expected tables [[waiver]], found {', '.join(document) or 'another type'}")
    return tuple(_waiver(path, number, entry) for number, entry in enumerate(entries, 1))


def _waiver(path: str | Path, number: int, entry: Any) -> Waiver:
    where = f"waivers {path}, [[waiver]] number {number}"
    ids, reason, backend = entry.get("ids"), entry.get("reason"), entry.get("backend", "")
    if unknown := set(entry) - {"ids", "reason", "backend"}:
        raise GoldenError(f"{where}: unknown key {', '.join(sorted(unknown))}, expected ids, reason, backend")
    if not isinstance(ids, list) or not ids or not all(isinstance(i, str) and i for i in ids):
        raise GoldenError(f"{where}: ids is {ids!r}, expected a list of patterns")
    if not isinstance(reason, str) or not reason.strip():
        raise GoldenError(f"{where}: reason is {reason!r}, expected a sentence: why is this deviation accepted?")
    if not isinstance(backend, str):
        raise GoldenError(f"{where}: backend is {backend!r}, expected a name")
    return Waiver(tuple(ids), reason.strip(), backend)


def select(vectors: Iterable[Vector], only: Sequence[str] = (), full: bool = False) -> list[Vector]:
    """The vectors to run.

    Args:
        vectors: to choose from.
        only: patterns of ids; none: all.
        full: bulk vectors, too, which ``judge`` makes anew.

    Raises:
        GoldenError: a pattern that matches none.
    """
    vectors = list(vectors)
    for pattern in only:
        if not any(matches(v.id, [pattern]) for v in vectors):
            raise GoldenError(f"--only {pattern!r}: matches none of {counted(len(vectors), 'vector')}")
    chosen = [v for v in vectors if not only or matches(v.id, list(only))]
    return [v for v in chosen if full or not v.bulk]


def run(
    backend: Backend,
    vectors: Sequence[Vector],
    waivers: Sequence[Waiver] = (),
    progress: Callable[[int, int], None] | None = None,
) -> list[Result]:
    """The verdict on every vector, in order.

    Args:
        backend: to run.
        vectors: to run it on.
        waivers: deviations that are known.
        progress: called with (done, total) after each vector.

    Raises:
        GoldenError: a waiver that matches no vector.
        BackendLostError: see ``judge``.
    """
    results = []
    for i, vector in enumerate(vectors, 1):
        results.append(judge(backend, vector))
        if progress:
            progress(i, len(vectors))
    for waiver in waivers:
        if waiver.backend in ("", backend.name):
            _waive(waiver, results)
    return results


def _waive(waiver: Waiver, results: list[Result]) -> None:
    places = [i for i, r in enumerate(results) if matches(r.vector.id, waiver.ids)]
    if not places:
        raise GoldenError(f"waiver {', '.join(waiver.ids)}: matches none of {counted(len(results), 'vector')}")
    failing = [i for i in places if results[i].verdict in ("fail", "waived")]
    for i in failing:
        results[i] = replace(results[i], verdict="waived", reason=waiver.reason)
    if not failing:
        for i in places:
            if results[i].verdict != "not implemented":
                results[i] = replace(results[i], verdict="unexpectedly fixed", reason=waiver.reason)


@dataclass(frozen=True)
class Culprit:
    """The first op of a training step that deviates.

    Attributes:
        position: of the output among those that were checked, from 1; in the order in which the step computes them.
        checked: how many there are.
        output: "y" in the forward pass, "grad_…" in the backward pass.
        result: of its vector.
    """

    position: int
    checked: int
    output: str
    result: Result


def bisect(backend: Backend, where: str) -> Culprit | None:
    """Feed a backend what the reference had at every call of a training step; the first call that deviates.

    Args:
        backend: with a method ``op``.
        where: "model/NAME/SCHEME/PRECISION".

    Returns:
        None if no call deviates.

    Raises:
        GoldenError: no such model; or the backend implements none of its calls.
    """
    results = [judge(backend, v) for v in calls(where)]
    if all(r.verdict == "not implemented" for r in results):
        raise GoldenError(f"--bisect {where}: {backend.name} implements none of its {counted(len(results), 'call')}")
    steps = [(r, "y") for r in results]
    steps += [(r, n) for r in reversed(results) for n in r.outputs if n != "y"]
    for position, (result, output) in enumerate(steps, 1):
        if result.outputs.get(output) == "fail":
            return Culprit(position, len(steps), output, result)
    return None
