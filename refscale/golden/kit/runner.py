"""Running a backend over vectors: time limits and restarts, waivers, requirements, bisection."""

from __future__ import annotations

import contextlib
import ctypes
import queue
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from refscale.errors import BackendLostError, GoldenError, counted, shown
from refscale.files import read_toml
from refscale.golden.kit.backend import Backend, matches
from refscale.golden.kit.verdicts import Result, judge, whole_result
from refscale.golden.models import calls
from refscale.golden.schema import FLAGS, Vector


@dataclass(frozen=True)
class Waiver:
    """Accepted failures, each with its deviation.

    A failure with another deviation still fails; so does a vector that passes, or that is no longer implemented.

    Attributes:
        vectors: ``Result.deviation`` by id of the vector.
        reason: reason of acceptance.
        backend: name of the backend that they apply to; "" for any.
    """

    vectors: Mapping[str, str]
    reason: str
    backend: str = ""


def load_waivers(path: str | Path) -> tuple[Waiver, ...]:
    """Read a waivers file: TOML, with tables ``[[waiver]]`` of ``reason``, ``vectors`` and, optionally, ``backend``.

    ::

        [[waiver]]
        reason = "ties are rounded away from zero; manual, section 4"
        [waiver.vectors]
        "cast/float16/nearest_even/saturate/float32/ties" = "y: 90 of 298 elements from … at most 1 ulp"

    ``waivers_toml`` writes such a table from the failures of a run.

    Raises:
        GoldenError: invalid TOML, an unknown key, a waiver without vectors or reason, or two waivers of a vector.
        OSError: the file does not exist.
    """
    document = read_toml(path, f"waivers {path}", GoldenError)
    entries = document.pop("waiver", [])
    if document or not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        found = shown(", ".join(document)) or "another type"
        raise GoldenError(f"waivers {path}: expected tables [[waiver]], found {found}")
    waivers = tuple(_waiver(path, number, entry) for number, entry in enumerate(entries, 1))
    seen = Counter((w.backend, id) for w in waivers for id in w.vectors)
    if twice := [id for (_, id), n in seen.items() if n > 1]:
        raise GoldenError(f"waivers {path}: {shown(twice[0])} is in two waivers")
    return waivers


def _waiver(path: str | Path, number: int, entry: Any) -> Waiver:
    where = f"waivers {path}, [[waiver]] number {number}"
    vectors, reason, backend = entry.get("vectors"), entry.get("reason"), entry.get("backend", "")
    if "ids" in entry:
        raise GoldenError(
            f"{where}: ids is {shown(repr(entry['ids']), 80)}, expected vectors, a table of the deviation by id; "
            "conform --write-waivers writes it"
        )
    if unknown := set(entry) - {"vectors", "reason", "backend"}:
        raise GoldenError(
            f"{where}: unknown key {shown(', '.join(sorted(unknown)))}, expected reason, vectors, backend"
        )
    if not isinstance(vectors, dict) or not vectors or not all(isinstance(d, str) and d for d in vectors.values()):
        raise GoldenError(f"{where}: vectors is {shown(repr(vectors), 80)}, expected a table of the deviation by id")
    if not isinstance(reason, str) or not reason.strip():
        raise GoldenError(f"{where}: reason is {reason!r}, expected a sentence: why is this deviation accepted?")
    if not isinstance(backend, str):
        raise GoldenError(f"{where}: backend is {backend!r}, expected a name")
    return Waiver(dict(vectors), reason.strip(), backend)


def waivers_toml(backend: Backend, results: Sequence[Result]) -> str:
    """Return the failures of a run as a waivers file; its reasons are empty."""
    lines = ["[[waiver]]", 'reason = ""  # why is this deviation accepted?', f"backend = {_quoted(backend.name)}"]
    lines += ["[waiver.vectors]"]
    lines += [f"{_quoted(r.vector.id)} = {_quoted(r.deviation)}" for r in results if r.verdict == "fail"]
    return "\n".join(lines) + "\n" if len(lines) > 4 else ""


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def check_ids(waivers: Sequence[Waiver], known: Collection[str]) -> None:
    """Check that the set contains every waived vector.

    Raises:
        GoldenError: a waived vector does not exist.
    """
    for waiver in waivers:
        for id in waiver.vectors:
            if id not in known:
                raise GoldenError(f"waiver {shown(waiver.reason, 60)!r}: no vector has the id {shown(id)!r}")


