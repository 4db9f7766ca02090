"""What each command for backends takes: ``golden``, ``conform``, ``accumulator``."""

from __future__ import annotations

import argparse


def add_golden(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``golden``."""
    parser.description = "Golden vectors: arrays and manifests that any language can read, and every bit of them right."
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    write = actions.add_parser("write", help="generate the set into a directory")
    write.add_argument("directory", metavar="DIR", help="new, empty, or an older set, which is replaced")
    write.add_argument("--full", action="store_true", help="with every bulk array whole, not as hash and sample")
    listing = actions.add_parser("list", help="ids, one a line, with their flags")
    listing.add_argument("patterns", nargs="*", metavar="PATTERN", help="ids, such as 'cast/*e4m3*' (default: all)")
    listing.add_argument("--flag", action="append", default=[], metavar="FLAG", help="vectors that catch this bug")
    show = actions.add_parser("show", help="one vector: attributes, arrays, flags")
    show.add_argument("id", metavar="ID")
    for action in (listing, show):
        action.add_argument("--set", metavar="DIR", help="another set (default: the installed one)")
    explain = actions.add_parser("explain", help="the bug behind a flag, where it was seen, which vectors catch it")
    explain.add_argument("flag", nargs="?", metavar="FLAG", help="default: every flag in a line")
    check = actions.add_parser("check", help="verify all hashes, generate the set anew, compare every byte")
    check.add_argument("directory", nargs="?", metavar="DIR", help="default: the set that is installed")


def shape(text: str) -> tuple[int, ...]:
    """Parse M,N,K."""
    found = tuple(int(part) for part in text.split(","))
    if len(found) != 3:
        raise ValueError(text)
    return found


def add_conform(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``conform``."""
    parser.description = (
        "Run a backend on the golden vectors and compare bits; where it claims another accumulator, within the derived "
        "bound. Exit status: 0 if a vector was judged, none fails and every --require is met; 1 if not; 2 after an "
        "error, or if the program was lost. --protocol describes programs, refscale.golden.kit.Backend classes. "
        "--trace judges a recorded training step instead, each call on its own inputs within the bound of its op: "
        "exit status 0 if every call passes, 1 if one deviates, 2 if the trace cannot be read."
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("backend", nargs="?", metavar="BACKEND", help="module:Class, or a shipped one by its name")
    which.add_argument("--pipe", metavar="PROGRAM", help="a program that reads requests and writes replies as text")
    which.add_argument("--all-installed", action="store_true", help="every shipped backend that can be imported")
    which.add_argument(
        "--trace",
        metavar="DIR",
        help="a step that refscale.golden.trace.Recorder recorded; of the options, --json applies",
    )
    which.add_argument("--list", action="store_true", help="the shipped backends, and whether they can be imported")
    which.add_argument("--protocol", action="store_true", help="print the protocol that PROGRAM speaks")
    _add_limits(parser)
    parser.add_argument(
        "--restarts", type=int, default=3, metavar="N", help="after a crash or a timeout, which fails (default: 3)"
    )
    parser.add_argument("--set", metavar="DIR", help="another set of golden vectors (default: the installed one)")
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN", help="ids, such as 'cast/*e4m3*'")
    parser.add_argument("--full", action="store_true", help="large vectors, too: every float16 of every function, …")
    parser.add_argument(
        "--shapes",
        type=shape,
        action="append",
        metavar="M,N,K",
        help="generated vectors of this size in every pair of formats, in place of the set",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of generated vectors (default: 0)")
    parser.add_argument(
        "--repeat", type=int, default=1, metavar="N", help="generated vectors of N seeds, from --seed on (default: 1)"
    )
    parser.add_argument(
        "--budget", type=float, metavar="SECONDS", help="new generated vectors for so long, in place of the set"
    )
    parser.add_argument("--flag", action="append", default=[], metavar="FLAG", help="vectors that catch this bug")
    parser.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="PATTERN",
        help="ids that must be implemented, such as 'cast/*'",
    )
    parser.add_argument(
        "--waivers", metavar="FILE", help="accepted failures, as TOML, each with its deviation and reason"
    )
    parser.add_argument("--write-waivers", metavar="FILE", help="write the failures as waivers without a reason")
    parser.add_argument("--json", metavar="FILE", help="also write the verdict on every vector as JSON")
    parser.add_argument(
        "--bisect", metavar="MODEL", help="such as model/ffn/unit/fp8: name the first call that deviates"
    )
    parser.add_argument("--failures", type=int, default=5, metavar="N", help="how many failures are shown (default: 5)")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    """Add the limits of a program's replies."""
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="for a reply of PROGRAM (default: 60)")
    parser.add_argument(
        "--longest-line", type=int, default=1 << 24, metavar="BYTES", help="of a reply of PROGRAM (default: 2^24)"
    )


def add_accumulator(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``accumulator``."""
    parser.description = (
        "Ask a backend for at most 64 sums on which the known accumulators disagree, and print the one that gives all "
        "of them, such as truncated:25:16, with the GPUs it is known from; or that none does, with the first sum that "
        "no accumulator explains. A backend that takes a start value, D = A·B + C, receives it as a third array, c. "
        "Exit status: 0 if one fits, 1 if none does, 2 after an error."
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("backend", nargs="?", metavar="BACKEND", help="module:Class, or a shipped one by its name")
    which.add_argument("--pipe", metavar="PROGRAM", help="a program that reads requests and writes replies as text")
    parser.add_argument(
        "--format",
        metavar="NAME",
        help="of both operands, such as bf16 (default: the first that it multiplies of bf16, fp16, e4m3fn, e5m2, fp32)",
    )
    _add_limits(parser)
    parser.add_argument("--json", metavar="FILE", help="also write every probe and its sum as JSON")
