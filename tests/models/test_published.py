"""Published checkpoints: reading, refusals, writing.

Needs ``pip install 'refscale[pretrained]'``; without, skipped.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from hashlib import sha256
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from refscale import models, ops, published
from refscale.claims.pretrained import PUBLISHED, tensors
from refscale.errors import ArgumentError, CheckpointError, DataError
from refscale.models import bert
from refscale.published import SubWords
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


def test_what_a_configuration_leaves_out():
    """Defaults of transformers' ``BertConfig``, by hand."""
    needed = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size")
    assert published.from_fields(dict.fromkeys(needed, 1), "call") == {
        "layers": 1,
        "width": 1,
        "heads": 1,
        "hidden": 1,
        "vocabulary": 1,
        "positions": 512,
        "segments": 2,
        "activation": "gelu",
        "eps": 1e-12,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "std": 0.02,
        "tied": True,
    }
    for name in needed:
        with pytest.raises(DataError, match=f"call: config.json has {name} = None, expected a value of type int"):
            published.from_fields({other: 1 for other in needed if other != name}, "call")


AT_TWO = {
    **dict.fromkeys(["gelu", "gelu_python"], 1.9544997361036416),  # 2Φ(2)
    **dict.fromkeys(["gelu_new", "gelu_pytorch_tanh", "gelu_fast"], 1.954597694087775),  # 1 + tanh(√(2/π)·2.35772)
    **dict.fromkeys(["silu", "swish"], 1.7615941559557646),  # 2/(1 + e⁻²)
    "relu": 2.0,
    "tanh": 0.9640275800758169,
    "sigmoid": 0.8807970779778823,
}
"""Activations of transformers at 2, by hand."""


@pytest.mark.parametrize("name", AT_TWO)
def test_activations(name):
    model = published.from_published(PUBLISHED | {"hidden_act": name}, tensors(np.random.default_rng(0)), "call")
    y, _ = ops.ACTIVATIONS[model.config.activation].forward(np.array([2.0]))
    assert y[0] == pytest.approx(AT_TWO[name], rel=1e-14)
    assert published.to_fields(vars(model.config), ())["hidden_act"] == {
        **dict.fromkeys(["gelu_python"], "gelu"),
        **dict.fromkeys(["gelu_pytorch_tanh", "gelu_fast"], "gelu_new"),
        **dict.fromkeys(["swish"], "silu"),
    }.get(name, name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_norm_eps": float("nan")}, "BertConfig(eps=nan): expected 0 ≤ eps < inf"),
        ({"layer_norm_eps": float("inf")}, "BertConfig(eps=inf): expected 0 ≤ eps < inf"),
        ({"layer_norm_eps": -1e-12}, "BertConfig(eps=-1e-12): expected 0 ≤ eps < inf"),
        ({"layer_norm_eps": 2**53 + 1}, "layer_norm_eps = 9007199254740993, expected a value of type float"),
        ({"initializer_range": -0.02}, "BertConfig(std=-0.02): expected 0 ≤ std < inf"),
        ({"initializer_range": float("nan")}, "BertConfig(std=nan): expected 0 ≤ std < inf"),
        ({"hidden_dropout_prob": float("nan")}, "BertConfig(dropout=nan): expected 0 ≤ dropout < 1"),
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
        ({"num_attention_heads": 5}, "width 24 is not a multiple of heads 5"),
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


@pytest.mark.parametrize("change", [{"pruned_heads": {}}, {"pruned_heads": None}, {"quantization_config": None}])
def test_fields_that_say_nothing(change):
    assert published.from_fields(PUBLISHED | change, "call") == published.from_fields(PUBLISHED, "call")


def test_bounds_of_a_configuration():
    found = tensors(np.random.default_rng(0))
    config = published.from_published(PUBLISHED | {"layer_norm_eps": 0, "initializer_range": 0}, found, "call").config
    assert (config.eps, config.std) == (0.0, 0.0)
    assert published.from_published(PUBLISHED | {"layer_norm_eps": 2**53}, found, "call").config.eps == 2.0**53


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "not valid JSON: Expecting property name"),
        (b"[]", "contains a list, expected an object"),
        (b'{"layer_norm_eps": NaN}', "not valid JSON: layer_norm_eps is nan"),
        (b'{"hidden_size": 24, "hidden_size": 24}', "not valid JSON: the name 'hidden_size' occurs twice"),
        (b'{"a": ' + b"[" * 100_000, "objects or arrays are nested more than 64 deep"),
        (b'{"name": "caf\xe9"}', "byte 0xe9 at offset 13 is not UTF-8"),
        (b'{"name": "%s"}' % (b"x" * 2**24), "more than 16777216 bytes"),
    ],
    ids=lambda x: x[:30] if isinstance(x, str) else "",
)
def test_a_configuration_that_is_none(tmp_path, content, said):
    directory = write(tmp_path / "model")
    (directory / "config.json").write_bytes(content)
    with pytest.raises(DataError) as error:
        published.load_pretrained(directory)
    assert str(error.value).startswith(f"load_pretrained({str(directory)!r}): config.json: {said}")


