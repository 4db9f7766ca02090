"""What narrow formats do to a trained network: errors, SNR, one class at a time; and what would be wrong."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from refscale import analysis, models, ops, published
from refscale.analysis import fidelity_from_json, fidelity_to_json, load_fidelity, render_fidelity
from refscale.analysis.fidelity.report import CastLosses
from refscale.analysis.fidelity.run import _errors, _loss_scale, _Pass, compare, passes
from refscale.analysis.fidelity.subjects import ProgramSubject
from refscale.analysis.fidelity.watch import Watch, cast_snr
from refscale.cli import main
from refscale.data import Vocabulary, load_text
from refscale.engine import CastRecord, Tape, Variable, apply, backward
from refscale.errors import ArgumentError, DataError, ProgramError
from refscale.formats import Cast
from refscale.layers import Spec
from refscale.models import bert
from refscale.precision import fp8, get_precision
from refscale.programs import digest
from refscale.progress import Progress
from refscale.scales import regular
from tests.adapt.programs import PROGRAMS
from tests.models.batches import random_batch

E4M3 = Cast("float8_e4m3fn", "nearest_even", "saturate")
SIZE = {"batch": 2, "seq": 32}
LARGE = {"batch": 16, "seq": 32}
"""Elements enough for the gradient of their mean to be below FP8's range."""


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(load_text()[:20_000], encoding="utf-8")
    return path


def model_of(text, outputs=("pooler",), factor=1.0, **changes):
    words = Vocabulary.from_text(text.read_text(encoding="utf-8"), 300)
    config = bert.BertConfig(2, 32, 2, 64, len(words), 32, outputs=outputs, **changes)
    parameters = models.initial_parameters(config, regular, np.random.default_rng(0))
    for name, x in parameters.items():
        if "encoder" in name and x.ndim == 2:
            parameters[name] = x * np.float32(5 * factor)  # σ = 0.1, about what training leaves
    return published.Pretrained(config, parameters, words, "digest")


@pytest.fixture(scope="module")
def report(text):
    return analysis.fidelity(model_of(text), policies=("fp16", "fp8"), text=text, **LARGE)


@pytest.fixture(scope="module")
def with_loss(text):
    return analysis.fidelity(model_of(text, ("mlm", "nsp")), policies=("fp8",), text=text, **SIZE)


def row(rows, policy, scheme, scaled=False):
    (found,) = (e for e in rows if (e.policy, e.scheme, e.loss_scale is not None) == (policy, scheme, scaled))
    return found


def test_snr_by_hand():
    """1 is exact, 1.0625 = 1 + 1/16 is a tie to 1: noise 1/16; 2^-11 becomes 0, all of it lost."""
    assert cast_snr([1.0, 0.5], E4M3) == math.inf
    assert cast_snr([1.0625], E4M3) == pytest.approx(20 * math.log10(17))
    assert cast_snr([2.0**-11], E4M3) == 0
    assert cast_snr([2.0**-11], E4M3, 2.0**10) == math.inf
    assert cast_snr([1.0, np.inf], E4M3) == -math.inf


def test_errors_by_hand():
    x, y = np.array([3.0, 4.0]), np.array([3.0, 5.0])
    assert compare([(y, x)]) == (pytest.approx(1 / 5), pytest.approx(29 / (5 * math.sqrt(34))))
    assert compare([(x, x)]) == (0, pytest.approx(1))
    assert compare([(x[:1], x[:1]), (y[1:], x[1:])]) == compare([(y, x)])  # in parts
    assert compare([(np.array([np.nan]), np.array([1.0]))]) == (math.inf, 0)


