"""What each command takes; those for backends are in ``backend_arguments``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from refscale import __version__
from refscale.cli.backend_arguments import add_accumulator, add_conform, add_golden

if TYPE_CHECKING:
    from refscale.train import TrainConfig

DEFAULT_MODEL = "bert-tiny"
"""Of ``report``."""


def parser() -> argparse.ArgumentParser:
    """The parser of the command line; each command adds its own."""
    top = argparse.ArgumentParser(
        prog="refscale",
        usage="refscale [-h] [--version] COMMAND ...",
        description="Unit Scaling (arXiv 2303.11257) in NumPy. Without a command: refscale report bert-tiny.",
        epilog="\n".join(_by_door()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"refscale {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", help=argparse.SUPPRESS, prog="refscale")
    for of_door in DOORS.values():
        for name, (_, add_arguments) in of_door.items():
            add_arguments(commands.add_parser(name))
    return top


def _by_door() -> Iterator[str]:
    yield "commands:"
    for door, commands in DOORS.items():
        yield f"  {door}"
        yield from (f"    {name:<12}{summary}" for name, (summary, _) in commands.items())
    yield "\nrefscale COMMAND --help says what a command takes."


def _models() -> str:
    from refscale.models import NAMES

    names = ", ".join(NAMES)
    return f"{names}; one with fields replaced, such as charlm-conv:norm=post,layers=2; or a program, mine.py:model"


_WITH_OPTIONS = "unit:rows=alike,embeddings=v/b"

_MODEL_CONSTRAINTS = ("geometric", "harmonic", "arithmetic", "to_output_scale", "none")
"""Those of ``scales.CONSTRAINTS`` that fit every op of a model, whatever its number of constrained inputs."""


def _add_fidelity(parser: argparse.ArgumentParser) -> None:
    from refscale.precision import POLICIES

    parser.description = (
        "What narrow formats do to the output and gradients of a trained regular program, and which op's casts cost "
        "what; beside it, the same function at unit scale (refscale.adapt). The parameters are those that the program "
        "starts with: its initial_parameters returns trained ones. A published BERT: refscale report --pretrained."
    )
    parser.add_argument("model", metavar="MODEL", help="mine.py:model, an instance of refscale.programs.Program")
    parser.add_argument("--scheme", choices=["both", "regular", "adapted"], default="both", help="default: both")
    parser.add_argument(
        "--precision",
        metavar="NAME",
        help=f"{', '.join(POLICIES)}, a mix, or with rules, 'fp8;head.*=bf16' (default: fp16, bf16, fp8 and fp8-fnuz)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the batch (default: 0)")
    parser.add_argument("--json", metavar="FILE", help="also write the report as JSON")
    parser.add_argument("--plot", metavar="FILE", help="also draw it: .svg, .png or .pdf (needs matplotlib)")


def _add_report(parser: argparse.ArgumentParser) -> None:
    from refscale.precision import POLICIES
    from refscale.scales import SCHEMES

    parser.description = (
        "Run one training step of a model at initialization, on real text, and report the scale of every weight, "
        "activation and gradient, and what FP16 and FP8 would lose of it. With --pretrained: what they do to the "
        "output and gradients of a trained one, and which op's casts cost what. MODEL may be a program of your own, "
        "mine.py:model, an instance of refscale.programs.Program; then --constraint, --batch, --seq and --text are not "
        "accepted, since the program defines them."
    )
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help=f"{_models()} (default: {DEFAULT_MODEL})",
    )
    parser.add_argument("--model", dest="option", metavar="MODEL", help="the same")
    parser.add_argument(
        "--scheme",
        metavar="NAME",
        default="both",
        help=f"{', '.join(SCHEMES)}, or with options, such as {_WITH_OPTIONS} (default: regular beside unit); adapted: "
        "what the program starts with as a trained regular one, at unit scale: the same function",
    )
    parser.add_argument(
        "--precision",
        metavar="NAME",
        help=f"{', '.join(POLICIES)}, or a mix such as store=bf16,operand=e4m3fn (default: fp32; with --pretrained, "
        "fp16, bf16, fp8 and fp8-fnuz)",
    )
    parser.add_argument(
        "--constraint",
        choices=_MODEL_CONSTRAINTS,
        default="geometric",
        help="ties factors inside residual branches (default: geometric, the paper's; none: forks repay the rest)",
    )
    parser.add_argument("--batch", type=int, metavar="N", help="sequences (default: 8; larger models: 1; trained: 2)")
    parser.add_argument("--seq", type=int, default=128, metavar="N", help="tokens in each (default: 128)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of weights and batch (default: 0)")
    parser.add_argument("--text", metavar="FILE", help="UTF-8 text to read (default: text that comes with Python)")
    parser.add_argument("--json", metavar="FILE", help="also write everything as JSON")
    parser.add_argument("--html", metavar="FILE", help="also write a page with a row per tensor, for a browser")
    parser.add_argument("--plot", metavar="FILE", help="also draw it, as .svg, .png or .pdf (needs refscale[plots])")
    parser.add_argument("--checkpoint", metavar="PATH", help="of a run of train, in place of a model at initialization")
    parser.add_argument(
        "--pretrained", metavar="DIR", help="what narrow formats do to a published BERT or a run of train"
    )
    parser.add_argument("--flops", action="store_true", help="count multiplications instead, and those by factors")
    parser.add_argument("--all", action="store_true", help="a line for every tensor, however large the model")


def _add_train(parser: argparse.ArgumentParser) -> None:
    from refscale.train import TrainConfig

    parser.description = (
        "Train a model on real text: a BERT on masked words and next sentences, a language model on the next "
        "character, a program of your own (mine.py:model, an instance of refscale.programs.Program) on its batches. "
        "Killed at any moment, the same command with --resume continues to the same bits. Defaults are bert-mini's; "
        "language models have --batch 8 and --seq 128. A program defines batch, seq, dropout and constraint itself; "
        "its checkpoints are refused once its file has changed."
    )
    parser.add_argument(
        "model",
        nargs="?",
        default=argparse.SUPPRESS,
        metavar="MODEL",
        help=f"{_models()} (default: bert-mini)",
    )
    _add_run(parser, TrainConfig())
    parser.add_argument("--text", metavar="FILE", help="UTF-8 text to read (default: text that comes with Python)")


def _add_finetune(parser: argparse.ArgumentParser) -> None:
    from refscale.train import FINE_TUNING

    parser.description = (
        "Fine-tune a trained BERT to extract answers, as in SQuAD 1.1 or, if a file has unanswerable questions, 2.0. "
        "The model is a published checkpoint or a run of "
        "train; under --scheme unit a regular one is adapted: the same function, unit-scaled. Killed at any moment, "
        "the same command with --resume continues to the same bits."
    )
    parser.add_argument("task", choices=["squad"], help="what is learned")
    _add_span_data(parser, required=True)
    _add_run(parser, FINE_TUNING)
    parser.add_argument("--predictions", metavar="FILE", help="also write the answers, for the script of SQuAD")
    parser.add_argument(
        "--null-odds", metavar="FILE", help="also write the log-odds of no answer, the --na-prob-file of that script"
    )
    parser.add_argument("--save", metavar="DIR", help="also write the fine-tuned model as a published checkpoint")


def _add_span_data(parser: argparse.ArgumentParser, required: bool = False) -> None:
    parser.add_argument(
        "--pretrained", required=required, metavar="DIR", help="a published BERT, or a run of train: what to go on from"
    )
    parser.add_argument(
        "--train", metavar="FILE", help="questions in the format of SQuAD 1.1 or 2.0 (default: a made set)"
    )
    parser.add_argument("--dev", metavar="FILE", help="questions to validate on (default: of the made set)")
    text = "UTF-8 text that the model was trained on (default: text that comes with Python)"
    parser.add_argument("--text", metavar="FILE", help=text)


def _add_run(parser: argparse.ArgumentParser, default: TrainConfig) -> None:
    """What a run is, beside what it reads."""
    from refscale.optim import OPTIMIZERS, SCHEDULES
    from refscale.precision import POLICIES
    from refscale.spellings import read_number

    def add(name: str, help: str, **options: Any) -> None:
        # No defaults here: what is not given is the configuration's own, or that of the run being resumed.
        shown = getattr(default, name.replace("-", "_"))
        suffix = "" if shown is None else f" (default: {shown})"
        parser.add_argument(f"--{name}", help=help + suffix, default=argparse.SUPPRESS, **options)

    schemes = ", ".join(default.kind.log2_lr)
    add("scheme", f"{schemes}, or with options, such as {_WITH_OPTIONS}", metavar="NAME")
    add("precision", f"{', '.join(POLICIES)}, or a mix such as store=bf16,operand=e4m3fn", metavar="NAME")
    add("scaling", "none, static:2^15, automatic, current or delayed: the rivals of unit scaling", metavar="NAME")
    add("constraint", "ties factors inside residual branches", choices=_MODEL_CONSTRAINTS)
    add("steps", "optimizer steps", type=int, metavar="N")
    add("batch", "sequences", type=int, metavar="N")
    add("seq", "tokens in each", type=int, metavar="N")
    add("lr", "peak learning rate, such as 0.01 or 2^-6 (default: the scheme's)", type=read_number, metavar="RATE")
    add("optimizer", f"{', '.join(OPTIMIZERS)}; with options as in sgd:momentum=0.9, adamw:independent", metavar="NAME")
    add("weight-decay", "of the optimizer", type=float, metavar="X")
    add("decay", "weight decay by role or pattern of names, such as embedding=0,bias=0.01", metavar="RULES")
    add("accumulate", "batches whose gradients are averaged for a step", type=int, metavar="N")
    add("clip", "largest norm of the true gradients, to which they are scaled down", type=float, metavar="X")
    add("schedule", "of the learning rate", choices=list(SCHEDULES))
    add("warmup", "steps of warm-up (default: a tenth)", type=int, metavar="N")
    add("halve-every", "steps in which the rate halves, for exponential and halving", type=int, metavar="N")
    add("dropout", "probability", type=float, metavar="P")
    add("seed", "of weights, text, dropout and stochastic rounding", type=int, metavar="N")
    add("evaluate-every", "steps between validations", type=int, metavar="N")
    add("evaluation-batches", "batches of a validation; of questions, 0 for all", type=int, metavar="N")
    if default.task == "squad":
        add("stride", "tokens from one window of a long context to the next (default: half)", type=int, metavar="N")
    add("scales-every", "steps between records of every tensor's scale; 0: none", type=int, metavar="N")
    add("checkpoint-every", "steps between checkpoints", type=int, metavar="N")
    parser.add_argument("--out", required=True, metavar="DIR", help="directory of the run")
    parser.add_argument("--resume", action="store_true", help="continue the run in DIR, if there is one")


def _add_compare(parser: argparse.ArgumentParser) -> None:
    from refscale.train import FINE_TUNING, TrainConfig

    pre, fine = TrainConfig(), FINE_TUNING
    parser.description = (
        "Train one model in FP32, FP16, BF16 and FP8, regular, unit-scaled and with the rival techniques; choose a "
        "learning rate for each scheme. MODEL may be a program of your own, mine.py:model, with a score named loss. "
        "With --pretrained, fine-tune that model instead. An interrupted comparison continues where it stopped."
    )

    def add(name: str, help: str, shown: object, **options: Any) -> None:
        parser.add_argument(f"--{name}", help=f"{help}default: {shown}", **options)

    parser.add_argument("model", nargs="?", metavar="MODEL", help=f"default: {pre.model}; none with --pretrained")
    for name in ("steps", "batch", "seq"):
        before, after = getattr(pre, name), getattr(fine, name)
        add(name, "", before if before == after else f"{before}; with --pretrained {after}", type=int, metavar="N")
    add("evaluation-batches", "0 for all questions; ", "64; with --pretrained 0", type=int, metavar="N")
    add("seeds", "how many; ", 3, type=int, default=3, metavar="N")
    parser.add_argument("--blocks", action="store_true", help="block-scaled formats in place of the other techniques")
    parser.add_argument("--plot", metavar="FILE", help="also draw it, as .svg, .png or .pdf (needs refscale[plots])")
    add("jobs", "processes at a time; ", 1, type=int, default=1, metavar="N")
    _add_span_data(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="directory of the runs")


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train every cell of a grid in every variant, each at a learning rate that is searched for, and print what "
        "came of it. Killed at any moment, the same command goes on; a run that diverged or failed is a row, too."
    )
    parser.add_argument("spec", metavar="SPEC", help="a TOML file, or the name of one that comes along: charlm, …")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes at a time (default: 1)")
    parser.add_argument("--executor", metavar="dask:ADDRESS", help="run on the workers of a Dask cluster instead")
    parser.add_argument("--text", metavar="FILE", help="UTF-8 text to read (default: text that comes with Python)")
    parser.add_argument("--plot", metavar="FILE", help="also draw it, as .svg, .png or .pdf (needs refscale[plots])")
    parser.add_argument("--keep", action="store_true", help="keep the checkpoints of all runs")
    parser.add_argument("--report", action="store_true", help="run nothing, print what stands in DIR")
    parser.add_argument("--out", required=True, metavar="DIR", help="directory of the sweep")


def _add_scales(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="DIR", help="directories of runs with --scales-every")
    parser.add_argument("--json", metavar="FILE", help="also write every tensor's scales as JSON")
    parser.add_argument("--plot", metavar="FILE", help="also draw it, as .svg, .png or .pdf (needs refscale[plots])")


def _add_snr(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--formats", metavar="A,B", help="names, with commas between (default: FP16, BF16 and four FP8)"
    )
    parser.add_argument("--blocks", action="store_true", help="block-scaled formats, on numbers of several kinds")
    parser.add_argument("--pretrained", metavar="DIR", help="with --blocks: the matrices of a trained model, too")
    parser.add_argument("--plot", metavar="FILE", help="also draw it, as .svg, .png or .pdf (needs refscale[plots])")


def _add_ops(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shape",
        default="",
        metavar="SIZES",
        help="such as b=1024,m=768,n=3072,s=512 (the default); with --measure the shapes of the inputs: 256x64,64x32",
    )
    parser.add_argument(
        "--measure", metavar="PLACE", help="factors of the function or op mine.py:NAME or module:NAME, by sampling"
    )
    parser.add_argument("--repeat", type=int, default=32, metavar="N", help="runs of --measure (default: 32)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the inputs of --measure (default: 0)")
    parser.add_argument("--json", metavar="FILE", help="also write what --measure found as JSON")


def _add_nothing(parser: argparse.ArgumentParser) -> None:
    pass


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Check the numbered claims of the specification on this machine, at default shapes or at yours. Exit status: "
        "0 if all hold, 1 if one fails, 2 after an error."
    )
    parser.add_argument("--list", action="store_true", help="print the claims with statements and sources, as Markdown")
    parser.add_argument("--only", action="append", default=[], metavar="CLAIM", help="an id (3.9), section (3) or name")
    parser.add_argument("--shape", default="", metavar="SIZES", help="such as b=1024,m=768,n=3072; others: default")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random (default: 0)")
    parser.add_argument("--slow", action="store_true", help="also the slow ones: large models, training")
    parser.add_argument("--json", metavar="FILE", help="also write every figure as JSON")


def _add_bring(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Import a PyTorch module or an ONNX model: every value and gradient is compared with torch's own, or every "
        "value with onnxruntime's. Print its steps, the number "
        "of tensors outside [1/4, 4] under the regular scheme and under its unit-scaling plan, whether the plan's "
        "gradients are multiples of the true ones, the error of the gradients in a precision, by class of ops, and "
        "the assumptions. Exit status 2 and one line if the module cannot be imported. Needs PyTorch, or onnx."
    )
    parser.add_argument(
        "source",
        metavar="MODEL",
        help="FILE.py:MAKE, a function that returns the module, or it and its inputs; or FILE.pt2, written by "
        "torch.export.save (from a trusted source: both may run code); or FILE.onnx",
    )
    parser.add_argument(
        "--input",
        action="append",
        metavar="SHAPE",
        help="an example input: 2,8,32 for normal values, 2,12<100 for integers below 100; once for each input",
    )
    parser.add_argument(
        "--loss",
        choices=["projection", "cross_entropy"],
        default="projection",
        help="mean of output·r for random r, or cross-entropy over the last axis (default: %(default)s)",
    )
    parser.add_argument(
        "--weights",
        choices=["fresh", "own"],
        default="fresh",
        help="fresh: a plan, for training from the start; own: an adaptation, the module's values and its function "
        "(default: %(default)s)",
    )
    parser.add_argument("--precision", metavar="P", help="precision of the gradient error (default: fp8)")
    parser.add_argument("--eval", action="store_true", help="import the module in eval mode, not in train mode")
    parser.add_argument("--seed", type=int, default=0, help="seed of the inputs and of the fresh values (default: 0)")
    parser.add_argument("--plan", action="store_true", help="also print the factors of every call")
    parser.add_argument(
        "--module",
        metavar="FILE.py",
        help="also write the scaled PyTorch module: a Python file with make(), and FILE.npz with the module's values",
    )
    parser.add_argument("--onnx", metavar="FILE.onnx", help="also write the forward pass, its factors α as Mul nodes")
    parser.add_argument("--html", metavar="FILE", help="also write both reports as one HTML page")
    parser.add_argument("--json", metavar="FILE", help="also write the results as JSON")


DOORS: dict[str, dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]]] = {
    "learn: what formats, factors and models do": {
        "report": ("every tensor of one training step: scale, exponents, losses", _add_report),
        "fidelity": ("errors of narrow formats in a program of your own: output, gradients, casts", _add_fidelity),
        "ops": ("the op table: factors of every op at given sizes", _add_ops),
        "formats": ("the floating-point formats, in figures", _add_nothing),
        "snr": ("signal-to-noise ratio of Gaussian numbers in each format, by their scale", _add_snr),
    },
    "check: the claims of the specification": {
        "verify": ("check the claims, at any sizes; exit status 1 if one fails", _add_verify),
    },
    "adapt: train in any scheme, precision and technique": {
        "train": ("train a model on real text", _add_train),
        "finetune": ("go on from a trained BERT: extract answers, as in SQuAD 1.1 and 2.0", _add_finetune),
        "scales": ("how the scales of tensors moved in runs of train", _add_scales),
        "compare": ("train with every precision and technique; print the tables", _add_compare),
        "bring": ("import a PyTorch module: its scales, its unit-scaling plan, its gradient errors", _add_bring),
        "sweep": ("train a grid of settings, each at its best learning rate, by a spec", _add_sweep),
    },
    "conform: hold a kernel, a framework or a chip to right bits": {
        "conform": ("hold a backend to the golden vectors; exit status 1 if it fails", add_conform),
        "accumulator": ("which accumulator a backend's sums are, by at most 64 probes", add_accumulator),
        "golden": ("golden vectors: generate a set, or check one byte by byte", add_golden),
    },
}
"""The commands, by what one comes for: what each does in a line, and what adds its arguments."""