def test_more_layers_than_tensors(found):
    """Refused before a list of all their parameters is made, which would fill the memory; a few are named."""
    for layers in (len(found) + 1, 10**9, 10**300):
        with pytest.raises(CheckpointError) as error:
            published.from_published(PUBLISHED | {"num_hidden_layers": layers}, found, "call")
        assert str(error.value) == f"call: config.json has num_hidden_layers = {layers}, but there are 46 tensors"
    for layers in (3, len(found)):
        with pytest.raises(CheckpointError, match=r"missing encoder\.layer\.10|missing encoder\.layer\.2\.attention"):
            published.from_published(PUBLISHED | {"num_hidden_layers": layers}, found, "call")


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


@pytest.mark.parametrize("other", ["bert.pooler.dense.bias", "embeddings.LayerNorm.gamma"])
def test_a_tensor_under_two_names(found, other):
    name = other.removeprefix("bert.").replace("gamma", "weight")
    with pytest.raises(CheckpointError, match=f"call: {name} is there under two names"):
        published.from_published(PUBLISHED, found | {other: found[name] + 1}, "call")


def test_a_copy_that_is_none(tmp_path, found):
    wrong = with_copies(found)
    wrong["cls.predictions.decoder.weight"][3, 3] += 1
    with pytest.raises(CheckpointError, match=r"decoder.weight is not embeddings.word_embeddings.weight"):
        published.load_pretrained(write(tmp_path / "model", found=wrong))
    wrong["cls.predictions.decoder.bias"][7] = 3
    untied = published.load_pretrained(write(tmp_path / "untied", PUBLISHED | {"tie_word_embeddings": False}, wrong))
    assert untied.parameters["mlm.decoder.bias"][7] == 3  # where nothing is tied, the decoder's own
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
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin is not read, because it can contain code"):
        published.load_pretrained(directory)
    assert not (tmp_path / "trapped").exists()
    with pytest.raises(CheckpointError, match=r"no file config.json"):
        published.load_pretrained(tmp_path / "nowhere")


def test_the_digest_is_that_of_configuration_and_tensors(tmp_path):
    directory = write(tmp_path / "model")
    files = [(directory / name).read_bytes() for name in ("config.json", "model.safetensors")]
    expected = sha256(b"".join(sha256(data).digest() for data in files)).hexdigest()
    assert published.load_pretrained(directory).digest == expected


# Shards

FIRST, SECOND = (f"model-0000{k}-of-00002.safetensors" for k in (1, 2))


def sharded(directory, found, change=None):
    """The tensors in two files, every other one in each, and the index of them."""
    write(directory).joinpath("model.safetensors").unlink()
    shards = {FIRST: dict(list(found.items())[::2]), SECOND: dict(list(found.items())[1::2])}
    index = {"metadata": {"total_size": 1}, "weight_map": {t: file for file, held in shards.items() for t in held}}
    for name, held in shards.items():
        safetensors.save_file(held, directory / name)
    if change:
        change(directory, index)
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def test_shards(tmp_path, found):
    whole = published.load_pretrained(write(tmp_path / "whole"))
    directory = sharded(tmp_path / "sharded", found)
    model = published.load_pretrained(directory)
    assert (model.config, model.parameters.keys()) == (whole.config, whole.parameters.keys())
    for name, x in whole.parameters.items():
        np.testing.assert_array_equal(model.parameters[name], x)
    files = [(directory / n).read_bytes() for n in ("config.json", "model.safetensors.index.json", FIRST, SECOND)]
    assert model.digest == sha256(b"".join(sha256(data).digest() for data in files)).hexdigest()
    safetensors.save_file(found | {"cls.predictions.bias": np.full(50, 7, np.float32)}, directory / "model.safetensors")
    one = published.load_pretrained(directory)  # transformers, too, prefers the one file
    assert (one.parameters["mlm.decoder.bias"] == 7).all()


def without_a_shard(directory, index):
    (directory / SECOND).unlink()


