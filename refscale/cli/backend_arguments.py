"""The options of the backend commands: ``golden``, ``conform``, ``accumulator``."""

from __future__ import annotations

import argparse


def add_golden(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``golden``."""
    parser.description = (
        "Golden vectors: bit-exact inputs and outputs as arrays and manifests, for programs in any language."
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    write = actions.add_parser("write", help="generate the set into a directory")
    write.add_argument("directory", metavar="DIR", help="new or empty directory, or an older set, which is replaced")
    write.add_argument("--full", action="store_true", help="write every bulk array whole, not as hash and sample")
    listing = actions.add_parser("list", help="print ids with their flags, one on each line")
    listing.add_argument("patterns", nargs="*", metavar="PATTERN", help="ids, such as 'cast/*e4m3*' (default: all)")
    listing.add_argument("--flag", action="append", default=[], metavar="FLAG", help="only vectors that catch this bug")
    show = actions.add_parser("show", help="print one vector: attributes, arrays, flags")
    show.add_argument("id", metavar="ID")
    for action in (listing, show):
        action.add_argument("--set", metavar="DIR", help="directory of another set (default: the installed one)")
    explain = actions.add_parser("explain", help="describe the bug behind a flag, where it occurred, and its vectors")
    explain.add_argument("flag", nargs="?", metavar="FLAG", help="name of a flag (default: a line for every flag)")
    check = actions.add_parser("check", help="verify all hashes, generate the set again, compare every byte")
    check.add_argument("directory", nargs="?", metavar="DIR", help="directory of the set (default: the installed one)")


def shape(text: str) -> tuple[int, ...]:
    """Parse M,N,K."""
    found = tuple(int(part) for part in text.split(","))
    if len(found) != 3:
        raise ValueError(text)
    return found


def add_conform(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``conform``."""
    parser.description = (
        "Run a backend on the golden vectors and compare bits; for a backend that claims another accumulator, check "
        "the derived bound. Exit status: 0 if at least one vector is checked, none fails and every --require is "
        "satisfied; 1 otherwise; 2 after an error or the loss of the program. --protocol describes the protocol of "
        "programs; refscale.golden.kit.Backend that of Python classes. --trace checks a recorded training step "
        "instead, each call on its own inputs within the bound of its op: exit status 0 if every call passes, 1 if one "
        "deviates, 2 if the trace cannot be read."
    )
    which = _add_backend(parser)
    which.add_argument("--all-installed", action="store_true", help="run every shipped backend that can be imported")
    which.add_argument(
        "--trace",
        metavar="DIR",
        help="check a step recorded by refscale.golden.trace.Recorder; only --json may be added",
    )
    which.add_argument("--list", action="store_true", help="list the shipped backends and whether they can be imported")
    which.add_argument("--protocol", action="store_true", help="print the protocol of PROGRAM")
    _add_limits(parser)
    parser.add_argument(
        "--restarts",
        type=int,
        default=3,
        metavar="N",
        help="restarts after a crash or timeout, each a failure (default: 3)",
    )
    parser.add_argument("--set", metavar="DIR", help="directory of another set (default: the installed one)")
    parser.add_argument(
        "--only", action="append", default=[], metavar="PATTERN", help="run only these ids, such as 'cast/*e4m3*'"
    )
    parser.add_argument(
        "--full", action="store_true", help="also run large vectors: every float16 of every function, …"
    )
    parser.add_argument(
        "--shapes",
        type=shape,
        action="append",
        metavar="M,N,K",
        help="run generated vectors of this size in every pair of formats instead of the set",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="random seed of generated vectors (default: 0)"
    )
    parser.add_argument(
        "--repeat",
        type=int,
        default=1,
        metavar="N",
        help="number of seeds of generated vectors, from --seed on (default: 1)",
    )
    parser.add_argument(
        "--budget", type=float, metavar="SECONDS", help="run generated vectors for this time instead of the set"
    )
    parser.add_argument(
        "--flag", action="append", default=[], metavar="FLAG", help="run only vectors that catch this bug"
    )
    parser.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="PATTERN",
        help="require that these ids are implemented, such as 'cast/*'",
    )
    parser.add_argument(
        "--waivers", metavar="FILE", help="TOML file of accepted failures, each with its deviation and reason"
    )
    parser.add_argument("--write-waivers", metavar="FILE", help="write the failures to FILE as waivers without reasons")
    parser.add_argument("--json", metavar="FILE", help="also write the verdict on every vector to FILE as JSON")
    parser.add_argument(
        "--bisect", metavar="MODEL", help="print the first deviating call of a model vector, such as model/ffn/unit/fp8"
    )
    parser.add_argument("--failures", type=int, default=5, metavar="N", help="number of failures to print (default: 5)")


def _add_backend(parser: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
    """Add BACKEND and ``--pipe``; return their group, of which one argument is required."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("backend", nargs="?", metavar="BACKEND", help="module:Class, or the name of a shipped backend")
    which.add_argument("--pipe", metavar="PROGRAM", help="program that reads requests and writes replies as text")
    return which


def _add_limits(parser: argparse.ArgumentParser) -> None:
    """Add the limits of a program's replies."""
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="S", help="seconds for a reply of PROGRAM (default: 60)"
    )
    parser.add_argument(
        "--longest-line",
        type=int,
        default=1 << 24,
        metavar="BYTES",
        help="longest line of a reply of PROGRAM (default: 2^24)",
    )


def add_accumulator(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``accumulator``."""
    parser.description = (
        "Run a backend on at most 64 sums on which the known accumulators disagree, and print the accumulator that "
        "matches all of them, such as truncated:25:16, with the GPUs that have it; or the first sum that no known "
        "accumulator explains. A backend that accepts a start value, D = A·B + C, receives it as a third array, c. "
        "Exit status: 0 if an accumulator matches, 1 if none does, 2 after an error."
    )
    _add_backend(parser)
    parser.add_argument(
        "--format",
        metavar="NAME",
        help="format of both operands, such as bf16 (default: the first of bf16, fp16, e4m3fn, e5m2, fp32 that it "
        "supports)",
    )
    _add_limits(parser)
    parser.add_argument("--json", metavar="FILE", help="also write every probe and its sum to FILE as JSON")
