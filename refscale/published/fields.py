"""``config.json``: published and refscale fields, the supported values, and the ignored fields.

Source: Hugging Face transformers, ``BertConfig``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from refscale.errors import DataError

FIELDS: dict[str, tuple[str, Any]] = {
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
"""Names of a field here and in the file, and its default in the file; None: the file must have it."""

ACTIVATIONS = {
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
"""Published and refscale names; of several published names of one activation the first is written."""

_EXACT = 1 << 53
"""Integers up to here are floats, too."""

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
"""Fields that have no effect on the computation."""


def from_fields(content: Mapping[str, Any], call: str, ignore: Sequence[str] = ()) -> dict[str, Any]:
    """Convert the content of a ``config.json`` to values of refscale's fields.

    Args:
        content: published fields.
        call: the function called, for messages.
        ignore: unknown fields to ignore.

    Raises:
        DataError: a field is missing, unknown or not supported; the message names ``call`` and the field.
    """
    for name, allowed in _ONLY.items():
        if name in content and content[name] not in allowed:
            raise DataError(f"{call}: config.json has {name} = {content[name]!r}, supported: {allowed[0]!r}")
    known = {theirs for theirs, _ in FIELDS.values()} | _ONLY.keys() | set(ignore)
    unknown = [name for name in content if name not in known and not _WITHOUT_EFFECT.fullmatch(name)]
    if unknown:
        raise DataError(
            f"{call}: config.json has {unknown[0]} = {content[unknown[0]]!r}, which is not supported; "
            "ignore=[…] leaves out what changes nothing"
        )
    values: dict[str, Any] = {}
    for ours, (theirs, default) in FIELDS.items():
        value = content.get(theirs, default)
        kind = type(default) if default is not None else int
        if kind is float and type(value) is int and abs(value) <= _EXACT:
            value = float(value)
        if type(value) is not kind:
            raise DataError(f"{call}: config.json has {theirs} = {value!r}, expected a value of type {kind.__name__}")
        values[ours] = value
    if values["activation"] not in ACTIVATIONS:
        raise DataError(
            f"{call}: config.json has hidden_act = {values['activation']!r}, supported: {', '.join(ACTIVATIONS)}"
        )
    values["activation"] = ACTIVATIONS[values["activation"]]
    return values


def to_fields(values: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
    """Convert values of refscale's fields to the content of a ``config.json``, for a model with these outputs."""
    content = {theirs: values[ours] for ours, (theirs, _) in FIELDS.items()}
    content["hidden_act"] = next(theirs for theirs, ours in ACTIVATIONS.items() if ours == values["activation"])
    heads = {"span": "QuestionAnswering", "nsp": "PreTraining", "mlm": "MaskedLM"}
    architecture = next((f"BertFor{heads[name]}" for name in heads if name in outputs), "BertModel")
    return {"architectures": [architecture], "model_type": "bert", **content}
