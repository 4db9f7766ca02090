"""Loading of a published BERT from a directory, and saving."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from refscale.data import Tokenizer
from refscale.errors import ArgumentError, CheckpointError, DataError, counted
from refscale.files import read_json, write_atomically, write_text
from refscale.layers import Parameters
from refscale.models.bert.config import BertConfig, Output
from refscale.models.bert.model import specs
from refscale.published.fields import from_fields, to_fields
from refscale.published.storage import WHOLE, read_tensors
from refscale.published.subwords import SubWords
from refscale.published.tensors import heads, renamed, to_bytes
from refscale.published.tensors import parameters as named_as_here


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A trained BERT: a published one, or one trained by refscale.

    Attributes:
        config: sizes and rules; ``outputs`` lists the existing heads.
        parameters: float32 arrays by name.
        tokenizer: the tokenizer; None if the directory has none.
        digest: SHA-256 of the model in hexadecimal: of its files, or ``train.Checkpoint.digest``.
        scheme: name of the scheme of training; "regular" for published models.
    """

    config: BertConfig
    parameters: dict[str, NDArray[Any]]
    tokenizer: Tokenizer | None
    digest: str
    scheme: str = "regular"


def load_pretrained(directory: str | Path, *, ignore: Sequence[str] = ()) -> Pretrained:
    """Load a published BERT from its directory.

    Args:
        directory: directory with ``config.json``, and ``model.safetensors`` or its shards and their index.
        ignore: unknown fields of ``config.json`` to ignore, if they have no effect on the model.

    Returns:
        Configuration, parameters and tokenizer. float16 and bfloat16 parameters become float32, exactly.

    Raises:
        ArgumentError: the optional extra is not installed.
        DataError: a field of ``config.json`` is not supported; the message names it.
        CheckpointError: a file is missing or damaged, or a tensor is missing, additional or has another shape; the
            message names it.

    Source: Devlin et al. 2018; field and tensor names are those of Hugging Face transformers, ``BertConfig`` and
    ``BertModel``.
    """
    directory = Path(directory)
    call = f"load_pretrained({str(directory)!r})"
    settings = directory / "config.json"
    if not settings.is_file():
        raise CheckpointError(f"{call}: no file config.json, expected config.json and {WHOLE}")
    content = read_json(settings, f"{call}: config.json")
    tensors, files = read_tensors(directory, call)
    model = from_published(content, tensors, call, ignore=ignore)
    tokenizer = SubWords.load(directory)
    if tokenizer and len(tokenizer) > model.config.vocabulary:
        raise DataError(
            f"{call}: the tokenizer has {len(tokenizer)} tokens, the embedding {model.config.vocabulary} rows"
        )
    digest = hashlib.sha256()
    for path in (settings, *files):
        with path.open("rb") as file:
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
    """Make a model without tokenizer from the content of a ``config.json`` and tensors by published name.

    Args:
        content: fields of ``config.json``.
        tensors: arrays by published name, with or without the prefix "bert.".
        call: the function called, for messages.
        ignore: unknown fields to ignore, see ``load_pretrained``.
        dtype: dtype of the parameters.

    Raises:
        DataError, CheckpointError: see ``load_pretrained``.
    """
    found = renamed(tensors, call)
    values = from_fields(content, call, ignore)
    try:
        config = BertConfig(**values, outputs=cast(tuple[Output, ...], heads(found)))
    except ArgumentError as error:
        raise DataError(f"{call}: config.json: {error}") from error
    if config.layers > len(found):  # each layer has tensors; the specs of too many layers would fill the memory
        there = counted(len(found), "tensor")
        raise CheckpointError(f"{call}: config.json has num_hidden_layers = {config.layers}, but there are {there}")
    return Pretrained(config, named_as_here(found, specs(config), config.tied, call, dtype), None, "")


def save_pretrained(
    directory: str | Path, config: BertConfig, parameters: Parameters, tokenizer: SubWords | None = None
) -> None:
    """Save a BERT in the files that ``load_pretrained`` and other libraries load.

    Args:
        directory: the directory, created if it does not exist; files of the same names are replaced.
        config: configuration of the model.
        parameters: parameters under the scheme ``regular``; ``Adapted.regular`` returns those of an adapted model.
        tokenizer: tokenizer to save; None: no tokenizer.

    Raises:
        ArgumentError: the configuration has no published form (other placement of norms, other residual rules), or the
            optional extra is not installed.
        CheckpointError: a parameter is missing, additional or has another shape.
        OSError: the directory cannot be written to.
    """
    call = f"save_pretrained({str(directory)!r})"
    for name, only in (("norm", ("post",)), ("tau", (None,)), ("scores", (None, "1/sqrt(d)"))):
        if getattr(config, name) not in only:
            raise ArgumentError(f"{call}: {name}={getattr(config, name)!r} has no published form, expected {only[0]!r}")
    saved = to_bytes(parameters, specs(config), call)
    content = json.dumps(to_fields(vars(config), config.outputs), indent=2) + "\n"
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / "model.safetensors", lambda file: file.write(saved))
    write_text(directory / "config.json", content)
    if tokenizer:
        text = tokenizer.to_json()
        write_text(directory / "tokenizer.json", text)
