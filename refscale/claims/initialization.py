"""Initialization and learning rates: initial values of parameters, and the size of a step."""

from __future__ import annotations

import numpy as np

from refscale import layers
from refscale.claims.claim import Figures, claim, near, none_wrong, same
from refscale.models import bert
from refscale.scales import Role, geometric, get_scheme
from refscale.testing.places import Place


@claim("paper, recipe, step 1; BERT: 0.02", "mn")
def claim_7_01_initialization(place: Place) -> Figures:
    """Weights and embeddings start at σ = 1 for every fan-in, biases at 0, gains at 1; regular weights at 0.02.

    All schemes use the same draws times σ, so the regular and the unit-scaled model start from the same point.
    """
    specs = layers.linear_specs("layer", place.m, place.n) | layers.norm_specs("norm", place.n)
    specs |= {"table": layers.Spec("embedding", (place.n, place.m)), "out": layers.Spec("readout", (place.m, place.n))}
    for name, sigma in (("unit", 1.0), ("u-mup", 1.0), ("munit", 1.0), ("regular", 0.02)):
        values = layers.initialize(specs, get_scheme(name), place.rng())
        rng, wrong = place.rng(), 0
        for key, spec in specs.items():
            drawn = spec.role in ("weight", "embedding", "readout")
            expected = (
                rng.standard_normal(spec.shape, np.float32) * np.float32(sigma)
                if drawn
                else np.full(spec.shape, spec.role == "gain", np.float32)
            )
            wrong += not np.array_equal(values[key], expected)
        yield none_wrong(f"{name}: parameters that start elsewhere", wrong)


@claim("authors' code, scmm/layers.py (AdamW); arXiv 2407.17465, Table 2; arXiv 2502.05967, Table 2", "mn")
def claim_7_02_learning_rates(place: Place) -> Figures:
    """Learning rates: unit, n^-½ for a bias or gain of size n; u-μP, fan_in^-½ and depth^-½; µnit, fan_in^-½."""
    m, n = place.m, place.n
    weight, bias = (m, n), (n,)
    expected: dict[tuple[str, Role], float] = {
        ("regular", "weight"): 1.0,
        ("regular", "bias"): 1.0,
        ("unit", "weight"): 1.0,
        ("unit", "bias"): n**-0.5,
        ("unit", "gain"): n**-0.5,
        ("u-mup", "weight"): (m * 8) ** -0.5,
        ("u-mup", "readout"): 8**-0.5,
        ("u-mup", "embedding"): (n * 8) ** -0.5,
        ("u-mup", "gain"): (n * 8) ** -0.5,
        ("munit", "weight"): m**-0.5,
        ("munit", "readout"): 1.0,
        ("munit", "bias"): 1.0,
    }
    for (name, role), rate in expected.items():
        shape = bias if role in ("bias", "gain") else weight
        yield near(f"{name}: {role}", get_scheme(name).lr_scale(role, shape, 8), rate, 1e-14)


@claim("Devlin et al. 2018; paper, BERT experiments")
def claim_7_03_published_sizes(place: Place) -> Figures:
    """bert-base and bert-large have the paper's sizes: 12 × 768 and 24 × 1024, heads of 64, vocabulary 30400."""
    for name, size, width, hidden in (("bert-base", 12, 768, 3072), ("bert-large", 24, 1024, 4096)):
        c = bert.CONFIGS[name]
        yield same(f"{name}: layers", c.layers, size)
        yield same(f"{name}: width", c.width, width)
        yield same(f"{name}: hidden", c.hidden, hidden)
        yield same(f"{name}: head", c.width / c.heads, 64)
        yield same(f"{name}: vocabulary", c.vocabulary, 30400)
        yield none_wrong(f"{name}: another constraint or norm", c.constraint is not geometric or c.norm != "post")
    count = layers.count(bert.specs(bert.get_config("bert-base", vocabulary=30522)))
    yield same("parameters of bert-base with the published vocabulary", count, 110_106_428)
