"""Trained models: import of a published BERT and adaptation to unit scale preserve the function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale import models, published
from refscale.claims.claim import Figure, Figures, at_most, claim, near
from refscale.data import Batch
from refscale.engine import Tape, Tensor, backward
from refscale.graph import gradient_factors
from refscale.models import bert
from refscale.scales import regular
from refscale.special import gelu_erf
from refscale.testing.places import Place

Array = NDArray[Any]

PUBLISHED = {
    "num_hidden_layers": 2,
    "hidden_size": 24,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "vocab_size": 50,
    "max_position_embeddings": 12,
    "layer_norm_eps": 1e-5,
}
"""A ``config.json``; its eps is large enough to change results."""


def tensors(
    rng: np.random.Generator, layers: int = 2, d: int = 24, hidden: int = 40, words: int = 50
) -> dict[str, Array]:
    """Return random parameters under published names, at typical scales of trained models."""

    def normal(*shape: int, sigma: float) -> Array:
        return rng.standard_normal(shape) * sigma

    found = {
        "embeddings.word_embeddings.weight": normal(words, d, sigma=0.05),
        "embeddings.position_embeddings.weight": normal(12, d, sigma=0.02),
        "embeddings.token_type_embeddings.weight": normal(2, d, sigma=0.01),
        "cls.predictions.bias": normal(words, sigma=0.1),
        "cls.seq_relationship.weight": normal(2, d, sigma=0.3),
        "cls.seq_relationship.bias": normal(2, sigma=0.1),
    }
    dense = [("pooler.dense", d, d), ("cls.predictions.transform.dense", d, d)]
    norms = ["embeddings.LayerNorm", "cls.predictions.transform.LayerNorm"]
    for i in range(layers):
        layer = f"encoder.layer.{i}"
        dense += [(f"{layer}.attention.self.{part}", d, d) for part in ("query", "key", "value")]
        dense += [(f"{layer}.attention.output.dense", d, d)]
        dense += [(f"{layer}.intermediate.dense", d, hidden), (f"{layer}.output.dense", hidden, d)]
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    for k, (name, m, n) in enumerate(dense):
        found |= {f"{name}.weight": normal(n, m, sigma=0.1 * 1.3 ** (k % 5)), f"{name}.bias": normal(n, sigma=0.2)}
    for name in norms:
        found |= {f"{name}.weight": 1 + normal(d, sigma=0.2), f"{name}.bias": normal(d, sigma=0.2)}
    return found


def _norm(t: Mapping[str, Array], name: str, x: Array) -> Array:
    centered = x - x.mean(-1, keepdims=True)
    scaled = centered / np.sqrt(np.square(centered).mean(-1, keepdims=True) + PUBLISHED["layer_norm_eps"])
    return np.asarray(scaled * t[f"{name}.weight"] + t[f"{name}.bias"])


def _dense(t: Mapping[str, Array], name: str, x: Array) -> Array:
    return np.asarray(np.einsum("...m,nm->...n", x, t[f"{name}.weight"]) + t[f"{name}.bias"])


def transcribed(t: Mapping[str, Array], batch: Batch, heads: int = 3, layers: int = 2) -> dict[str, Array]:
    """Compute the outputs of a published BERT from its published names, in plain NumPy (Devlin et al. 2018)."""
    size, seq = batch.ids.shape
    word = t["embeddings.word_embeddings.weight"]
    x = word[batch.ids] + t["embeddings.position_embeddings.weight"][:seq]
    x = _norm(t, "embeddings.LayerNorm", x + t["embeddings.token_type_embeddings.weight"][batch.segments])
    for i in range(layers):
        layer = f"encoder.layer.{i}"
        q, k, v = (
            _dense(t, f"{layer}.attention.self.{part}", x).reshape(size, seq, heads, -1)
            for part in ("query", "key", "value")
        )
        scores = np.einsum("bshd,bthd->bhst", q, k) / np.sqrt(q.shape[-1])
        scores = np.where(batch.mask[:, None, None, :], scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = np.einsum("bhst,bthd->bshd", weights, v).reshape(size, seq, -1)
        x = _norm(t, f"{layer}.attention.output.LayerNorm", x + _dense(t, f"{layer}.attention.output.dense", mixed))
        hidden = gelu_erf(_dense(t, f"{layer}.intermediate.dense", x))[0]
        x = _norm(t, f"{layer}.output.LayerNorm", x + _dense(t, f"{layer}.output.dense", hidden))
    picked = np.take_along_axis(x, batch.positions[..., None], 1)
    picked = gelu_erf(_dense(t, "cls.predictions.transform.dense", picked))[0]
    picked = _norm(t, "cls.predictions.transform.LayerNorm", picked)
    pooled = np.tanh(_dense(t, "pooler.dense", x[:, 0]))
    return {
        "hidden states": x,
        "masked-LM logits": picked @ word.T + t["cls.predictions.bias"],
        "next-sentence logits": _dense(t, "cls.seq_relationship", pooled)[:, ::-1],  # their class 0 is "follows"
    }


def _batch(rng: np.random.Generator) -> Batch:
    mask = np.ones((3, 12), np.bool_)
    mask[1, 7:] = False
    segments = (np.arange(12) > 5).astype(np.int32) * np.ones((3, 1), np.int32)
    positions = np.sort(rng.permuted(np.tile(np.arange(7), (3, 1)), axis=1)[:, :3], 1)
    ids = rng.integers(0, 50, (3, 12))
    return Batch(
        ids.astype(np.int32), segments, mask, positions.astype(np.int32), ids[:, :3].astype(np.int32), segments[:, 0]
    )


def _close(what: str, found: Array, expected: Array) -> Figure:
    """Return a figure: the largest difference over the expected RMS."""
    return at_most(what, float(np.abs(found - expected).max() / np.sqrt(np.square(expected).mean())), 1e-12)


def _outputs(losses: bert.Losses) -> dict[str, Array]:
    assert losses.next_sentence_logits is not None
    return {
        "hidden states": losses.encoded.value,
        "masked-LM logits": losses.masked_lm_logits.value,
        "next-sentence logits": losses.next_sentence_logits.value,
    }


@claim("Devlin et al. 2018; names and layouts of Hugging Face transformers")
def claim_8_11_a_published_bert(place: Place) -> Figures:
    """A BERT loaded from published names and layouts computes the same as a plain transcription of it, to 1e-12."""
    rng = place.rng()
    named, batch = tensors(rng), _batch(rng)
    model = published.from_published(PUBLISHED, named, "claim_8_11", dtype=np.float64)
    tape = Tape(dtype=np.float64)
    found = _outputs(
        bert.pretraining_loss(models.parameters_on(tape, model.parameters, model.config), batch, model.config)
    )
    for what, expected in transcribed(named, batch).items():
        yield _close(what, found[what], expected)


_Run = tuple[bert.Losses, dict[str, Tensor]]


def _both(
    config: bert.BertConfig, parameters: Mapping[str, Array], batch: Batch
) -> tuple[_Run, _Run, published.Adapted]:
    """Return losses and leaves of the regular and the adapted model, after backward."""
    adapted, runs = published.adapt(config, parameters), []
    for scheme, values in ((regular, parameters), (adapted.scheme, adapted.unit(parameters))):
        p = models.parameters_on(Tape(scheme, dtype=np.float64), values, config)
        losses = bert.pretraining_loss(p, batch, config)
        backward(losses.total)
        runs.append((losses, p))
    return runs[0], runs[1], adapted


@claim("paper, Proposition 5.1; refscale.published.adapt")
def claim_8_12_adapted_the_same_function(place: Place) -> Figures:
    """A trained regular BERT and its unit-scaled form compute the same outputs and losses, to 1e-12.

    Each gradient of the unit-scaled form is its constant times the true one, and each of its matrices has RMS 1.
    """
    rng = place.rng()
    batch, model = _batch(rng), published.from_published(PUBLISHED, tensors(rng), "claim_8_12", dtype=np.float64)
    for norm in ("post", "pre", "branch"):
        for tied in (True, False):
            config = replace(model.config, norm=norm, tied=tied)
            more = {name: spec for name, spec in bert.specs(config).items() if name not in model.parameters}
            parameters = dict(model.parameters)
            for name, spec in more.items():
                parameters[name] = rng.standard_normal(spec.shape) * (0.3 if len(spec.shape) > 1 else 1.0)
            (plain, leaves), (unit, scaled), adapted = _both(config, parameters, batch)
            what = f"{norm}-norm, {'tied' if tied else 'untied'}"
            expected = _outputs(plain)
            for name, found in _outputs(unit).items():
                yield _close(f"{what}: {name}", found, expected[name])
            yield near(f"{what}: loss", float(unit.total.value), float(plain.total.value), 1e-12)
            c = gradient_factors(unit.total)
            for name, leaf in leaves.items():
                if name.endswith("key.bias"):  # zero up to rounding: a softmax ignores a shift
                    continue
                assert leaf.grad is not None
                mine = scaled[name].grad
                assert mine is not None
                true = mine / c[scaled[name].variable] / adapted.divisors[name]
                figure = _close(f"{what}: gradient of {name}", true, leaf.grad)
                if name == "embeddings.word" or not figure.holds:
                    yield figure
            matrices = [x for x in adapted.unit(parameters).values() if x.ndim == 2]
            off = max(abs(float(np.sqrt(np.square(x).mean())) - 1) for x in matrices)
            yield at_most(f"{what}: RMS of matrices off 1", off, 1e-12)
