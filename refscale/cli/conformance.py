"""The commands ``refscale golden`` and ``refscale conform``."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from refscale.errors import ArgumentError, BackendLostError, GoldenError, counted
from refscale.files import write_json, write_text
from refscale.golden import GoldenSet, check, load, sizes, write
from refscale.golden.backends import SHIPPED, find
from refscale.golden.kit import Backend, Result, Session, Waiver, bisect, load_waivers, run, select, summary, to_json
from refscale.golden.kit import pipe as protocol
from refscale.golden.kit.backend import matches
from refscale.golden.kit.pipe import PipeBackend
from refscale.golden.kit.report import bisection_in_words, failed, matrix, vector_in_words
from refscale.golden.kit.runner import check_ids, covered, unmet, waivers_toml
from refscale.golden.kit.verdicts import whole_result, without_arrays
from refscale.golden.known_bugs import explain
from refscale.golden.schema import FLAGS, Vector
from refscale.golden.trace import in_words, judge, load_trace, to_content

FAILED, ENDED = 1, 2
"""Exit status of a failing backend, and of a run that ended early."""

_OF_VECTORS = ("set", "only", "full", "shapes", "budget", "flag", "require", "waivers", "write_waivers", "bisect")
"""Options that select or judge vectors; they do not apply to a trace."""


def golden(args: argparse.Namespace) -> None:
    """Generate, check or show golden vectors."""
    match args.action:
        case "write":
            size = write(args.directory, args.full)
            print(f"{args.directory}: {size / 2**20:.1f} MiB")
        case "list":
            for v in select(load(args.set).values(), args.patterns, True, args.flag):
                print(f"{v.id}  {' '.join(v.flags)}")
        case "show":
            print("\n".join(vector_in_words(load(args.set)[args.id])))
        case "explain":
            print(_explained(args.flag))
        case _:
            count = check(args.directory)
            print(f"{counted(count, 'vector')}: every hash and every byte is right")


def _explained(flag: str | None) -> str:
    if flag is None:
        return "\n".join(f"{name}: {text}" for name, text in FLAGS.items())
    chosen = select(load().values(), (), True, [flag])
    families = Counter(v.family for v in chosen)
    where = ", ".join(f"{n} in {family}" for family, n in families.items())
    return (
        f"{explain(flag, FLAGS[flag])}\n  caught by {counted(len(chosen), 'vector')}: {where}, such as {chosen[0].id}"
    )


def conform(args: argparse.Namespace) -> int:
    """Run a backend on the golden vectors, or check a trace.

    Returns:
        0 if at least one vector is checked, none fails and every requirement is satisfied; 1 otherwise; 2 if the run
        ended early. For a trace: 0 if every call passes, otherwise 1.

    Raises:
        ArgumentError: an option of vectors is combined with a trace.
        GoldenError: a set, a backend or a trace cannot be read.
    """
    if args.list:
        for b in SHIPPED.values():
            print(f"{b.name:14}{'installed' if b.installed else '-':11}{b.about}")
        return 0
    if args.protocol:
        print(inspect.getdoc(protocol))
        return 0
    if args.trace:
        return _trace(args)
    vectors = load(args.set)
    waivers = load_waivers(args.waivers) if args.waivers else ()
    pool = _pool(args, vectors)
    check_ids(waivers, {v.id for v in (*vectors.values(), *pool)})
    if args.all_installed:
        return _all_installed(args, vectors, waivers)
    if args.pipe:
        with PipeBackend(args.pipe, args.timeout, args.longest_line) as program:
            return _one(args, program, vectors, pool, waivers)
    return _one(args, find(args.backend), vectors, pool, waivers)


def _trace(args: argparse.Namespace) -> int:
    for name in _OF_VECTORS:
        if getattr(args, name) not in (None, False, []):
            raise ArgumentError(
                f"conform --trace: --{name.replace('_', '-')} applies to vectors, expected no option but --json"
            )
    result = judge(load_trace(args.trace))
    if args.json:
        write_json(args.json, to_content(result))
    print(in_words(result))
    return 0 if result.passed else FAILED


def _pool(args: argparse.Namespace, vectors: GoldenSet) -> list[Vector]:
    """Return the candidate vectors: the set and the generated ones, or the generated ones alone."""
    if args.budget is not None:
        return []
    if args.shapes:
        return list(sizes.generate(args.seed, sizes.SHAPE_ROUNDS, args.shapes))
    return [*vectors.values(), *sizes.sample(args.seed, args.full, args.repeat, _wanted(args.only))]


def _wanted(only: Sequence[str]) -> Callable[[str], bool] | None:
    return (lambda id: matches(id, list(only))) if only else None


def _generated(args: argparse.Namespace) -> Iterator[Vector]:
    """Yield the vectors of ``--budget``."""
    return sizes.until(args.budget, args.seed, args.shapes, _wanted(args.only) or (lambda _: True))


def _one(
    args: argparse.Namespace, backend: Backend, vectors: GoldenSet, pool: list[Vector], waivers: Sequence[Waiver]
) -> int:
    if args.bisect:
        found = bisect(backend, args.bisect, Session(backend, (), args.timeout, args.restarts))
        print(bisection_in_words(found))
        return 0 if found.passed else FAILED
    timed = args.budget is not None
    chosen = [] if timed else select(pool, args.only, args.full, args.flag)
    if not timed:
        unmet(_unrun(chosen), args.require)  # a pattern without a match is an error before the run
    session = Session(backend, waivers, args.timeout, args.restarts)
    results: list[Result] = []
    interrupted, lost = True, False
    try:
        for vector in _generated(args) if timed else chosen:
            lost = bool(session.lost)
            if lost:
                break
            result = session.judge(vector)
            results.append(result if result.verdict == "fail" or not timed else without_arrays(result))
        interrupted = False
    finally:
        if interrupted and args.json:
            write_json(args.json, to_json(backend, results, vectors, lost="interrupted"))
    results = list(results) if lost else covered(results)
    problems = [] if lost else unmet(results, args.require)
    if args.json:
        write_json(args.json, to_json(backend, results, vectors, problems, session.lost if lost else ""))
    if args.write_waivers:
        write_text(args.write_waivers, waivers_toml(backend, results))
    notes = list(problems)
    large = sum(v.bulk for v in vectors.values())
    if timed or args.shapes:
        notes.append(f"generated by seed {args.seed}; the vectors of the set were not run")
    elif not args.full and not args.only and not args.flag:
        notes.append(f"not run: {large} large vectors, such as every float16 of every function (--full)")
    print(summary(backend, results, args.failures, notes))
    if lost:
        raise BackendLostError(
            f"{session.lost}; {'vectors' if timed else counted(len(chosen) - len(results), 'vector')} not run, "
            f"{counted(args.restarts, 'restart')} allowed (--restarts)"
        )
    return FAILED if failed(results) or problems else 0


def _unrun(vectors: Sequence[Vector]) -> list[Result]:
    return [whole_result(v, "same bits", "") for v in vectors]


def _all_installed(args: argparse.Namespace, vectors: GoldenSet, waivers: Sequence[Waiver]) -> int:
    chosen = select(_pool(args, vectors), args.only, args.full, args.flag)
    found: list[tuple[Backend, list[Result]]] = []
    for shipped in SHIPPED.values():
        try:
            backend = find(shipped.name)
        except GoldenError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        found.append((backend, run(backend, chosen, waivers)))
    print(matrix(found))
    if args.json:
        write_json(args.json, [to_json(b, r, vectors) for b, r in found])
    return FAILED if any(failed(results) for _, results in found) else 0
