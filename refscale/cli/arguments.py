"""The options of each command; ``training_arguments`` and ``backend_arguments`` have those of their commands."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from refscale import __version__
from refscale.cli.backend_arguments import add_accumulator, add_conform, add_golden
from refscale.cli.shared_arguments import MODEL_CONSTRAINTS, WITH_OPTIONS, add_plot, add_text, models_in_words
from refscale.cli.training_arguments import add_compare, add_finetune, add_scales, add_sweep, add_train

if TYPE_CHECKING:
    from refscale.stats import Kind

DEFAULT_MODEL = "bert-tiny"
"""Model of ``report`` if none is given."""


PANELS: dict[str, Kind] = {
    "weights": "weight",
    "activations": "activation",
    "activation-gradients": "activation gradient",
    "weight-gradients": "weight gradient",
}
"""The values of ``report --panels``, and the kind of tensor of each."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line, with a subparser for each command."""
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
    yield "\nrefscale COMMAND --help describes a command and its options."


def _add_fidelity(parser: argparse.ArgumentParser) -> None:
    from refscale.precision import POLICIES

    parser.description = (
        "Run a trained regular program in narrow formats, and print the errors of its output and gradients and the "
        "part of each op's casts in them; beside it, the same function at unit scale (refscale.adapt). The program's "
        "initial_parameters must return the trained parameters. For a published BERT: refscale report --pretrained."
    )
    parser.add_argument("model", metavar="MODEL", help="program mine.py:model, a refscale.programs.Program")
    parser.add_argument(
        "--scheme", choices=["both", "regular", "adapted"], default="both", help="schemes to compare; default: both"
    )
    parser.add_argument(
        "--precision",
        metavar="NAME",
        help=f"precision policy: {', '.join(POLICIES)}, a mix, or rules by name such as 'fp8;head.*=bf16' (default: "
        "fp16, bf16, fp8 and fp8-fnuz)",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of the batch (default: 0)")
    parser.add_argument("--json", metavar="FILE", help="also write the report to FILE as JSON")
    add_plot(parser, "errors")


def _add_report(parser: argparse.ArgumentParser) -> None:
    from refscale.precision import POLICIES
    from refscale.scales import SCHEMES

    parser.description = (
        "Run one training step of a model at initialization, on real text, and report the scale of every weight, "
        "activation and gradient, and the shares of it that FP16 and FP8 would clip and flush to zero. With "
        "--pretrained: the errors of narrow formats in the output and gradients of a trained model, and the part of "
        "each op's casts in them. MODEL may be a program of your own, mine.py:model, a refscale.programs.Program; it "
        "defines its own data, so --constraint, --batch, --seq and --text are refused."
    )
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help=f"{models_in_words()} (default: {DEFAULT_MODEL})",
    )
    parser.add_argument("--model", dest="option", metavar="MODEL", help="same as the positional MODEL")
    parser.add_argument(
        "--scheme",
        metavar="NAME",
        default="both",
        help=f"scheme: {', '.join(SCHEMES)}, or with options, such as {WITH_OPTIONS} (default: regular beside unit); "
        "adapted: the program's initial parameters are taken as a trained regular model, and its function is kept at "
        "unit scale",
    )
    parser.add_argument(
        "--precision",
        metavar="NAME",
        help=f"precision policy: {', '.join(POLICIES)}, or a mix such as store=bf16,operand=e4m3fn (default: fp32; "
        "with --pretrained, fp16, bf16, fp8 and fp8-fnuz)",
    )
    parser.add_argument(
        "--constraint",
        choices=MODEL_CONSTRAINTS,
        default="geometric",
        help="common value of α and β inside residual branches (default: geometric, the paper's; none: forks balance "
        "them)",
    )
    parser.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="sequences in the batch (default: 8; 1 for large models; 2 with --pretrained)",
    )
    parser.add_argument("--seq", type=int, default=128, metavar="N", help="tokens in each sequence (default: 128)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="random seed of weights and batch (default: 0)"
    )
    add_text(parser, "of the batch")
    parser.add_argument("--json", metavar="FILE", help="also write the report to FILE as JSON")
    parser.add_argument("--html", metavar="FILE", help="also write an HTML page with a row for each tensor")
    add_plot(parser, "scales")
    parser.add_argument("--panels", choices=PANELS, help="plot only this kind of tensor (default: all four kinds)")
    parser.add_argument(
        "--checkpoint",
        metavar="PATH",
        help="report a checkpoint, or the newest of a run of train, not an initial model",
    )
    parser.add_argument(
        "--pretrained", metavar="DIR", help="report errors of narrow formats in a published BERT or a run of train"
    )
    parser.add_argument("--flops", action="store_true", help="count multiplications instead, those by α and β apart")
    parser.add_argument("--all", action="store_true", help="print a line for every tensor, of large models too")


