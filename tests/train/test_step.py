"""One step, one evaluation; the constant parts of a run; its errors."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, replace

import numpy as np
import pytest

from refscale import functional as F  # noqa: N812
from refscale import models, ops
from refscale.data import IGNORE
from refscale.engine import Tape, apply, backward
from refscale.errors import ArgumentError, DataError, DivergedError
from refscale.formats import Cast
from refscale.layers import Spec
from refscale.models import bert
from refscale.optim import Rate, get_optimizer
from refscale.precision import Precision, fp16_sr, get_precision
from refscale.programs import Program
from refscale.rivals import NoScaling, Outcome
from refscale.scales import geometric, regular
from refscale.tasks import get_kind
from refscale.train import FINE_TUNING, Run, TrainConfig, evaluate, training_step
from refscale.train.step import forward_backward
from tests.train.runs import small, write_text


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text"))


def steps(run, count, **options):
    state, results = run.initial_state(), []
    for _, batch in zip(range(count), run.batches(0), strict=False):
        state, result = training_step(run, state, batch, **options)
        results.append(result)
    return state, results


def test_a_step_is_forward_backward_update(text):
    """Written out once, with nothing of the trainer."""
    run = Run.of(small(dropout=0.1, precision="fp16-sr"), text)
    state, _ = training_step(run, run.initial_state(), next(run.batches(0)))
    batch = next(run.batches(1))
    after, result = training_step(run, state, batch)
    tape = Tape(run.scheme, fp16_sr)
    p = models.parameters_on(tape, state.parameters, run.task.model)
    losses = bert.pretraining_loss(p, batch, run.task.model, np.random.default_rng([0, 2, 1]))
    backward(losses.total)
    gradients = {name: t.grad for name, t in p.items()}
    expected, optimizer = run.optimizer.update(
        gradients, state.optimizer, state.parameters, Rate(run.config.peak_lr, run.schedule(1)), run.groups
    )
    expected = fp16_sr.store_weights(expected, np.random.default_rng([0, 4, 2]))
    assert result.loss == float(losses.total.value)
    assert (after.step, int(after.optimizer["step"])) == (2, 2)
    assert after.parameters.keys() == expected.keys()
    assert all(np.array_equal(after.parameters[k], expected[k]) for k in expected)
    assert all(np.array_equal(after.optimizer[k], optimizer[k]) for k in optimizer)


AUTHORS = "store=fp16/stochastic,weights=fp16/stochastic,first_moment=fp16/stochastic"


@pytest.mark.parametrize(
    "precision", [AUTHORS, AUTHORS.replace("stochastic", "nearest_even"), "store=fp16,weights=fp16,first_moment=fp16"]
)
@pytest.mark.parametrize("optimizer", ["adamw:eps=1e-7", "sgd:momentum=0.9"])
def test_a_step_without_master_weights(text, precision, optimizer):
    """The second step against the authors' formulas: weights and m in FP16, v and the update in FP32.

    m and the weight are rounded once each, from the FP32 results of the update; bits are drawn for all weights, then
    for all m. ε-hat: their step size holds √(1 − β2^t), so that eps is added to √v, here to √v/√(1 − β2^t).
    """
    run = Run.of(small(precision=precision, optimizer=optimizer, lr=2.0**-6, weight_decay=0.0), text)
    one, _ = training_step(run, run.initial_state(), next(run.batches(0)))
    assert all(np.array_equal(x, x.astype(np.float16)) for x in one.parameters.values())
    state = one.optimizer
    assert all(np.array_equal(x, x.astype(np.float16)) for k, x in state.items() if k.startswith("m/"))
    batch = next(run.batches(1))
    gradients = forward_backward(run, one, batch).gradients
    two, _ = training_step(run, one, batch)
    rate = {name: np.float32(run.rate(1).of(group)) for name, group in run.groups.items()}
    new, moments = {}, {}
    for name, g in gradients.items():
        p, m = one.parameters[name], state[f"m/{name}"]
        if optimizer.startswith("sgd"):
            moments[name] = np.float32(0.9) * m + g
            new[name] = p - rate[name] * moments[name]
            continue
        moments[name] = np.float32(0.9) * m + np.float32(1 - 0.9) * g
        v = np.float32(0.999) * state[f"v/{name}"] + np.float32(1 - 0.999) * g**2
        np.testing.assert_allclose(two.optimizer[f"v/{name}"], v, rtol=1e-6)
        root = np.sqrt(v) * np.float32((1 - 0.999**2) ** -0.5) + np.float32(1e-7)
        new[name] = p - rate[name] * (moments[name] * np.float32(1 / (1 - 0.9**2)) / root)
    rng = np.random.default_rng([0, 4, 2])
    for cast, expected, found in (
        (run.precision.weights, new, two.parameters),
        (run.precision.first_moment, moments, {k[2:]: x for k, x in two.optimizer.items() if k.startswith("m/")}),
    ):
        wrong = 0
        for name, x in expected.items():
            stochastic = cast.rounding == "stochastic"
            words = rng.integers(0, 2**32, x.shape, np.uint32) if stochastic else None
            wrong += np.count_nonzero(cast(x, words) != found[name])
        assert wrong <= 5e-4 * sum(x.size for x in expected.values())  # the last place of float32 decides some


def test_the_first_moment_is_rounded_after_the_update_and_alone():
    """SGD with momentum 0.5: m' = ½·1 + (1 + 2^-12) rounds to 1.5; p − m' has the 2^-12."""
    policy = get_precision("first_moment=fp16/nearest_even")
    optimizer = get_optimizer("sgd:momentum=0.5")
    p = {"w": np.full(3, 2, np.float32)}
    state = optimizer.init(p) | {"m/w": np.ones(3, np.float32)}
    new, after = optimizer.update({"w": np.full(3, 1 + 2.0**-12, np.float32)}, state, p, Rate(1.0))
    stored = policy.store_moments(after)
    assert (new["w"] == 0.5 - 2.0**-12).all()
    assert (stored["m/w"] == 1.5).all()
    assert not (after["m/w"] == 1.5).any()
    assert (list(stored), stored["step"]) == (list(after), 1)
    assert not stored["m/w"].flags.writeable
    v = {"m/w": np.float32([1 + 2.0**-12]), "v/w": np.float32([1 + 2.0**-12]), "m/m/w": np.float32([3])}
    assert [float(x[0]) for x in policy.store_moments(v).values()] == [1, 1 + 2.0**-12, 3]
    assert get_precision("fp16").store_moments(v)["m/w"] is v["m/w"]
    with pytest.raises(ArgumentError, match=r"needs random bits: store_moments\(rng="):
        get_precision("first_moment=fp16/stochastic").store_moments(v)


def test_stochastic_casts_of_operands_draw_anew_at_every_step(text):
    """The bits of step 1 are its own: not those of step 0, nor of validation or dropout."""
    sr = Precision("sr", operand=Cast("float8_e4m3fn", "stochastic", "saturate"))
    run = replace(Run.of(small(dropout=0.1), text), precision=sr)
    batch, state = next(run.batches(0)), run.initial_state()

    def loss(rng):
        tape = Tape(run.scheme, sr, rng=rng)
        p = models.parameters_on(tape, state.parameters, run.task.model)
        return float(bert.pretraining_loss(p, batch, run.task.model, np.random.default_rng([0, 2, 1])).total.value)

    at_step_1 = forward_backward(run, replace(state, step=1), batch).loss
    assert at_step_1 == loss(np.random.default_rng([0, 3, 1]))
    assert at_step_1 != loss(np.random.default_rng([0, 3, 0]))


def test_validation_draws_of_its_own(text):
    """One stream to each batch, the same at every evaluation, none of training's."""
    sr = Precision("sr", operand=Cast("float8_e4m3fn", "stochastic", "saturate"))
    run = replace(Run.of(small(), text), precision=sr)
    state = run.initial_state()
    (first, *_), seen = run.validation, []
    for stream in ([0, 5, 1], [0, 5, 2], [0, 3, 1]):
        tape = Tape(run.scheme, sr, rng=np.random.default_rng(stream))
        p = models.parameters_on(tape, state.parameters, run.task.model)
        seen.append(run.task.score([run.task.observe(first, run.task.loss(p, first))]))
    assert evaluate(run, state, [first]) == evaluate(run, replace(state, step=7), [first]) == seen[0]
    assert seen[0] not in seen[1:]


