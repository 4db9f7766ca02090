"""Counts and figures in prose: where each comes from, and how it is kept up to date.

    python -m tests.prose            # every figure: its name, its value, the command that prints it, where it stands
    python -m tests.prose --write    # write today's values into the README, the lessons and the evidence
    python -m tests.prose --slow     # figures that take longer than a few seconds, too; with --write as well

In the Markdown source a figure stands between a marker that names it and an end marker, both invisible when rendered:

    <!--= claims -->123<!--/--> claims

``tests/test_prose.py`` fails where a value is stale, where a name is unknown, and where a figure stands nowhere.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache, partial
from math import log2, pi
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from refscale.sweep import CellResult

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "tutorials").glob("*.md")),
    *sorted((ROOT / "tests/bench").glob("*.md")),
]
MARKED = re.compile(r"<!--= ([\w.-]+) -->(.*?)<!--/-->", re.DOTALL)


@dataclass(frozen=True)
class Figure:
    """One number, or a few lines, that prose quotes.

    Attributes:
        command: prints it, in a clone of this repository.
        value: computes it, as the text shows it.
        slow: takes longer than a few seconds.
    """

    command: str
    value: Callable[[], str]
    slow: bool = False


# --- How the values are found -----------------------------------------------------------------------------------------


@cache
def printed(*argv: str) -> str:
    """The output of ``refscale ARGV``."""
    from refscale.cli import main

    with redirect_stdout(io.StringIO()) as out:
        main(list(argv))
    return out.getvalue()


def found(pattern: str, *argv: str, group: int = 1) -> str:
    """The text that a pattern matches in the output of ``refscale ARGV``."""
    match = re.search(pattern, printed(*argv), re.MULTILINE | re.DOTALL)
    if match is None:
        raise AssertionError(f"refscale {' '.join(argv)}: nothing matches {pattern!r}")
    return match[group]


_WORDS = "no one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"


def in_words(n: int) -> str:
    """A small number as prose writes it: "eleven"."""
    words = _WORDS.split()
    return words[n] if n < len(words) else str(n)


def claims(slow: bool) -> int:
    """How many claims are checked by default, or only on request."""
    from refscale.claims import CLAIMS

    return sum(c.slow is slow for c in CLAIMS.values())


def golden_vectors(bulk: bool | None = None) -> int:
    """How many golden vectors there are: all, the large ones, or the others."""
    from refscale.golden import load

    return sum(bulk is None or v.bulk is bulk for v in load().values())


def golden_families() -> int:
    """How many families they are in."""
    from refscale.golden.families import FAMILIES

    return len(FAMILIES)


def golden_size() -> str:
    """The size of the shipped set."""
    import refscale.golden

    data = Path(refscale.golden.__file__).parent / "data"
    return f"{sum(p.stat().st_size for p in data.rglob('*') if p.is_file()) / 2**20:.1f} MiB"


def golden_version() -> str:
    """The version of the shipped set."""
    from refscale.golden import load

    return load().version


def hardware() -> int:
    """How many pairs of GPU and format have a named accumulator."""
    from refscale.exact import HARDWARE

    return len(HARDWARE)


def functions() -> int:
    """How many functions and derivatives are evaluated exactly."""
    from refscale.exact import FUNCTIONS

    return 2 * len(FUNCTIONS)


def wrong_backends() -> int:
    """How many backends with one bug each the tests have."""
    from tests.golden import wrong_blocks, wrong_contents, wrong_formats  # noqa: F401, register their controls
    from tests.golden.wrong import CONTROLS

    return len({kind for _, kind in CONTROLS})


def flags() -> int:
    """How many kinds of bug a vector can be marked with."""
    from refscale.golden import FLAGS

    return len(FLAGS)


def mutants() -> int:
    """How many rules are changed on purpose."""
    from tests.claims.mutants import all_mutants

    return len(all_mutants())


def lesson_pages() -> list[Path]:
    """The lessons in order, without the one-line pages that stand at the old name of a lesson."""
    pages = sorted((ROOT / "tutorials").glob("[0-9][0-9]-*.md"))
    return [p for p in pages if not p.read_text(encoding="utf-8").startswith("# Moved: ")]


RESULTS = ROOT / "tutorials/results"


@cache
def losses(file: str, variant: str) -> tuple[float, ...]:
    """The validation losses of a variant of a stored comparison, in the order of its seeds."""
    from refscale.sweep import load_comparison

    runs = [r for r in load_comparison(RESULTS / f"{file}.json").runs if r.variant.name == variant]
    assert runs, variant
    return tuple(r.loss for r in sorted(runs, key=lambda r: r.seed) if r.loss is not None)


def loss(file: str, variant: str, digits: int = 3) -> str:
    """Their mean."""
    return f"{mean(losses(file, variant)):.{digits}f}"


def difference(file: str, variant: str, other: str, digits: int = 3, sign: str = "+") -> str:
    """Mean and standard error of the differences, seed by seed: "0.15 ± 0.06"."""
    pairs = zip(losses(file, variant), losses(file, other), strict=True)
    by_seed = [a - b for a, b in pairs]
    shown = f"{mean(by_seed):{sign}.{digits}f} ± {stdev(by_seed) / len(by_seed) ** 0.5:.{digits}f}"
    return shown.replace("-", "−")


def at_regular_rates(seed: int) -> str:
    """The absolute difference of fine-tuning at regular rates from regular FP32 with the same seed: "0.0002"."""
    from refscale.sweep import read_rows

    (found,) = (r.loss for r in read_rows(RESULTS / "finetune-minilm-rates").values() if r.seed == seed)
    assert found is not None
    return f"{abs(found - losses('finetune-minilm', 'regular fp32')[seed]):.4f}"


def over_fp32(variant: str) -> str:
    """The mean difference of a variant of the block comparison from regular FP32: "−0.003"."""
    return difference("blocks", variant, "regular fp32").partition(" ")[0].replace("+0.000", "0.000")


@cache
def swept(name: str) -> str:
    """The summary of a stored sweep."""
    from refscale.sweep import load_spec, read_rows, summary

    return summary(load_spec(name), read_rows(RESULTS / name))


def in_sweep(name: str, pattern: str, group: int = 1) -> str:
    """The text that a pattern matches in the summary of a stored sweep."""
    match = re.search(pattern, swept(name), re.MULTILINE)
    assert match, (name, pattern)
    return match[group]


def not_worse(variant: str) -> str:
    """In how many settings of the character study a variant is not worse than regular FP32."""
    return in_sweep("charlm", rf"^\| {re.escape(variant)} +\| \d+ +\| (\d+) ")


@cache
def outcomes(name: str) -> list[CellResult]:
    """The results of a stored sweep, cell by cell."""
    from refscale.sweep import load_spec, outcomes, read_rows

    return outcomes(load_spec(name), read_rows(RESULTS / name))


def cell(name: str, variant: str, **point: object) -> CellResult:
    """The result of a variant at the one point of a stored sweep with these values; dots of axes are left out."""

    def matches(o: CellResult) -> bool:
        mine = {axis.removeprefix("model."): value for axis, value in o.cell.point.items()}
        return o.cell.variant == variant and point.items() <= mine.items()

    (o,) = filter(matches, outcomes(name))
    return o


def underflow_losses(scaling: str) -> str:
    """Of the variants of the study of smaller gradients, with one constant: "3.020; 4.121; 3.028; 2.989"."""
    variants = ("regular FP32", "regular FP16", "regular FP16, stochastic rounding", "unit FP16")
    return "; ".join(f"{cell('underflow', v, scaling=scaling).loss:.3f}" for v in variants)


def authors_differences() -> str:
    """Unit FP32 minus regular FP32 by the authors' choices: "−0.227; −0.060; −0.117"."""
    by = {(*o.cell.point.values(), o.cell.variant): o.loss for o in outcomes("charlm-authors")}
    found = [by[(*point, "unit FP32")] - x for (*point, variant), x in by.items() if variant == "regular FP32"]
    return "; ".join(f"{x:+.3f}" for x in found).replace("-", "−")


