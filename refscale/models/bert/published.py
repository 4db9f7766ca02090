"""Published BERTs: a directory as other libraries write it, read and written.

=============================  =======================================================================================
``config.json``                sizes and rules
``model.safetensors``          parameters; safetensors holds arrays and nothing that could be executed
``tokenizer.json``             the tokenizer; or ``vocab.txt``, from which one is made
=============================  =======================================================================================

Needs the optional extra: ``pip install 'refscale[pretrained]'`` (safetensors and tokenizers).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.data import Tokenizer
from refscale.errors import ArgumentError, CheckpointError, DataError
from refscale.files import write_atomically
from refscale.layers import Parameters
from refscale.models.bert.config import BertConfig, Output
from refscale.models.bert.model import specs
from refscale.models.bert.subwords import EXTRA, SubWords

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A trained BERT: a published one, or one that was trained here.

    Attributes:
        config: sizes, rules, and in ``outputs`` the heads that are there.
        parameters: float32.
        tokenizer: None if the directory has none.
        digest: SHA-256 of what it was read from, in hexadecimal.
        scheme: under which they were trained; "regular" for published ones.
    """

    config: BertConfig
    parameters: Arrays
    tokenizer: Tokenizer | None
    digest: str
    scheme: str = "regular"


def load_pretrained(directory: str | Path, *, ignore: Sequence[str] = ()) -> Pretrained:
    """A published BERT from its directory.

    Args:
        directory: with ``config.json`` and ``model.safetensors``.
        ignore: fields of ``config.json`` that are not known here and that you know to change nothing.

    Returns:
        Configuration, parameters and tokenizer.  float16 and bfloat16 parameters become float32, exactly.

    Raises:
        ArgumentError: the optional extra is not installed.
        DataError: ``config.json`` says something that is not supported, which is named.
        CheckpointError: a file is missing or damaged, or tensors are missing, additional or misshapen; they are named.

    Source: Devlin et al. 2018; field and tensor names are those of Hugging Face transformers, ``BertConfig`` and
    ``BertModel``.
    """
    directory = Path(directory)
    call = f"load_pretrained({str(directory)!r})"
    for name, instead in _FILES.items():
        if not (directory / name).is_file():
            found = [p.name for p in sorted(directory.glob(instead))] if directory.is_dir() else []
            but = f"; {', '.join(found)} is not read, for it can hold code: save it as safetensors" if found else ""
            raise CheckpointError(f"{call}: no file {name}, expected config.json and model.safetensors{but}")
    content = _read_json(directory / "config.json")
    model = from_published(content, _read_tensors(directory / "model.safetensors"), call, ignore=ignore)
    tokenizer = SubWords.load(directory)
    if tokenizer and len(tokenizer) > model.config.vocabulary:
        raise DataError(
            f"{call}: the tokenizer has {len(tokenizer)} tokens, the embedding {model.config.vocabulary} rows"
        )
    digest = hashlib.sha256()
    for name in _FILES:
        with (directory / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return replace(model, tokenizer=tokenizer, digest=digest.hexdigest())


def from_published(
    content: Mapping[str, Any],
    tensors: Mapping[str, NDArray[Any]],
    call: str,
    *,
    ignore: Sequence[str] = (),
    dtype: type[np.floating[Any]] = np.float32,
) -> Pretrained:
    """A model without tokenizer from the content of a ``config.json`` and tensors under their published names.

    Args:
        content: sizes and rules.
        tensors: with or without the prefix "bert.".
        call: named in errors.
        ignore: see ``load_pretrained``.
        dtype: of the parameters.

    Raises:
        DataError, CheckpointError: see ``load_pretrained``.
    """
    published = _published(tensors)
    config = config_from(content, _outputs(published), call, ignore)
    return Pretrained(config, _parameters(published, config, call, dtype), None, "")


def save_pretrained(
    directory: str | Path, config: BertConfig, parameters: Parameters, tokenizer: SubWords | None = None
) -> None:
    """Write what ``load_pretrained`` and other libraries load.

    Args:
        directory: made if it does not exist; files of the same names are replaced.
        config: of the model.
        parameters: of the scheme ``regular``; see ``Adapted.regular`` for those of an adapted model.
        tokenizer: also written, if there is one.

    Raises:
        ArgumentError: the configuration has no published form (norms elsewhere, other residual rules), or the optional
            extra is not installed.
        CheckpointError: parameters are missing, additional or misshapen.
        OSError: the directory cannot be written to.
    """
    call = f"save_pretrained({str(directory)!r})"
    content = json.dumps(config_to(config, call), indent=2) + "\n"
    expected = specs(config)
    _check_shapes(call, {n: x.shape for n, x in parameters.items()}, {n: s.shape for n, s in expected.items()})
    heads = any(name in config.outputs for name in ("mlm", "nsp", "span"))
    tensors = {
        _their_name(name, heads): np.ascontiguousarray(_turned(parameters[name], spec.role, name))
        for name, spec in expected.items()
    }
    if "mlm" in config.outputs:
        tensors[_DECODER_BIAS] = tensors[_COPIES[_DECODER_BIAS]]
    saved = _safetensors(call).numpy.save(tensors, metadata={"format": "pt"})  # transformers insists on "pt"
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / "model.safetensors", lambda file: file.write(saved))
    write_atomically(directory / "config.json", lambda file: file.write(content.encode()))
    if tokenizer:
        text = tokenizer.to_json()
        write_atomically(directory / "tokenizer.json", lambda file: file.write(text.encode()))