def test_the_state_before_is_left_alone(text):
    run = Run.of(small(precision="fp8-sr"), text)
    state = run.initial_state()
    before = {k: v.copy() for k, v in state.parameters.items()}
    for v in state.parameters.values():
        v.flags.writeable = False
    training_step(run, state, next(run.batches(0)))
    assert all(np.array_equal(state.parameters[k], before[k]) for k in before)


@pytest.mark.parametrize("changes", [{}, {"precision": "fp8-sr", "dropout": 0.1}], ids=["plain", "random"])
def test_same_seed_same_bits_other_seed_other_bits(text, changes):
    one, two = (steps(Run.of(small(**changes), text), 3)[0] for _ in range(2))
    other, _ = steps(Run.of(small(seed=1, **changes), text), 3)
    assert all(one.parameters[k].tobytes() == two.parameters[k].tobytes() for k in one.parameters)
    assert any(one.parameters[k].tobytes() != other.parameters[k].tobytes() for k in one.parameters)


def test_text_does_not_depend_on_scheme_or_precision(text):
    runs = [Run.of(small(), text), Run.of(small(scheme="regular", precision="fp8", scaling="automatic"), text)]
    for a, b in zip(*(run.batches(0) for run in runs), strict=True):
        assert np.array_equal(a.ids, b.ids)
    first, again = (next(runs[0].batches(k)) for k in (5, 5))
    assert np.array_equal(first.ids, again.ids)
    assert not np.array_equal(first.ids, next(runs[0].batches(6)).ids)


