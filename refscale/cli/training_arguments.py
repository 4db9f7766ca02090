"""The options of the training commands: ``train``, ``finetune``, ``compare``, ``sweep``, ``scales``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from refscale.cli.shared_arguments import MODEL_CONSTRAINTS, WITH_OPTIONS, add_plot, add_text, models_in_words

if TYPE_CHECKING:
    from refscale.train import TrainConfig


def add_train(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``train``."""
    from refscale.train import TrainConfig

    parser.description = (
        "Train a model on real text: a BERT on masked words and next sentences, a language model on the next "
        "character; or a program of your own (mine.py:model, a refscale.programs.Program) on its own batches. After an "
        "interruption, the same command with --resume continues to the same bits. The defaults shown are those of "
        "bert-mini; language models have --batch 8 and --seq 128. A program defines batch, seq, dropout and constraint "
        "itself; its checkpoints are refused after its file has changed."
    )
    parser.add_argument(
        "model",
        nargs="?",
        default=argparse.SUPPRESS,
        metavar="MODEL",
        help=f"{models_in_words()} (default: bert-mini)",
    )
    _add_run(parser, TrainConfig())
    add_text(parser, "to train on")


def add_finetune(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``finetune``."""
    from refscale.train import FINE_TUNING

    parser.description = (
        "Fine-tune a trained BERT to extract answers, as in SQuAD 1.1 or, if a file has unanswerable questions, 2.0. "
        "The model is a published checkpoint or a run of train. With --scheme unit a regular model is first adapted to "
        "unit scale, which keeps its function. After an interruption, the same command with --resume continues to the "
        "same bits."
    )
    parser.add_argument("task", choices=["squad"], help="the task")
    _add_span_data(parser, required=True)
    _add_run(parser, FINE_TUNING)
    parser.add_argument(
        "--predictions", metavar="FILE", help="also write the answers as the SQuAD evaluation script reads them"
    )
    parser.add_argument(
        "--null-odds", metavar="FILE", help="also write the log-odds of no answer, --na-prob-file of the SQuAD script"
    )
    parser.add_argument("--save", metavar="DIR", help="also write the fine-tuned model as a published checkpoint")


def _add_span_data(parser: argparse.ArgumentParser, required: bool = False) -> None:
    parser.add_argument(
        "--pretrained", required=required, metavar="DIR", help="trained model: a published BERT or a run of train"
    )
    parser.add_argument(
        "--train",
        metavar="FILE",
        help="training questions in the format of SQuAD 1.1 or 2.0 (default: generated questions)",
    )
    parser.add_argument("--dev", metavar="FILE", help="validation questions (default: generated questions)")
    add_text(parser, "of a run of train, and of the generated questions")


def _add_run(parser: argparse.ArgumentParser, default: TrainConfig) -> None:
    """Add the options of a training run, without those of its data."""
    from refscale.optim import OPTIMIZERS, SCHEDULES
    from refscale.precision import POLICIES
    from refscale.spellings import read_number

    def add(name: str, help: str, **options: Any) -> None:
        # No argparse defaults: an absent option takes the value of the configuration or of the resumed run.
        shown = getattr(default, name.replace("-", "_"))
        suffix = "" if shown in (None, "") else f" (default: {shown})"
        parser.add_argument(f"--{name}", help=help + suffix, default=argparse.SUPPRESS, **options)

    def count(name: str, help: str) -> None:
        add(name, help, type=int, metavar="N")

    schemes = ", ".join(default.kind.log2_lr)
    add("scheme", f"scheme: {schemes}, or with options, such as {WITH_OPTIONS}", metavar="NAME")
    add(
        "precision",
        f"precision policy: {', '.join(POLICIES)}, or a mix such as store=bf16,operand=e4m3fn",
        metavar="NAME",
    )
    add("scaling", "loss or tensor scaling: none, static:2^15, automatic, current or delayed", metavar="NAME")
    add("constraint", "common value of α and β inside residual branches", choices=MODEL_CONSTRAINTS)
    count("steps", "number of optimizer steps")
    count("batch", "sequences in each batch")
    count("seq", "tokens in each sequence")
    add(
        "lr", "peak learning rate, such as 0.01 or 2^-6 (default: that of the scheme)", type=read_number, metavar="RATE"
    )
    add(
        "optimizer",
        f"optimizer: {', '.join(OPTIMIZERS)}; options as in sgd:momentum=0.9, adamw:independent",
        metavar="NAME",
    )
    add("weight-decay", "weight decay of the optimizer", type=float, metavar="X")
    add("decay", "weight decay by role or name pattern, such as embedding=0,bias=0.01", metavar="RULES")
    count("accumulate", "batches in a step; their gradients are averaged")
    add(
        "clip",
        "largest norm of the true gradients; larger ones are scaled down (default: no limit)",
        type=float,
        metavar="X",
    )
    add("schedule", "schedule of the learning rate", choices=list(SCHEDULES))
    count("warmup", "steps of warm-up (default: a tenth of the steps)")
    count("halve-every", "half-life of the learning rate in steps, for schedules exponential and halving")
    add("dropout", "dropout probability", type=float, metavar="P")
    count("seed", "random seed of weights, text, dropout and stochastic rounding")
    count("evaluate-every", "steps between validations")
    count("evaluation-batches", "batches in each validation; for questions, 0: all")
    if default.task == "squad":
        count("stride", "tokens between the starts of windows of a long context (default: half of a window)")
    count("scales-every", "steps between records of every tensor's scale; 0: no records")
    count("checkpoint-every", "steps between checkpoints")
    parser.add_argument("--out", required=True, metavar="DIR", help="directory of the run, created if absent")
    parser.add_argument("--resume", action="store_true", help="continue the run in DIR, if there is one")


def add_compare(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``compare``."""
    from refscale.train import FINE_TUNING, TrainConfig

    pre, fine = TrainConfig(), FINE_TUNING
    parser.description = (
        "Train one model in FP32, FP16, BF16 and FP8: regular, unit-scaled, and with loss and tensor scaling. The "
        "learning rate of each scheme is chosen from a grid. MODEL may be a program of your own, mine.py:model, with a "
        "score named loss. With --pretrained, fine-tune that model instead. The same command continues an interrupted "
        "comparison."
    )

    def add(name: str, help: str, shown: object, **options: Any) -> None:
        parser.add_argument(f"--{name}", help=f"{help}default: {shown}", **options)

    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help=f"model to train (default: {pre.model}); none with --pretrained"
    )
    for name in ("steps", "batch", "seq"):
        before, after = getattr(pre, name), getattr(fine, name)
        add(name, "", before if before == after else f"{before}; with --pretrained {after}", type=int, metavar="N")
    add("evaluation-batches", "0 for all questions; ", "64; with --pretrained 0", type=int, metavar="N")
    add("seeds", "how many; ", 3, type=int, default=3, metavar="N")
    parser.add_argument(
        "--blocks", action="store_true", help="compare block-scaled formats, not loss and tensor scaling"
    )
    add_plot(parser, "losses")
    add("jobs", "processes at a time; ", 1, type=int, default=1, metavar="N")
    _add_span_data(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="directory of the runs, created if absent")


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sweep``."""
    parser.description = (
        "Train every cell of a grid in every variant, each at a searched learning rate, and print the table of "
        "results. The same command continues an interrupted sweep. A run that diverges or fails has a row, too."
    )
    parser.add_argument("spec", metavar="SPEC", help="a TOML file, or the name of a built-in one: charlm, …")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="parallel processes (default: 1)")
    parser.add_argument("--executor", metavar="dask:ADDRESS", help="run on the workers of a Dask cluster instead")
    add_text(parser, "to train on")
    add_plot(parser, "results")
    parser.add_argument("--keep", action="store_true", help="keep the checkpoints of all runs")
    parser.add_argument("--report", action="store_true", help="train nothing; print the results in DIR")
    parser.add_argument("--out", required=True, metavar="DIR", help="directory of the sweep, created if absent")


def add_scales(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``scales``."""
    parser.add_argument("runs", nargs="+", metavar="DIR", help="directories of runs trained with --scales-every")
    parser.add_argument("--json", metavar="FILE", help="also write every tensor's scales to FILE as JSON")
    add_plot(parser, "scales")
