"""Evidence that any program can be unit-scaled: six programs, reported, planned, certified and trained.

    python -m tests.programs.evidence                   # continues tutorials/results/programs.jsonl, prints the tables
    python -m tests.programs.evidence --out FILE        # anew, in another file; about 20 minutes on a core
    python -m tests.programs.evidence --only vit        # one program

Every result is a line of the file and is written when it is known; what the file has already is not computed again, if
the program's file has not changed since.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

from refscale import analysis
from refscale.adapt import adapt
from refscale.engine import Tape
from refscale.errors import DivergedError, FactorError, ProgramError
from refscale.files import append_line, read_json_lines
from refscale.graph import Plan, gradient_factors, plan
from refscale.programs import Program, digest, first_loss
from refscale.scales import Scheme, unit
from refscale.stats.report import Report, is_outside
from refscale.train import TrainConfig, train
from tests.programs.convnext import Convnext
from tests.programs.lstm import Lstm
from tests.programs.mixer import Mixer
from tests.programs.resnet import Resnet
from tests.programs.unet import Unet
from tests.programs.vit import Vit

RESULTS = Path(__file__).parents[2] / "tutorials/results/programs.jsonl"

PROGRAMS: Mapping[str, Callable[[], Program]] = {
    "mixer": Mixer,
    "vit": Vit,
    "unet": Unet,
    "resnet": Resnet,
    "convnext": Convnext,
    "lstm": Lstm,
}
BASES = dict.fromkeys(("vit", "resnet", "lstm"), "unit-rms")
"""Scheme whose factors a plan constrains, where it is not "unit": products and stacks of relus see the RMS."""

UNPLANNED = ("lstm",)
"""Programs that train under ``unit`` itself, by the constraints that their functions choose."""

STEPS, SEEDS, PRECISIONS = 200, (0, 1, 2), ("fp32", "fp8")
FIRST = {"regular": -6, "scaled": -2}
"""log2 of the learning rate that the search starts from; its neighbors follow until the best has two worse ones."""

NEAR = 0.02
"""Relative distance of the loss of unit FP8 from that of unit FP32 that counts as none."""

Row = dict[str, Any]


def planned(name: str, gradients: Literal["rule", "predicted"] = "rule") -> Plan:
    """The plan of a program."""
    return plan(PROGRAMS[name](), base=BASES.get(name, "unit"), gradients=gradients)


def outside(report: Report) -> dict[str, float]:
    """The scales of the judged tensors outside [1/4, 4], by name; of gradients with ∂ before it."""
    found = [t for t in report.tensors if t.is_judged and is_outside(t)]
    return {f"∂{t.name}" if t.kind.endswith("gradient") else t.name: float(f"{t.scale:.4g}") for t in found}


# --- The parts --------------------------------------------------------------------------------------------------------


def scales(name: str) -> Row:
    """What reports and certificates come to for a program: tensors, and those outside [1/4, 4] under each scheme.

    Of "unit" None where the program's own constraints are not legal.
    """
    program = PROGRAMS[name]()
    regular = analysis.report(program, "regular")
    found: Row = {"judged": regular.summary().judged_count, "regular": len(outside(regular))}
    schemes: dict[str, Scheme] = {"unit": unit, "plan": planned(name), "predicted": planned(name, "predicted")}
    for key, scheme in schemes.items():
        try:
            gradient_factors(first_loss(program, Tape(scheme)).total)
        except FactorError:
            if key != "unit":
                raise
            found[key] = None
        else:
            found[key] = outside(analysis.report(program, scheme))
    return found


def adapted(name: str) -> Row:
    """Whether the program with its initial parameters is adapted to unit scale as the same function; else why not."""
    try:
        adapt(PROGRAMS[name]())
    except ProgramError as error:
        return {"refused": str(error)}
    return {"refused": ""}


def trained(name: str, scheme: str, precision: str, seed: int, log2_lr: int) -> Row:
    """The validation loss after training, None if it diverged."""
    program = PROGRAMS[name]()
    if scheme == "scaled":
        program.scheme = unit if name in UNPLANNED else planned(name)
    config = TrainConfig(
        name,
        "regular" if scheme == "regular" else "unit",
        precision,
        steps=STEPS,
        seed=seed,
        lr=2.0**log2_lr,
        optimizer="adam",
        weight_decay=0.0,
        evaluate_every=STEPS,
        checkpoint_every=STEPS,
        task="program",
    )
    with tempfile.TemporaryDirectory() as out:
        try:
            found = train(config, out, data=program, report=lambda _: None).validation
        except DivergedError:
            found = None
    return {"loss": None if found is None else found["loss"]}


def compute(out: Path, names: Sequence[str]) -> None:
    """All parts of the programs with these names, those that ``out`` has excepted."""
    for name in names:
        known = Known(out, name)
        known.row({"part": "scales"}, lambda name=name: scales(name))
        known.row({"part": "adapt"}, lambda name=name: adapted(name))
        for scheme, start in FIRST.items():
            log2_lr = best_rate(lambda lr, s=scheme, k=known: k.loss(s, "fp32", 0, lr), start)
            for precision in PRECISIONS:
                for seed in SEEDS:
                    known.loss(scheme, precision, seed, log2_lr)


class Known:
    """The results of one program in a file; missing ones are computed and added."""

    def __init__(self, out: Path, name: str) -> None:
        self.out, self.key = out, {"program": name, "digest": digest(PROGRAMS[name]())[:16]}

    def row(self, part: Row, compute: Callable[[], Row]) -> Row:
        wanted = {**self.key, **part}
        for row in rows(self.out):
            if wanted.items() <= row.items():
                return row
        row = {**wanted, **compute()}
        append_line(self.out, json.dumps(row, ensure_ascii=False))
        print(json.dumps(row, ensure_ascii=False), flush=True)
        return row

    def loss(self, scheme: str, precision: str, seed: int, log2_lr: int) -> float:
        """Infinite if training diverged."""
        part = {"part": "run", "scheme": scheme, "precision": precision, "seed": seed, "log2_lr": log2_lr}
        found = self.row(part, lambda: trained(self.key["program"], scheme, precision, seed, log2_lr))
        return math.inf if found["loss"] is None else float(found["loss"])


def best_rate(loss: Callable[[int], float], start: int) -> int:
    """The rate (log2) whose loss is least among its neighbors', by walking down from ``start``."""
    at = start
    while True:
        best = min((at - 1, at, at + 1), key=lambda lr: (loss(lr), lr))
        if best == at:
            return at
        at = best