def test_each_step_draws_a_batch_of_its_own(text):
    """From the stream (seed, 1, step), wherever the run is taken up: no step sees the batch of another."""
    run = Run.of(small(seed=3), text)
    expected = [next(run.task.batches(np.random.default_rng([3, 1, step]))).ids for step in range(8)]
    np.testing.assert_array_equal([b.ids for b in run.batches(0)], expected)
    np.testing.assert_array_equal([b.ids for b in run.batches(5)], expected[5:])
    assert len({ids.tobytes() for ids in expected}) == 8


def test_a_trace_changes_no_bit(text):
    run = Run.of(small(scheme="regular", precision="fp8"), text)
    state, batch = run.initial_state(), next(run.batches(0))
    plain, _ = training_step(run, state, batch)
    traced, result = training_step(run, state, batch, trace=True)
    assert all(plain.parameters[k].tobytes() == traced.parameters[k].tobytes() for k in plain.parameters)
    assert {t.kind for t in result.tensors} == {"weight", "activation", "activation gradient", "weight gradient"}
    assert sum(c.flushed for c in result.casts) > 0
    assert {c.place for c in result.casts} >= {"leaf", "output", "operand", "operand_gradient", "gradient"}


def test_weights_in_fp16_with_stochastic_rounding(text):
    run = Run.of(small(precision="fp16-sr", steps=4), text)
    state, _ = steps(run, 4)
    for initial, value in zip(run.initial_state().parameters.values(), state.parameters.values(), strict=True):
        for x in (initial, value):
            assert np.array_equal(x.astype(np.float16).astype(np.float32), x)
    masters, _ = steps(Run.of(small(precision="fp16", steps=4), text), 4)
    assert any(not np.array_equal(x.astype(np.float16), x) for x in masters.parameters.values())


@pytest.mark.parametrize("scheme", ["regular", "unit", "u-mup"])
def test_the_loss_falls(text, scheme):
    """Twenty steps on one batch: enough to see that gradients point downhill, under every scheme."""
    run = Run.of(small(scheme=scheme, steps=20, schedule="constant", warmup=0), text)
    state, batch = run.initial_state(), next(run.batches(0))
    losses = []
    for _ in range(20):
        state, result = training_step(run, state, batch)
        losses.append(result.loss)
    assert losses[-1] < 0.85 * losses[0]