# --- configurations ---------------------------------------------------------------------------------------------------

_FILES = {"config.json": "[]", "model.safetensors": "*.bin"}
"""Files that must be there, and what stands for them in directories that are not read."""

_FIELDS: dict[str, tuple[str, Any]] = {
    "layers": ("num_hidden_layers", None),
    "width": ("hidden_size", None),
    "heads": ("num_attention_heads", None),
    "hidden": ("intermediate_size", None),
    "vocabulary": ("vocab_size", None),
    "positions": ("max_position_embeddings", 512),
    "segments": ("type_vocab_size", 2),
    "activation": ("hidden_act", "gelu"),
    "eps": ("layer_norm_eps", 1e-12),
    "dropout": ("hidden_dropout_prob", 0.1),
    "attention_dropout": ("attention_probs_dropout_prob", 0.1),
    "std": ("initializer_range", 0.02),
    "tied": ("tie_word_embeddings", True),
}
"""Ours, theirs, and what theirs is where the file does not say; None: it must."""

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu-tanh",
    "gelu_pytorch_tanh": "gelu-tanh",
    "gelu_fast": "gelu-tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
}
"""Theirs and ours; the first of those that mean one of ours is written."""

_ONLY: dict[str, tuple[Any, ...]] = {
    "model_type": ("bert",),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "cross_attention_hidden_size": (None,),
}
"""Fields that may have these values alone."""

_WITHOUT_EFFECT = re.compile(
    r"_name_or_path|architectures|auto_map|attn_implementation|_attn_implementation.*|bos_token_id|chunk_size_feed_forward"
    r"|classifier_dropout|directionality|dtype|eos_token_id|finetuning_task|gradient_checkpointing|id2label|label2id"
    r"|language|name|num_labels|output_(attentions|hidden_states|past)|pad_token_id|pooler_.*|problem_type|return_dict"
    r"|sep_token_id|tokenizer_class|torch_dtype|torchscript|transformers(\.js_config|_version)|use_cache"
)
"""Fields that change nothing of what is computed here."""


