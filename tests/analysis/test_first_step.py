import numpy as np
import pytest

from refscale import models, ops
from refscale.analysis import report
from refscale.analysis.report.first_step import work
from refscale.data import Vocabulary, load_text
from refscale.engine import Tape, apply, backward
from refscale.errors import ArgumentError, DataError, ShapeError
from refscale.graph import gradient_factors
from refscale.layers import Spec
from refscale.layers.blocks import SHIFT
from refscale.models import bert
from refscale.progress import Progress
from refscale.scales import get_scheme, regular
from refscale.stats import KINDS
from refscale.stats.trace import ZERO_BIAS, TensorProbe, layer_of
from refscale.tasks import masked_lm_batches

CONFIG = bert.get_config("bert-tiny")
SMALL = {"batch": 2, "seq": 32}


def by_name(report, kind):
    return {t.name: t for t in report.of_kind(kind)}


class TestTensors:
    def test_every_parameter_and_its_gradient(self, unit):
        specs = bert.specs(CONFIG)
        weights = unit.of_kind("weight")
        assert [t.name for t in weights] == list(specs)
        assert [(t.shape, t.role) for t in weights] == [(s.shape, s.role) for s in specs.values()]
        gradients = by_name(unit, "weight gradient")
        assert gradients.keys() - specs.keys() == {"embeddings.word.fork#1", "embeddings.word.fork#2"}
        assert specs.keys() <= gradients.keys()

    def test_order_and_names(self, regular):
        for kind in KINDS:
            names = [t.name for t in regular.of_kind(kind)]
            assert len(names) == len(set(names)), kind
            layers = list(dict.fromkeys(t.layer for t in regular.of_kind(kind)))
            expected = ["embeddings", "encoder.0", "encoder.1", "encoder", "mlm", "nsp"]
            assert layers == [layer for layer in expected if layer in layers]

    def test_no_rows_for_what_only_moves_values(self, unit):
        roles = {t.role for t in unit.tensors}
        assert not roles & {"reshape", "transpose"}
        assert not {t.role for t in unit.of_kind("activation")} & {"bias", "fork", "scaled"}
        assert {"matmul", "gelu", "layer_norm", "masked_softmax", "attention_scores"} <= roles

    def test_losses_are_apart(self, regular):
        assert list(regular.losses) == ["mlm.softmax_cross_entropy", "nsp.softmax_cross_entropy", "loss_sum"]
        mlm, nsp, total = regular.losses.values()
        assert total == pytest.approx(mlm + nsp)
        assert mlm == pytest.approx(np.log(4096), rel=0.02)  # small logits: uniform over the vocabulary
        assert all(t.shape for t in regular.tensors)

    def test_figures_are_those_of_the_arrays(self, unit):
        scheme = get_scheme("unit")
        text = load_text()
        vocabulary = Vocabulary.from_text(text, CONFIG.vocabulary)
        batch = next(masked_lm_batches(text, vocabulary, batch=8, seq=128, rng=np.random.default_rng(0)))
        tape = Tape(scheme)
        p = models.parameters_on(tape, models.initial_parameters(CONFIG, scheme, np.random.default_rng(0)), CONFIG)
        losses = bert.pretraining_loss(p, batch, CONFIG)
        factors = gradient_factors(losses.total)
        backward(losses.total)
        rows = by_name(unit, "weight gradient")
        for name, parameter in p.items():
            t, x = rows[name], parameter.grad.astype(np.float64)
            assert t.std == pytest.approx(x.std(), rel=1e-9)
            assert t.rms == pytest.approx(np.sqrt((x**2).mean()), rel=1e-9)
            assert t.amax == np.abs(x).max()
            assert t.zeros == np.count_nonzero(x == 0)
            assert t.c == factors[parameter.variable]

    def test_weights_are_predicted_as_they_are_drawn(self, regular, unit):
        """About the mean of all elements: σ·√(1 − 1/n), for n of 256 (segments) and more."""
        for found, sigma in ((regular, 0.02), (unit, 1.0)):
            for t in found.of_kind("weight"):
                drawn = sigma * (1 - 1 / t.elements) ** 0.5 if len(t.shape) == 2 else 0.0
                assert t.predicted == pytest.approx(drawn, rel=1e-9, abs=1e-12), t.name

    def test_c_is_of_gradients(self, regular, unit):
        for t in (*regular.tensors, *unit.tensors):
            assert (t.c is not None) == t.kind.endswith("gradient")
        assert {t.c for t in regular.tensors} == {None, 1.0}
        assert len({t.c for t in unit.tensors}) > 5