def fp16_difference() -> str:
    """The largest difference of regular FP16 from regular FP32 in the character study, a median of three seeds."""
    found = [[o.loss for o in outcomes("charlm") if o.cell.variant == v] for v in ("regular FP32", "regular FP16")]
    return f"{max(abs(a - b) for a, b in zip(*found, strict=True)):.3f}"


def one_seed_interval(model: str) -> str:
    """The 95 % interval of a difference of two runs, by the spread of a model of the character study under AdamW."""
    from refscale.sweep.summary import seed_interval

    mine = [
        o for o in outcomes("charlm") if model in str(o.cell.point["model"]) and o.cell.point["optimizer"] == "adamw"
    ]
    of_medians = seed_interval(mine)
    return f"{of_medians / (2 / 3 * pi / 2) ** 0.5 * 2**0.5:.2f}"


def fp4_losses() -> str:
    """Of unit FP4 without blocks, seed 0: "6.33, 6.61, 5.84"."""
    others = (cell("fp4", v).loss for v in ("factor 2", "factor 2, stochastic, Hadamard"))
    return ", ".join(f"{x:.2f}" for x in (losses("blocks", "unit fp4")[0], *others))


def at_narrow_rates(width: int) -> str:
    """Losses of decoders of a width at the best rate of width 64: "3.625, 3.335, 3.385, 3.107"."""
    sweeps = [("transfer", v) for v in ("regular", "unit", "u-μP")] + [("transfer-tuned", "tuned")]
    rates = [cell(*s, width=64).log2_lr for s in sweeps]
    found = [cell(*s, width=width).rates[e] for s, e in zip(sweeps, rates, strict=True) if e is not None]
    return ", ".join(f"{x:.3f}" for x in found)


