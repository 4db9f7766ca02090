"""The command ``refscale verify``."""

from __future__ import annotations

import argparse
from dataclasses import replace

from refscale import claims
from refscale.analysis.tables.ops import parse_shape
from refscale.claims import report
from refscale.errors import ArgumentError
from refscale.files import write_json
from refscale.progress import Progress
from refscale.testing.places import Place

FAILED = 1
"""Exit status if a claim fails."""


def verify(args: argparse.Namespace) -> int:
    """Check or list claims; return 1 if one fails."""
    if args.list:
        print("\n".join(report.listing()))
        return 0
    if args.seed < 0:
        raise ArgumentError(f"verify: --seed is {args.seed}, expected a number >= 0")
    chosen = claims.select(args.only, slow=args.slow)
    at = [replace(Place(seed=args.seed), **parse_shape(args.shape))] if args.shape else []
    results: list[claims.ClaimResult] = []
    with Progress(len(chosen), "claims", "verify") as progress:
        for claim in chosen:
            results += claims.verify([claim], at, args.seed)
            progress.advance(1, f"{claim.id} {claim.name}")
    if args.json:
        write_json(args.json, report.to_json(results))
    for line in report.table(results):
        print(line)
    for line in report.failures(results):
        print(line)
    print()
    print(report.summary(results))
    return FAILED if any(r.verdict == "fails" for r in results) else 0