def without_a_tensor(directory, index):
    safetensors.save_file({}, directory / SECOND)


def with_a_tensor_more(directory, index):
    del index["weight_map"]["cls.predictions.bias"]


def half_a_shard(directory, index):
    (directory / FIRST).write_bytes((directory / FIRST).read_bytes()[:-1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_a_shard, f"no file {SECOND}, expected the files that model.safetensors.index.json lists"),
        (without_a_tensor, f"{SECOND} does not contain cls.predictions.bias, expected the tensors that"),
        (with_a_tensor_more, "also contains cls.predictions.bias, expected the tensors that model.safetensors.index"),
        (half_a_shard, f"{FIRST} is truncated, damaged or of another kind"),
        (lambda d, index: index.clear(), "model.safetensors.index.json: weight_map is None, expected file names"),
        (lambda d, index: index.update(weight_map={}), "weight_map is {}, expected file names by tensor"),
        (lambda d, index: index.update(weight_map={"t": f"../{FIRST}"}), f"t is in '../{FIRST}', expected a"),
        (lambda d, index: index.update(weight_map={"t": "model.bin"}), "t is in 'model.bin', expected a .safetensors"),
        (lambda d, index: index.update(weight_map={"t": 3}), "t is in 3, expected a .safetensors file beside it"),
    ],
)
def test_shards_that_do_not_fit(tmp_path, found, change, said):
    with pytest.raises(CheckpointError) as error:
        published.load_pretrained(sharded(tmp_path / "model", found, change))
    assert said in str(error.value)


def test_shards_without_an_index_are_named(tmp_path, found):
    directory = sharded(tmp_path / "model", found)
    (directory / "model.safetensors.index.json").unlink()
    with pytest.raises(CheckpointError, match=f"; {FIRST}, {SECOND} cannot be put together without"):
        published.load_pretrained(directory)


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


@pytest.mark.parametrize(
    ("outputs", "architecture", "prefix", "of_heads"),
    [
        ((), "BertModel", "", []),
        (("pooler",), "BertModel", "", []),
        (("mlm",), "BertForMaskedLM", "bert.", ["cls.predictions.bias", "cls.predictions.transform.dense.weight"]),
        (
            ("mlm", "nsp"),
            "BertForPreTraining",
            "bert.",
            ["cls.seq_relationship.bias"],
        ),
        (("mlm", "pooler", "span"), "BertForQuestionAnswering", "bert.", ["cls.predictions.bias", "qa_outputs.bias"]),
    ],
)
def test_names_that_are_written(tmp_path, outputs, architecture, prefix, of_heads):
    """As transformers writes them: with heads, all tensors outside a head are under "bert."."""
    config = bert.BertConfig(1, 8, 2, 12, 20, 6, outputs=outputs)
    published.save_pretrained(
        tmp_path, config, models.initial_parameters(config, regular, np.random.default_rng(0)), None
    )
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [architecture]
    names = safetensors.load_file(tmp_path / "model.safetensors").keys()
    assert set(of_heads) <= names
    assert ("cls.predictions.decoder.bias" in names) == ("mlm" in outputs)  # a copy that older readers expect
    others = {name for name in names if not name.startswith(("cls.", "qa_outputs."))}
    assert all(name.startswith((f"{prefix}embeddings.", f"{prefix}encoder.", f"{prefix}pooler.")) for name in others)
    assert (f"{prefix}pooler.dense.bias" in names) == bool({"nsp", "pooler"} & set(outputs))
    assert f"{prefix}encoder.layer.0.attention.output.LayerNorm.weight" in names


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


