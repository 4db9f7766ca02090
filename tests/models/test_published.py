"""Published checkpoints: what is read, what is refused and how, what is written.

Needs ``pip install 'refscale[pretrained]'``; without, skipped.
"""

from __future__ import annotations

import json
import pickle

import ml_dtypes
import numpy as np
import pytest

from refscale import models, published
from refscale.claims.pretrained import PUBLISHED, tensors
from refscale.errors import ArgumentError, CheckpointError, DataError
from refscale.models import bert
from refscale.scales import regular
from tests.models.published import WORDS, single, write

safetensors = pytest.importorskip("safetensors.numpy", reason="needs refscale[pretrained]")
tokenizers = pytest.importorskip("tokenizers", reason="needs refscale[pretrained]")


@pytest.fixture
def found():
    return single(tensors(np.random.default_rng(0)))


# Configurations


def test_every_field():
    content = {
        "num_hidden_layers": 3,
        "hidden_size": 12,
        "num_attention_heads": 2,
        "intermediate_size": 7,
        "vocab_size": 11,
        "max_position_embeddings": 9,
        "type_vocab_size": 4,
        "hidden_act": "gelu_new",
        "layer_norm_eps": 1e-3,
        "hidden_dropout_prob": 0,
        "attention_probs_dropout_prob": 0.25,
        "initializer_range": 0.5,
        "tie_word_embeddings": False,
        "model_type": "bert",
        "id2label": {},
        "pooler_fc_size": 768,
        "transformers_version": "4",
    }
    found = published.from_fields(content, "call")
    assert bert.BertConfig(**found, outputs=("span",)) == bert.BertConfig(
        layers=3,
        width=12,
        heads=2,
        hidden=7,
        vocabulary=11,
        positions=9,
        segments=4,
        activation="gelu-tanh",
        eps=1e-3,
        dropout=0.0,
        attention_dropout=0.25,
        std=0.5,
        tied=False,
        outputs=("span",),
    )
    again = published.to_fields(found, ("span",))
    for name in content.keys() & again.keys():
        assert again[name] == content[name], name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, "model_type = 'roberta', supported: 'bert'"),
        (
            {"position_embedding_type": "relative_key"},
            "= 'relative_key', supported: 'absolute'",
        ),
        ({"is_decoder": True}, "is_decoder = True, supported: False"),
        ({"quantization_config": {"bits": 8}}, "quantization_config = {'bits': 8}, supported: None"),
        ({"rope_theta": 1e4}, "rope_theta = 10000.0, which is not supported"),
        ({"hidden_act": "quick_gelu"}, "hidden_act = 'quick_gelu', supported: gelu, "),
        ({"hidden_size": "24"}, "hidden_size = '24', expected a value of type int"),
        ({"hidden_size": None}, "hidden_size = None, expected a value of type int"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings = 1, expected a value of type bool"),
        ({"num_attention_heads": 5}, "width 24 is no multiple of heads 5"),
    ],
)
def test_refused_by_name(change, message):
    with pytest.raises(DataError) as error:
        published.from_published(PUBLISHED | change, tensors(np.random.default_rng(0)), "call")
    assert str(error.value).startswith("call: config.json")
    assert message in str(error.value)


def test_an_unknown_field_can_be_ignored(tmp_path):
    directory = write(tmp_path / "model", PUBLISHED | {"flavor": "vanilla"})
    with pytest.raises(DataError, match="flavor = 'vanilla', which is not supported"):
        published.load_pretrained(directory)
    assert published.load_pretrained(directory, ignore=("flavor",)).config.width == 24


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_configuration_that_is_none(tmp_path, content):
    directory = write(tmp_path / "model")
    (directory / "config.json").write_text(content)
    with pytest.raises(DataError, match=r"config\.json"):
        published.load_pretrained(directory)


# Tensors


