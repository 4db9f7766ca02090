"""The files of a run: a line for each step, validations and checkpoints at their intervals, the end of the run."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from refscale.engine import Tape
from refscale.errors import DivergedError
from refscale.layers import on_tape
from refscale.train import Run, checkpoint_report, evaluate, newest, train
from refscale.train.checkpoint import checkpoints
from tests.train.runs import small, write_text


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text"))


def lines_of(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def quiet(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def run(text, tmp_path_factory):
    """Seven steps with all intervals at three, so that the last step is off them; the loss scale doubles every two."""
    out = tmp_path_factory.mktemp("run") / "out"
    intervals = {"evaluate_every": 3, "checkpoint_every": 3, "scales_every": 3}
    config = small(steps=7, **intervals, lr=2.0**-6, warmup=4, scaling="automatic:2^4,interval=2")
    summary = train(config, out, data=text, report=quiet)
    return config, summary, out


def test_a_validation_and_a_checkpoint_at_each_interval_and_at_the_end(run, text):
    config, summary, out = run
    assert [line["step"] for line in lines_of(out) if "validation" in line] == [3, 6, 7]
    assert [path.name for path in checkpoints(out)] == ["checkpoint-00000007.npz", "checkpoint-00000006.npz"]
    last = newest(out).state
    assert last.step == summary.steps == 7
    assert summary.validation == lines_of(out)[-1]["validation"] == evaluate(Run.of(config, text), last)


def test_the_learning_rate_of_a_line_has_its_multiplier(run):
    """Warm-up over four steps to 2^-6, then three steps down a line to 0."""
    _, _, out = run
    assert [line["lr"] / 2.0**-6 for line in lines_of(out)] == pytest.approx([1 / 4, 1 / 2, 3 / 4, 1, 1, 2 / 3, 1 / 3])


def test_scales_are_recorded_at_the_first_step_and_at_each_interval(run):
    lines = (run[2] / "scales.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 3, 6]


def test_what_the_loss_scale_takes(run, text):
    """The scale of a line is the one of its step. Amounts add up over the steps; levels, scales and state, do not."""
    config, summary, out = run
    assert [line["loss_scale"] for line in lines_of(out)] == [16, 16, 32, 32, 64, 64, 128]
    specs = Run.of(config, text).specs
    elements = sum(math.prod(spec.shape) for spec in specs.values())
    assert summary.overhead == {
        "skipped": 0,
        "statistics": 7 * len(specs),
        "extra_passes": 7 * len(specs),
        "elements": 7 * elements,
        "scales": 1,
        "changes": 3,
        "state": 2,
    }


def test_a_report_is_of_the_first_validation_batch(run, text):
    """Its losses, taken down here by the model alone; after as many steps as the checkpoint has."""
    config, _, out = run
    checkpoint = newest(out)
    found = checkpoint_report(checkpoint, text=text)
    task = Run.of(config, text).task
    batch = task.validation(np.random.default_rng([0, 5, 0]))[0]
    losses = task.loss(on_tape(Tape(task.scheme), checkpoint.state.parameters, task.specs), batch)
    assert sorted(found.losses.values()) == sorted(
        float(x.value) for x in (losses.masked_lm, losses.next_sentence, losses.total)
    )
    assert (found.model, found.text) == (f"{config.model} after 7 steps", str(text))
    assert (found.scheme, found.precision) == ("unit", "fp32 automatic:2^4,interval=2")
    assert (found.batch, found.seq, found.seed) == (2, 16, 0)


class TestAValidationThatIsNotFinite:
    """A first step so long that the forward pass after it leaves FP16: the loss of the step itself is finite."""

    CONFIG = small(scheme="regular", precision="fp16", steps=2, warmup=0, lr=50.0, evaluate_every=1, scales_every=0)

    def test_the_run_has_diverged(self, text, tmp_path):
        message = "^train: diverged at step 1: masked_lm of the validation is nan$"
        with pytest.raises(DivergedError, match=message):
            train(self.CONFIG, tmp_path / "run", data=text, report=quiet)
        (line,) = lines_of(tmp_path / "run")
        assert math.isfinite(line["loss"])
        assert line["validation"]["masked_lm"] == "nan"
        summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
        assert summary["diverged"] == message.strip("^$")
        assert (summary["steps"], summary["validation"]) == (1, line["validation"])
        assert not checkpoints(tmp_path / "run")  # nothing goes on from here

    def test_resumed_it_diverges_again(self, text, tmp_path):
        found = []
        for _ in range(2):
            with pytest.raises(DivergedError):
                train(self.CONFIG, tmp_path / "run", data=text, resume=True, report=quiet)
            found.append((tmp_path / "run" / "metrics.jsonl").read_bytes())
        assert found[0] == found[1]