class TestScalingTechniques:
    @pytest.mark.parametrize("scaling", ["static:2^10", "static:2^-4", "automatic:2^10"])
    def test_a_power_of_two_changes_no_bit_in_fp32(self, text, scaling):
        plain, _ = steps(Run.of(small(scheme="regular"), text), 3)
        scaled, results = steps(Run.of(small(scheme="regular", scaling=scaling), text), 3)
        assert results[0].loss_scale in (2.0**10, 2.0**-4)
        assert all(plain.parameters[k].tobytes() == scaled.parameters[k].tobytes() for k in plain.parameters)

    def test_a_skipped_step_changes_nothing_but_the_scale(self, text):
        run = Run.of(small(scheme="regular", precision="fp16", scaling="automatic:2^60"), text)
        state, (result, *_) = steps(run, 1)
        initial = run.initial_state()
        assert result.outcome.skipped
        assert math.isfinite(result.loss)
        assert run.scaling.loss_scale(state.scaling) == 2.0**59
        assert state.step == 1
        assert all(np.array_equal(state.parameters[k], initial.parameters[k]) for k in initial.parameters)
        assert all(np.array_equal(state.optimizer[k], initial.optimizer[k]) for k in initial.optimizer)

    def test_delayed_scales_reach_the_tape_and_the_validation(self, text):
        run = Run.of(small(scheme="regular", precision="fp8", scaling="delayed"), text)
        state, (first, _) = steps(run, 2)
        assert first.outcome.state > 0
        result = forward_backward(run, state, next(run.batches(2)))
        assert any(c.scale != 1 for c in result.tape.casts if c.place == "operand")
        plain = replace(run, scaling=Run.of(small(scheme="regular", precision="fp8"), text).scaling)
        assert evaluate(run, state) != evaluate(plain, state)


class OneProduct(Program):
    """A program of a single product, x (4, 64) @ w (64, 32)."""

    specs = {"w": Spec("weight", (64, 32))}  # noqa: RUF012
    scheme = regular

    def initial_parameters(self, scheme, rng):
        return {"w": rng.standard_normal((64, 32)).astype(np.float32)}

    def loss(self, p, x, rng=None):
        y = F.cross_entropy(apply(ops.Matmul(), x, p["w"]), np.arange(4))
        return F.total_loss(y)

    def batches(self, rng):
        return iter(())


@pytest.mark.parametrize(
    ("precision", "blocks", "again", "tensors"),
    [
        # In blocks of 32: forward x and w, for ∂x: g and w along its rows, for ∂w: x and g along the batch of 4.
        ("mxfp8", (4 * 2, 32 * 2, 4 * 1, 64 * 1, 64 * 1, 32 * 1), (64 * 32, 4 * 64, 4 * 32), ()),
        # In blocks of 16, w in tiles of 16 × 16; the batch is padded to 16; each of the six has a scale of its tensor.
        (
            "nvfp4",
            (4 * 4, 4 * 2, 4 * 2, 4 * 2, 64 * 1, 32 * 1),
            (64 * 32, 16 * 64, 16 * 32),
            (4 * 64, 64 * 32, 4 * 32, 64 * 32, 16 * 64, 16 * 32),
        ),
    ],
)
def test_what_blocks_take(text, precision, blocks, again, tensors):
    """A statistic and a scale for each block and scaled tensor; a pass for each conversion after an operand's first."""
    run = replace(Run.of(small(), text), task=OneProduct(), precision=get_precision(precision))
    x = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    _, result = training_step(run, run.initial_state(), x)
    scales = sum(blocks) + len(tensors)
    assert result.outcome == Outcome(
        statistics=scales,
        extra_passes=len(again) + len(tensors),
        elements=sum(again) + sum(tensors),
        scales=scales,
    )


class TestValidation:
    def test_means_over_words_and_sequences(self, text):
        run = Run.of(small(evaluation_batches=3), text)
        state = run.initial_state()
        found = evaluate(run, state)
        words = sequences = 0
        total, right = np.zeros(2), np.zeros(2)
        for batch in run.validation:
            tape = Tape(run.scheme)
            losses = bert.pretraining_loss(
                models.parameters_on(tape, state.parameters, run.task.model), batch, run.task.model
            )
            for row in np.ndindex(batch.labels.shape):
                if batch.labels[row] != IGNORE:
                    logits = losses.masked_lm_logits.value[row].astype(np.float64)
                    total[0] += np.log(np.exp(logits).sum()) - logits[batch.labels[row]]
                    right[0] += logits.argmax() == batch.labels[row]
                    words += 1
            for row, label in enumerate(batch.is_next):
                logits = losses.next_sentence_logits.value[row].astype(np.float64)
                total[1] += np.log(np.exp(logits).sum()) - logits[label]
                right[1] += logits.argmax() == label
                sequences += 1
        assert found["masked_lm"] == pytest.approx(total[0] / words, rel=1e-5)  # sums of float32 logits
        assert found["next_sentence"] == pytest.approx(total[1] / sequences, rel=1e-5)
        assert (found["masked_lm_accuracy"], found["next_sentence_accuracy"]) == (
            right[0] / words,
            right[1] / sequences,
        )

    def test_held_out_text_is_not_trained_on(self, text):
        run = Run.of(small(), text)
        assert len(run.task.held_out) == round(0.1 * (len(run.task.held_out) + len(run.task.training)))
        assert not set(run.validation[0].ids.ravel().tolist()) <= {1}
        words = set(run.task.vocabulary.tokens)
        assert words <= set(Run.of(small(), text).task.vocabulary.tokens)
        assert any(w.lower() not in " ".join(run.task.training).lower() for s in run.task.held_out for w in s.split())


