"""Common functions of all model families: configurations by name, parameters by configuration."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.engine import Tape, Tensor
from refscale.errors import ArgumentError
from refscale.layers import Parameters, initialize, on_tape
from refscale.models import bert, language
from refscale.models.bert import BertConfig
from refscale.models.language import LanguageConfig
from refscale.scales import Constraint, Scheme, get_constraint, get_residual
from refscale.spellings import read_number, read_options, read_whole, split_name

Config = BertConfig | LanguageConfig

FAMILIES: dict[type[Config], Any] = {BertConfig: bert, LanguageConfig: language}
"""The package of each family; all have ``CONFIGS``, ``specs`` and ``initial_std``."""

NAMES: dict[str, Config] = {name: config for f in FAMILIES.values() for name, config in f.CONFIGS.items()}
"""Configurations by name."""

_RULES = {"tau": get_residual, "constraint": get_constraint}
_KINDS: dict[str, Any] = {"int": read_whole, "float": read_number}


def family(config: Config) -> Any:
    """Return the package that defines the family of a configuration."""
    return FAMILIES[type(config)]


def get_config(text: str, **changes: Any) -> Config:
    """Return a configuration by name, ``bert-tiny``, or with options, ``charlm-conv:norm=none,tau=fixed(0.5)``.

    Args:
        text: a name in ``NAMES``, and, after a colon, fields with their values, separated by commas; booleans are
            ``true`` and ``false``.
        changes: values of fields by name; fields in ``text`` take precedence.

    Raises:
        ArgumentError: the name or a field is unknown, or a value is not valid for its field.
    """
    name, rest = split_name(text)
    if name not in NAMES:
        raise ArgumentError(f"get_config({text!r}): expected one of {', '.join(NAMES)}")
    config = NAMES[name]
    known = {f.name: str(f.type) for f in fields(config)}
    expected = f"FIELD=VALUE with one of {', '.join(known)}"
    for option in read_options(rest or None, f"get_config({text!r})", expected):
        if option.field not in known or option.value is None:
            raise ArgumentError(f"get_config({text!r}): {option.text!r}, expected {expected}")
        changes[option.field] = _value(f"get_config({text!r})", option.field, known[option.field], option.value)
    if wrong := sorted(changes.keys() - known.keys()):
        raise ArgumentError(f"get_config({text!r}, {wrong[0]}=…): expected some of {', '.join(known)}")
    return replace(config, **changes)


def initial_parameters(config: Config, scheme: str | Scheme, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Return initial parameters by name; see ``layers.initialize``."""
    members = family(config)
    uniform = isinstance(config, LanguageConfig) and config.initial == "authors"
    return initialize(members.specs(config), scheme, rng, partial(members.initial_std, config), uniform=uniform)


def parameters_on(tape: Tape, parameters: Parameters, config: Config) -> dict[str, Tensor]:
    """Make leaves of a tape from parameters; see ``layers.on_tape``."""
    return on_tape(tape, parameters, family(config).specs(config))


def with_rules(config: Config, *, dropout: float, constraint: str | Constraint) -> Config:
    """Return a configuration with other values of ``dropout`` and ``constraint`` (a constraint or its name)."""
    constraint = get_constraint(constraint)
    if isinstance(config, BertConfig):
        return replace(config, dropout=dropout, attention_dropout=dropout, constraint=constraint)
    return replace(config, dropout=dropout, constraint=constraint)


def _value(call: str, field: str, kind: str, text: str) -> Any:
    """A field's value as written."""
    if field in _RULES:
        return _RULES[field](text)
    if kind == "bool":
        if text not in ("true", "false"):
            raise ArgumentError(f"{call}: {field}={text}, expected true or false")
        return text == "true"
    if kind.startswith("tuple"):
        return tuple(text.split("+"))
    try:
        return _KINDS.get(kind, str)(text)
    except ValueError as error:
        raise ArgumentError(f"{call}: {field}={text}, expected a number of type {kind}") from error