def last_lines() -> str:
    """The summary at the end of a report, as a block of text."""
    text = printed("report", "bert-tiny")
    return f"\n```text\n{text[text.index('regular: ', text.rindex('━ normal')) :].rstrip()}\n```\n"


def flushed(scheme: str) -> str:
    """Operand gradients of a BERT that E5M2 flushes to zero: "27 %"."""
    part = found(rf"^━━ {scheme}: .*?operand_gradient +float8_e5m2 (.*?)$", *TINY, "--precision", "fp8")
    return part.split("  ")[-1].strip().replace("<.1", "less than 0.1")


def share_of_factors(*size: str) -> str:
    """Factors among the multiplications of a step of bert-base under unit scaling."""
    percent = found(r"━━ unit: .*?by\s+factors: ([\d.]+)%", "report", "bert-base", "--flops", *size)
    return f"{percent} %"


def outside(model: str, scheme: str, *options: str) -> str:
    """Tensors of a report with a scale outside [1/4, 4]: "510 of 690"."""
    return found(rf"^{scheme}: (\d+ of \d+) tensors", "report", model, *options)


def below(scheme: str) -> str:
    """Activation gradients of a report with most of their elements below the smallest number of E5M2: "28 of 48"."""
    from refscale.analysis import report
    from refscale.formats import get_format

    e5m2, tensors = get_format("e5m2"), report("bert-tiny", scheme).of_kind("activation gradient")
    drawn = [t.exponents for t in tensors if t.exponents and not t.zero_because]
    small = [sum(n for e, n in x.items() if e < e5m2.emin - e5m2.mantissa_bits) for x in drawn]
    return f"{sum(2 * n > sum(x.values()) for n, x in zip(small, drawn, strict=True))} of {len(drawn)}"


SIZES = {
    "two layers, width 64, 104 characters, 8 × 64 tokens": ("layers=2,width=64,vocabulary=104", 64),
    "eight layers": ("layers=8,width=64,vocabulary=104", 64),
    "width 128": ("layers=2,width=128,vocabulary=104", 64),
    "8 × 256 tokens": ("layers=2,width=64,vocabulary=104", 256),
    "5008 characters": ("layers=2,width=64,vocabulary=5008", 64),
    "all four: the paper's size": ("layers=8,width=128,vocabulary=5008", 256),
}


