"""Gradients of a run between backward and update: accumulated batches, clipping, decay by group."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from refscale.errors import ArgumentError, DataError
from refscale.layers import Spec
from refscale.optim import Group, Rate, get_optimizer, groups, read_decay
from refscale.train import Run, TrainConfig, clip_by_norm, training_step
from refscale.train.step import forward_backward
from tests.programs.mlp import Mlp
from tests.train.runs import same_bits

CONFIG = TrainConfig("mlp", task="program", steps=3, evaluate_every=3, checkpoint_every=1, weight_decay=0.0)
SGD = replace(CONFIG, optimizer="sgd", lr=0.5, warmup=0, schedule="constant")


class Parts(Mlp):
    """Batches that are given, over and over."""

    def __init__(self, *parts):
        super().__init__()
        self.parts = parts

    def batches(self, rng):
        while True:
            yield from self.parts


def rows(n, seed=0):
    return Mlp().draw(np.random.default_rng(seed), n)


def split(batch, *sizes):
    ends = np.cumsum(sizes)[:-1]
    return list(zip(*(np.split(part, ends) for part in batch), strict=True))


def step_of(config, *parts, state=None):
    """State and result of the first step, and the gradients and factors of the first batch."""
    run = Run.of(config, Parts(*parts))
    start = state or run.initial_state()
    after, result = training_step(run, start, next(run.batches(0)))
    return start, after, result


def moved(config, *parts):
    """The change of each parameter in the first step of plain SGD: lr times its gradient, times its own scale."""
    start, after, _ = step_of(config, *parts)
    scales = Run.of(config, Mlp()).groups
    return {
        name: (np.float64(start.parameters[name]) - after.parameters[name]) / (0.5 * scales[name].lr_scale)
        for name in start.parameters
    }


# --- Accumulation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["regular", "unit"])
@pytest.mark.parametrize("k", [2, 4])
def test_equal_batches_are_one_of_them(scheme, k):
    """(g + … + g)/k is g to the last bit for 2 and 4: 3·g may be rounded, and 4·g, the nearest to the sum, is exact."""
    batch = rows(8)
    _, one, result = step_of(replace(SGD, scheme=scheme), batch)
    _, many, other = step_of(replace(SGD, scheme=scheme, accumulate=k), batch)
    assert result.loss == other.loss
    for name, p in one.parameters.items():
        assert p.tobytes() == many.parameters[name].tobytes(), name


@pytest.mark.parametrize("k", [3, 8])
def test_more_sums_round_more_often(k):
    """k − 1 sums and a division, each half an ulp; of the two roundings of a new parameter, one ulp of it."""
    batch = rows(8)
    one, many = moved(SGD, batch), moved(replace(SGD, accumulate=k), *[batch] * k)
    start, _, _ = step_of(SGD, batch)
    for name, g in one.items():
        bound = k * 2**-24 * np.abs(g) + 8 * 2**-24 * np.abs(start.parameters[name]).max()
        assert np.all(np.abs(many[name] - g) <= bound), name


def test_parts_of_a_batch_are_the_batch():
    """The regular scheme: the mean of four means is the mean of all.

    Both are sums of the same 32 products, in another order: each errs by less than 32·2^-24 of the sum of magnitudes,
    which is at most √32 times the RMS that is allowed for here.
    """
    batch = rows(32)
    whole = moved(replace(SGD, scheme="regular"), batch)
    parts = moved(replace(SGD, scheme="regular", accumulate=4), *split(batch, 8, 8, 8, 8))
    for name, g in whole.items():
        bound = 2 * 32 * 2**-24 * math.sqrt(32) * max(np.abs(g).max(), 1e-2)
        assert np.max(np.abs(g - parts[name])) <= bound, name
    wrong = moved(replace(SGD, scheme="regular"), split(batch, 8, 8, 8, 8)[0])  # the first part alone
    assert any(np.max(np.abs(g - wrong[name])) > 1e-2 for name, g in whole.items())


def test_under_unit_scaling_only_the_constant_differs():
    """c of a weight is that of the part's rows: β falls by the root of rows, and the mean of k parts is k^-½ of one."""
    batch, k = rows(32), 4
    run = Run.of(replace(SGD, scheme="unit"), Mlp())
    one = forward_backward(run, run.initial_state(), batch)
    part = forward_backward(run, run.initial_state(), split(batch, 8, 8, 8, 8)[0])
    whole, parts = moved(SGD, batch), moved(replace(SGD, accumulate=k), *split(batch, 8, 8, 8, 8))
    for name, g in whole.items():
        ratio = part.factors[name] / one.factors[name]
        assert ratio == pytest.approx(k**-0.5, rel=1e-12), name
        assert np.max(np.abs(g * ratio - parts[name])) <= 1e-5 * np.abs(g).max(), name