def test_names_and_layouts(tmp_path, found):
    """Matrices are turned, the classes of the next-sentence head swapped; heads are those that are there."""
    model = published.load_pretrained(write(tmp_path / "model"))
    assert (model.config.outputs, model.scheme) == (("mlm", "nsp"), "regular")
    p = model.parameters
    assert p.keys() == bert.specs(model.config).keys()
    assert (p["encoder.1.ffn.up.weight"] == found["encoder.layer.1.intermediate.dense.weight"].T).all()
    assert (p["encoder.0.attention.norm.gain"] == found["encoder.layer.0.attention.output.LayerNorm.weight"]).all()
    assert (p["embeddings.segment"] == found["embeddings.token_type_embeddings.weight"]).all()
    assert (p["nsp.classifier.weight"] == found["cls.seq_relationship.weight"][::-1].T).all()
    assert (p["nsp.classifier.bias"] == found["cls.seq_relationship.bias"][::-1]).all()
    assert all(x.dtype == np.float32 and x.flags.c_contiguous for x in p.values())


def older(found):
    renamed = {}
    for name, x in found.items():
        name = name if name.startswith("cls.") else f"bert.{name}"
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        renamed[name] = x
    return renamed | {"bert.embeddings.position_ids": np.arange(12)[None]}


def with_copies(found):
    word, bias = found["embeddings.word_embeddings.weight"], found["cls.predictions.bias"]
    return found | {"cls.predictions.decoder.weight": word.copy(), "cls.predictions.decoder.bias": bias.copy()}


def only_the_copy(found):
    return {n: x for n, x in with_copies(found).items() if n != "embeddings.word_embeddings.weight"}


@pytest.mark.parametrize("change", [older, with_copies, only_the_copy])
def test_other_layouts(tmp_path, found, change):
    expected = published.load_pretrained(write(tmp_path / "plain")).parameters
    model = published.load_pretrained(write(tmp_path / "other", found=change(found)))
    for name, x in expected.items():
        np.testing.assert_array_equal(model.parameters[name], x)


def test_a_copy_that_is_none(tmp_path, found):
    wrong = with_copies(found)
    wrong["cls.predictions.decoder.weight"][3, 3] += 1
    with pytest.raises(CheckpointError, match=r"decoder.weight is not embeddings.word_embeddings.weight"):
        published.load_pretrained(write(tmp_path / "model", found=wrong))
    untied = published.load_pretrained(write(tmp_path / "untied", PUBLISHED | {"tie_word_embeddings": False}, wrong))
    assert (untied.parameters["mlm.decoder.weight"] == wrong["cls.predictions.decoder.weight"].T).all()


def test_what_is_wrong_is_named(tmp_path, found):
    del found["encoder.layer.0.output.dense.bias"]
    found["classifier.weight"] = np.zeros((2, 24), np.float32)
    found["pooler.dense.weight"] = np.zeros((24, 23), np.float32)
    with pytest.raises(CheckpointError) as error:
        published.load_pretrained(write(tmp_path / "model", found=found))
    assert str(error.value).endswith(
        "tensors are missing encoder.layer.0.output.dense.bias; additional classifier.weight; "
        "misshapen pooler.dense.weight of shape (23, 24), not (24, 24)"
    )


def test_many_are_counted(tmp_path, found):
    few = {name: x for name, x in found.items() if not name.startswith("encoder.layer.1")}
    with pytest.raises(CheckpointError, match="and 11 more"):
        published.load_pretrained(write(tmp_path / "model", found=few))


def test_integers_are_no_parameters(tmp_path, found):
    found["cls.predictions.bias"] = np.zeros(50, np.int32)
    with pytest.raises(CheckpointError, match=r"cls.predictions.bias is int32, expected floating-point numbers"):
        published.load_pretrained(write(tmp_path / "model", found=found))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_sixteen_bits_are_widened_exactly(tmp_path, found, dtype):
    narrow = {name: x.astype(dtype) for name, x in found.items()}
    directory = write(tmp_path / "model")
    if dtype is np.float16:
        safetensors.save_file(narrow, directory / "model.safetensors")
    else:
        torch = pytest.importorskip("torch", reason="writes the bfloat16 file")
        from safetensors.torch import save_file

        save_file(
            {n: torch.from_numpy(x).to(torch.bfloat16) for n, x in found.items()}, directory / "model.safetensors"
        )
    model = published.load_pretrained(directory)
    word = narrow["embeddings.word_embeddings.weight"].astype(np.float32)
    assert (model.parameters["embeddings.word"] == word).all()
    assert model.parameters["embeddings.word"].dtype == np.float32