def test_a_line_of_the_vocabulary_ends_at_a_line_feed_alone(tmp_path):
    """A published vocabulary has U+2028 as a token: no id after it is shifted."""
    directory = write(tmp_path / "model")
    words = [*WORDS[:6], "\u2028", "\x85", "\x1c", *WORDS[9:]]
    for end in ("\n", "\r\n"):
        (directory / "vocab.txt").write_bytes(("\ufeff" + end.join(words) + end).encode())
        tokenizer = published.load_pretrained(directory).tokenizer
        assert tokenizer.encode("the a , ! w49").tolist() == [9, 10, 11, 12, 1]
        assert (tokenizer._tokenizer.token_to_id("\u2028"), len(tokenizer)) == (6, 50)
        assert tokenizer.encode("w0 w36").tolist() == [13, 49]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("vocab.txt", "[PAD]\ncaf\xe9".encode("latin-1"), "byte 0xe9 at offset 9 is not UTF-8, expected a UTF-8 file"),
        ("tokenizer.json", b'{"\xe9', "byte 0xe9 at offset 2 is not UTF-8, expected a UTF-8 file"),
        ("tokenizer_config.json", b'{"do_lower_case": "false"}', "do_lower_case = 'false', expected true or false"),
        ("tokenizer_config.json", b'{"do_lower_case": [true]}', "do_lower_case = [True], expected true or false"),
        ("tokenizer_config.json", b'{"do_lower_case": 1}', "do_lower_case = 1, expected true or false"),
        ("tokenizer_config.json", b'{"do_lower_case": null}', "do_lower_case = None, expected true or false"),
        ("tokenizer_config.json", b'{"strip_accents": "no"}', "strip_accents = 'no', expected true or false"),
        ("tokenizer_config.json", b'{"tokenize_chinese_chars": {}}', "tokenize_chinese_chars = {}, expected true or"),
        ("tokenizer_config.json", b"[]", "contains a list, expected an object"),
        ("tokenizer_config.json", b'{"a": ' + b"[" * 100_000, "objects or arrays are nested more than 64 deep"),
    ],
)
def test_files_of_a_tokenizer_that_are_none(tmp_path, name, content, said):
    directory = write(tmp_path / "model")
    (directory / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        published.load_pretrained(directory)
    assert str(error.value).startswith(f"SubWords.load({str(directory / name)!r}): {said}")


def test_options_of_a_tokenizer(tmp_path):
    """Defaults and values by hand: É of "CafÉ" is folded only with the lower case, unless accents are named."""
    directory = write(tmp_path / "model")
    tokens = [*WORDS[:5], "cafe", "café", "CafÉ", "CafE", "中"]
    (directory / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")

    def words(**options):
        (directory / "tokenizer_config.json").write_text(json.dumps(options))
        return SubWords.load(directory).encode("CafÉ 中中").tolist()

    assert words() == [5, 9, 9]
    assert words(do_lower_case=True, strip_accents=None, tokenize_chinese_chars=True, other=[1]) == [5, 9, 9]
    assert words(strip_accents=False) == [6, 9, 9]
    assert words(do_lower_case=False) == [7, 9, 9]
    assert words(do_lower_case=False, strip_accents=True) == [8, 9, 9]
    assert words(tokenize_chinese_chars=False) == [5, 1]


@pytest.mark.skipif(os.name != "posix", reason="file names of any bytes")
def test_a_directory_whose_name_is_not_utf8(tmp_path):
    directory = Path(os.fsdecode(os.fsencode(tmp_path) + b"/m\xff"))
    expected = published.load_pretrained(write(tmp_path / "model"))
    expected.tokenizer._tokenizer.save(str(tmp_path / "model" / "tokenizer.json"))
    shutil.copytree(tmp_path / "model", directory)
    found = published.load_pretrained(directory)
    assert (found.digest, found.tokenizer.encode("the").tolist()) == (expected.digest, [9])
    published.save_pretrained(directory / "again", found.config, found.parameters, found.tokenizer)
    (directory / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match=r"m\\udcff/tokenizer\.json"):
        published.load_pretrained(directory)


def test_a_byte_order_mark_is_skipped_in_each_file(tmp_path):
    directory = write(tmp_path / "model")
    expected = published.load_pretrained(directory)
    (directory / "tokenizer_config.json").write_text("{}")
    for name in ("config.json", "vocab.txt", "tokenizer_config.json"):
        (directory / name).write_bytes(b"\xef\xbb\xbf" + (directory / name).read_bytes())
    found = published.load_pretrained(directory)
    assert (found.config, found.tokenizer.specials) == (expected.config, (0, 1, 2, 3, 4))
    (directory / "tokenizer.json").write_bytes(b"\xef\xbb\xbf" + found.tokenizer.to_json().encode())
    assert published.load_pretrained(directory).tokenizer.encode("the").tolist() == [9]


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


def test_the_length_of_a_tokenizer_is_that_of_its_ids(tmp_path):
    """Of a word on two lines the second counts, and no id is shifted; an id beyond the embedding is refused."""
    directory = write(tmp_path / "model")
    (directory / "vocab.txt").write_text("\n".join([*WORDS[:49], "the"]))
    tokenizer = published.load_pretrained(directory).tokenizer
    assert (tokenizer.encode("the a").tolist(), len(tokenizer)) == ([49, 10], 50)
    content = json.loads(tokenizer.to_json())
    content["model"]["vocab"]["the"] = 50
    (directory / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="has 51 tokens, the embedding 50 rows"):
        published.load_pretrained(directory)