def underflow(size: str) -> tuple[str, ...]:
    """A row of the table of lesson 7: a size, and what FP16 does to its gradients, regular and unit-scaled."""
    from refscale.analysis import report

    fields, seq = SIZES[size]
    row = [size]
    for scheme in ("regular", "unit"):
        found = report(f"charlm-attention:norm=post,{fields}", scheme, batch=8, seq=seq, formats=("float16",))
        tensors = [t for t in found.of_kind("activation gradient") if t.is_judged]
        lost = [t.lost["float16"] for t in tensors]
        elements = sum(t.nonzero for t in tensors)
        scores = [t for t in tensors if t.name.endswith("attention.attention_scores#1")][-1]
        row += [f"{sum(n) / elements:.1%}" for n in zip(*((x.underflow, x.subnormal) for x in lost), strict=True)]
        row.append(f"2^{log2(scores.rms):.1f}, {scores.share(scores.lost['float16'].underflow):.1%}")
    return tuple(row)


def sizes() -> str:
    """All rows as Markdown."""
    from refscale.sweep.markdown import render

    shown = [f"{scheme}: {name}" for scheme in ("regular", "unit") for name in ("flushed", "subnormal", "scores")]
    return f"\n\n{render([('size', *shown), *map(underflow, SIZES)])}\n\n"


def programs(table: str) -> str:
    """A table of the stored evidence of programs, as Markdown."""
    from tests.programs import evidence

    return f"\n\n{evidence.TABLES[table](evidence.rows())}\n\n"


def bridge(table: str) -> str:
    """A table of the stored evidence of PyTorch models, as Markdown."""
    from tests.bridge import evidence

    return f"\n\n{evidence.TABLES[table](evidence.rows())}\n\n"


def onnx_models() -> str:
    """The table of the stored evidence of ONNX models, as Markdown."""
    from tests.bridge import onnx_evidence

    return f"\n\n{onnx_evidence.models_table(onnx_evidence.rows(onnx_evidence.RESULTS))}\n\n"


VERIFY = "refscale verify"
COMPARISON = "refscale compare bert-mini --jobs 2 --out DIR"
BLOCKS = "refscale compare bert-mini --blocks --out DIR"
FINETUNE = "refscale compare --pretrained DIR --steps 100 --out DIR"
FINETUNE_RATES = (
    "refscale finetune squad --pretrained DIR --scheme unit:rates=regular --lr 2^-12 --steps 100 --weight-decay 0 "
    "--out DIR"
)
CHARLM = "refscale sweep charlm --jobs 2 --out DIR"
UNDERFLOW = "refscale sweep underflow --out DIR"
AUTHORS = "refscale sweep charlm-authors --out DIR"
FP4 = "refscale sweep fp4 --out DIR"
TUNED = "refscale sweep transfer-tuned --out DIR"
TRANSFER = "refscale sweep transfer --jobs 2 --out DIR"
FLOPS = "refscale report bert-base --flops"
PROGRAMS = "python -m tests.programs.evidence"
BRIDGE = "python -m tests.bridge.evidence"
ONNX = "python -m tests.bridge.onnx_evidence"
TINY = ("report", "bert-tiny")

COMPARED = {
    "regular-fp32": "regular fp32",
    "regular-fp16": "regular fp16",
    "regular-fp8": "regular fp8",
    "regular-fp16-static": "regular fp16 static:2^15",
    "regular-fp8-static": "regular fp8 static:2^15",
    "regular-fp16-automatic": "regular fp16 automatic",
    "regular-fp8-automatic": "regular fp8 automatic",
    "regular-fp8-current": "regular fp8 current",
    "regular-fp8-delayed": "regular fp8 delayed",
    "unit-fp32": "unit fp32",
    "unit-fp16": "unit fp16",
    "unit-fp8": "unit fp8",
    "u-mup-fp32": "u-mup fp32",
    "u-mup-fp8": "u-mup fp8",
}