def test_figures_of_a_pass_by_hand():
    """Rows (3, 4), (0, 1), in float64 (3, 5), (1, 0); an operand of two products counts once."""
    x, w = (Variable(name, (2,), True, None) for name in "xw")
    casts = [
        CastRecord(x, "operand", E4M3, 10, 1, 2),
        CastRecord(x, "operand", E4M3, 10, 1, 2),
        CastRecord(w, "operand", E4M3, 6, 0, 1),
        CastRecord(x, "output", E4M3, 10, None, None),
        CastRecord(x, "leaf", E4M3, 10, 3, 0),
        CastRecord(x, "operand_gradient", E4M3, 7, 3, 4),
        CastRecord(x, "gradient", E4M3, 7, 0, 5),
    ]
    gradients = {"w": (np.array([12.0, 20.0]), 4.0), "b": (np.array([0.0]), 2.0)}
    one = _Pass([np.array([[3.0, 4.0], [0.0, 1.0]])], gradients, 1.5, casts)
    true = {"w": (np.array([3.0, 4.0]), 1.0), "b": (np.array([0.0]), 1.0)}
    reference = _Pass([np.array([[3.0, 5.0], [1.0, 0.0]])], true, 1.0, [])
    e = _errors(one, reference, "unit", 8.0)
    assert (e.scheme, e.loss_scale, e.loss) == ("unit", 8.0, 1.5)
    assert e.output == pytest.approx(math.sqrt(3 / 35))
    assert e.output_cosine == pytest.approx((29 / (5 * math.sqrt(34)) + 0) / 2)
    assert e.gradient == pytest.approx(1 / 5)
    assert e.gradient_cosine == pytest.approx(29 / (5 * math.sqrt(34)))
    assert e.forward == CastLosses(36, 4, 3)
    assert e.backward == CastLosses(14, 3, 9)


@pytest.mark.parametrize(
    ("policy", "largest", "scale"),
    [
        ("fp16", 1.0, 2.0**14),  # 2^14 ≤ 65504/2 < 2^15
        ("fp16", 1.9990, 2.0**14),  # 32751.6, just below half of the largest, 32752
        ("fp16", 1.9991, 2.0**13),
        ("fp16", 2.0**-10, 2.0**24),
        ("fp8", 1.0, 2.0**14),  # of E5M2: 57344/2
        ("fp8", 1.7501, 2.0**13),  # FP16 has room for twice as much
        ("store=bf16,operand_gradient=e4m3fn", 1.0, 2.0**7),  # 448/2; bfloat16 limits nothing
        ("fp8-hidden", 1.0, 2.0**14),
        ("bf16", 1.0, 1.0),  # has the exponents of float32
        ("fp32", 1.0, 1.0),
    ],
)
def test_a_loss_scale_brings_the_largest_gradient_just_below_half_of_the_largest_value(policy, largest, scale):
    assert _loss_scale(get_precision(policy), largest) == scale


def test_elements_are_those_of_the_operands(report):
    """512 tokens of width 32, hidden 64, two heads; what query, key and value read is one operand; two layers."""
    tokens, d, hidden, scores = 16 * 32, 32, 64, 16 * 2 * 32 * 32
    weights = 4 * d * d + 2 * d * hidden
    matmul = 2 * (weights + 3 * tokens * d + tokens * hidden)
    mix = 2 * (scores + tokens * d)
    gradients = 2 * (4 * tokens * d + tokens * hidden + tokens * d + scores + tokens * d)
    for scheme in ("regular", "unit"):
        found = {e.policy: e for e in report.classes if e.scheme == scheme and e.loss_scale is None}
        assert found["matmul"].forward.elements == matmul
        assert found["attention_scores"].forward.elements == 2 * 2 * tokens * d
        assert found["attention_mix"].forward.elements == mix
        assert found["operands"].forward.elements == matmul + 4 * tokens * d + mix
        assert found["incoming gradients"].backward.elements == gradients


