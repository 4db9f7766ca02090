"""A program of a user's own: reported, predicted, planned, counted and trained as a built-in model is."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from refscale import analysis, functional
from refscale.cli import main
from refscale.engine import Tape, backward
from refscale.errors import ArgumentError, CheckpointError, FactorError, ProgramError, ShapeError
from refscale.graph import gradient_factors, plan
from refscale.layers import Spec
from refscale.programs import Program, checked_loss, digest, first_loss, is_place, leaves, load_program, next_batch
from refscale.scales import get_scheme, regular, unit
from refscale.sweep import SweepSpec, sweep, tables
from refscale.sweep.comparison import Comparison, RunResult, Variant, compare
from refscale.sweep.engine import to_row
from refscale.train import Run, TrainConfig, checkpoint_report, default_config, load_checkpoint, newest, train
from refscale.train import loop as train_loop
from refscale.train.step import forward_backward
from tests.programs.convnet import ConvNet
from tests.programs.mlp import Mlp
from tests.train.runs import same_bits

HERE = Path(__file__).parent
PROGRAMS = {"mlp": Mlp, "convnet": ConvNet}
PLACES = {name: f"{HERE / name}.py:model" for name in PROGRAMS}

LINE = """
import numpy as np
from refscale import functional
from refscale.layers import Spec
from refscale.programs import Program


class Line(Program):
    def __init__(self):
        self.specs = {"w": Spec("readout", (3, 1))}

    def loss(self, p, batch, rng=None):
        x, y = batch
        return functional.mse_loss(functional.matmul(x, p["w"]), y)

    def batches(self, rng):
        while True:
            x = rng.standard_normal((4, 3))
            yield x, x.sum(-1, keepdims=True)


