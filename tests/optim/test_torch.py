"""The same numbers as torch.optim, where torch is installed."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from refscale.optim import get_optimizer
from tests.optim import published

TORCH_CLASSES = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}
BOUNDS = {np.float64: 1e-12, np.float32: 1e-6}
"""Of the largest parameter, after 20 steps: in float32, 17 units of 2^-24, where torch rounds p up to three times in a
step (also 1 − lr·λ) and we once, upward as often as downward."""


def run_torch(name, case, **hyper):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch = pytest.importorskip("torch")
    if "b1" in hyper:
        hyper["betas"] = (hyper.pop("b1"), hyper.pop("b2"))
    p = {k: torch.nn.Parameter(torch.from_numpy(v.copy())) for k, v in case.parameters.items()}
    decay = hyper.pop("weight_decay", 0.0)
    made = getattr(torch.optim, TORCH_CLASSES[name])(
        [{"params": [p[k]], "weight_decay": decay * group.decayed} for k, group in case.groups.items()], lr=1.0, **hyper
    )
    for gradients, rate in zip(case.gradients, case.rates, strict=True):
        for part, (key, group) in zip(made.param_groups, case.groups.items(), strict=True):
            part["lr"] = rate.of(group)
            p[key].grad = torch.from_numpy(gradients[key].copy())
        made.step()
    return {k: v.detach().numpy() for k, v in p.items()}


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("name", "hyper"),
    [
        ("sgd", {}),
        ("sgd", {"weight_decay": 0.1}),
        ("sgd", {"momentum": 0.9, "weight_decay": 0.01}),
        ("sgd", {"momentum": 0.8, "nesterov": True}),
        ("adam", {}),
        ("adam", {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.1}),
        ("adam", {"b1": 0.0, "b2": 0.99, "eps": 1e-8, "weight_decay": 0.0}),
        ("adamw", {"weight_decay": 0.01}),
        ("adamw", {"b1": 0.95, "b2": 0.9, "eps": 1e-4, "weight_decay": 0.5}),
    ],
)
def test_equals_torch(name, hyper, seed, dtype):
    case = published.problem(seed).to(dtype)
    got, want = published.run(get_optimizer(name, **hyper), case), run_torch(name, case, **hyper)
    assert all(got[k].dtype == dtype and got[k].shape == want[k].shape for k in want)
    assert published.distance(got, want) <= BOUNDS[dtype]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_the_comparison_rejects_a_decay_off_by_a_hundredth(name):
    case = published.problem()
    want = run_torch(name, case, weight_decay=0.1)
    assert (
        published.distance(published.run(get_optimizer(name, weight_decay=0.101), case), want) > 10 * BOUNDS[np.float32]
    )