def test_parts_of_unlike_sizes_have_unlike_constants():
    """Of 2 and 14 rows: the mean of two means, each true gradient counted once, at the constant of the first."""
    batch = rows(16)
    few, many = split(batch, 2, 14)
    run = Run.of(SGD, Mlp())
    first, second = (forward_backward(run, run.initial_state(), part) for part in (few, many))
    found = moved(replace(SGD, accumulate=2), few, many)
    differ = 0
    for name, g in found.items():
        true = [p.gradients[name].astype(np.float64) / p.factors[name] for p in (first, second)]
        expected = first.factors[name] * (true[0] + true[1]) / 2
        scale = np.abs(expected).max()
        assert np.max(np.abs(g - expected)) <= 1e-5 * scale, name
        plain = (first.gradients[name] + second.gradients[name]) / 2  # as if the constants were equal
        differ += np.max(np.abs(plain - expected)) > 1e-2 * scale
    assert differ > 0


def test_losses_are_averaged():
    parts = split(rows(16), 8, 8)
    _, _, result = step_of(replace(CONFIG, accumulate=2), *parts)
    separate = [step_of(CONFIG, part)[2].loss for part in parts]
    assert result.loss == pytest.approx(sum(separate) / 2, rel=1e-15)


def test_each_step_draws_its_own_batches():
    class Numbered(Mlp):
        def batches(self, rng):
            yield from iter(range(100))

    run = Run.of(replace(CONFIG, accumulate=3), Numbered())
    assert list(run.batches(0)) == [(0, 1, 2), (3, 4, 5), (6, 7, 8)]
    assert list(run.batches(2)) == [(6, 7, 8)]


# --- Clipping ---------------------------------------------------------------------------------------------------------

HAND = {"a": np.array([3.0, 0.0], np.float32), "b": np.array([0.0, 8.0], np.float32)}
FACTORS = {"a": 1.0, "b": 2.0}
"""True gradients (3, 0) and (0, 4): a norm of 5."""


def test_the_norm_is_that_of_the_true_gradients():
    same, norm = clip_by_norm(HAND, FACTORS, 5.0)
    assert norm == 5.0
    assert all(same[name] is g for name, g in HAND.items())
    computed, wrong = clip_by_norm(HAND, {"a": 1.0, "b": 1.0}, 5.0)
    assert wrong == math.sqrt(73)
    assert computed["a"][0] < 3


@pytest.mark.parametrize("largest", [5.0 * (1 + 2**-20), 5.0 * (1 - 2**-20), 2.5, 1e-3])
def test_just_above_and_just_below(largest):
    found, norm = clip_by_norm(HAND, FACTORS, largest)
    assert norm == 5.0
    factor = np.float32(min(1.0, largest / 5))
    assert [list(found["a"]), list(found["b"])] == [[3 * factor, 0], [0, 8 * factor]]
    assert found["a"].dtype == np.float32
    if largest < 5:
        assert clip_by_norm(found, FACTORS, largest)[1] == pytest.approx(largest, rel=2**-22)


def test_a_step_is_clipped_by_the_norm():
    """Plain SGD: the step is min(1, clip/norm) of the one without."""
    batch = rows(32)
    free = moved(SGD, batch)
    norm = step_of(replace(SGD, clip=1e6), batch)[2].norm
    assert step_of(SGD, batch)[2].norm is None
    for clip, factor in ((norm * 1.0001, 1.0), (norm * 0.9999, 0.9999), (norm / 4, 0.25)):
        found = moved(replace(SGD, clip=clip), batch)
        for name, g in free.items():
            assert np.max(np.abs(found[name] - factor * g)) <= 2e-6 * np.abs(g).max() + 1e-7, (clip, name)


@pytest.mark.parametrize("scaling", ["static:2^10", "automatic"])
def test_a_loss_scale_changes_no_clipped_step(scaling):
    """It is divided out before the norm is taken; powers of two change no bit."""
    batch = rows(32)
    _, plain, result = step_of(replace(SGD, clip=0.01), batch)
    _, scaled, other = step_of(replace(SGD, clip=0.01, scaling=scaling), batch)
    assert result.norm == other.norm > 0.01
    for name, p in plain.parameters.items():
        assert p.tobytes() == scaled.parameters[name].tobytes(), name


def test_factors_change_no_norm():
    """Rules of the rows change the factors of parameters, and nothing else: the norm is the same."""
    batch = rows(32)
    norms = [step_of(replace(SGD, scheme=s, clip=1.0), batch)[2].norm for s in ("unit", "unit:rows=alike")]
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)
    run = Run.of(SGD, Mlp())
    one = forward_backward(run, run.initial_state(), batch)
    computed = math.sqrt(sum(float(np.sum(np.square(g, dtype=float))) for g in one.gradients.values()))
    assert computed > 2 * norms[0] or computed < norms[0] / 2


def test_accumulated_gradients_are_clipped_once():
    batch = rows(8)
    _, one, result = step_of(replace(SGD, clip=0.01), batch)
    _, four, other = step_of(replace(SGD, clip=0.01, accumulate=4), batch)
    assert result.norm == other.norm
    assert all(p.tobytes() == four.parameters[name].tobytes() for name, p in one.parameters.items())


# --- Decay by group ---------------------------------------------------------------------------------------------------