class TestThePoint:
    def test_regular_is_far_from_unit_scale(self, regular):
        s = regular.summary()
        assert s.outside_count / s.judged_count > 0.8
        assert s.outside["activation gradient"] == s.judged["activation gradient"]
        assert s.worst.scale < 2**-20
        assert all(t.std == pytest.approx(0.02, rel=0.15) for t in regular.of_kind("weight") if t.role == "weight")

    def test_unit_is_near(self, unit):
        s = unit.summary()
        assert s.outside_count / s.judged_count < 0.15
        assert s.outside["weight"] == 0

    def test_a_poisoned_unit_model_is_caught(self):
        # All weights 8 times too wide: nothing that looks at scales may pass this.
        class Wide(type(get_scheme("unit"))):
            def initial_std(self, regular):
                return 8.0

        s = report("bert-tiny", Wide("wide"), **SMALL).summary()
        assert s.outside["weight"] == sum(t.role in ("weight", "embedding", "readout") for t in record_weights())


def record_weights():
    return report("bert-tiny", "unit", **SMALL).of_kind("weight")


class TestZeroByConstruction:
    def test_named(self, unit):
        zero = unit.summary().zero
        assert zero.keys() == {ZERO_BIAS, SHIFT}
        assert len(zero[ZERO_BIAS]) == sum(s.role == "bias" for s in bert.specs(CONFIG).values())
        assert zero[SHIFT] == ("encoder.0.attention.key.bias", "encoder.1.attention.key.bias")

    @pytest.mark.parametrize("which", ["regular", "unit"])
    def test_key_biases_have_rounding_only(self, which, request):
        gradients = by_name(request.getfixturevalue(which), "weight gradient")
        for i in range(CONFIG.layers):
            key, query = (gradients[f"encoder.{i}.attention.{part}.bias"] for part in ("key", "query"))
            # A sum of 1024 rows in float32, against one of like terms that do not cancel.
            assert key.rms < 1024 * 2.0**-23 * query.rms


class TestArguments:
    def test_same_seed_same_report(self):
        a = report("bert-tiny", "unit", seed=3, **SMALL)
        assert a == report("bert-tiny", "unit", seed=3, **SMALL)
        assert a != report("bert-tiny", "unit", seed=4, **SMALL)

    def test_precision_counts_casts(self):
        r = report("bert-tiny", "regular", "fp8", **SMALL)
        places = {(c.place, c.format) for c in r.casts}
        assert ("operand", "float8_e4m3fn") in places
        assert ("operand_gradient", "float8_e5m2") in places
        flushed = {c.place: c.flushed / c.elements for c in r.casts}
        assert flushed["operand_gradient"] > 0.1
        u = report("bert-tiny", "unit", "fp8", **SMALL)
        assert all(c.flushed / c.elements < 0.02 and c.clipped == 0 for c in u.casts)
        # Values stored in FP16 lose nothing more there.
        assert all(t.lost["float16"].underflow == t.lost["float16"].overflow == 0 for t in r.tensors)

    def test_fp32_has_no_casts(self, regular):
        assert regular.casts == ()

    def test_unit_rms_is_judged_by_rms(self):
        r = report("bert-tiny", "unit-rms", **SMALL)
        assert {t.statistic for t in r.tensors} == {"rms"}
        softmax = next(t for t in r.tensors if t.role == "masked_softmax")
        assert softmax.scale == softmax.rms != softmax.std

    def test_a_configuration_and_a_file(self, tmp_path):
        path = tmp_path / "text.txt"
        path.write_text("The cat sat on the mat. The dog ran to the cat. It was late. " * 40)
        config = bert.BertConfig(layers=1, width=16, heads=2, hidden=32, vocabulary=30, positions=16, tied=False)
        r = report(config, "unit", text=path, batch=2, seq=16)
        assert (r.model, r.text) == ("BertConfig", str(path))
        assert "mlm.decoder.weight" in by_name(r, "weight gradient")

    def test_progress_reaches_its_total(self):
        with Progress(work("bert-tiny"), visible=False) as progress:
            report("bert-tiny", "unit", progress=progress, **SMALL)
        assert progress.done == pytest.approx(progress.total)

    def test_errors(self, tmp_path):
        with pytest.raises(
            ArgumentError, match=r"report\(batch=0, seq=128, seed=0\): expected batch, seq ≥ 1, seed ≥ 0"
        ):
            report("bert-tiny", "unit", batch=0)
        with pytest.raises(ArgumentError, match="get_config\\('bert-huge'\\)"):
            report("bert-huge", "unit")
        with pytest.raises(ShapeError, match="sequence length 600, expected at most 512"):
            report("bert-tiny", "unit", batch=1, seq=600)
        with pytest.raises(DataError, match="cannot be read"):
            report("bert-tiny", "unit", text=tmp_path / "none.txt")


