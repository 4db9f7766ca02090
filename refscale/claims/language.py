"""Language models at initialization: legal factors, predicted scales near 1, and factors by the automatic recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast

import numpy as np

from refscale import models
from refscale.claims.claim import Figure, Figures, claim, near, none_wrong
from refscale.claims.measure import Model, TensorRms, over_predicted, rows, standard_error
from refscale.claims.models import named_most
from refscale.data import TextBatch
from refscale.engine import Tape, Tensor, backward
from refscale.graph import gradient_factors, plan
from refscale.layers import on_tape
from refscale.models import get_config, language
from refscale.scales import geometric, none, unit
from refscale.testing import assert_gradient_factor, rms
from refscale.testing.places import Place

ERROR = 0.15
"""Relative error of the predictions, as for BERT."""
SMALL = (
    "charlm-attention:layers=2,width=64,head_size=32",
    "charlm-conv:layers=2,width=64",
    "charlm-rnn:layers=1,width=64",
    "decoder-tiny",
)
FORMS = (
    *SMALL,
    "charlm-attention:layers=1,width=64,norm=none,tau=fixed(0.5)",
    "charlm-conv:layers=1,width=64,norm=post,tau=default",
    "charlm-rnn:layers=1,width=64,norm=post",
    "decoder-tiny:tied=true",
)


def _config(text: str, vocabulary: int = 97) -> language.LanguageConfig:
    return replace(cast(language.LanguageConfig, get_config(text)), vocabulary=vocabulary)


def _batch(config: language.LanguageConfig, rng: np.random.Generator, size: int, seq: int) -> TextBatch:
    ids = rng.integers(0, config.vocabulary, (size, seq), np.int32)
    return TextBatch(ids, ids)


def _loss(config: language.LanguageConfig, batch: TextBatch) -> Callable[[dict[str, Tensor]], Tensor]:
    return lambda p: language.next_token_loss(p, batch, config).total


def _model(config: language.LanguageConfig, size: int, seq: int) -> Model:
    def model(tape: Tape, rng: np.random.Generator) -> Tensor:
        p = models.parameters_on(tape, models.initial_parameters(config, unit, rng), config)
        return language.next_token_loss(p, _batch(config, rng, size, seq), config).total

    return model


@claim("paper, Theorem 5.2; character models")
def claim_8_13_language_models_are_certified(place: Place) -> Figures:
    """Every gradient of a language model is a constant times the true one.

    Checked for attention, convolution, recurrence and decoder; pre-, post- and no norm; tied; constrained or not.
    """
    for text in FORMS:
        for constraint in (geometric, none):
            config, rng = replace(_config(text, 11), constraint=constraint), place.rng()
            parameters, batch = models.initial_parameters(config, unit, rng), _batch(config, rng, 2, 5)

            loss = _loss(config, batch)

            factors = assert_gradient_factor(loss, parameters)
            wrong = sum(not c > 0 for c in factors.values())
            yield none_wrong(f"{text}, {constraint.__name__}: of {len(factors)} constants not positive", wrong)


def _named(row: TensorRms, seq: int, width: int) -> float:
    """Return the largest allowed ratio to the prediction for gradients that depend on their multiplicands.

    These are the gradients of queries and keys and of the norm before the readout, as in BERT, and of a weight or bias
    used at every step of a recurrence, whose states are correlated.
    """
    if row.way == "backward" and row.name.startswith("norm."):
        return 5.0
    if row.way == "backward" and ("recurrence" in row.name or "embedding_norm" in row.name):
        return 3.0
    return named_most(row, seq, width)


NOT_JUDGED = ("relative_shift", "distance")
"""Scores by distance are 0 where a query does not see a key, but have a gradient where it does; see ``predict``."""


def _figures(text: str, seq: int, rng: np.random.Generator) -> Iterator[Figure]:
    config, size, runs = _config(text, 997), 16, 30
    for row in rows(_model(config, size, seq), runs, rng):
        if row.measured and not any(part in row.name for part in NOT_JUDGED):
            se = standard_error(0, 1, size * runs * (4 if row.way == "forward" else 1), 1)
            yield over_predicted(row, se, ERROR, _named(row, seq, config.width))


@claim("refscale.analysis.predict; paper, character models", "s")
def claim_8_14_language_models_are_predicted(place: Place) -> Figures:
    """On uniform tokens every tensor of a language model has the predicted RMS, to 15 %.

    Gradients of queries and keys, of the last norm, and of parameters used at every step of a recurrence may be larger.
    """
    for text in SMALL:
        yield from _figures(text, max(4, place.at_most(s=24).s), place.rng())


@claim("paper, recipe")
def claim_8_15_the_recipe_takes_language_models(place: Place) -> Figures:
    """The automatic recipe finds legal factors for language models; the median weight gradient is near unit scale."""
    for text in SMALL:
        config, rng = _config(text), place.rng()
        parameters, batch = models.initial_parameters(config, unit, rng), _batch(config, rng, 8, 16)

        loss = _loss(config, batch)

        p = on_tape(Tape(plan(loss, parameters)), parameters, language.specs(config))
        total = loss(p)
        backward(total)
        missing = [name for name, t in p.items() if t.variable not in gradient_factors(total)]
        yield none_wrong(f"{text}: parameters without a factor", len(missing))
        scales = [rms(t.grad) for t in p.values() if t.grad is not None and t.grad.any()]
        yield near(f"{text}: log2 of the median gradient", float(np.log2(np.median(scales))) + 8, 8.0, 0.25)