def select(
    vectors: Iterable[Vector], only: Sequence[str] = (), full: bool = False, flags: Sequence[str] = ()
) -> list[Vector]:
    """Select the vectors of a run.

    Args:
        vectors: candidates.
        only: patterns of ids; empty: all.
        full: whether to include bulk vectors, which ``judge`` generates again.
        flags: names in ``FLAGS``: vectors with at least one of them; empty: all.

    Raises:
        GoldenError: a pattern without a match, or an unknown flag.
    """
    vectors = list(vectors)
    for pattern in only:
        if not any(matches(v.id, [pattern]) for v in vectors):
            raise GoldenError(f"--only {pattern!r}: matches none of {counted(len(vectors), 'vector')}")
    for flag in flags:
        if flag not in FLAGS:
            raise GoldenError(f"--flag {shown(flag, 40)!r}: expected one of {', '.join(FLAGS)}")
    chosen = [v for v in vectors if not only or matches(v.id, list(only))]
    chosen = [v for v in chosen if not flags or set(flags) & set(v.flags)]
    return [v for v in chosen if full or not v.bulk]


def run(
    backend: Backend,
    vectors: Sequence[Vector],
    waivers: Sequence[Waiver] = (),
    progress: Callable[[int, int], None] | None = None,
) -> list[Result]:
    """Return the verdict on every vector, in order.

    Args:
        backend: backend to run.
        vectors: vectors to run.
        waivers: accepted failures.
        progress: function that is called with (done, total) after each vector.

    Raises:
        BackendLostError: as in ``Session``; there are no restarts.
    """
    session = Session(backend, waivers, restarts=0)
    results = []
    for i, vector in enumerate(vectors, 1):
        results.append(session.judge(vector))
        if progress:
            progress(i, len(vectors))
    if session.lost:
        raise BackendLostError(session.lost)
    return covered(results)


class Session:
    """One backend over many vectors, with a time limit, restarts and waivers.

    If the backend ends or exceeds the time limit during a vector, the vector fails and the backend is started again.

    Args:
        backend: backend to run.
        waivers: accepted failures.
        timeout: seconds for one vector; None: no limit. Ignored for a program: ``PipeBackend`` has its own limit.
        restarts: largest number of restarts.
    """

    def __init__(
        self, backend: Backend, waivers: Sequence[Waiver] = (), timeout: float | None = None, restarts: int = 3
    ) -> None:
        self.backend, self.lost = backend, ""
        self._left = restarts
        ours = [w for w in waivers if w.backend in ("", backend.name)]
        self._waived = {id: (deviation, w.reason) for w in ours for id, deviation in w.vectors.items()}
        self._worker = _Worker(timeout) if timeout is not None and not hasattr(backend, "restart") else None

    def judge(self, vector: Vector) -> Result:
        """Return the verdict on one vector, after waivers.

        Raises:
            BackendLostError: the backend was lost at an earlier vector, and no restart is left.
        """
        if self.lost:
            raise BackendLostError(self.lost)
        try:
            result = self._worker.call(self.backend, vector) if self._worker else judge(self.backend, vector)
        except BackendLostError as error:
            self._restart(str(error))
            result = whole_result(vector, "fail", str(error).partition("; the request was")[0])
        return self._after_waiver(result)

    def _restart(self, problem: str) -> None:
        if self._left < 1:
            self.lost = problem
            return
        self._left -= 1
        restart = getattr(self.backend, "restart", None)
        try:
            if restart is not None:
                restart()
        except GoldenError as error:
            self.lost = f"{problem}; {error}"

    def _after_waiver(self, result: Result) -> Result:
        if result.vector.id not in self._waived:
            return result
        deviation, reason = self._waived[result.vector.id]
        if result.verdict == "not implemented":
            return replace(result, verdict="fail", reason=f"waived ({reason}), and no longer implemented")
        if result.verdict != "fail":
            return replace(result, verdict="unexpectedly fixed", reason=reason)
        if result.deviation != deviation:
            both = f"the deviation is {result.deviation!r}, the waiver ({reason}) is for {deviation!r}"
            return replace(result, reason=f"{result.reason}; {both}" if result.reason else both)
        return replace(result, verdict="waived", reason=reason)