# --- The tables -------------------------------------------------------------------------------------------------------


def rows(path: Path = RESULTS) -> list[Row]:
    """Return the stored results; empty without a file."""
    return list(read_json_lines(path, "evidence")) if path.exists() else []


def of_program(found: Sequence[Row], name: str) -> list[Row]:
    """The rows of a program as its file is today."""
    today = digest(PROGRAMS[name]())[:16]
    return [r for r in found if r["program"] == name and r["digest"] == today]


def losses(found: Sequence[Row], name: str, scheme: str, precision: str) -> list[float]:
    """Of all seeds, at the learning rate that was best in FP32 with the first seed; infinite where one diverged."""
    runs = [r for r in of_program(found, name) if r["part"] == "run" and r["scheme"] == scheme]
    loss = {(r["precision"], r["seed"], r["log2_lr"]): math.inf if r["loss"] is None else r["loss"] for r in runs}
    rate = min((k for k in loss if k[:2] == ("fp32", 0)), key=lambda k: (loss[k], k[2]))[2]
    return [loss[precision, seed, rate] for seed in SEEDS]


def scales_table(found: Sequence[Row]) -> str:
    """Tensors outside [1/4, 4], in Markdown."""
    lines = [
        "| program | parameters | tensors | outside, regular | outside, unit | outside, plan "
        "| outside, predicted plan | names outside, predicted plan | adapted, equal to 1e-12 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, make in PROGRAMS.items():
        row = scales_row(found, name)
        (same,) = (r for r in of_program(found, name) if r["part"] == "adapt")
        size = sum(math.prod(s.shape) for s in make().specs.values())
        counts = ["not legal" if row[key] is None else len(row[key]) for key in ("unit", "plan", "predicted")]
        left, more = list(row["predicted"])[:4], len(row["predicted"]) - 4
        names = ", ".join(f"`{n}`" for n in left) + (f" and {more} more" if more > 0 else "")
        cells = [name, size, row["judged"], row["regular"], *counts, names, same["refused"] or "yes"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def scales_row(found: Sequence[Row], name: str) -> Row:
    """What ``scales`` returned for a program."""
    (row,) = (r for r in of_program(found, name) if r["part"] == "scales")
    return row


def losses_table(found: Sequence[Row]) -> str:
    """Losses after training, in Markdown: mean and half of the range over the seeds."""
    lines = [
        "| program | regular FP32 | regular FP8 | scaled FP32 | scaled FP8 | scaled FP8 − scaled FP32 |",
        "|---|---|---|---|---|---|",
    ]
    for name in PROGRAMS:
        cells = [losses(found, name, scheme, precision) for scheme in FIRST for precision in PRECISIONS]
        lines.append(f"| {name} | {' | '.join(map(_mean, cells))} | {_relative(cells[3], cells[2])} |")
    return "\n".join(lines)


TABLES = {"scales": scales_table, "losses": losses_table}


def over(found: Sequence[Row], name: str) -> float:
    """Relative distance of the mean loss of the scaled program in FP8 from that in FP32."""
    return mean(losses(found, name, "scaled", "fp8")) / mean(losses(found, name, "scaled", "fp32")) - 1


def _relative(losses: Sequence[float], others: Sequence[float]) -> str:
    """Of the means, with the standard error of the differences seed by seed: "+1.2 % ± 0.4 %"."""
    if not all(map(math.isfinite, (*losses, *others))):
        return ""
    size, by_seed = mean(others), [a - b for a, b in zip(losses, others, strict=True)]
    shown = f"{100 * mean(by_seed) / size:+.1f} % ± {100 * stdev(by_seed) / len(by_seed) ** 0.5 / size:.1f} %"
    return shown.replace("-", "−")


def _mean(values: Sequence[float]) -> str:
    diverged = sum(not math.isfinite(x) for x in values)
    if diverged:
        return f"{diverged} of {len(values)} diverged"
    return f"{mean(values):.3f} ± {(max(values) - min(values)) / 2:.3f}"


def main() -> None:
    """Compute missing results, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE", help=f"default: {RESULTS.name}")
    parser.add_argument("--only", choices=PROGRAMS, action="append", help="this program; may be repeated")
    args = parser.parse_args()
    compute(args.out, args.only or list(PROGRAMS))
    if not args.only:
        print(*(table(rows(args.out)) for table in TABLES.values()), sep="\n\n")


if __name__ == "__main__":
    main()
