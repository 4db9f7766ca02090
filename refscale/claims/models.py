"""Whole models at initialization: every tensor has the predicted scale, at any depth, width, batch and length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from refscale import functional as F  # noqa: N812
from refscale import models, ops
from refscale.analysis import report
from refscale.claims.claim import Figure, Figures, at_most, between, claim, none_wrong, same
from refscale.claims.measure import (
    ONE_SEGMENT,
    Model,
    TensorRms,
    compared,
    over_predicted,
    rows,
    standard_error,
    uniform_batch,
    worst,
)
from refscale.engine import Array, Tape, Tensor, apply
from refscale.models import bert
from refscale.scales import (
    NormPlacement,
    ResidualRule,
    Scheme,
    fixed,
    geometric,
    get_scheme,
    none,
    regular,
    unit,
)
from refscale.testing.places import Place

FFN_ERROR = 0.03
BERT_ERROR = 0.15
"""Relative error of the predictions, from the remaining dependence of operands (``refscale.analysis.predict``)."""


def ffn_parameters(d: int, hidden: int, rng: np.random.Generator) -> dict[str, Array]:
    """Return parameters of ``ffn``: weights N(0, 1), gain 1, bias 0."""
    return {
        "gain": np.ones(d),
        "bias": np.zeros(d),
        "up": rng.standard_normal((d, hidden)),
        "down": rng.standard_normal((hidden, d)),
    }


def ffn(x: Tensor, w: Mapping[str, Tensor], tau: ResidualRule) -> Tensor:
    """Apply the paper's reference feed-forward layer: a residual branch of norm, projection, gelu, projection."""

    def branch(h: Tensor) -> Tensor:
        h = F.linear(F.layer_norm(h, w["gain"], w["bias"]), w["up"])
        return F.linear(apply(ops.Gelu(), h, constraint=geometric, constrained=(0,)), w["down"])

    return F.residual(branch, x, tau)


def ffn_model(b: int, d: int, hidden: int, tau: float = 0.4) -> Model:
    """Return a model that applies ``ffn`` to a batch of N(0, 1), with new weights at every call."""

    def model(tape: Tape, rng: np.random.Generator) -> Tensor:
        x = tape.tensor(rng.standard_normal((b, d)), "x")
        w = {name: tape.tensor(value, name) for name, value in ffn_parameters(d, hidden, rng).items()}
        return ffn(x, w, fixed(tau))

    return model


def attention_model(b: int, s: int, d: int, heads: int, *, causal: bool = False) -> Model:
    """Return a model with attention in a residual branch, on independent N(0, 1) tokens."""

    def model(tape: Tape, rng: np.random.Generator) -> Tensor:
        x = tape.tensor(rng.standard_normal((b, s, d)), "x")

        def project(h: Tensor, name: str) -> Tensor:
            with tape.scope(f"attention.{name}"):
                return F.linear(h, tape.tensor(rng.standard_normal((d, d)), "weight"))

        def branch(h: Tensor) -> Tensor:
            q, k, v = (project(h, name) for name in ("query", "key", "value"))
            return project(F.attention(q, k, v, heads=heads, causal=causal), "output")

        return F.residual(branch, x, fixed(0.3))

    return model