class _Worker:
    """A thread that runs the methods of a backend, so that a method that does not return can be abandoned."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._start()

    def _start(self) -> None:
        self._tasks: queue.SimpleQueue[tuple[Backend, Vector]] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Result | BaseException] = queue.SimpleQueue()
        self._thread = threading.Thread(target=_serve, args=(self._tasks, self._done), daemon=True)
        self._thread.start()

    def call(self, backend: Backend, vector: Vector) -> Result:
        """Run ``judge`` in the thread.

        Raises:
            BackendLostError: the method exceeds the time limit.
        """
        self._tasks.put((backend, vector))
        try:
            result = self._done.get(timeout=self._timeout)
        except queue.Empty:
            # Python code ends at this exception; native code that does not return keeps its thread.
            if self._thread.ident is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._thread.ident), ctypes.py_object(SystemExit)
                )
            self._start()
            raise BackendLostError(
                f"{vector.op} has not returned within {self._timeout:g} s; the request was: {vector.id}"
            ) from None
        if isinstance(result, BaseException):
            raise result
        return result


def _serve(tasks: queue.SimpleQueue[Any], done: queue.SimpleQueue[Any]) -> None:
    with contextlib.suppress(SystemExit):
        while True:
            backend, vector = tasks.get()
            try:
                done.put(judge(backend, vector))
            except SystemExit:
                raise
            except BaseException as error:
                done.put(error)


# --- coverage ---------------------------------------------------------------------------------------------------------


def covered(results: Sequence[Result]) -> list[Result]:
    """Return the results of a run, after failing every method that answers none of its vectors.

    A program without ``ops`` in its greeting claims exactly the ops that it has answered, so nothing changes there.
    """
    answered = {r.vector.op for r in results if r.verdict != "not implemented"}
    silent = {r.vector.op for r in results if r.unanswered} - answered
    reason = "the method exists, and answers none of its vectors: {}"
    return [
        replace(
            r,
            verdict="fail",
            outputs=dict.fromkeys(r.outputs, "fail"),
            reason=reason.format(r.reason),
        )
        if r.unanswered and r.vector.op in silent
        else r
        for r in results
    ]


def unmet(results: Sequence[Result], required: Sequence[str]) -> list[str]:
    """Return each unsatisfied requirement of a run, in words; [] if all are satisfied.

    Args:
        results: results of the run.
        required: patterns of ids that must be implemented.

    Raises:
        GoldenError: a pattern matches no vector of the run.
    """
    problems = []
    for pattern in required:
        of = [r for r in results if matches(r.vector.id, [pattern])]
        if not of:
            raise GoldenError(f"--require {shown(pattern)!r}: matches none of {counted(len(results), 'vector')}")
        missing = [r for r in of if r.verdict == "not implemented"]
        if missing:
            first = f"{missing[0].vector.id} ({missing[0].reason})"
            problems.append(f"required {pattern!r}: {len(missing)} of {len(of)} not implemented, first {first}")
    if all(r.verdict == "not implemented" for r in results):
        problems.append("nothing was judged: no vector is implemented")
    return problems


@dataclass(frozen=True)
class Culprit:
    """The first deviating op of a training step.

    Attributes:
        position: number of the output among the checked ones, from 1, in the order in which the step computes them.
        checked: number of checked outputs.
        output: "y" in the forward pass, "grad_…" in the backward pass.
        result: result of its vector.
    """

    position: int
    checked: int
    output: str
    result: Result


@dataclass(frozen=True)
class Bisection:
    """The result of a bisection.

    Attributes:
        where: "model/NAME/SCHEME/PRECISION".
        culprit: first deviating call; None if no checked call deviates.
        calls: number of calls of the step.
        missing: number of unchecked calls, by name of the op.
    """

    where: str
    culprit: Culprit | None
    calls: int
    missing: Mapping[str, int] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every call was checked and none deviates."""
        return self.culprit is None and not self.missing


def bisect(backend: Backend, where: str, session: Session | None = None) -> Bisection:
    """Run a backend on the reference's inputs at every call of a training step, and find the first deviating call.

    Args:
        backend: backend with a method ``op``.
        where: "model/NAME/SCHEME/PRECISION".
        session: session with its limits; None: no time limit, no restarts.

    Raises:
        GoldenError: there is no such model, or the backend implements none of its calls.
        BackendLostError: as in ``Session``.
    """
    session = session or Session(backend, restarts=0)
    results = [session.judge(v) for v in calls(where)]
    missing = Counter(
        r.vector.attributes["name"] for r in results if "not implemented" in (r.verdict, *r.outputs.values())
    )
    if missing.total() == len(results) and all(r.verdict == "not implemented" for r in results):
        raise GoldenError(f"--bisect {where}: {backend.name} implements none of its {counted(len(results), 'call')}")
    steps = [(r, "y") for r in results]
    steps += [(r, n) for r in reversed(results) for n in r.outputs if n != "y"]
    culprit = None
    for position, (result, output) in enumerate(steps, 1):
        if result.outputs.get(output) == "fail":
            culprit = Culprit(position, len(steps), output, result)
            break
    return Bisection(where, culprit, len(results), dict(missing))