def test_damage(tmp_path):
    directory = write(tmp_path / "model")
    path = directory / "model.safetensors"
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:100], b"", b"PK\x03\x04" + whole):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="truncated, damaged or of another kind"):
            published.load_pretrained(directory)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_nothing_is_unpickled(tmp_path):
    """Not even looked at: the file that unpickling would make is not there."""
    directory = write(tmp_path / "model")
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "trapped")))
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin is not read, for it can hold code"):
        published.load_pretrained(directory)
    assert not (tmp_path / "trapped").exists()
    with pytest.raises(CheckpointError, match=r"no file config.json"):
        published.load_pretrained(tmp_path / "nowhere")


# Writing


@pytest.mark.parametrize("outputs", [(), ("pooler",), ("mlm",), ("mlm", "nsp"), ("span",), ("mlm", "pooler", "span")])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_there_and_back(tmp_path, outputs, tied):
    if not tied and "mlm" not in outputs:
        pytest.skip("without the head there is nothing to tie")
    config = bert.BertConfig(2, 8, 2, 12, 20, 6, outputs=outputs, tied=tied, activation="relu", eps=1e-4, dropout=0.2)
    parameters = models.initial_parameters(config, regular, np.random.default_rng(0))
    published.save_pretrained(tmp_path / "saved", config, parameters)
    found = published.load_pretrained(tmp_path / "saved")
    assert (found.config, found.tokenizer) == (config, None)
    for name, x in parameters.items():
        np.testing.assert_array_equal(found.parameters[name], x)


@pytest.mark.parametrize("change", [{"norm": "pre"}, {"scores": "1/d"}, {"tau": published.adapt}])
def test_without_a_published_form(tmp_path, change):
    config = bert.get_config("bert-tiny", vocabulary=10, **change)
    with pytest.raises(ArgumentError, match=f"{next(iter(change))}=.* has no published form"):
        published.save_pretrained(tmp_path / "saved", config, {})
    assert not (tmp_path / "saved").exists()


def test_parameters_that_do_not_fit(tmp_path):
    with pytest.raises(CheckpointError, match=r"missing .* and \d+ more"):
        published.save_pretrained(tmp_path / "saved", bert.get_config("bert-tiny"), {})


# Tokenizers


def test_vocabulary_and_tokenizer_files_agree(tmp_path):
    model = published.load_pretrained(write(tmp_path / "model"))
    config, words = model.config, model.tokenizer
    published.save_pretrained(tmp_path / "again", config, model.parameters, words)
    again = published.load_pretrained(tmp_path / "again").tokenizer
    text = "The unaffable Café, w3 nothing!"
    for tokenizer in (words, again):
        ids, where = tokenizer.spans(text)
        assert [WORDS[i] for i in ids] == ["the", "un", "##aff", "##able", "cafe", ",", "w3", "[UNK]", "!"]
        assert [text[a:b] for a, b in where] == ["The", "un", "aff", "able", "Café", ",", "w3", "nothing", "!"]
        assert (tokenizer.encode(text) == ids).all()
        assert (tokenizer.specials, len(tokenizer)) == ((0, 1, 2, 3, 4), 50)


def test_case_is_as_configured(tmp_path):
    directory = write(tmp_path / "model")
    (directory / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    assert published.load_pretrained(directory).tokenizer.encode("The the").tolist() == [1, WORDS.index("the")]


def test_stored_truncation_and_padding_are_off(tmp_path):
    directory = write(tmp_path / "model")
    raw = published.load_pretrained(directory).tokenizer._tokenizer
    raw.enable_truncation(3)
    raw.enable_padding(length=7)
    raw.save(str(directory / "tokenizer.json"))
    assert len(published.load_pretrained(directory).tokenizer.encode("the a the a the")) == 5


def test_tokenizers_that_do_not_fit(tmp_path):
    directory = write(tmp_path / "model")
    (directory / "vocab.txt").write_text("\n".join([*WORDS, "more"]))
    with pytest.raises(DataError, match="has 51 tokens, the embedding 50 rows"):
        published.load_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(w for w in WORDS if w != "[MASK]"))
    with pytest.raises(DataError, match=r"has no \[MASK\]"):
        published.load_pretrained(directory)
    (directory / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        published.load_pretrained(directory)