FIGURES: Mapping[str, Figure] = {
    # Counts of repository contents.
    "claims": Figure(VERIFY, lambda: str(claims(False))),
    "claims.slow": Figure(f"{VERIFY} --slow", lambda: str(claims(True))),
    "claims.figures": Figure(VERIFY, lambda: found(r"(\d+) figures", "verify"), slow=True),
    "mutants": Figure("python -m tests.claims.mutants", lambda: str(mutants())),
    "golden": Figure("refscale golden check", lambda: str(golden_vectors())),
    "golden.default": Figure("refscale conform reference", lambda: str(golden_vectors(bulk=False))),
    "golden.bulk": Figure("refscale conform reference --full", lambda: str(golden_vectors(bulk=True))),
    "golden.families": Figure("refscale golden check", lambda: in_words(golden_families())),
    "golden.size": Figure("ls -lR refscale/golden/data", golden_size),
    "golden.version": Figure("refscale golden write DIR", golden_version),
    "flags": Figure("python -m pytest tests/golden/test_wrong.py", lambda: str(flags())),
    "wrong-backends": Figure("python -m pytest tests/golden/test_wrong.py", lambda: str(wrong_backends())),
    "hardware": Figure("python -m pytest tests/exact/test_hardware_names.py", lambda: str(hardware())),
    "lessons": Figure("ls tutorials", lambda: in_words(len(lesson_pages())).capitalize()),
    "functions": Figure("refscale conform reference --only 'unary/*'", lambda: str(functions())),
    # Reports.
    "report.bert-tiny": Figure("refscale report bert-tiny", last_lines),
    "flushed.regular": Figure("refscale report bert-tiny --precision fp8", lambda: flushed("regular")),
    "flushed.unit": Figure("refscale report bert-tiny --precision fp8", lambda: flushed("unit")),
    "below.regular": Figure("refscale report bert-tiny --json FILE", lambda: below("regular")),
    "below.unit": Figure("refscale report bert-tiny --json FILE", lambda: below("unit")),
    "factors.8x128": Figure(
        f"{FLOPS} --batch 8 --seq 128", lambda: share_of_factors("--batch", "8", "--seq", "128"), slow=True
    ),
    "factors.1x128": Figure(FLOPS, lambda: share_of_factors(), slow=True),
    "report.bert-base.regular": Figure("refscale report bert-base", lambda: outside("bert-base", "regular"), slow=True),
    "report.bert-base.unit": Figure("refscale report bert-base", lambda: outside("bert-base", "unit"), slow=True),
    "report.bert-base.none": Figure(
        "refscale report bert-base --scheme unit --constraint none",
        lambda: outside("bert-base", "unit", "--scheme", "unit", "--constraint", "none"),
        slow=True,
    ),
    # Stored results of long runs.
    **{f"loss.{name}": Figure(COMPARISON, partial(loss, "comparison", v)) for name, v in COMPARED.items()},
    "loss.unit-fp8-fnuz": Figure(COMPARISON, lambda: loss("comparison", "unit fp8-fnuz")),
    "loss.regular-fp8.sd": Figure(COMPARISON, lambda: f"{stdev(losses('comparison', 'regular fp8')):.3f}"),
    "loss.unit-over-regular": Figure(
        COMPARISON, lambda: difference("comparison", "regular fp32", "unit fp32", sign="").replace("+", "")
    ),
    "loss.unit-fp8-over-fp32": Figure(COMPARISON, lambda: difference("comparison", "unit fp8", "unit fp32")),
    "blocks.mxfp8": Figure(BLOCKS, lambda: over_fp32("regular mxfp8")),
    "blocks.fp8-tiles": Figure(BLOCKS, lambda: over_fp32("regular fp8-tiles")),
    "blocks.mxfp4": Figure(BLOCKS, lambda: over_fp32("regular mxfp4")),
    "blocks.nvfp4": Figure(BLOCKS, lambda: over_fp32("regular nvfp4")),
    "blocks.unit-fp8": Figure(BLOCKS, lambda: difference("blocks", "unit fp8", "regular fp32")),
    "blocks.unit-fp4": Figure(BLOCKS, lambda: loss("blocks", "unit fp4", 2)),
    "finetune.unit-fp32": Figure(FINETUNE, lambda: difference("finetune-minilm", "unit fp32", "regular fp32", 2, "")),
    "finetune.unit-fp8": Figure(FINETUNE, lambda: difference("finetune-minilm", "unit fp8", "regular fp32", 2, "")),
    "finetune.loss.unit-fp8": Figure(FINETUNE, lambda: loss("finetune-minilm", "unit fp8")),
    "finetune.sd.unit-fp8": Figure(FINETUNE, lambda: f"{stdev(losses('finetune-minilm', 'unit fp8')):.3f}"),
    "finetune.sd.unit-fp32": Figure(FINETUNE, lambda: f"{stdev(losses('finetune-minilm', 'unit fp32')):.3f}"),
    "finetune.loss.regular-fp8": Figure(FINETUNE, lambda: loss("finetune-minilm", "regular fp8")),
    "finetune.regular-rates": Figure(FINETUNE_RATES, partial(at_regular_rates, 0)),
    "finetune.regular-rates.1": Figure(f"{FINETUNE_RATES} --seed 1", partial(at_regular_rates, 1)),
    "bridge.onnx": Figure(ONNX, onnx_models),
    **{f"bridge.{t}": Figure(BRIDGE, partial(bridge, t)) for t in ("models", "training")},
    **{f"programs.{t}": Figure(PROGRAMS, partial(programs, t)) for t in ("scales", "losses")},
    "underflow.sizes": Figure(
        "refscale report charlm-attention:norm=post,layers=2,width=64,vocabulary=104 --batch 8 --seq 64 --all",
        sizes,
        slow=True,
    ),
    "charlm.settings": Figure(CHARLM, lambda: in_sweep("charlm", r"^\| unit FP32 +\| (\d+) ")),
    "charlm.unit-fp32": Figure(CHARLM, lambda: not_worse("unit FP32")),
    "charlm.unit-fp16": Figure(CHARLM, lambda: not_worse("unit FP16")),
    "charlm.unit-fp8": Figure(CHARLM, lambda: not_worse("unit FP8")),
    "charlm.fp16": Figure(CHARLM, fp16_difference),
    "charlm.one-seed.attention": Figure(CHARLM, lambda: one_seed_interval("attention")),
    "charlm.one-seed.conv": Figure(CHARLM, lambda: one_seed_interval("conv")),
    "charlm-authors.differences": Figure(AUTHORS, authors_differences),
    "underflow.losses": Figure(UNDERFLOW, lambda: underflow_losses("static:2^-10")),
    "fp4.losses": Figure(f"{BLOCKS}; {FP4}", fp4_losses),
    "transfer.narrow-rates": Figure(f"{TRANSFER}; {TUNED}", lambda: at_narrow_rates(512)),
    "transfer.regular-512": Figure(TRANSFER, lambda: f"{cell('transfer', 'regular', width=512).loss:.3f}"),
    "transfer.unit-512": Figure(TRANSFER, lambda: f"{cell('transfer', 'unit', width=512).loss:.3f}"),
    "charlm.interval": Figure(CHARLM, lambda: f"{float(in_sweep('charlm', r'Within ± ([0-9.]+):')):.3f}"),
}


