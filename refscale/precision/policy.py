"""Precision policies: the arrays that are rounded, and their formats.

A policy is a record of up to five casts. The engine applies the first three, the optimizer's caller the others:

==================  ==============================================================  =======================
cast                applied to                                                      when
==================  ==============================================================  =======================
store               every leaf entering the tape (parameters, inputs)               ``Tape.tensor``
store               every op's output, after the factor α, except losses            forward
operand             every input of a contraction (matmul, scores, convolution)      forward, before the op
operand_gradient    the gradient that a contraction receives                        backward, before the vjp
store               every gradient of an op's input, after the factor β, except     backward
                    that of a loss
store               every sum of gradients, if a tensor has several consumers       backward
weights             every parameter, after the optimizer has changed it             ``store_weights``
first_moment        momentum or first moment of the optimizer, after its update     ``store_moments``
==================  ==============================================================  =======================

The backward pass of a contraction thus uses the same narrow operands as its forward pass, and gradients pass through a
cast unchanged (straight through). Three kinds of arrays are not stored narrow. The value of a loss is a report, not an
operand. The gradient of a loss is the loss scale, and 2^16 overflows in FP16; the first rounded gradient is that of the
loss's inputs. The arrays that an op keeps for its backward pass are not rounded.

A policy with ``rules`` has another policy at some places: ``fp8;head.*=bf16;*.router.*=fp32`` is fp8, but bf16 for
every parameter and call whose name begins with "head.", and fp32 for those of routers. A call's name is that of its
output, scopes and op, such as "encoder.0.ffn.up.matmul"; a call also has the names of the parameters that it uses
directly. The first rule whose pattern matches one of these names (with ``*``, ``?`` and ``[…]`` as in file names)
defines the casts of operands and of the incoming gradient. A value and its gradient are stored by the policy of the
call that made it, a leaf by that of its own name.

A policy with ``blocks`` casts operands when they are multiplied, in blocks along the axis that is summed over: each
operand in forward, and again in backward along its other axis (``refscale.blocks.operand``). A policy with ``hadamard``
and without blocks does so, too: the operands of a weight's gradient are transformed before they are cast.

Arithmetic inside an op is that of the carrier: a matmul accumulates in float32, in the order that BLAS chooses. With
``accumulate`` it is that of ``refscale.exact``, the same bits on every machine: products are exact, or the sums of a
named accumulator, and each result is rounded once, after its factor, to the ``store`` format.

``fp16`` and ``fp8`` have FP32 master weights, as in mixed-precision training (Micikevicius et al. 2017, arXiv
1710.03740). The paper's runs did not: they stored weights in FP16, rounded stochastically, as ``fp16-sr`` and
``fp8-sr`` do. Their character models also stored the first moment of AdamW (and the momentum of SGD) in FP16, the
second moment in FP32, and rounded all FP16 arrays stochastically. That policy is the mix
``store=fp16/stochastic,weights=fp16/stochastic,first_moment=fp16/stochastic``, with ``/nearest_even`` for casts without
stochastic rounding. Under any policy norms, losses and the optimizer's update compute in the carrier, from the stored
values; the update uses the first moment before it is rounded.

Sources: paper, Table A.1 and Table 2; the authors' code, scmm/layers.py (stored arrays; ``AdamW._update``,
``SgdM._update``) and run_sweep.py (``stochastic_rounding``). Noune et al. 2022 (arXiv 2206.02915) for the fnuz
formats, those of the paper's FP8 runs; Micikevicius et al. 2022 (arXiv 2209.05433) for e4m3fn and e5m2; µnit Scaling
(arXiv 2502.05967) for FP8 in hidden layers alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.arguments import number
from refscale.arrays import freeze
from refscale.blocks import RECIPES, BlockCast, Recipe
from refscale.blocks.operand import hadamard_length
from refscale.errors import ArgumentError
from refscale.formats import Cast, Overflow, Rounding, get_format
from refscale.spellings import read_number, read_options, read_whole

_CASTS = ("store", "operand", "operand_gradient", "weights", "first_moment")
_NUMBERS: dict[str, Callable[[str], float]] = {"operand_factor": read_number, "hadamard": read_whole}


@dataclass(frozen=True)
class Rule:
    """A policy for the calls and parameters whose names match a pattern.

    Attributes:
        pattern: pattern of names, with ``*``, ``?`` and ``[…]``; case-sensitive.
        policy: the policy of matching calls and parameters.
    """

    pattern: str
    policy: Precision


@dataclass(frozen=True)
class Precision:
    """A precision policy: casts by place; None means not rounded, the precision of the carrier.

    Args:
        name: name shown in reports.
        store: cast of leaves, outputs and gradients.
        operand: cast of a contraction's inputs.
        operand_gradient: cast of the gradient that a contraction receives.
        weights: cast of parameters between steps; None: FP32 master weights.
        first_moment: cast of the optimizer's m (momentum or first moment) between steps.
        contractions: names (``Op.name``) of the contractions whose operands are cast; None: all.
        operand_factor: c in cast(c·x)/c, the cast of every operand and of the gradient a contraction receives; a
            constant power of two from 2^-64 to 2^64.
        hadamard: length of the random Hadamard transform of both operands of a weight's gradient before they are cast,
            as in ``blocks.Recipe``; 0: none.
        blocks: recipe that converts operands of contractions to block-scaled formats, in place of ``operand`` and
            ``operand_gradient``.
        accumulate: accumulator of products, a name of ``exact.get_accumulator`` that defines the sums ("exact",
            "float32", "float32:128", "truncated:13:32"); other functions are then evaluated by ``exact.array``. None:
            NumPy's arithmetic in the carrier, which is faster.
        rules: other policies at some places; the first matching rule applies.

    Raises:
        ArgumentError: a field has another type, or fields contradict each other.
    """

    name: str
    store: Cast | None = None
    operand: Cast | None = None
    operand_gradient: Cast | None = None
    weights: Cast | None = None
    first_moment: Cast | None = None
    contractions: tuple[str, ...] | None = None
    operand_factor: float = 1.0
    hadamard: int = 0
    blocks: Recipe | None = None
    accumulate: str | None = None
    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        for field, expected in (*((field, Cast) for field in _CASTS), ("blocks", Recipe)):
            if not isinstance(value := getattr(self, field), expected | None):
                raise ArgumentError(
                    f"Precision({self.name!r}): {field} is {value!r}, expected a {expected.__name__} or None; "
                    "get_precision finds policies by name"
                )
        names: Any = self.contractions
        if names is not None:
            if not isinstance(names, tuple | list) or not all(isinstance(c, str) for c in names):
                raise ArgumentError(f"Precision({self.name!r}): contractions is {names!r}, expected a tuple of names")
            object.__setattr__(self, "contractions", tuple(names))
        for rule in self.rules:
            if rule.policy.rules or rule.policy.accumulate != self.accumulate:
                raise ArgumentError(
                    f"Precision({self.name!r}): the policy of {rule.pattern!r} has rules, or sums in another way, "
                    "expected one without rules and of the same accumulate"
                )
        if self.blocks and (self.operand or self.operand_gradient or self.accumulate):
            raise ArgumentError(
                f"Precision({self.name!r}): blocks together with operand, operand_gradient or accumulate"
            )
        factor = number("Precision", "operand_factor", self.operand_factor)
        if not 2.0**-64 <= factor <= 2.0**64 or math.frexp(factor)[0] != 0.5:
            raise ArgumentError(
                f"Precision({self.name!r}): operand_factor is {factor}, expected a power of two from 2^-64 to 2^64"
            )
        object.__setattr__(self, "operand_factor", factor)
        object.__setattr__(self, "hadamard", hadamard_length("Precision", self.hadamard))
        if (self.hadamard and (self.blocks or self.accumulate)) or (factor != 1 and self.blocks):
            raise ArgumentError(
                f"Precision({self.name!r}): hadamard together with blocks or accumulate, or operand_factor with blocks"
            )
        if self.accumulate is None:
            return
        from refscale.exact import get_accumulator  # imported lazily: only exact mode needs it

        if get_accumulator(self.accumulate).name == "any-order":
            raise ArgumentError(f"Precision({self.name!r}): accumulate='any-order' does not define a sum")

    def __str__(self) -> str:
        parts = [f"{k}={getattr(self, k) or 'carrier'}" for k in _CASTS[: 1 if self.blocks else 3]]
        if self.blocks is not None:
            parts.append(f"operands={self.blocks}")
        parts += [f"{k}={getattr(self, k)}" for k in _CASTS[3:] if getattr(self, k) is not None]
        if self.operand_factor != 1:
            parts.append(f"operand_factor={self.operand_factor:g}")
        if self.hadamard:
            parts.append(f"hadamard={self.hadamard}")
        if self.contractions is not None:
            parts.append(f"contractions={'+'.join(self.contractions)}")
        if self.accumulate is not None:
            parts.append(f"accumulate={self.accumulate}")
        parts += [f"{rule.pattern}: {rule.policy}" for rule in self.rules]
        return f"{self.name} ({', '.join(parts)})"

    def at(self, *names: str) -> tuple[str, Precision]:
        """Return the pattern and the policy of the first rule that matches one of the names of a call or parameter.

        If no rule matches, the pattern is empty, and the policy is this one.
        """
        for rule in self.rules:
            if any(fnmatchcase(name, rule.pattern) for name in names):
                return rule.pattern, rule.policy
        return "", self

    def narrows(self, contraction: str) -> bool:
        """Return whether the operands of the contraction of that name are cast."""
        return self.contractions is None or contraction in self.contractions

    def store_weights(
        self, parameters: Mapping[str, NDArray[Any]], rng: np.random.Generator | None = None
    ) -> dict[str, NDArray[Any]]:
        """Round parameters by ``weights``, once each, for storage between steps.

        With rounding to nearest an update of less than half an ulp is lost at every step. With stochastic rounding the
        expected weight is the exact one.

        Args:
            parameters: parameters after the optimizer's update, float32 or float64.
            rng: source of random bits, drawn parameter by parameter in the mapping's order; needed only if
                ``weights`` rounds stochastically.

        Returns:
            New read-only arrays of the same dtypes; the arrays given, if ``weights`` is None.

        Raises:
            ArgumentError: ``weights`` rounds stochastically, and ``rng`` is missing.

        Source: the authors' code, scmm/layers.py: an update in FP32, stored in the dtype of the weight; run_sweep.py:
        with stochastic rounding.
        """
        return {name: _stored(self.at(name)[1].weights, x, rng, "store_weights") for name, x in parameters.items()}

    def store_moments(
        self, state: Mapping[str, NDArray[Any]], rng: np.random.Generator | None = None
    ) -> dict[str, NDArray[Any]]:
        """Round each m of an optimizer's state by ``first_moment``, for storage between steps.

        The update of the parameters uses m before this rounding.

        Args:
            state: the state after the update, see ``optim.State``; its other arrays do not change.
            rng: source of random bits, needed only if ``first_moment`` rounds stochastically.

        Returns:
            The state, in the same order; m as new read-only arrays.

        Raises:
            ArgumentError: ``first_moment`` rounds stochastically, and ``rng`` is missing.

        Source: the authors' code, scmm/layers.py: ``m_prev.assign(cast(m_next, m_prev.dtype))``, v in FP32.
        """
        return {
            slot: _stored(self.at(slot[2:])[1].first_moment, x, rng, "store_moments") if slot.startswith("m/") else x
            for slot, x in state.items()
        }


def _stored(cast: Cast | None, x: NDArray[Any], rng: np.random.Generator | None, call: str) -> NDArray[Any]:
    """An array after a cast, in its own dtype, read-only; itself without one."""
    if cast is None:
        return x
    return freeze(cast(x, random_bits(cast, x.shape, rng, call)).astype(x.dtype, copy=False))


def random_bits(
    cast: Cast | BlockCast, shape: tuple[int, ...], rng: np.random.Generator | None, call: str
) -> NDArray[np.uint32] | None:
    """Draw the random bits for a cast of an array of a given shape; None unless the cast rounds stochastically.

    Raises:
        ArgumentError: the cast rounds stochastically, and ``rng`` is not a generator; the message names ``call``.
    """
    if cast.rounding != "stochastic":
        return None
    if rng is None or not hasattr(rng, "integers"):
        raise ArgumentError(f"{cast} needs random bits: {call}(rng=numpy.random.default_rng(seed))")
    return rng.integers(0, 2**32, shape, np.uint32)


def _cast(name: str, rounding: Rounding = "nearest_even") -> Cast:
    """The customary cast to a format: out of range becomes infinity above 8 bits, the largest value in 8 or fewer.

    The first is what processors do to 16-bit formats, the second what accelerators do to FP8 in training.
    """
    overflow: Overflow = "nonsaturate" if get_format(name).bits > 8 else "saturate"
    return Cast(name, rounding, overflow)


fp32 = Precision("fp32")
fp16 = Precision("fp16", store=_cast("float16"))
bf16 = Precision("bf16", store=_cast("bfloat16"))
fp8 = Precision("fp8", _cast("float16"), _cast("float8_e4m3fn"), _cast("float8_e5m2"))
fp8_fnuz = Precision("fp8-fnuz", _cast("float16"), _cast("float8_e4m3fnuz"), _cast("float8_e5m2fnuz"))
fp16_sr = Precision("fp16-sr", _cast("float16"), weights=_cast("float16", "stochastic"))
fp8_sr = Precision("fp8-sr", fp8.store, fp8.operand, fp8.operand_gradient, weights=_cast("float16", "stochastic"))
fp8_hidden = Precision(
    "fp8-hidden", _cast("bfloat16"), fp8.operand, fp8.operand_gradient, contractions=("matmul",)
)  # bfloat16 beside the FP8, as in µnit Scaling
fp4 = Precision("fp4", bf16.store, _cast("float4_e2m1fn"), _cast("float4_e2m1fn"))  # one scale to a tensor, or none

POLICIES = {p.name: p for p in (fp32, fp16, bf16, fp8, fp8_fnuz, fp16_sr, fp8_sr, fp8_hidden, fp4)}
POLICIES |= {name: Precision(name, bf16.store, blocks=recipe) for name, recipe in RECIPES.items()}


def get_precision(policy: str | Precision, *, accumulate: str | None = None) -> Precision:
    """Return the policy of a name, or make a mix: ``store=bf16,operand=e4m3fn,operand_gradient=e5m2,weights=bf16``.

    Rules for places follow after semicolons, each a pattern and a policy: ``fp8;head.*=bf16;*.router.*=fp32``.

    ``,accumulate=exact`` after a name or mix, or the argument, chooses the accumulator of products: see ``Precision``.

    In a mix, formats of at most 8 bits saturate and wider ones do not; weights are rounded stochastically, other arrays
    to nearest, as in the named policies. Another rounding mode follows the format:
    ``operand_gradient=e2m1fn/stochastic``. ``operand_factor=2`` and ``hadamard=16`` set the fields of these names. For
    other casts, or for some contractions only, make a ``Precision``. A ``Precision`` is returned unchanged, except for
    the argument ``accumulate``.

    Raises:
        ArgumentError: a policy or field is unknown, or a field occurs twice.
        FormatError: a format is unknown.
    """
    if isinstance(policy, str) and ";" in policy:
        return _with_rules(policy, accumulate)
    if isinstance(policy, str):
        name, comma, named = policy.partition(",accumulate=")
        accumulate = named if comma else accumulate
        policy = POLICIES[name] if name in POLICIES else _mix(name)
    if not isinstance(policy, Precision):
        raise _unknown(policy)
    if accumulate is None:
        return policy
    return replace(policy, name=f"{policy.name},accumulate={accumulate}", accumulate=accumulate)


def _with_rules(text: str, accumulate: str | None) -> Precision:
    """The policy of a text with rules."""
    first, *rest = (part.strip() for part in text.split(";"))
    base = get_precision(first, accumulate=accumulate)
    rules: list[Rule] = []
    for part in rest:
        pattern, equals, name = (piece.strip() for piece in part.partition("="))
        if not (pattern and equals and name):
            raise ArgumentError(
                f"get_precision({text!r}): {part!r}, expected PATTERN=POLICY, such as head.*=bf16, after each semicolon"
            )
        if any(rule.pattern == pattern for rule in rules):
            raise ArgumentError(f"get_precision({text!r}): {pattern!r} occurs twice, expected one policy for it")
        there = get_precision(name)
        rules.append(Rule(pattern, there if there.accumulate else replace(there, accumulate=base.accumulate)))
    added = f",accumulate={accumulate}" if accumulate is not None else ""
    return replace(base, name=text + added, rules=tuple(rules))


def _unknown(policy: object) -> ArgumentError:
    return ArgumentError(
        f"get_precision({policy!r}): expected one of {', '.join(POLICIES)}, a mix such as "
        "store=bf16,operand=e4m3fn,operand_gradient=e5m2,weights=bf16, or a Precision"
    )


def _mix(text: str) -> Precision:
    """The policy of casts that are named one by one."""
    fields: dict[str, Any] = {}
    call, _, expected = str(_unknown(text)).partition(": expected ")
    for option in read_options(text, call, expected):
        field, value = option.field, option.value
        if value is None or field not in (*_CASTS, *_NUMBERS):
            raise _unknown(text)
        if field in _NUMBERS:
            try:
                fields[field] = _NUMBERS[field](value)
            except ValueError as error:
                raise ArgumentError(f"{call}: {option.text!r}, expected a number") from error
            continue
        name, _, mode = value.partition("/")
        rounding: Any = mode or ("stochastic" if field == "weights" else "nearest_even")
        fields[field] = _cast(name, rounding)
    return Precision(text, **fields)