def test_what_passes_over_a_tape_by_hand():
    """(x·w)·w, of which the first row is taken: w is one operand of two products; moved values are stored already.

    x = (1, 2^-11; 0, 4), w = diag(1, 2): products (1, 2^-10; 0, 8) and (1, 2^-9; 0, 16). With gradients of
    s = 2^-26, that of w is (2s, 3s; 3·2^-11 s, 2^-9 s): FP16 rounds only 3s to another number than 0.
    """
    watch = Watch({"w": Spec("weight", (2, 2))}, fp8)
    tape = Tape(regular, probe=watch)
    x = tape.tensor([[1, 2.0**-11], [0, 4]], "x", requires_grad=False)
    w = tape.tensor([[1.0, 0.0], [0.0, 2.0]], "w")
    with tape.scope("one"):
        y = apply(ops.Matmul(), x, w)
    with tape.scope("two"):
        y = apply(ops.Matmul(), y, w)
    backward(apply(ops.Sum(), apply(ops.Slice(0, 0, 1), y)), 2.0**-26)
    forward = [t for t in watch.operands if t.kind != "activation gradient"]
    assert [(t.name, t.kind, t.format, t.elements, t.amax) for t in forward] == [
        ("x", "weight", "float8_e4m3fn", 4, 4.0),
        ("w", "weight", "float8_e4m3fn", 4, 2.0),
        ("two.matmul.x", "activation", "float8_e4m3fn", 4, 8.0),
    ]
    one = watch.operands[0]
    assert (one.flushed, one.subnormal, one.clipped) == (pytest.approx(1 / 3), 0, 0)
    assert one.rms == pytest.approx(math.sqrt((17 + 2.0**-22) / 4))
    assert one.snr == pytest.approx(10 * math.log10(17 * 2.0**22 + 1))  # 2^-11 becomes 0
    assert one.scaled_snr == math.inf  # times 64, 2^-5 is exact, and 256 the largest that is left
    assert (watch.operands[2].flushed, watch.operands[2].snr) == (
        pytest.approx(1 / 3),  # 2^-10, a tie, goes to 0
        pytest.approx(10 * math.log10(65 * 2.0**20 + 1)),
    )
    gradients = [t for t in watch.operands if t.kind == "activation gradient"]
    assert [(t.name, t.format, t.flushed, t.snr) for t in gradients] == [
        ("two.matmul", "float8_e5m2", 1.0, 0.0),
        ("one.matmul", "float8_e5m2", 1.0, 0.0),
    ]
    assert gradients[0].scaled_snr == math.inf
    assert watch.stored == 3 + 4  # w and two products; gradients of these and of the row
    assert watch.largest_gradient == 3 * 2.0**-26
    assert [(t.name, t.kind, t.flushed, t.clipped) for t in watch.beyond] == [
        ("slice", "activation gradient", 1.0, 0.0),
        ("two.matmul", "activation gradient", 1.0, 0.0),
        ("one.matmul", "activation gradient", 1.0, 0.0),
        ("w", "weight gradient", 0.75, 0.0),
    ]


def test_operands_are_measured_with_their_factor():
    """Times 2, 0.2 is ½ in E2M1 and 4 is 6: σ and amax are those of x, errors those of ½ and 3/4 of the cast."""
    watch = Watch({}, get_precision("operand=e2m1fn,operand_factor=2"))
    tape = Tape(regular, probe=watch)
    apply(ops.Matmul(), tape.tensor([[0.2, 4.0]], "x"), tape.tensor(np.eye(2), "w"))
    x = watch.operands[0]
    assert (x.flushed, x.clipped, x.amax) == (0, 0.5, 4)
    assert x.snr == pytest.approx(10 * math.log10((0.2**2 + 4**2) / (0.05**2 + 1)), rel=1e-6)


def test_the_gradient_of_a_loss_is_no_gradient_to_bring_into_range():
    """It is the loss scale itself: of a mean of eight, the largest is an eighth of it."""
    watch = Watch({}, None)
    backward(apply(ops.Mean(), Tape(regular, probe=watch).tensor(np.ones(8), "x")), 2.0)
    assert (watch.largest_gradient, watch.stored, watch.operands) == (0.25, 0, [])


def test_padding_is_the_share_of_the_batch(report, text, monkeypatch):
    """The text fills its sequences; of these two, one is cut by a quarter."""
    assert report.padding == 0
    assert "padding" not in render_fidelity(report).split("\n\n")[0]
    model = model_of(text)
    cut = random_batch(model.config, np.random.default_rng(0), 2, 16, 3)
    module = __import__("sys").modules["refscale.analysis.fidelity.subjects"]
    monkeypatch.setattr(module, "masked_lm_batches", lambda *args, **sizes: iter([cut]))
    found = analysis.fidelity(model, policies=(), text=text, batch=2, seq=16)
    assert found.padding == 1 / 8
    assert "batch 2 × 16, 12 % padding, seed 0" in render_fidelity(found)


def test_float32_is_near_float64(report):
    for scheme in ("regular", "unit"):
        e = row(report.policies, "fp32", scheme)
        assert (0 < e.output < 1e-5, 0 < e.gradient < 1e-5) == (True, True)
        assert (e.output_cosine, e.gradient_cosine) == (pytest.approx(1), pytest.approx(1))
        assert (e.forward.elements, e.backward.elements) == (0, 0)


def test_what_fp8_costs(report):
    """Regular gradients of a mean are flushed away; unit ones are not, nor those with a loss scale."""
    plain, scaled, unit = (row(report.policies, "fp8", *key) for key in (("regular",), ("regular", True), ("unit",)))
    assert plain.gradient > 3 * max(scaled.gradient, unit.gradient)
    assert plain.backward.flushed > 3 * unit.backward.flushed
    assert plain.output < 0.2
    assert unit.output < 0.2