SPECS = {
    "table": Spec("embedding", (4, 2)),
    "block.0.weight": Spec("weight", (2, 2)),
    "block.0.norm.gain": Spec("gain", (2,)),
    "block.0.bias": Spec("bias", (2,)),
}


def decays(text, optimizer=0.01):
    return {name: group.decay(optimizer) for name, group in groups(SPECS, "unit", text).items()}


def test_decay_by_role_and_by_name():
    names = ("table", "block.0.weight", "block.0.norm.gain", "block.0.bias")
    assert decays("") == dict(zip(names, (0.01, 0.01, 0, 0), strict=True))
    assert decays("embedding=0,bias=0.5") == dict(zip(names, (0, 0.01, 0, 0.5), strict=True))
    assert decays("block.*=0.25,*.norm.gain=2^-4") == dict(zip(names, (0.01, 0.25, 0.0625, 0.25), strict=True))
    assert decays("*=0.25,weight=1") == dict(zip(names, (0.25, 1, 0.25, 0.25), strict=True))  # the last that fits


def test_the_update_of_a_group():
    """AdamW with gradients of 0: p·(1 − lr·λ)."""
    parameters = {name: np.full(spec.shape, 2.0) for name, spec in SPECS.items()}
    zeros = {name: np.zeros(spec.shape) for name, spec in SPECS.items()}
    optimizer = get_optimizer("adamw", weight_decay=0.5)
    found, _ = optimizer.update(
        zeros, optimizer.init(parameters), parameters, Rate(0.25), groups(SPECS, "regular", "table=0,gain=1")
    )
    assert [float(p.flat[0]) for p in found.values()] == [2.0, 2 * (1 - 0.125), 2 * (1 - 0.25), 2.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("embedding", "'embedding', expected PATTERN=NUMBER, λ ≥ 0 of a role or of names, such as embedding=0"),
        ("bias=-0.1", "'bias=-0.1', expected PATTERN=NUMBER, λ ≥ 0 of a role or of names, such as embedding=0"),
        ("bias=x", "'bias=x', expected PATTERN=NUMBER, λ ≥ 0 of a role or of names, such as embedding=0"),
        ("a=1,a=2", "a occurs twice, expected PATTERN=NUMBER, λ ≥ 0 of a role or of names, such as embedding=0"),
    ],
)
def test_rules_that_are_none(text, message):
    with pytest.raises(ArgumentError) as found:
        read_decay(text)
    assert str(found.value) == f"read_decay({text!r}): {message}"


def test_a_rule_that_fits_nothing():
    with pytest.raises(ArgumentError) as found:
        groups(SPECS, "unit", "embedding=0,layer.*=1")
    expected = "'layer.*' fits no parameter, expected a role or a pattern"
    assert str(found.value) == f"groups(decay='embedding=0,layer.*=1'): {expected}"


@pytest.mark.parametrize("bad", [-1e-9, math.inf, math.nan])
def test_a_group_has_a_decay_of_at_least_0(bad):
    with pytest.raises(ArgumentError, match=r"Group\(weight_decay=.*\): expected 0 ≤ weight_decay < ∞"):
        Group(weight_decay=bad)
    assert Group(weight_decay=0.0).decay(1.0) == 0
    assert Group(decayed=False, weight_decay=1.0).decay(1.0) == 0


# --- A run ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accumulate": 0}, "TrainConfig(accumulate=0): expected at least 1"),
        ({"clip": 0.0}, "TrainConfig(clip=0.0): expected a positive number"),
        ({"clip": math.inf}, "TrainConfig(clip=inf): expected a positive number"),
        (
            {"accumulate": 2, "scaling": "delayed"},
            "TrainConfig(accumulate=2): expected 1, as delayed scales the tensors of one pass",
        ),
    ],
)
def test_settings_that_are_refused(changes, message):
    with pytest.raises(ArgumentError) as found:
        replace(CONFIG, **changes)
    assert str(found.value) == message


def test_a_configuration_written_before_there_were_any():
    content = vars(replace(CONFIG)).copy()
    for field in ("decay", "accumulate", "clip"):
        del content[field]
    assert TrainConfig.from_mapping(content, "f") == CONFIG
    with pytest.raises(DataError, match=r"f: not a TrainConfig; missing or unknown: steps"):
        TrainConfig.from_mapping({k: v for k, v in content.items() if k != "steps"}, "f")


def test_a_run_continues_to_the_same_bits(tmp_path):
    from refscale.train import train

    config = replace(CONFIG, accumulate=2, clip=0.05, decay="bias=0.1")
    train(config, tmp_path / "whole", data=Mlp(), report=lambda line: None)
    train(config, tmp_path / "cut", data=Mlp(), report=lambda line: None)
    for name in ("checkpoint-000003.npz", "summary.json"):
        (tmp_path / "cut" / name).unlink(missing_ok=True)
    newest = sorted((tmp_path / "cut").glob("checkpoint-*.npz"))
    assert newest
    train(config, tmp_path / "cut", data=Mlp(), resume=True, report=lambda line: None)
    last = sorted((tmp_path / "whole").glob("checkpoint-*.npz"))[-1]
    assert same_bits(last, tmp_path / "cut" / last.name)
