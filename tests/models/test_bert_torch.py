"""Under the regular scheme BERT is the model everyone knows: outputs, losses and all gradients against torch."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")

import torch

from refscale import models, ops
from refscale.data import IGNORE, Batch
from refscale.engine import Tape, backward
from refscale.models import bert
from refscale.scales import regular
from tests.models.batches import text_batch
from tests.models.torch_bert import TorchBert

Array = NDArray[Any]
WORDS = 600


@dataclass
class Result:
    """Everything that is compared."""

    encoded: Array
    losses: tuple[float, float, float]
    gradients: dict[str, Array]


def parameters_of(config, std, seed=0):
    """Weights of a model that has learned a little: biases and gains are off their start, attention has opinions."""
    rng = np.random.default_rng(seed)
    found = models.initial_parameters(config, regular, rng)
    if std is not None:
        for name, spec in bert.specs(config).items():
            found[name] = (rng.standard_normal(spec.shape) * std + (spec.role == "gain")).astype(np.float32)
    return found


def ours(config, parameters, batch: Batch, dtype) -> Result:
    tape = Tape(regular, dtype=dtype)
    p = models.parameters_on(tape, parameters, config)
    losses = bert.pretraining_loss(p, batch, config)
    backward(losses.total)
    values = (float(t.value) for t in (losses.total, losses.masked_lm, losses.next_sentence))
    return Result(losses.encoded.value, tuple(values), {name: t.grad for name, t in p.items()})


def theirs(config, parameters, batch: Batch, dtype) -> Result:
    model = TorchBert(config, parameters, {np.float32: torch.float32, np.float64: torch.float64}[dtype])
    encoded = model.encode(batch)
    masked_lm, next_sentence = model.losses(encoded, batch)
    total = masked_lm + next_sentence
    total.backward()
    values = (total.item(), masked_lm.item(), next_sentence.item())
    return Result(encoded.detach().numpy(), values, model.gradients())


def assert_match(actual: Result, expected: Result, bound: float) -> None:
    """‖a − b‖ ≤ bound · ‖b‖, per tensor; for queries and keys, bound · the largest norm in their attention.

    Both sides round the same formula in another order, so a gradient is off by some units of last place of what it
    was summed from: 1e-6 of its norm in float32, 3e-15 in float64. Queries and keys are summed from what is far
    larger than the sum: their gradients vanish with the spread of the weights (1e-6 of the value's in a large model
    at initialization), and that of the key's bias is zero, for it shifts all scores of a query alike.
    """
    assert np.linalg.norm(actual.encoded - expected.encoded) <= bound * np.linalg.norm(expected.encoded)
    assert actual.losses == pytest.approx(expected.losses, rel=bound, abs=0)
    assert actual.gradients.keys() == expected.gradients.keys()
    norms = {name: float(np.linalg.norm(g)) for name, g in expected.gradients.items()}
    for name, g in expected.gradients.items():
        assert actual.gradients[name].shape == g.shape
        path, _, part = name.rpartition(".")
        scale = norms[name]
        if path.endswith((".query", ".key")):
            scale = max(norms[f"{path.rpartition('.')[0]}.{other}.{part}"] for other in ("query", "key", "value"))
        error = float(np.linalg.norm(actual.gradients[name] - g))
        assert error <= bound * scale, f"{name}: off by {error / scale:.3g} of {scale:.3g}, allowed {bound:.3g}"


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 1e-5), (np.float64, 1e-10)], ids=["float32", "float64"])
@pytest.mark.parametrize("std", [None, 0.1], ids=["initial", "learned"])
def test_bert_is_torch_s(norm, tied, dtype, bound, std):
    config = bert.get_config("bert-tiny", vocabulary=WORDS, norm=norm, tied=tied)
    batch = text_batch(WORDS)
    parameters = parameters_of(config, std)
    assert_match(ours(config, parameters, batch, dtype), theirs(config, parameters, batch, dtype), bound)


@pytest.mark.parametrize("activation", ["gelu", "gelu-tanh"])
def test_the_other_exponent_and_the_other_gelu(activation):
    """q·kᵀ/d, which torch.nn has no module for, out of linear layers."""
    config = bert.get_config("bert-tiny", vocabulary=WORDS, scores="1/d", activation=activation, norm="pre")
    parameters = parameters_of(config, 0.1)
    batch = text_batch(WORDS)
    for dtype, bound in ((np.float32, 1e-5), (np.float64, 1e-10)):
        assert_match(ours(config, parameters, batch, dtype), theirs(config, parameters, batch, dtype), bound)


def test_the_batch_has_padding_and_what_else_the_oracle_should_see():
    batch = text_batch(WORDS)
    assert not batch.mask.all()
    assert IGNORE in batch.labels
    assert {0, 1} == set(batch.segments.ravel()) == set(batch.is_next)


# Models that are wrong, which the comparison must reject.


@pytest.fixture(scope="module")
def reference():
    config = bert.get_config("bert-tiny", vocabulary=WORDS)
    parameters, batch = parameters_of(config, 0.1), text_batch(WORDS)
    return config, parameters, batch, theirs(config, parameters, batch, np.float32)


def test_without_the_damping_of_the_scores_it_is_another_model(reference, monkeypatch):
    config, parameters, batch, expected = reference
    monkeypatch.setattr(ops.AttentionScores, "damping", lambda self, q: 1.0)
    with pytest.raises(AssertionError):
        assert_match(ours(config, parameters, batch, np.float32), expected, 1e-5)


@pytest.mark.parametrize(
    "change", [{"activation": "gelu-tanh"}, {"eps": 1e-4}, {"scores": "1/d"}, {"heads": 4}], ids=lambda c: next(iter(c))
)
def test_another_configuration_is_another_model(reference, change):
    _, parameters, batch, expected = reference
    changed = bert.get_config("bert-tiny", vocabulary=WORDS, **change)
    with pytest.raises(AssertionError):
        assert_match(ours(changed, parameters, batch, np.float32), expected, 1e-5)


def test_a_model_that_reads_its_padding_is_rejected(reference):
    config, parameters, batch, expected = reference
    unmasked = replace(batch, mask=np.ones_like(batch.mask))
    with pytest.raises(AssertionError):
        assert_match(ours(config, parameters, unmasked, np.float32), expected, 1e-5)


def test_a_gradient_that_forgets_one_use_of_the_tied_table_is_rejected(reference):
    config, parameters, batch, expected = reference
    actual = ours(config, parameters, batch, np.float32)
    assert_match(actual, expected, 1e-5)
    untied = bert.get_config("bert-tiny", vocabulary=WORDS, tied=False)
    halves = ours(untied, parameters | {"mlm.decoder.weight": parameters["embeddings.word"].T}, batch, np.float32)
    actual.gradients["embeddings.word"] = halves.gradients["embeddings.word"]
    with pytest.raises(AssertionError, match=r"embeddings\.word"):
        assert_match(actual, expected, 1e-5)