@pytest.mark.parametrize("size", [0.0, 1.0])
def test_why_a_tensor_is_zero(size):
    """As the specs of parameters say, and only where it is zero; a product that is computed from another is not."""
    state = Spec("bias", (2,), zero_products="a state starts at zero")
    first = Spec("bias", (2,), unused="no first prediction")
    shift = Spec("bias", (2,), zero_gradient="a shift")
    specs = {"state": state, "first": first, "shift": shift, "gain": Spec("gain", (2,)), "w": Spec("weight", (2,))}
    trace = TensorProbe(specs)
    tape = Tape(regular, probe=trace)
    p = {name: tape.tensor(np.full(2, size if name == "state" else float(name == "w")), name) for name in specs}
    h = apply(ops.Bias(), np.zeros((3, 2)), p["state"])
    with tape.scope("of the state"):
        y = apply(ops.Multiply(), apply(ops.Reshape((1, 6)), h), np.ones((1, 6)))
    y = apply(ops.Reshape((3, 2)), y)
    with tape.scope("of its product"):
        y = apply(ops.Multiply(), apply(ops.Multiply(), y, p["w"]), p["w"])
    y = apply(ops.Bias(), apply(ops.Bias(), y, p["first"]), p["shift"])
    backward(apply(ops.Multiply(), y, p["gain"]), np.full((3, 2), 2.0))
    found = {(t.kind, t.name): t.zero_because for t in trace.tensors(y, regular) if t.zero_because}
    always = {("weight", "first"): ZERO_BIAS, ("weight", "shift"): ZERO_BIAS}
    always |= {("weight gradient", "first"): "no first prediction", ("weight gradient", "shift"): "a shift"}
    at_zero = {("weight", "state"): ZERO_BIAS, ("activation", "of the state.multiply"): "a state starts at zero"}
    assert found == always | ({} if size else at_zero)


@pytest.mark.parametrize(("scheme", "damped"), [("regular", False), ("unit", True), ("u-mup", True)])
def test_a_readout_is_damped_where_its_factor_is_applied(scheme, damped):
    """α = 1/fan-in, but for a scheme without factors; its gradient is not damped."""
    trace = TensorProbe({"w": Spec("readout", (4, 3))})
    tape = Tape(get_scheme(scheme), probe=trace)
    y = apply(ops.Readout("1/m"), tape.tensor(np.ones((2, 4))), tape.tensor(np.ones((4, 3)), "w"))
    backward(y, np.ones((2, 3)))
    found = {(t.kind, t.name): t.damped for t in trace.tensors(y, get_scheme(scheme))}
    assert found.pop(("activation", "readout")) is damped
    assert not any(found.values())


def test_layers():
    names = ["encoder.10.ffn.up.weight", "mlm.norm.gain", "encoder.fork", "embeddings.word"]
    assert [layer_of(n) for n in names] == ["encoder.10", "mlm", "encoder", "embeddings"]


def test_formats_by_alias():
    assert report("bert-tiny", "unit", formats=["e4m3fn"], **SMALL).formats == ("float8_e4m3fn",)