model = Line()
"""


def quiet(_: str) -> None:
    pass


def line_of(directory: Path, *changes: tuple[str, str]) -> str:
    """The place of ``LINE`` in a file, with texts replaced."""
    source = LINE
    for old, new in changes:
        assert old in source
        source = source.replace(old, new)
    path = directory / "line.py"
    path.write_text(source, encoding="utf-8")
    return f"{path}:model"


class TestValues:
    """By hand: y = x·w of rows (1, 0) and (0, 2), w = (3, 1), targets 0: (3² + 2²)/2."""

    class Two(Program):
        def __init__(self, std=0.02):
            self.specs = {"w": Spec("weight", (2, 1), std=std)}
            self.buffers = {"x": np.array([[1.0, 0.0], [0.0, 2.0]])}

        def loss(self, p, batch, rng=None):
            return functional.mse_loss(functional.matmul(p["x"], p["w"]), batch)

        def batches(self, rng):
            while True:
                yield np.zeros((2, 1))

    def test_loss_gradient_and_buffer(self):
        program, tape = self.Two(), Tape()
        p = leaves(tape, program, {"w": np.array([[3.0], [1.0]], np.float32)})
        loss = checked_loss(program, p, np.zeros((2, 1)))
        backward(loss.total)
        assert float(loss.total) == 6.5
        assert p["w"].grad.tolist() == [[3.0], [4.0]]  # Σ x·y, by 2/2
        assert p["x"].grad is None
        assert loss.parts == {}

    def test_initial_sigma(self):
        """Of the spec: 0.5; of Glorot: √(2/(2 + 1)); under unit 1."""
        drawn = np.random.default_rng(3).standard_normal((2, 1), np.float32)
        for std, expected in ((0.5, 0.5), (None, (2 / 3) ** 0.5)):
            found = self.Two(std).initial_parameters(regular, np.random.default_rng(3))["w"]
            np.testing.assert_array_equal(found, drawn * np.float32(expected))
            predicted = analysis.predict(self.Two(std), scheme=regular).values
            rms = {v.name: m.rms for v, m in predicted.items()}
            assert (rms["w"], rms["x"]) == pytest.approx((expected, 1.25**0.5))  # x: (1² + 2²)/4
        assert 1.0 in {m.rms for v, m in analysis.predict(self.Two()).values.items() if v.name == "w"}
        np.testing.assert_array_equal(self.Two().initial_parameters(unit, np.random.default_rng(3))["w"], drawn)

    def test_default_score(self):
        assert self.Two().score([1.0, 2.0, 6.0]) == {"loss": 3.0}
        assert self.Two().line({"loss": 3.0, "other": 0.25}) == "loss 3.0000, other 0.2500"
        assert self.Two().validation(None) == ()


@pytest.mark.parametrize("name", PROGRAMS)
class TestInstruments:
    @pytest.mark.parametrize("scheme", ["regular", "unit"])
    def test_report(self, name, scheme):
        program = PROGRAMS[name]()
        found = analysis.report(program, scheme)
        assert (found.model, found.batch, found.seq, found.text, found.constraint) == (
            (PROGRAMS[name].__name__, None, None, "", "")
        )
        assert {t.name for t in found.of_kind("weight")} == set(program.specs)
        outside = found.summary().outside_count
        assert outside <= 1 if scheme == "unit" else outside >= 10
        assert f"{PROGRAMS[name].__name__}, fp32, seed 0" in analysis.render([found])
        assert analysis.from_json(analysis.to_json([found])) == [found]
        by_place = analysis.report(PLACES[name], scheme)
        assert by_place.model == PLACES[name]
        assert by_place.tensors == found.tensors

    def test_prediction(self, name):
        """Every op has a rule; matrices have σ = 1 under unit, to within their own size."""
        found = analysis.predict(PROGRAMS[name]())
        assert found.without_rule == ()
        std = {v.name: m.std for v, m in found.values.items()}
        matrices = [n for n, spec in PROGRAMS[name]().specs.items() if len(spec.shape) > 1]
        assert all(0.95 < std[n] <= 1 for n in matrices)

    def test_flops(self, name):
        """Products by hand: forward, ∂w and, but for the first layer, ∂x.

        MLP: 32 rows, layers 3 × 16, 16 × 16, 16 × 1. Convolutions: 8 images, 4 × 4 places of 9·1 terms for 4 channels,
        2 × 2 places of 9·4 terms for 8, and 32 × 2.
        """
        found = analysis.count_flops(PROGRAMS[name](), "unit")
        assert (found.batch, found.seq, found.constraint) == (None, None, "")
        first, *others = {
            "mlp": (32 * 3 * 16, 32 * 16 * 16, 32 * 16),
            "convnet": (8 * 16 * 9 * 4, 8 * 4 * 36 * 8, 8 * 32 * 2),
        }[name]
        assert found.products == 2 * first + 3 * sum(others)

    def test_plan(self, name):
        """Planned on a batch, legal on it and on smaller ones, with the factors of those."""
        program = PROGRAMS[name]()
        scheme = plan(program)
        assert gradient_factors(first_loss(program, Tape(scheme)).total)
        x, y = next_batch(program, program.batches(np.random.default_rng(0)))
        tape = Tape(scheme)
        p = leaves(tape, program, program.initial_parameters(scheme, np.random.default_rng(0)))
        assert gradient_factors(checked_loss(program, p, (x[:5], y[:5])).total)
        last = tape.nodes[-2].scales  # the readout: β of its weight is rows^-½
        assert last.beta[1] == pytest.approx(5**-0.5, rel=1e-15)
        assert tape.nodes[-1].scales.beta[0] == pytest.approx(5 / 8**0.5 if name == "mlp" else 10)
        with pytest.raises(FactorError, match="plan: call 0 is"):
            first_loss(Mlp(width=8), Tape(scheme))
        assert analysis.report(program, scheme).summary().outside_count <= 1

    @pytest.mark.parametrize("scheme", ["regular", "unit"])
    @pytest.mark.parametrize("precision", ["fp32", "fp8"])
    def test_training_resumes_to_the_same_bits(self, name, scheme, precision, tmp_path, monkeypatch):
        """20 steps; killed in step 4, before the first checkpoint, and in step 13."""
        config = TrainConfig(
            PLACES[name],
            scheme,
            precision,
            steps=20,
            lr=2.0**-6,
            checkpoint_every=6,
            evaluate_every=10,
            scales_every=10,
        )
        whole = train(config, tmp_path / "whole", report=quiet)
        assert (whole.steps, whole.diverged) == (20, "")
        assert all(math.isfinite(x) for x in whole.validation.values())
        lines = [json.loads(x) for x in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
        assert lines[-1]["loss"] < lines[0]["loss"]
        assert [n for n, line in enumerate(lines, 1) if "validation" in line] == [10, 20]
        real = train_loop.training_step
        for step in (3, 12):

            def killed(run, state, batch, step=step, **options):
                if state.step == step:
                    raise KeyboardInterrupt
                return real(run, state, batch, **options)

            with monkeypatch.context() as patch:
                patch.setattr(train_loop, "training_step", killed)
                with pytest.raises(KeyboardInterrupt):
                    train(config, tmp_path / "parts", resume=True, report=quiet)
        parts = train(config, tmp_path / "parts", resume=True, report=quiet)
        assert parts.validation == whole.validation
        for file in ("metrics.jsonl", "scales.jsonl", "config.json"):
            assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes()
        last = "checkpoint-00000020.npz"
        assert same_bits(tmp_path / "whole" / last, tmp_path / "parts" / last)
        report = checkpoint_report(newest(tmp_path / "whole"))
        assert (report.model, report.batch, report.text) == (f"{PLACES[name]} after 20 steps", None, "")


def test_epochs_differ_when_earlier_batches_are_not_drawn(tmp_path):
    """The check of the test above: a program that claims to be memoryless, and is not, resumes with other batches."""

    class Claims(ConvNet):
        memoryless = True

    config = TrainConfig("claims", steps=20, task="program")
    for program, same in ((ConvNet(), True), (Claims(), False)):
        run = Run.of(config, program)
        whole, resumed = list(run.batches(0))[8:], list(run.batches(8))
        assert len(whole) == len(resumed) == 12
        equal = [a[1].tobytes() == b[1].tobytes() for a, b in zip(whole, resumed, strict=True)]
        assert all(equal) == same


class TestIdentity:
    def test_of_a_file(self, tmp_path):
        place = line_of(tmp_path)
        program = load_program(place)
        assert program.digest == digest(program) == hashlib.sha256((tmp_path / "line.py").read_bytes()).hexdigest()
        assert program.name == place

    def test_of_a_class_in_another_file(self, tmp_path):
        path = tmp_path / "mine.py"
        path.write_text("from tests.programs.mlp import Mlp\nmodel = Mlp()\n")
        expected = hashlib.sha256(path.read_bytes() + (HERE / "mlp.py").read_bytes())
        assert load_program(f"{path}:model").digest == expected.hexdigest()

    def test_of_an_instance(self):
        assert digest(Mlp()) == hashlib.sha256((HERE / "mlp.py").read_bytes()).hexdigest()

    def test_of_a_module(self):
        assert load_program("tests.programs.mlp:model").digest == digest(Mlp())

    def test_of_a_class(self):
        assert isinstance(load_program(f"{HERE / 'convnet.py'}:ConvNet"), Program)

    def test_a_changed_file_is_refused(self, tmp_path):
        place = line_of(tmp_path)
        config = TrainConfig(place, steps=2)
        train(config, tmp_path / "run", report=quiet)
        line_of(tmp_path, ("rng=None):", "rng=None):  # changed"))
        with pytest.raises(ArgumentError, match=re.escape(f"contains another run: the program {place} has changed")):
            train(config, tmp_path / "run", resume=True, report=quiet)
        with pytest.raises(CheckpointError, match=r"a checkpoint of another run: program [0-9a-f]{8}…, not"):
            checkpoint_report(newest(tmp_path / "run"))

    def test_places(self):
        assert is_place("mine.py:model")
        assert is_place("a.b:Model")
        assert not any(map(is_place, ["bert-tiny", "bert-tiny:width=32", "bert-tiny:width", "mine.py", ":model"]))


def test_an_instance_is_trained_as_data(tmp_path):
    """Without a validation; the model is a name."""
    config = TrainConfig("line", "unit", steps=3, task="program", evaluate_every=1)
    lines: list[str] = []
    summary = train(config, tmp_path, data=load_program(line_of(tmp_path)), report=lines.append)
    assert summary.validation is None
    assert [line.partition("  loss")[0] for line in lines] == ["step 1/3", "step 2/3", "step 3/3"]
    assert not any("validation" in line for line in lines)
    assert load_checkpoint(tmp_path / "checkpoint-00000003.npz").config == config


def test_a_scheme_of_its_own(tmp_path):
    """A program with constants of a trained model runs under its own scheme."""
    program = load_program(line_of(tmp_path))
    program.scheme = get_scheme("unit-rms")
    assert Run.of(TrainConfig("line", "regular", task="program"), program).scheme is program.scheme
    assert analysis.report(program, "regular").scheme == "unit-rms"


def test_training_under_a_plan(tmp_path):
    """The validation's last batch has 5 rows of 32; the first step's gradients are those of the plan."""
    program = Mlp()
    program.scheme = plan(program)
    config = TrainConfig("mlp", "unit", "fp8", steps=20, lr=2.0**-6, task="program", checkpoint_every=20)
    summary = train(config, tmp_path, data=program, report=quiet)
    assert 0 < summary.validation["loss"] < 1
    run = Run.of(config, program)
    assert [len(x) for x, _ in run.validation] == [32, 5]
    result = forward_backward(run, run.initial_state(), next(run.batches(0)))
    assert [node.scales for node in result.tape.nodes] == [step.resolved for step in program.scheme.steps]


class TestSpec:
    @pytest.mark.parametrize("std", [0.0, -0.1, math.inf, math.nan])
    def test_sigma(self, std):
        with pytest.raises(ArgumentError, match=rf"Spec\('weight', \(2, 3\), std={std}\): expected a positive"):
            Spec("weight", (2, 3), std=std)
        assert Spec("weight", (2, 3), std=1e-30).std == 1e-30

    def test_role(self):
        with pytest.raises(ArgumentError, match=r"Spec\('wieght'\): expected one of weight, embedding, readout, bias"):
            Spec("wieght", (2, 3))


class TestBadPrograms:
    """Each differs from ``LINE`` in one place, and the message names it."""

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("def loss(", "def los(", "Can't instantiate abstract class Line with.* abstract method '?loss'?"),
            ("model = Line()", "model = 3", "program '.*line.py:model': got int, expected an instance of refscale"),
            ('self.specs = {"w": Spec("readout", (3, 1))}', "pass", "specs=None, expected a Spec for every parameter"),
            ('Spec("readout", (3, 1))', "(3, 1)", r"specs=\{'w': \(3, 1\)\}, expected a Spec for every parameter"),
            ('Spec("readout", (3, 1))', 'Spec("readout", (3,))', r"'w' is a readout of shape \(3,\), expected"),
            ("(3, 1))}", '(3, 1))}\n        self.buffers = {"w": 0}', "'w' is the name of a parameter and of a buffer"),
            ('p["w"]', 'p["v"]', r"loss: p\['v'\] has no spec, expected one of w"),
            ("return functional.mse_loss(functional.matmul(x, p[\"w\"]), y)", "return functional.matmul(x, p['w'])",
             r"line.py:model.loss returned shape \(4, 1\), expected a scalar"),
            ("return functional.mse_loss(functional.matmul(x, p[\"w\"]), y)", "return 0.5",
             "line.py:model.loss returned float, expected a scalar tensor"),
            ("while True:", "for _ in range(0):", "model.batches ended after 0 batches, expected batches"),
            ("            yield x,", "            return x,", "model.batches returned tuple, expected an iterator"),
            ("import numpy as np", "import no_such_module", "importing .* raised ModuleNotFoundError"),
        ],
    )  # fmt: skip
    def test_is_refused(self, old, new, message, tmp_path):
        place = line_of(tmp_path, (old, new))
        with pytest.raises(ProgramError, match=message):
            analysis.report(place, "unit")

    def test_a_class_without_instance(self):
        with pytest.raises(ProgramError, match=r"report: got the class Mlp, expected an instance, Mlp\(\)"):
            analysis.report(Mlp, "unit")

    def test_a_class_that_cannot_be_made(self, tmp_path):
        place = line_of(tmp_path, ("def __init__(self):", "def __init__(self, n):"), ("model = Line()", "model = Line"))
        with pytest.raises(ProgramError, match=r"line\.py:model': raised TypeError: .*missing 1 required"):
            load_program(place)

    @pytest.mark.parametrize(("where", "message"), [
        ("missing.py:model", "no file missing.py"),
        ("mine.py", "expected module:model or path/to/file.py:model"),
    ])  # fmt: skip
    def test_no_such_place(self, where, message):
        with pytest.raises(ProgramError, match=message):
            load_program(where)

    def test_batches_that_end_in_training(self, tmp_path):
        """After 3: the third step is done, the fourth is refused."""
        place = line_of(tmp_path, ("while True:", "for _ in range(3):"))
        train(TrainConfig(place, steps=3), tmp_path / "three", report=quiet)
        with pytest.raises(ProgramError, match="batches ended after 3 batches, expected batches without end"):
            train(TrainConfig(place, steps=4), tmp_path / "four", report=quiet)

    def test_parameters_of_another_shape(self, tmp_path):
        program = load_program(line_of(tmp_path))
        with pytest.raises(ShapeError, match=r"w has shape \(2, 1\), expected \(3, 1\)"):
            leaves(Tape(), program, {"w": np.ones((2, 1))})

    @pytest.mark.parametrize("field", ["batch", "seq", "dropout", "constraint", "stride", "evaluation_batches"])
    def test_options_of_a_text(self, field):
        value = {"dropout": 0.1, "constraint": "none"}.get(field, 9)
        with pytest.raises(ArgumentError, match=rf"TrainConfig\({field}={value!r}\): expected .* the default"):
            TrainConfig("mine.py:model", **{field: value})
        if field in ("batch", "seq", "constraint"):
            with pytest.raises(ArgumentError, match=rf"report\({field}={value!r}\): expected None"):
                analysis.report(Mlp(), "unit", **{field: value})


def test_a_sweep(tmp_path):
    """By the score "loss"; without one of that name, a run is a row that failed."""
    base = {"model": PLACES["mlp"], "steps": 2, "evaluate_every": 2}
    spec = SweepSpec(
        "two rates", base, variants={"unit": {"scheme": "unit"}}, search="grid", start=({"exponents": [-7]},)
    )
    (row,) = sweep(spec, tmp_path).values()
    assert (row.status, row.share) == ("done", None)
    assert 0 < row.loss < math.inf
    summary = {"config": {"task": "program"}, "diverged": "", "validation": {"nats": 1.0}, "seconds": 1, "overhead": {}}
    for validation in ({"nats": 1.0}, {}, None):
        failed = to_row("a", {}, -7.0, 0, summary | {"validation": validation})
        assert (failed.status, failed.loss) == ("failed", None)
        assert failed.message == "no score 'loss' in the validation, expected one to compare runs by"
    assert to_row("a", {}, -7.0, 0, summary | {"validation": {"loss": 2.0}}).loss == 2.0
    assert to_row("a", {}, -7.0, 0, summary | {"validation": None, "diverged": "step 3"}).status == "diverged"


def test_the_program_of_the_readme(tmp_path):
    readme = (HERE.parents[1] / "README.md").read_text(encoding="utf-8")
    (source,) = (block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "Program" in block)
    path = tmp_path / "mine.py"
    path.write_text(source, encoding="utf-8")
    model = load_program(f"{path}:model")
    assert analysis.report(model, "unit").summary().outside_count == 0
    assert gradient_factors(first_loss(model, Tape(plan(model))).total)
    assert train(TrainConfig("mlp", task="program", steps=2), tmp_path / "run", data=model, report=quiet).steps == 2


class TestCommands:
    def test_report(self, capsys):
        assert main(["report", PLACES["mlp"], "--scheme", "unit"]) == 0
        assert f"━━ unit: {PLACES['mlp']}, fp32, seed 0" in capsys.readouterr().out
        assert main(["report", PLACES["mlp"], "--flops"]) == 0
        assert f"━━ regular: {PLACES['mlp']}\n" in capsys.readouterr().out

    def test_train_and_resume(self, tmp_path, capsys):
        command = ["train", PLACES["convnet"], "--scheme", "unit", "--precision", "fp8", "--out", str(tmp_path)]
        assert main([*command, "--steps", "4"]) == 0
        assert "validation: nats " in capsys.readouterr().out
        assert main([*command, "--steps", "4", "--resume"]) == 0
        assert main(["report", "--checkpoint", str(tmp_path)]) == 0
        assert "after 4 steps, fp8, seed 0" in capsys.readouterr().out

    @pytest.mark.parametrize(
        "command",
        [
            ["report", "--seq", "9"],
            ["report", "--text", "x"],
            ["report", "--constraint", "none"],
            ["train", "--batch", "9", "--out", "x"],
            ["train", "--text", "x", "--out", "x"],
        ],
        ids=" ".join,
    )
    def test_options_of_a_text(self, command, capsys, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert main([command[0], PLACES["mlp"], *command[1:]]) == 2
        assert "program" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_comparison_of_a_program(tmp_path):
    """Rates are found and variants run as for a built-in model, without a share of correct predictions."""
    validation = "def validation(self, rng):\n        return [(np.ones((2, 3)), np.ones((2, 1)))]\n\n    def batches"
    where = line_of(tmp_path, ("def batches", validation))
    base = replace(default_config(where), steps=2, evaluate_every=2, checkpoint_every=1, weight_decay=0.0)
    variants = (Variant("regular", "fp32"), Variant("unit", "fp8;w=bf16"))
    found = compare(base, tmp_path / "out", seeds=1, variants=variants)
    assert [(r.variant, r.accuracy, r.diverged) for r in found.runs] == [(v, None, "") for v in variants]
    assert "unit fp8;w=bf16" in tables(found)


def test_tables_of_a_comparison_of_a_program():
    """Neither tokens nor a share of correct predictions."""
    base = replace(default_config("mine.py:model"), steps=2)
    overhead = dict.fromkeys(("scales", "statistics", "extra_passes", "changes", "skipped", "state"), 0)
    run = RunResult(Variant("regular", "fp32"), 0, -9.0, 1.5, None, "", 1.0, None, None, overhead)
    text = tables(Comparison(base, (0,), {"regular": {-9.0: 1.5}}, {"regular": -9.0}, {"regular": 0}, (run,)))
    assert text.startswith("mine.py:model, 2 steps, adamw, linear schedule; seeds 0.\n")
    head, _, row = text.split("\n\n")[2].splitlines()
    assert [cell.strip() for cell in head.split("|")[1:-1]] == [
        *("run", "validation loss", "± sd", "− regular fp32"),
        *("flushed, first step", "zero, last step", "seconds, least"),
    ]
    assert [cell.strip() for cell in row.split("|")[1:-1]] == ["regular fp32", "1.500", "", "", "", "", "1"]