# --- Where they stand -------------------------------------------------------------------------------------------------


def marked(text: str) -> list[tuple[str, str]]:
    """(name, value) of every figure in a page."""
    return MARKED.findall(text)


def updated(text: str, values: Mapping[str, str]) -> str:
    """A page with the values that are given."""
    return MARKED.sub(
        lambda m: f"<!--= {m[1]} -->{values[m[1]]}<!--/-->" if m[1] in values else m[0],
        text,
    )


def places() -> dict[str, list[str]]:
    """The pages that quote each figure."""
    found: dict[str, list[str]] = {}
    for page in PAGES:
        for name, _ in marked(page.read_text(encoding="utf-8")):
            found.setdefault(name, []).append(str(page.relative_to(ROOT)))
    return found


def main() -> None:
    """List the figures, or write them."""
    parser = argparse.ArgumentParser(description="Counts and figures in prose.")
    parser.add_argument("--write", action="store_true", help="write today's values into the pages")
    parser.add_argument("--slow", action="store_true", help="figures that take longer than a few seconds, too")
    args = parser.parse_args()
    values = {name: f.value() for name, f in FIGURES.items() if args.slow or not f.slow}
    if args.write:
        for page in PAGES:
            before = page.read_text(encoding="utf-8")
            if (after := updated(before, values)) != before:
                page.write_text(after, encoding="utf-8")
                print(f"{page.relative_to(ROOT)}: updated")
        return
    where = places()
    for name, figure in FIGURES.items():
        value = values.get(name, "(--slow)")
        print(f"{name}: {value}\n    {figure.command}\n    {', '.join(where.get(name, ['nowhere']))}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
