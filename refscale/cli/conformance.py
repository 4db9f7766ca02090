"""``refscale golden`` and ``refscale conform``."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

from refscale.errors import GoldenError, counted
from refscale.files import write_json
from refscale.golden import GoldenSet, check, load, write
from refscale.golden.backends import SHIPPED, find
from refscale.golden.kit import Backend, Result, Waiver, bisect, load_waivers, run, select, summary, to_json
from refscale.golden.kit.pipe import PipeBackend
from refscale.golden.kit.report import culprit_in_words, failed, matrix

FAILED = 1
"""Exit status of a backend that fails."""


def golden(args: argparse.Namespace) -> None:
    """Generate a set of golden vectors, or check one."""
    if args.action == "write":
        size = write(args.directory, args.full)
        print(f"{args.directory}: {size / 2**20:.1f} MiB")
    else:
        count = check(args.directory)
        print(f"{counted(count, 'vector')}: every hash and every byte is right")


def conform(args: argparse.Namespace) -> int:
    """Hold a backend to the vectors; 1 if it fails."""
    if args.list:
        for b in SHIPPED.values():
            print(f"{b.name:14}{'installed' if b.installed else '-':11}{b.about}")
        return 0
    vectors = load(args.set)
    waivers = load_waivers(args.waivers) if args.waivers else ()
    if args.all_installed:
        return _all_installed(args, vectors, waivers)
    if args.pipe:
        with PipeBackend(args.pipe, args.timeout, args.longest_line) as program:
            return _one(args, program, vectors, waivers)
    return _one(args, find(args.backend), vectors, waivers)


def _one(args: argparse.Namespace, backend: Backend, vectors: GoldenSet, waivers: Sequence[Waiver]) -> int:
    if args.bisect:
        culprit = bisect(backend, args.bisect)
        print(culprit_in_words(args.bisect, culprit))
        return FAILED if culprit else 0
    chosen = select(vectors.values(), args.only, args.full)
    results = run(backend, chosen, waivers)
    print(summary(backend, results, args.failures))
    bulk = sum(v.bulk for v in vectors.values())
    if not args.full and not args.only:
        print(f"not run: {bulk} bulk vectors, such as every float16 of every function (--full)")
    if args.json:
        write_json(args.json, to_json(backend, results, vectors.version))
    return FAILED if failed(results) else 0


def _all_installed(args: argparse.Namespace, vectors: GoldenSet, waivers: Sequence[Waiver]) -> int:
    chosen = select(vectors.values(), args.only, args.full)
    found: list[tuple[Backend, list[Result]]] = []
    for shipped in SHIPPED.values():
        try:
            backend = find(shipped.name)
        except GoldenError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        own = [w for w in waivers if w.backend in ("", backend.name)]
        found.append((backend, run(backend, chosen, own)))
    print(matrix(found))
    if args.json:
        write_json(args.json, [to_json(b, r, vectors.version) for b, r in found])
    totals = Counter(r.verdict for _, results in found for r in results)
    return FAILED if totals["fail"] or totals["unexpectedly fixed"] else 0