class TestDivergence:
    def test_fp16_overflow_names_step_and_tensor(self, text):
        run = Run.of(small(scheme="regular", precision="fp16", scaling="static:2^30"), text)
        with pytest.raises(
            DivergedError,
            match=re.escape(
                "train: diverged at step 1: a gradient is not finite; the first tensor to leave the range of "
            )
            + r"float16, whose largest value is 65504, is gradient of nsp\.bias \(4 of 4 elements are not finite\)",
        ):
            training_step(run, run.initial_state(), next(run.batches(0)))

    def test_forward_overflow(self, text):
        run = Run.of(small(scheme="regular", precision="fp16"), text)
        state = run.initial_state()
        state.parameters["encoder.1.ffn.up.bias"] = np.full_like(state.parameters["encoder.1.ffn.up.bias"], 7e4)
        with pytest.raises(DivergedError, match=r"step 1: the loss is not finite; .* is encoder\.1\.ffn\.up\.bias"):
            training_step(run, state, next(run.batches(0)))

    def test_an_automatic_scale_cannot_mend_the_forward_pass(self, text):
        run = Run.of(small(scheme="regular", precision="fp16", scaling="automatic"), text)
        state = run.initial_state()
        state.parameters["embeddings.norm.gain"] = np.full_like(state.parameters["embeddings.norm.gain"], np.inf)
        with pytest.raises(DivergedError, match="the loss is not finite"):
            training_step(run, state, next(run.batches(0)))

    def test_an_update_that_overflows(self, text):
        """Gradients of about 2^-3·2^70, which float32 holds: their squares it does not."""
        run = Run.of(small(scheme="regular"), text)
        run = replace(run, scaling=Growing())
        with pytest.raises(DivergedError, match=r"^train: diverged at step 1: adamw\.update: .*: overflow encountered"):
            training_step(run, run.initial_state(), next(run.batches(0)))


class Growing(NoScaling):
    """A technique that forgets to divide: gradients 2^70 times too large."""

    def loss_scale(self, state):
        return 2.0**70


