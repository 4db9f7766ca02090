"""Fine-tuning: the model it starts from, its schemes, its scores; resumed to the same bits; on a run of train."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from refscale import published, squad
from refscale.engine import Tape
from refscale.errors import ArgumentError, CheckpointError, DataError
from refscale.layers import on_tape
from refscale.sweep import Variant, compare, tables
from refscale.tasks import SpanData
from refscale.train import (
    FINE_TUNING,
    Run,
    evaluate,
    load_trained,
    newest,
    observe,
    save_checkpoint,
    train,
    training_step,
)
from refscale.train.trained import with_weights
from tests.train.runs import same_bits, small, write_text

FINE = replace(FINE_TUNING, steps=6, batch=4, seq=40, evaluate_every=3, evaluation_batches=2, checkpoint_every=2)


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, text):
    """Runs of both schemes on positions enough, and questions from the same text, as files."""
    out = tmp_path_factory.mktemp("trained")
    for scheme in ("regular", "unit"):
        train(small(scheme=scheme, seq=40, scales_every=0), out / scheme, data=text, report=quiet)
    training, held_out = squad.made_questions(text.read_text(encoding="utf-8"))
    for name, part in (("train", training[:60]), ("dev", held_out[:9])):
        (out / f"{name}.json").write_text(json.dumps(squad.to_squad(part)), encoding="utf-8")
    return out


@pytest.fixture
def data(trained, text):
    return SpanData(trained / "regular", trained / "train.json", trained / "dev.json", text)


def test_both_schemes_start_from_the_same_function(data):
    """Head and all: the same logits for the same seed."""
    logits = []
    for scheme in ("regular", "unit"):
        run = Run.of(replace(FINE, scheme=scheme), data)
        p = on_tape(Tape(run.scheme), run.initial_state().parameters, run.specs)
        logits.append(run.task.loss(p, run.validation[0]).start_logits.value)
    assert np.abs(logits[0]).max() > 1e-3
    np.testing.assert_allclose(*logits, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_an_sgd_step_at_regular_rates_is_the_regular_step(data, weight_decay):
    """Parameter by parameter, taken back to the regular model; at the rates of unit scaling it is another one."""
    moved = {}
    for scheme in ("regular", "unit:rates=regular", "unit"):
        fine = replace(FINE, scheme=scheme, optimizer="sgd", lr=2.0**-6, weight_decay=weight_decay, warmup=0)
        run = Run.of(fine, data)
        start = run.initial_state()
        after, _ = training_step(run, start, next(run.batches(0)))
        before, now = run.task.regular(start.parameters), run.task.regular(after.parameters)
        moved[scheme] = {name: now[name].astype(np.float64) - before[name] for name in now}
    expected = moved["regular"]
    largest = max(np.abs(x).max() for x in expected.values())

    def deviation(scheme, name):
        return np.abs(moved[scheme][name] - expected[name]).max() / max(np.abs(expected[name]).max(), 1e-4 * largest)

    found = {name: deviation("unit:rates=regular", name) for name in expected}
    assert max(found.values()) < 5e-3, max(found, key=found.get)
    assert max(deviation("unit", name) for name in expected) > 1


def test_regular_rates_by_hand(data):
    run = Run.of(replace(FINE, scheme="unit:rates=regular"), data)
    assert run.scheme.name == "unit:rates=regular"
    assert run.scheme.trained == run.task.adapted.scheme.trained
    name = "encoder.0.attention.query.weight"
    sigma = float(np.sqrt(np.mean(np.square(load_trained(data.pretrained, data.text).parameters[name], dtype=float))))
    group = run.groups[name]
    assert group.lr_scale == pytest.approx(1 / sigma, rel=1e-6)
    assert (group.decayed, group.decay_scale) == (True, pytest.approx(sigma, rel=1e-6))
    bias = run.groups["encoder.0.attention.query.bias"]
    assert (bias.lr_scale, bias.decayed) == (1 / run.task.adapted.divisors["encoder.0.attention.query.bias"], False)
    with pytest.raises(ArgumentError, match=r"at_regular_rates\(optimizer='lamb'\): expected 'sgd' or 'adamw'"):
        _ = Run.of(replace(FINE, scheme="unit:rates=regular", optimizer="lamb", lr=0.1), data).groups


def test_regular_rates_need_an_adapted_model(data, trained, text):
    with pytest.raises(ArgumentError, match=r"train\(scheme='unit:rates=regular'\): expected a model adapted"):
        _ = Run.of(small(scheme="unit:rates=regular"), text).groups
    with pytest.raises(ArgumentError, match="expected the same, or 'unit' or 'unit:rates=regular' for a regular one"):
        Run.of(replace(FINE, scheme="unit:rows=alike"), data)


def test_the_encoder_is_the_trained_one(data, trained, text):
    run = Run.of(replace(FINE, scheme="regular"), data)
    found = load_trained(trained / "regular", text)
    for name, x in run.initial_state().parameters.items():
        assert name.startswith("span.") or (x == found.parameters[name]).all()
    assert run.task.tokenizer == found.tokenizer


def test_a_unit_run_goes_on_as_it_is(data, trained):
    run = Run.of(replace(FINE, scheme="unit"), replace(data, pretrained=trained / "unit"))
    assert run.task.adapted is None
    with pytest.raises(ArgumentError, match="has no regular form to save"):
        run.task.regular(run.initial_state().parameters)
    with pytest.raises(ArgumentError, match=r"finetune\(scheme='regular'\): the model was trained under 'unit'"):
        Run.of(replace(FINE, scheme="regular"), replace(data, pretrained=trained / "unit"))


def test_scores_are_those_of_the_answers(data):
    run = Run.of(FINE, data)
    state = run.initial_state()
    answers = run.task.answers(observe(run, state, run.validation))
    found = squad.score(run.task.held_out, answers)
    scores = evaluate(run, state)
    assert (scores["f1"], scores["exact_match"]) == (found.f1 / 100, found.exact_match / 100)
    assert answers.keys() == {q.id for q in run.task.held_out}


@pytest.mark.parametrize("precision", ["fp32", "fp8"])
def test_it_learns(data, precision):
    run = Run.of(replace(FINE, precision=precision, steps=40, batch=8, lr=2.0**-6), data)
    state, losses = run.initial_state(), []
    for batch in run.batches(0):
        state, result = training_step(run, state, batch)
        losses.append(result.loss)
        assert result.loss == pytest.approx(sum(result.parts.values()), rel=1e-5)
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5


def test_resumed_to_the_same_bits(tmp_path, data):
    config = replace(FINE, precision="fp8", dropout=0.1)
    train(config, tmp_path / "whole", data=data, report=quiet)
    train(config, tmp_path / "parts", data=data, report=quiet)
    for path in (tmp_path / "parts").glob("checkpoint-00000006.npz"):
        path.unlink()
    train(config, tmp_path / "parts", data=data, resume=True, report=quiet)
    assert same_bits(*(tmp_path / part / "checkpoint-00000006.npz" for part in ("whole", "parts")))
    for name in ("metrics.jsonl", "config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    with pytest.raises(ArgumentError, match="other data"):
        train(config, tmp_path / "parts", data=replace(data, dev=data.train), resume=True, report=quiet)


def test_a_directory_is_read_and_a_trained_model_taken_as_it_is(data, trained, text):
    read = with_weights(data)
    assert read == replace(data, pretrained=read.pretrained)
    assert read.pretrained.digest == load_trained(trained / "regular", text).digest
    assert with_weights(read) is read
    assert (with_weights(None), with_weights(text)) == (None, text)
    runs = [Run.of(FINE, d) for d in (data, read)]
    assert runs[0].task.digest == runs[1].task.digest
    states = [run.initial_state().parameters for run in runs]
    assert all(states[0][name].tobytes() == x.tobytes() for name, x in states[1].items())


def test_a_pretraining_that_is_repeated_is_the_same_data(data, trained, text, tmp_path):
    """It took another time, which its checkpoint notes; a single other bit of a parameter is another model."""
    pretrained = newest(trained / "regular")
    run = Run.of(pretrained.config, text)
    (tmp_path / "again").mkdir()
    save_checkpoint(
        tmp_path / "again/checkpoint-00000008.npz", run.checkpoint(pretrained.state, pretrained.seconds + 1.0)
    )
    again = newest(tmp_path / "again")
    assert (again.seconds, again.digest) == (pretrained.seconds + 1.0, pretrained.digest)
    config = replace(FINE, steps=1)
    train(config, tmp_path / "fine", data=data, report=quiet)
    train(config, tmp_path / "fine", data=replace(data, pretrained=tmp_path / "again"), resume=True, report=quiet)
    name, x = next(iter(pretrained.state.parameters.items()))
    other = replace(pretrained.state, parameters=pretrained.state.parameters | {name: np.nextafter(x, np.float32(9))})
    save_checkpoint(tmp_path / "again/checkpoint-00000008.npz", run.checkpoint(other))
    assert newest(tmp_path / "again").digest != pretrained.digest
    with pytest.raises(ArgumentError, match="contains another run: other data"):
        train(config, tmp_path / "fine", data=replace(data, pretrained=tmp_path / "again"), resume=True, report=quiet)


@pytest.mark.parametrize("changes", [{"scheme": "unit"}, {"constraint": "none"}, {"model": "bert-mini"}])
def test_other_rules_are_another_model(trained, changes):
    pretrained = newest(trained / "regular")
    assert replace(pretrained, config=replace(pretrained.config, **changes)).digest != pretrained.digest
    assert replace(pretrained, config=replace(pretrained.config, checkpoint_every=9)).digest == pretrained.digest
    assert replace(pretrained, data_digest="0").digest != pretrained.digest


def test_all_questions_or_some(data):
    some, everything = (Run.of(replace(FINE, evaluation_batches=n), data) for n in (1, 0))
    assert len(some.task.held_out) <= 4 < len(everything.task.held_out) == 9
    assert sum(len(b.ids) for b in everything.validation) == len(everything.task.windows)


def test_refusals(data, trained, tmp_path):
    with pytest.raises(ArgumentError, match="expected both files or neither"):
        Run.of(FINE, replace(data, dev=None))
    with pytest.raises(ArgumentError, match="expected the data of that task"):
        Run.of(FINE, None)
    with pytest.raises(ArgumentError, match="expected the data of that task"):
        Run.of(small(), data)
    with pytest.raises(ArgumentError, match=r"finetune\(seq=1000\)"):
        Run.of(replace(FINE, seq=1000), data)
    with pytest.raises(ArgumentError, match=r"scheme='munit'\): expected for the task 'squad', one of regular, unit"):
        replace(FINE, scheme="munit")
    with pytest.raises(CheckpointError, match="trained on another text"):
        load_trained(trained / "regular")
    train(replace(FINE, steps=1), tmp_path / "fine", data=data, report=quiet)
    with pytest.raises(CheckpointError, match="a run of 'squad', expected one of 'masked-lm'"):
        load_trained(tmp_path / "fine")
    with pytest.raises(CheckpointError, match=r"no file config\.json"):
        load_trained(tmp_path)
    with pytest.raises(DataError, match=r"read_squad\("):
        Run.of(FINE, replace(data, train=tmp_path / "none.json"))


def test_a_comparison(tmp_path, data):
    """The same machine as for pre-training; its rows are those of fine-tuning, F1 its share."""
    variants = (Variant("regular", "fp32"), Variant("unit", "fp8"))
    found = compare(replace(FINE, steps=2, model="m"), tmp_path, seeds=1, variants=variants, data=data)
    assert {r.variant.name for r in found.runs} == {"regular fp32", "unit fp8"}
    assert all(0 <= r.accuracy <= 1 for r in found.runs)
    text = tables(found)
    assert "| f1 " in text
    assert "unit fp8" in text


def test_saved_and_read_again(tmp_path, data):
    """Fine-tuned under unit scaling, written in published form, read as a regular model: the same answers."""
    pytest.importorskip("safetensors", reason="needs refscale[pretrained]")
    run = Run.of(replace(FINE, scheme="unit"), data)
    state, _ = training_step(run, run.initial_state(), next(run.batches(0)))
    published.save_pretrained(tmp_path / "saved", run.task.model, run.task.regular(state.parameters))
    found = published.load_pretrained(tmp_path / "saved")
    assert found.config.outputs == ("span",)
    logits = []
    for scheme, parameters in ((run.scheme, state.parameters), (None, found.parameters)):
        tape = Tape(scheme) if scheme else Tape()
        logits.append(run.task.loss(on_tape(tape, parameters, run.specs), run.validation[0]).start_logits.value)
    np.testing.assert_allclose(*logits, rtol=1e-3, atol=1e-5)