def config_from(
    content: Mapping[str, Any], outputs: tuple[Output, ...], call: str, ignore: Sequence[str] = ()
) -> BertConfig:
    """The configuration that a ``config.json`` describes, for a model with these outputs.

    Raises:
        DataError: naming ``call`` and the field that is missing, unknown or not supported.
    """
    for name, allowed in _ONLY.items():
        if name in content and content[name] not in allowed:
            raise DataError(f"{call}: config.json has {name} = {content[name]!r}, supported: {allowed[0]!r}")
    known = {theirs for theirs, _ in _FIELDS.values()} | _ONLY.keys() | set(ignore)
    unknown = [name for name in content if name not in known and not _WITHOUT_EFFECT.fullmatch(name)]
    if unknown:
        raise DataError(
            f"{call}: config.json has {unknown[0]} = {content[unknown[0]]!r}, which is not supported; "
            "ignore=[…] leaves out what changes nothing"
        )
    values: dict[str, Any] = {}
    for ours, (theirs, default) in _FIELDS.items():
        value = content.get(theirs, default)
        kind = type(default) if default is not None else int
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise DataError(f"{call}: config.json has {theirs} = {value!r}, expected a value of type {kind.__name__}")
        values[ours] = value
    if values["activation"] not in _ACTIVATIONS:
        raise DataError(
            f"{call}: config.json has hidden_act = {values['activation']!r}, supported: {', '.join(_ACTIVATIONS)}"
        )
    values["activation"] = _ACTIVATIONS[values["activation"]]
    try:
        return BertConfig(**values, outputs=outputs)
    except ArgumentError as error:
        raise DataError(f"{call}: config.json: {error}") from error


def config_to(config: BertConfig, call: str) -> dict[str, Any]:
    """The content of a ``config.json``.  Raises ArgumentError, naming ``call``, where there is no published form."""
    for name, only in (("norm", ("post",)), ("tau", (None,)), ("scores", (None, "1/sqrt(d)"))):
        if getattr(config, name) not in only:
            raise ArgumentError(f"{call}: {name}={getattr(config, name)!r} has no published form, expected {only[0]!r}")
    content = {theirs: getattr(config, ours) for ours, (theirs, _) in _FIELDS.items()}
    content["hidden_act"] = next(theirs for theirs, ours in _ACTIVATIONS.items() if ours == config.activation)
    heads = {"span": "QuestionAnswering", "nsp": "PreTraining", "mlm": "MaskedLM"}
    architecture = next((f"BertFor{heads[name]}" for name in heads if name in config.outputs), "BertModel")
    return {"architectures": [architecture], "model_type": "bert", **content}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"load_pretrained: {str(path)!r} cannot be understood: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"load_pretrained: {str(path)!r} holds a {type(content).__name__}, expected an object")
    return content


# --- tensors ----------------------------------------------------------------------------------------------------------

_LAYER = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "attention.norm": "attention.output.LayerNorm",
    "ffn.up": "intermediate.dense",
    "ffn.down": "output.dense",
    "ffn.norm": "output.LayerNorm",
}

_OUTSIDE = {
    "embeddings.word": "embeddings.word_embeddings.weight",
    "embeddings.position": "embeddings.position_embeddings.weight",
    "embeddings.segment": "embeddings.token_type_embeddings.weight",
    "embeddings.norm": "embeddings.LayerNorm",
    "nsp.pooler": "pooler.dense",
    "nsp.classifier": "cls.seq_relationship",
    "mlm.transform": "cls.predictions.transform.dense",
    "mlm.norm": "cls.predictions.transform.LayerNorm",
    "mlm.decoder.weight": "cls.predictions.decoder.weight",
    "mlm.decoder.bias": "cls.predictions.bias",
    "span": "qa_outputs",
}

_DECODER_BIAS = "cls.predictions.decoder.bias"

_COPIES = {
    "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
    _DECODER_BIAS: "cls.predictions.bias",
}
"""Tensors that some files hold twice."""


def _their_name(name: str, prefixed: bool = False) -> str:
    """Their name of one of our parameters; with heads, what is not of a head stands under "bert."."""
    owner, _, part = name.rpartition(".")
    if name in _OUTSIDE:
        theirs = _OUTSIDE[name]
    else:
        part = "weight" if part == "gain" else part
        layer = re.fullmatch(r"encoder\.(\d+)\.(.*)", owner)
        theirs = f"encoder.layer.{layer[1]}.{_LAYER[layer[2]]}.{part}" if layer else f"{_OUTSIDE[owner]}.{part}"
    of_head = theirs.startswith(("cls.", "qa_outputs."))
    return f"bert.{theirs}" if prefixed and not of_head else theirs