def bert_model(config: bert.BertConfig, size: int, seq: int, scheme: Scheme = unit) -> Model:
    """Return a model that computes a BERT's pre-training loss on uniform tokens, with new weights at every call."""

    def model(tape: Tape, rng: np.random.Generator) -> Tensor:
        batch = uniform_batch(config, rng, size, seq, max(1, seq // 6))
        p = models.parameters_on(tape, models.initial_parameters(config, scheme, rng), config)
        return bert.pretraining_loss(p, batch, config).total

    return model


def _ffn_figures(b: int, m: int, n: int, rng: np.random.Generator) -> Iterator[Figure]:
    runs = max(2, min(256, 2**27 // (b * m * n)))
    shorter, longer, _ = sorted((b, m, n))
    for row in rows(ffn_model(b, m, n), runs, rng):
        yield compared(row, 3, shorter * longer, runs, FFN_ERROR)


@claim("authors' code, examples/listings.py (ScaledFFN); refscale.analysis.predict", "bmn")
def claim_8_01_ffn(place: Place) -> Figures:
    """Feed-forward layer, any batch and widths: every activation and gradient has the predicted RMS, to 3 %.

    The tolerance is 3 % plus 7.4 standard errors, with a false-alarm rate of 1e-13 for each figure. An error of 3 %
    plus 14.8 standard errors is missed no more often.
    """
    p = place.at_most(b=1024)
    yield from _ffn_figures(p.b, max(8, p.m), max(8, p.n), p.rng())


@claim("authors' code, examples/listings.py (test_ffn): b = 1024, d = 256, h = 1024, τ = 0.4")
def claim_8_02_the_papers_ffn(place: Place) -> Figures:
    """At the paper's size, σ of output and input gradient is within 0.1 of 1, σ of weight gradients within 0.5."""
    found = {(r.way, r.name): r for r in rows(ffn_model(1024, 256, 1024), 1, place.rng())}
    yield between("σ of the output", found["forward", "weighted_add"].std, 0.9, 1.1)
    yield between("σ of the input's gradient", found["backward", "x"].std, 0.9, 1.1)
    for name in ("up", "down", "bias", "gain"):
        yield between(f"σ of the gradient of {name}", found["backward", name].std, 0.5, 1.5)


def named_most(row: TensorRms, seq: int, width: int) -> float:
    """Return the largest allowed ratio to the prediction for BERT's gradients that depend on their multiplicands.

    * Queries and keys: pairs of tokens that are similar by chance, by width^-½, are similar in values, keys and queries
      at once. For independent tokens this gives √(1 + seq/width), more behind layers that have mixed them.
    * The norm before the readout: the readout's softmax is a function of the norm's output.
    * The next-sentence head: few rows, two classes.
    """
    if row.way == "backward" and ("attention.query" in row.name or "attention.key" in row.name):
        return float(np.sqrt(1 + 5 * seq / width))
    if row.way == "backward" and ("mlm.norm" in row.name or "nsp" in row.name):
        return 5.0
    return 1.0


def _bert_figures(
    config: bert.BertConfig, size: int, seq: int, runs: int, rng: np.random.Generator
) -> Iterator[Figure]:
    for row in rows(bert_model(config, size, seq), runs, rng, agreement=ONE_SEGMENT):
        yield _bert_figure(row, size * runs, seq, config.width)


def _bert_figure(row: TensorRms, sequences: int, seq: int, width: int) -> Figure:
    """Return the figure of one tensor; the next-sentence loss limits the effective number of samples.

    That loss has one row for each sequence, and its gradient is common to all tokens of the sequence. So in the worst
    case the mean square of a gradient varies as that of one independent number for each sequence.
    """
    se = standard_error(0, 1, sequences if row.way == "backward" else 4 * sequences, 1)
    return over_predicted(row, se, BERT_ERROR, named_most(row, seq, width))


SMALL = bert.BertConfig(layers=2, width=64, heads=2, hidden=128, vocabulary=997, positions=64)


def small_bert(**changes: Any) -> bert.BertConfig:
    """Return a BERT of two layers that runs in milliseconds, with fields replaced."""
    return replace(SMALL, **changes)


@claim("refscale.analysis.predict", "ms")
def claim_8_03_attention(place: Place) -> Figures:
    """Attention in a residual branch, plain and causal: every tensor has the predicted RMS, to 15 %.

    Gradients of queries and keys may be up to √(1 + 5·s/width) times that, as in 8.4.
    """
    p = place.at_most(m=256, s=128)
    s, d, rng = max(2, p.s), 4 * max(16, p.m // 4), p.rng()
    runs = max(4, min(32, 2**22 // (16 * s * d)))
    for causal in (False, True):
        for row in rows(attention_model(16, s, d, 2, causal=causal), runs, rng):
            yield compared(row, 4, min(16 * s, d) * d, runs, BERT_ERROR, named_most(row, s, d))


@claim("refscale.analysis.predict; paper, BERT", "s")
def claim_8_04_bert(place: Place) -> Figures:
    """BERT, post-, pre- and branch-norm, on uniform tokens: every tensor has the predicted RMS, to 15 %.

    The tolerance is 15 % plus 7.4 standard errors of 1280 sequences; an error of 15 % plus 14.8 standard errors is
    missed no more often than a false alarm occurs. Three kinds of gradients are exceptions and larger: those of queries
    and keys by up to √(1 + 5·seq/width), those of the norm before the readout, and those of the next-sentence head.
    """
    placements: tuple[NormPlacement, ...] = ("post", "pre", "branch")
    for norm in placements:
        config = small_bert(norm=norm)
        seq = max(4, place.at_most(s=32).s)
        yield from _bert_figures(config, 32, seq, 40, place.rng())


@claim("paper, residual rules; refscale.analysis.predict")
def claim_8_05_depth(place: Place) -> Figures:
    """From 1 to 48 layers the scales of BERT's activations match the prediction, and all are in [¼, 4]."""
    for layers in (1, 6, 48):
        for norm in ("post", "pre"):
            config = small_bert(layers=layers, norm=norm)
            found = rows(bert_model(config, 16, 8), 6, place.rng(), agreement=ONE_SEGMENT, gradients=False)
            # The common part of all tokens is one number in the scores of a head: too few to judge.
            few = ("nsp", "attention_scores")
            activations = [r for r in found if not any(part in r.name for part in few)]
            yield worst(_bert_figure(r, 16 * 6, 8, config.width) for r in activations)
            outside = [r for r in activations if not 0.25 <= r.measured <= 4]
            yield none_wrong(f"{layers} layers, {norm}-norm: activations outside [¼, 4]", len(outside))


@claim("paper, Table A.2; refscale.analysis.predict")
def claim_8_06_widths_and_batches(place: Place) -> Figures:
    """Feed-forward layers of width 8 to 512, on 1 to 1024 rows, have the predicted RMS, to 3 %."""
    for b, m, n in ((1024, 8, 16), (1, 128, 256), (8, 128, 128), (64, 512, 128), (32, 64, 512)):
        yield worst(_ffn_figures(b, m, n, place.rng()))


@claim("paper, Table A.2; refscale.analysis.predict", slow=True)
def claim_8_07_the_largest(place: Place) -> Figures:
    """Feed-forward layers up to width 4096 and batch 4096, and BERT at length 512, have the predicted RMS."""
    for b, m, n in ((4096, 64, 256), (1, 1024, 4096), (256, 1024, 4096), (128, 4096, 1024)):
        yield worst(_ffn_figures(b, m, n, place.rng()))
    for size, seq in ((2, 512), (512, 1), (64, 64)):
        config = small_bert(positions=512)
        runs = max(8, 1024 // size)
        yield from _bert_figures(config, size, seq, runs, place.rng())


@claim("paper, BERT; refscale.engine.settle")
def claim_8_08_without_constraints(place: Place) -> Figures:
    """With forks instead of constraints every activation of BERT and its gradient is within [¼, 4].

    So are weight gradients, except those of values and those summed over all tokens: attention makes their rows
    similar.
    """
    found = rows(bert_model(small_bert(constraint=none), 16, 16), 8, place.rng(), agreement=ONE_SEGMENT)
    alike = ("value.", "segment", "position")
    outside = [r.name for r in found if not 0.25 <= r.measured <= 4 and not any(part in r.name for part in alike)]
    yield none_wrong(f"of {len(found)} tensors outside [¼, 4]: {', '.join(outside)}", len(outside))


@claim("refscale report bert-tiny; authors' code, bert/init_hist.py")
def claim_8_09_regular_beside_unit(place: Place) -> Figures:
    """bert-tiny on real text has 17 of 160 tensors outside [¼, 4] under unit scaling, one of them an activation.

    Under the regular scheme it has 142.
    """
    counts, activations = {}, {}
    for scheme in (regular, unit):
        summary = report("bert-tiny", scheme, formats=()).summary()
        counts[scheme.name] = summary.outside_count
        activations[scheme.name] = summary.outside["activation"]
        yield same(f"{scheme.name}: tensors judged", summary.judged_count, 160)
    yield between("regular: tensors outside", counts["regular"], 120, 160)
    yield at_most("unit: tensors outside", counts["unit"], 24)
    yield at_most("unit: activations outside", activations["unit"], 2)


@claim("arXiv 2407.17465; arXiv 2502.05967")
def claim_8_10_later_schemes(place: Place) -> Figures:
    """u-μP has unit activations in every hidden layer of a pre-norm BERT, µnit Scaling in its linear layers."""
    for name in ("u-mup", "munit"):
        scheme = get_scheme(name)
        found = rows(bert_model(small_bert(norm="pre"), 16, 16, scheme), 8, place.rng(), scheme)
        linear = [
            r for r in found if r.way == "forward" and r.name.endswith(("matmul", "layer_norm")) and "nsp" not in r.name
        ]
        outside = [r.name for r in linear if not 0.25 <= r.measured <= 4]
        yield none_wrong(f"{name}: of {len(linear)} outputs outside [¼, 4]", len(outside))