def test_one_class_at_a_time(report):
    """Each costs something, none more than all but by chance; forward casts do not touch what comes back alone."""
    assert report.focus == "fp8"
    names = list(dict.fromkeys(e.policy for e in report.classes))
    assert names == ["matmul", "attention_scores", "attention_mix", "operands", "incoming gradients", "storage"]
    for scheme in ("regular", "unit"):
        everything = row(report.policies, "fp8", scheme)
        for name in names:
            assert row(report.classes, name, scheme).output < 1.5 * everything.output
        assert row(report.classes, "incoming gradients", scheme).forward.elements == 0
        assert row(report.classes, "operands", scheme).backward.elements == 0
        forward = [row(report.classes, name, scheme).forward.elements for name in names[:3]]
        assert sum(forward) == row(report.classes, "operands", scheme).forward.elements
        assert min(forward) > 0


def test_readouts_are_a_class_where_there_is_one(with_loss):
    assert "readout" in {e.policy for e in with_loss.classes}
    assert with_loss.objective == "masked LM + next sentence"


def test_operands_and_their_bound(report):
    assert report.bound("float8_e4m3fn") == pytest.approx(analysis.snr("float8_e4m3fn").max() - 1)
    for scheme in ("regular", "unit"):
        kinds = [t.kind for t in report.of_scheme(scheme)]
        assert kinds.count("weight") == 12
        assert kinds.count("activation gradient") == 16  # six products and two of attention, twice
    below = {s: sum(map(report.is_below, report.of_scheme(s))) for s in report.schemes}
    assert below["unit"] < below["regular"]


def test_tiny_weights_are_lost_unless_unit_scaled(text):
    """Regular matrices of 2^-20 are all zero in E4M3; their unit-scaled form is unchanged."""
    found = analysis.fidelity(model_of(text, factor=2.0**-20), policies=("fp8",), text=text, **SIZE)
    weights = {s: [t.snr for t in found.of_scheme(s) if t.kind == "weight"] for s in found.schemes}
    assert max(weights["regular"]) == 0
    assert min(weights["unit"]) > 30


def test_gradients_are_compared_in_the_models_own_units(text, monkeypatch):
    """Not divided by c and by what matrices were divided by, they would not be those of the model."""
    module = __import__("sys").modules["refscale.analysis.fidelity.run"]
    monkeypatch.setattr(module._Pass, "gradient", lambda self, name: self.gradients[name][0].astype(np.float64))
    found = analysis.fidelity(model_of(text), policies=(), text=text, **SIZE)
    assert row(found.policies, "fp32", "unit").gradient > 0.1


def test_json_and_text(report, with_loss):
    for found in (report, with_loss):
        again = fidelity_from_json(fidelity_to_json(found))
        assert fidelity_to_json(again) == fidelity_to_json(found)
        assert render_fidelity(again) == render_fidelity(found)
        assert max(map(len, render_fidelity(found).splitlines())) <= 100
    with pytest.raises(DataError, match="fidelity_from_json"):
        fidelity_from_json("{}")
    assert "errs less in" in render_fidelity(report)


def test_only_storage(text):
    found = analysis.fidelity(model_of(text), policies=("fp16",), text=text, **SIZE)
    assert (found.classes, found.operands, found.focus, found.store) == ((), (), "fp16", "float16")
    assert "STORAGE in FP16" in render_fidelity(found)


def test_passes_are_counted(text):
    model = model_of(text)
    with Progress(passes(model, ("fp8",)), "passes", "test") as progress:
        analysis.fidelity(model, policies=("fp8",), text=text, progress=progress, **SIZE)
        assert progress.done == pytest.approx(passes(model, ("fp8",)), abs=4)  # one that is known is not run again


def test_refusals(text):
    model = model_of(text)
    with pytest.raises(DataError, match="no tokenizer"):
        analysis.fidelity(replace(model, tokenizer=None))
    with pytest.raises(ArgumentError, match="trained under 'regular' has regular and unit"):
        analysis.fidelity(model, schemes=("u-mup",), text=text)
    with pytest.raises(ArgumentError, match="seed ≥ 0"):
        analysis.fidelity(model, seed=-1, text=text)
    with pytest.raises(ArgumentError, match="trained under 'unit' has unit"):
        analysis.fidelity(replace(model, scheme="unit"), schemes=("regular",), text=text)