def _turned(x: NDArray[Any], role: str, name: str) -> NDArray[Any]:
    """Ours as theirs, or theirs as ours: a matrix (fan_in, fan_out) is theirs (fan_out, fan_in).

    Of the next-sentence head, class 0 is theirs for "follows", class 1 ours.
    """
    x = x.T if role in ("weight", "readout") else x
    if name == "nsp.classifier.weight":
        return x[:, ::-1] if x.shape[1] == 2 else x[::-1]
    return x[::-1] if name == "nsp.classifier.bias" else x


def _safetensors(call: str) -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise ArgumentError(f"{call}: safetensors is missing: {EXTRA}") from error
    return safetensors


def _read_tensors(path: Path) -> Arrays:
    """The tensors of a file, floats of 16 bits as float32."""
    call = f"load_pretrained({str(path.parent)!r})"
    library = _safetensors(call)
    try:
        found: Arrays = library.numpy.load_file(path)
    except (library.SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{call}: {path.name} is truncated, damaged or of another kind: {error}") from error
    return {name: x.astype(np.float32) if x.dtype.itemsize == 2 else x for name, x in found.items()}


def _published(found: Mapping[str, NDArray[Any]]) -> Arrays:
    """Tensors without what older files and other heads call otherwise, and without buffers."""
    renamed: Arrays = {}
    for name, x in found.items():
        name = name.removeprefix("bert.")
        name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name))
        if name != "embeddings.position_ids":  # 0, 1, 2, …: no parameter
            renamed[name] = x
    return renamed


def _outputs(published: Arrays) -> tuple[Output, ...]:
    """The heads that are there."""
    signs: tuple[tuple[Output, str], ...] = (("mlm", "cls.predictions."), ("nsp", "cls.seq_relationship."))
    found = [output for output, sign in signs if any(name.startswith(sign) for name in published)]
    if "nsp" not in found and any(name.startswith("pooler.") for name in published):
        found.append("pooler")
    return (*found, "span") if any(name.startswith("qa_outputs.") for name in published) else tuple(found)


def _parameters(published: Arrays, config: BertConfig, call: str, dtype: type[np.floating[Any]]) -> Arrays:
    expected = specs(config)
    names = {_their_name(name): name for name in expected}
    if not config.tied and _DECODER_BIAS in published:  # the one that counts, where the two are not tied
        published[_COPIES[_DECODER_BIAS]] = published[_DECODER_BIAS]
    for copy, original in _COPIES.items():
        if copy in published and copy not in names:
            if original not in published:
                published[original] = published[copy]
            elif not np.array_equal(published[copy], published[original]):
                raise CheckpointError(f"{call}: {copy} is not {original}, expected the same values in both")
            del published[copy]
    turned = {}
    for theirs, x in published.items():
        ours = names.get(theirs)
        matrix = ours is not None and expected[ours].role in ("weight", "readout")
        turned[theirs] = x.shape[::-1] if matrix else x.shape
    _check_shapes(call, turned, {theirs: expected[ours].shape for theirs, ours in names.items()})
    wrong = [name for name, x in published.items() if x.dtype.kind != "f"]
    if wrong:
        raise CheckpointError(f"{call}: {wrong[0]} is {published[wrong[0]].dtype}, expected floating-point numbers")
    return {
        ours: np.ascontiguousarray(_turned(published[theirs], expected[ours].role, ours), dtype)
        for theirs, ours in names.items()
    }


def _check_shapes(call: str, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise CheckpointError, naming what is missing, additional or misshapen."""
    missing = sorted(expected.keys() - found.keys())
    additional = sorted(found.keys() - expected.keys())
    misshapen = [
        f"{name} of shape {found[name]}, not {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    parts = [
        f"{what} {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
        for what, names in (("missing", missing), ("additional", additional), ("misshapen", misshapen))
        if names
    ]
    if parts:
        raise CheckpointError(f"{call}: tensors are {'; '.join(parts)}")
