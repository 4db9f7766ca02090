"""Training: unit scaling trains in FP8 as in FP32 without tuning a scale; unscaled FP8 ends at a higher loss.

A small BERT on text that comes with Python, for a few minutes. ``refscale compare`` is the long form; the lesson on
training has its result.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from functools import cache

from refscale.claims.claim import Figures, between, claim, near, none_wrong
from refscale.errors import DivergedError
from refscale.files import read_json_lines
from refscale.tasks import SpanData
from refscale.testing.places import Place
from refscale.train import FINE_TUNING, TrainConfig, train

STEPS = 400


@cache
def loss_of(scheme: str, precision: str, scaling: str, seed: int) -> float:
    """Return the validation loss of masked words after the run; infinite if it diverged."""
    config = TrainConfig(
        "bert-tiny", scheme, precision, scaling, steps=STEPS, evaluate_every=STEPS, checkpoint_every=STEPS, seed=seed
    )
    with tempfile.TemporaryDirectory() as out:
        try:
            summary = train(config, out, report=lambda line: None)
        except DivergedError:
            return math.inf
    return summary.validation["masked_lm"] if summary.validation else math.inf


@claim("paper, Table 2, in kind: unit FP16, unit FP8; tutorials/07-training-in-fp8.md", slow=True)
def claim_11_01_unit_scaling_out_of_the_box(place: Place) -> Figures:
    """Unit-scaled FP16 and FP8 end within 0.05 nats of FP32, at the same learning rate and without a loss scale."""
    wide = loss_of("unit", "fp32", "none", place.seed)
    for precision in ("fp16", "fp8", "fp8-fnuz"):
        found = loss_of("unit", precision, "none", place.seed)
        yield between(f"unit {precision}: loss above FP32's", found - wide, -0.05, 0.05)


@claim("ours: the paper has no FP8 run without scaling; tutorials/07-training-in-fp8.md", slow=True)
def claim_11_02_unscaled_fp8_learns_less(place: Place) -> Figures:
    """Regular FP8 without a scale ends at least 0.15 nats above regular FP32; with a static loss scale within 0.1."""
    wide = loss_of("regular", "fp32", "none", place.seed)
    plain = loss_of("regular", "fp8", "none", place.seed)
    mended = loss_of("regular", "fp8", "static:2^15", place.seed)
    yield none_wrong("regular FP8 learns as FP32 does", plain - wide < 0.15)
    yield between("regular FP8 with 2^15: loss above FP32's", mended - wide, -0.1, 0.1)


@claim("paper, Table 2, in kind: unit FP8 beside FP32; tutorials/07-training-in-fp8.md", slow=True)
def claim_11_03_no_worse_than_regular(place: Place) -> Figures:
    """Unit-scaled FP8 ends no higher than regular FP32, each at its own learning rate, to 0.1 nats."""
    difference = loss_of("unit", "fp8", "none", place.seed) - loss_of("regular", "fp32", "none", place.seed)
    yield between("unit FP8: loss above regular FP32's", difference, -1.0, 0.1)


@claim("paper, Table 2, in kind (SQuAD v1.1); refscale.published.adapt; tutorials/06-bert.md", slow=True)
def claim_11_04_fine_tuning(place: Place) -> Figures:
    """A regular model, adapted to unit scale, fine-tunes in FP8 without a loss scale as in FP32.

    F1 on made questions is within 0.1, and the loss of the first step, before any update, within 2 %.
    """
    with tempfile.TemporaryDirectory() as out:
        pre = TrainConfig("bert-tiny", "regular", steps=STEPS, seq=64, evaluate_every=STEPS, seed=place.seed)
        train(pre, f"{out}/trained", report=lambda line: None)
        found = {}
        for scheme, precision in (("regular", "fp32"), ("unit", "fp32"), ("unit", "fp8")):
            fine = replace(FINE_TUNING, scheme=scheme, precision=precision, steps=STEPS, seq=96, seed=place.seed)
            run = f"{out}/{scheme}-{precision}"
            summary = train(fine, run, data=SpanData(f"{out}/trained"), report=lambda line: None)
            first = next(read_json_lines(f"{run}/metrics.jsonl", run))["loss"]
            found[scheme, precision] = first, (summary.validation or {}).get("f1", 0.0)
    (regular, _), (unit, wide), (narrow, fp8) = found.values()
    yield near("unit FP32: loss of the first step over regular's", unit, regular, 1e-3)
    yield near("unit FP8: loss of the first step over FP32's", narrow, unit, 0.02)
    yield between("unit FP8: F1 above FP32's", fp8 - wide, -0.1, 1.0)
