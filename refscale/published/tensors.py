"""Conversion of names and layouts of tensors between published BERTs and refscale.

Source: Hugging Face transformers, ``BertModel`` and its heads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.arrays import freeze, plain
from refscale.errors import CheckpointError
from refscale.layers import Parameters, Specs
from refscale.published.storage import Arrays, to_safetensors

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
"""Tensors that some files contain twice."""


def their_name(name: str, prefixed: bool = False) -> str:
    """Return the published name of a parameter; with heads, the others have the prefix "bert."."""
    owner, _, part = name.rpartition(".")
    if name in _OUTSIDE:
        theirs = _OUTSIDE[name]
    else:
        part = "weight" if part == "gain" else part
        layer = re.fullmatch(r"encoder\.(\d+)\.(.*)", owner)
        theirs = f"encoder.layer.{layer[1]}.{_LAYER[layer[2]]}.{part}" if layer else f"{_OUTSIDE[owner]}.{part}"
    of_head = theirs.startswith(("cls.", "qa_outputs."))
    return f"bert.{theirs}" if prefixed and not of_head else theirs


def turned(x: NDArray[Any], role: str, name: str) -> NDArray[Any]:
    """Convert a tensor between the layouts, in either direction: (fan_in, fan_out) here, (fan_out, fan_in) published.

    In the next-sentence head "follows" is class 1 here, class 0 in published models.
    """
    x = x.T if role in ("weight", "readout") else x
    if name == "nsp.classifier.weight":
        return x[:, ::-1] if x.shape[1] == 2 else x[::-1]
    return x[::-1] if name == "nsp.classifier.bias" else x


def renamed(found: Mapping[str, NDArray[Any]], call: str) -> Arrays:
    """Replace names of older files and other heads by current ones, and remove buffers.

    Raises:
        CheckpointError: a tensor has two names; the message names ``call`` and the tensor.
    """
    kept: Arrays = {}
    for name, x in found.items():
        name = name.removeprefix("bert.")
        name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name))
        if name in kept:
            raise CheckpointError(f"{call}: {name} is there under two names, expected one of them")
        if name != "embeddings.position_ids":  # 0, 1, 2, …: no parameter
            kept[name] = x
    return kept


def heads(published: Arrays) -> tuple[str, ...]:
    """Return the names of the existing heads."""
    signs = (("mlm", "cls.predictions."), ("nsp", "cls.seq_relationship."))
    found = [output for output, sign in signs if any(name.startswith(sign) for name in published)]
    if "nsp" not in found and any(name.startswith("pooler.") for name in published):
        found.append("pooler")
    return (*found, "span") if any(name.startswith("qa_outputs.") for name in published) else tuple(found)


def parameters(
    published: Arrays, expected: Specs, tied: bool, call: str, dtype: type[np.floating[Any]] = np.float32
) -> Arrays:
    """Convert published tensors to parameters by refscale's names and layouts.

    Args:
        published: result of ``renamed``.
        expected: specs of the parameters.
        tied: True if the decoder is the word embedding.
        call: the function called, for messages.
        dtype: dtype of the result, whose arrays are read-only.

    Raises:
        CheckpointError: a tensor is missing, additional, of another shape or not of floats, or copies differ.
    """
    names = {their_name(name): name for name in expected}
    if not tied and _DECODER_BIAS in published:  # the one that counts, where the two are not tied
        published[_COPIES[_DECODER_BIAS]] = published[_DECODER_BIAS]
    for copy, original in _COPIES.items():
        if copy in published and copy not in names:
            if original not in published:
                published[original] = published[copy]
            elif not np.array_equal(published[copy], published[original]):
                raise CheckpointError(f"{call}: {copy} is not {original}, expected the same values in both")
            del published[copy]
    shapes = {}
    for theirs, x in published.items():
        ours = names.get(theirs)
        matrix = ours is not None and expected[ours].role in ("weight", "readout")
        shapes[theirs] = x.shape[::-1] if matrix else x.shape
    check_shapes(call, shapes, {theirs: expected[ours].shape for theirs, ours in names.items()})
    wrong = [name for name, x in published.items() if x.dtype.kind != "f"]
    if wrong:
        raise CheckpointError(f"{call}: {wrong[0]} is {published[wrong[0]].dtype}, expected floating-point numbers")
    return {
        ours: freeze(np.ascontiguousarray(turned(published[theirs], expected[ours].role, ours), dtype))
        for theirs, ours in names.items()
    }


def check_shapes(call: str, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise a CheckpointError that names the tensors which are missing, additional or of another shape, if any."""
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


def to_bytes(parameters: Parameters, specs: Specs, call: str) -> bytes:
    """Return the content of a file with parameters by published name; those of no head have the prefix "bert.".

    Raises:
        ArgumentError: the library is not installed.
        CheckpointError: a parameter is missing, additional or has another shape.
    """
    check_shapes(call, {n: x.shape for n, x in parameters.items()}, {n: s.shape for n, s in specs.items()})
    prefixed = any(name.startswith(("mlm.", "nsp.classifier", "span.")) for name in specs)
    tensors = {
        their_name(name, prefixed): np.ascontiguousarray(turned(plain(call, name, parameters[name]), spec.role, name))
        for name, spec in specs.items()
    }
    if _COPIES[_DECODER_BIAS] in tensors:
        tensors[_DECODER_BIAS] = tensors[_COPIES[_DECODER_BIAS]]
    return to_safetensors(tensors, call)