@pytest.fixture(scope="module")
def of_a_program():
    return analysis.fidelity(PROGRAMS["residual"], policies=("fp16", "fp8"))


class TestPrograms:
    def test_the_heads(self, of_a_program):
        assert (of_a_program.schemes, of_a_program.objective) == (("regular", "adapted"), "loss of the program")
        assert of_a_program.digest == digest(PROGRAMS["residual"])
        text = render_fidelity(of_a_program)
        assert "   seed 0\n   objective: loss of the program" in text
        assert "Beside regular, unit scaling errs less in" in text
        assert fidelity_from_json(fidelity_to_json(of_a_program)) == of_a_program

    def test_both_compute_one_function(self, of_a_program):
        for scheme in of_a_program.schemes:
            e = row(of_a_program.policies, "fp32", scheme)
            assert (0 < e.output < 1e-6, 0 < e.gradient < 1e-5) == (True, True)
            assert e.loss == pytest.approx(of_a_program.loss, rel=1e-6)

    def test_the_output_is_what_the_loss_is_computed_from(self):
        """Logits of six rows and four classes, by hand in bfloat16, regular."""
        program = PROGRAMS["mlp"]
        subject = ProgramSubject(program, None, 0)
        _, _, outputs = subject.forward(Tape(regular, dtype=np.float64), subject.parameters)
        p, (x, _) = subject.parameters, subject.batch
        logits = np.maximum(x @ p["w"] + p["b"], 0) @ p["out"]
        np.testing.assert_allclose(outputs[0], logits, rtol=1e-12)
        assert len(outputs) == 1

    def test_classes_are_the_ops_of_the_program(self, of_a_program):
        names = list(dict.fromkeys(e.policy for e in of_a_program.classes))
        assert names == ["matmul", "operands", "incoming gradients", "storage"]
        convolutions = analysis.fidelity(PROGRAMS["image"], policies=("fp8",), schemes=("regular",))
        assert list(dict.fromkeys(e.policy for e in convolutions.classes))[:2] == ["conv2d", "matmul"]

    def test_parameters_are_given_or_its_own(self):
        program = PROGRAMS["mlp"]
        own = program.initial_parameters(regular, np.random.default_rng(0))
        other = {name: 2 * x for name, x in own.items()}
        one, two = (analysis.fidelity(program, policies=(), parameters=p) for p in (own, other))
        assert one == analysis.fidelity(program, policies=())
        assert one.loss != two.loss

    def test_passes_are_counted(self):
        with Progress(passes(PROGRAMS["mlp"], ("fp8",)), "passes", "test") as progress:
            analysis.fidelity(PROGRAMS["mlp"], policies=("fp8",), progress=progress)
            assert progress.done == pytest.approx(passes(PROGRAMS["mlp"], ("fp8",)), abs=4)

    def test_refusals(self, text):
        with pytest.raises(ArgumentError, match=r"fidelity\(batch=2\): a program defines it itself"):
            analysis.fidelity(PROGRAMS["mlp"], batch=2)
        with pytest.raises(ArgumentError, match="trained under 'regular' has regular and adapted"):
            analysis.fidelity(PROGRAMS["mlp"], schemes=("unit",))
        with pytest.raises(ArgumentError, match="a published model has its own"):
            analysis.fidelity(model_of(text), parameters={}, text=text)
        with pytest.raises(ProgramError, match="fidelity: got int"):
            analysis.fidelity(3)

    def test_by_command(self, tmp_path, capsys):
        path = tmp_path / "mine.py"
        source = "from tests.adapt.programs import MLP, Trained, mlp\nmodel = Trained(MLP, mlp)\n"
        path.write_text(source, encoding="utf-8")
        main(["fidelity", f"{path}:model", "--precision", "fp16", "--json", str(tmp_path / "f.json")])
        text = capsys.readouterr().out
        assert "million parameters" in text
        assert "Beside regular, unit scaling errs" in text
        assert load_fidelity(tmp_path / "f.json").schemes == ("regular", "adapted")
        with pytest.raises(SystemExit):
            main(["fidelity"])


def test_the_figure(report, with_loss, tmp_path):
    pytest.importorskip("matplotlib")
    for k, found in enumerate((report, with_loss)):
        analysis.plot_fidelity(tmp_path / f"{k}.svg", found)
        assert (tmp_path / f"{k}.svg").read_bytes().startswith(b"<?xml")
    assert fp8.operand