class TestConfig:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"model": "gpt"}, "get_config('gpt'): expected one of"),
            ({"scheme": "none"}, "get_scheme('none'): expected one of"),
            ({"precision": "fp7"}, "get_precision('fp7'): expected one of"),
            ({"precision": fp16_sr}, "): expected a name"),
            ({"constraint": geometric}, "): expected a name"),
            ({"scaling": "dynamic"}, "get_scaling('dynamic'): expected one of"),
            ({"optimizer": "adagrad"}, "get_optimizer('adagrad'): expected one of sgd, adam, adamw, lamb"),
            ({"schedule": "step"}, "TrainConfig(schedule='step'): expected one of"),
            ({"steps": 0}, "TrainConfig(steps=0): expected at least 1"),
            ({"seq": 7}, "TrainConfig(seq=7): expected at least 8"),
            ({"seq": 513}, "TrainConfig(seq=513): expected at most 512, the positions of bert-tiny"),
            ({"optimizer": "sgd"}, "TrainConfig(lr=None): expected a learning rate, as there is no default with sgd"),
            ({"lr": 0.0}, "TrainConfig(lr=0.0): expected a positive number"),
            ({"lr": math.nan}, "TrainConfig(lr=nan): expected a positive number"),
            ({"warmup": 9}, "TrainConfig(warmup=9): expected 0 … 8, the steps"),
            ({"dropout": 1.0}, "TrainConfig(dropout=1.0): expected 0 ≤ dropout < 1"),
            ({"weight_decay": -1.0}, "TrainConfig(weight_decay=-1.0): expected at least 0"),
            ({"seed": -1}, "TrainConfig(seed=-1): expected at least 0"),
        ],
    )
    def test_bad_values(self, changes, said):
        with pytest.raises(ArgumentError, match=re.escape(said)):
            small(**changes)

    def test_defaults(self):
        """Those that the documented results were made with."""
        expected = {
            "model": "bert-mini",
            "scheme": "unit",
            "precision": "fp32",
            "scaling": "none",
            "constraint": "geometric",
            "steps": 500,
            "batch": 16,
            "seq": 32,
            "lr": None,
            "optimizer": "adamw",
            "weight_decay": 0.01,
            "decay": "",
            "accumulate": 1,
            "clip": None,
            "schedule": "linear",
            "warmup": None,
            "halve_every": 1000,
            "dropout": 0.0,
            "seed": 0,
            "evaluate_every": 100,
            "evaluation_batches": 16,
            "scales_every": 0,
            "checkpoint_every": 100,
            "stride": None,
            "task": "masked-lm",
        }
        assert asdict(TrainConfig()) == expected
        fine_tuning = {
            "model": "trained",
            "task": "squad",
            "steps": 300,
            "batch": 8,
            "seq": 128,
            "checkpoint_every": 50,
        }
        assert asdict(FINE_TUNING) == expected | fine_tuning | {"evaluate_every": 300, "evaluation_batches": 0}

    @pytest.mark.parametrize(
        ("task", "rates"),
        [
            ("masked-lm", {"regular": -10, "unit": -6, "unit-rms": -6, "authors": -6, "u-mup": -1, "munit": -6}),
            ("next-token", {"regular": -9, "unit": -6, "unit-rms": -6, "authors": -6, "u-mup": -1, "munit": -6}),
            ("squad", {"regular": -12, "unit": -8}),
        ],
    )
    def test_default_rates(self, task, rates):
        model = {"masked-lm": "bert-tiny", "next-token": "charlm-conv", "squad": "trained"}[task]
        assert {s: TrainConfig(model, s, task=task).peak_lr for s in rates} == {s: 2.0**e for s, e in rates.items()}
        assert get_kind(task).log2_lr == rates

    def test_every_scheme_has_a_default_rate(self):
        from refscale.scales import SCHEMES

        assert all(TrainConfig(scheme=name).peak_lr > 0 for name in SCHEMES)

    def test_schedules_of_a_half_life_take_it_and_the_others_the_length(self, text):
        for name, multiplier in (("exponential", 2**-1.25), ("halving", 0.5), ("linear", 0.375), ("constant", 1)):
            run = Run.of(small(schedule=name, halve_every=4, warmup=0), text)
            assert run.rate(5).multiplier == pytest.approx(multiplier, rel=2.0**-52)

    def test_what_reaches_schedule_and_optimizer(self, text):
        """Halved every three steps; a parameter of 4 without gradient loses lr·λ = ¼ of itself."""
        run = Run.of(small(schedule="halving", halve_every=3, warmup=0, lr=2.0, weight_decay=0.5), text)
        rates = [run.rate(step) for step in (0, 2, 3, 5, 6)]
        assert [(rate.peak, rate.multiplier) for rate in rates] == [(2.0, m) for m in (1, 1, 1 / 2, 1 / 2, 1 / 4)]
        p = {"w": np.array([4.0])}
        after, _ = run.optimizer.update({"w": np.zeros(1)}, run.optimizer.init(p), p, Rate(0.5))
        assert after["w"].tolist() == [3.0]

    def test_warm_up_is_a_tenth_unless_given(self):
        assert [TrainConfig(steps=200, warmup=w).warmup_steps for w in (None, 0, 3)] == [20, 0, 3]

    def test_too_little_text(self, tmp_path):
        (tmp_path / "short.txt").write_text("One sentence only.", encoding="utf-8")
        with pytest.raises(DataError, match="a text of 1 sentence, expected some to train on and some to validate"):
            Run.of(small(), tmp_path / "short.txt")