def _add_snr(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--formats", metavar="A,B", help="format names, separated by commas (default: FP16, BF16 and four FP8 formats)"
    )
    parser.add_argument("--blocks", action="store_true", help="print block-scaled formats, on several distributions")
    parser.add_argument("--pretrained", metavar="DIR", help="with --blocks: also on the matrices of a trained model")
    add_plot(parser, "ratios")


def _add_ops(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shape",
        default="",
        metavar="SIZES",
        help="sizes such as b=1024,m=768,n=3072,s=512 (the default); with --measure, shapes of the inputs: "
        "256x64,64x32",
    )
    parser.add_argument(
        "--measure",
        metavar="PLACE",
        help="estimate the factors of a function or op, mine.py:NAME or module:NAME, by sampling",
    )
    parser.add_argument("--repeat", type=int, default=32, metavar="N", help="number of runs of --measure (default: 32)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed of --measure (default: 0)")
    parser.add_argument("--json", metavar="FILE", help="also write the estimates of --measure to FILE as JSON")


def _add_nothing(parser: argparse.ArgumentParser) -> None:
    pass


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Check the numbered claims of the specification on this machine, at the default sizes or at yours. Exit "
        "status: 0 if all hold, 1 if one fails, 2 after an error."
    )
    parser.add_argument("--list", action="store_true", help="print all claims with their sources, as Markdown")
    parser.add_argument(
        "--only", action="append", default=[], metavar="CLAIM", help="check only this id (3.9), section (3) or name"
    )
    parser.add_argument(
        "--shape", default="", metavar="SIZES", help="sizes such as b=1024,m=768,n=3072; others at their defaults"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed of all inputs (default: 0)")
    parser.add_argument("--slow", action="store_true", help="also check the slow claims: large models, training")
    parser.add_argument("--json", metavar="FILE", help="also write every figure to FILE as JSON")


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
    "learn: formats, factors and the scales of models": {
        "report": ("scale of every tensor in one training step, exponents, losses in narrow formats", _add_report),
        "fidelity": ("errors of narrow formats in your own program: output, gradients, casts", _add_fidelity),
        "ops": ("the op table: α and β of every op at given sizes", _add_ops),
        "formats": ("range, precision and special values of every floating-point format", _add_nothing),
        "snr": ("signal-to-noise ratio of N(0, σ²) in each format", _add_snr),
    },
    "check: the claims of the specification": {
        "verify": ("check the claims, at any sizes; exit status 1 if one fails", _add_verify),
    },
    "adapt: train in any scheme, precision and technique": {
        "train": ("train a model on real text", add_train),
        "finetune": ("fine-tune a trained BERT to extract answers, as in SQuAD 1.1 and 2.0", add_finetune),
        "scales": ("change of every tensor's scale during runs of train", add_scales),
        "compare": ("train with every precision and technique; print the tables", add_compare),
        "bring": ("import a PyTorch module: its scales, its unit-scaling plan, its gradient errors", _add_bring),
        "sweep": ("train a grid of settings from a spec, each at its best learning rate", add_sweep),
    },
    "conform: check a kernel, a framework or a chip bit by bit": {
        "conform": ("run a backend on the golden vectors; exit status 1 if it fails", add_conform),
        "accumulator": ("identify the accumulator of a backend's sums, by at most 64 probes", add_accumulator),
        "golden": ("golden vectors: generate, list, show or check a set", add_golden),
    },
}
"""Commands by the reader's task: the summary of each, and the function that adds its options."""
