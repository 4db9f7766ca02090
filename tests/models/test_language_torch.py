"""Under the regular scheme the language models are those that torch.nn parts make: logits, loss and all gradients."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from refscale import models
from refscale.engine import Tape, backward
from refscale.models import get_config
from refscale.models import language as lm
from refscale.scales import regular
from tests.models.test_language import SMALL, batch_of
from tests.models.torch_language import TorchLanguage

MODELS = (
    *SMALL,
    "charlm-attention:layers=2,norm=post,tau=fixed(0.4),vocabulary=40",
    "charlm-conv:layers=2,norm=none,tau=fixed(0.2),vocabulary=40",
    "charlm-rnn:layers=1,norm=none,tau=none,vocabulary=40",
    "decoder-mini:layers=2,tied=true,vocabulary=40",
    "decoder-tiny:shared=1,gated=false,biases=true,vocabulary=40",
)


@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 1e-5), (np.float64, 1e-12)])
@pytest.mark.parametrize("model", MODELS)
def test_outputs_and_gradients(model, dtype, bound):
    config = get_config(model)
    rng = np.random.default_rng(3)
    parameters = {
        name: x + rng.standard_normal(x.shape, np.float32) * np.float32(0.05)  # biases and gains off their start
        for name, x in models.initial_parameters(config, regular, rng).items()
    }
    batch = batch_of(config, rng)
    tape = Tape(regular, dtype=dtype)
    p = models.parameters_on(tape, parameters, config)
    found = lm.next_token_loss(p, batch, config)
    backward(found.total)
    kind = {np.float32: torch.float32, np.float64: torch.float64}[dtype]
    logits, loss, gradients = TorchLanguage(config, parameters, kind).run(batch)
    ours = lm.logits(models.parameters_on(Tape(regular, dtype=dtype), parameters, config), config, batch.ids).value
    assert np.linalg.norm(ours - logits) <= bound * np.linalg.norm(logits)
    assert float(found.total.value) == pytest.approx(loss, rel=bound)
    assert gradients.keys() == p.keys()
    for name, g in gradients.items():
        # A gradient that cancels is summed from larger terms: that of a query, by the sums of its attention.
        beside = [h for other, h in gradients.items() if other.split(".")[:3] == name.split(".")[:3]]
        largest = max(map(np.linalg.norm, beside))
        assert np.linalg.norm(p[name].grad - g) <= bound * largest, name
