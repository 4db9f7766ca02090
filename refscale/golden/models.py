"""Family ``model``: whole training steps, op by op, and as a whole.

A model runs once on a tape with exact arithmetic. The recorded values give two kinds of vectors:

* ``model/NAME/SCHEME/PRECISION/NNN.op``: an ``op`` vector for every call, with the inputs and the gradient of the
  reference at that call. A backend receives these, not its own results, so that the first deviating op is identified.
* ``model/NAME/SCHEME/PRECISION/whole``: inputs are parameters and batch; outputs every activation and its gradient,
  losses and the gradient of every parameter. ``bert-tiny`` by hash, the small models in full.

``model/bert-micro/…/step-T`` are three steps of AdamW from those gradients, each from the parameters of the last step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from refscale import functional as F  # noqa: N812
from refscale.data import IGNORE, Batch, TextBatch
from refscale.engine import Tape, Tensor, Variable, backward
from refscale.errors import GoldenError
from refscale.golden.inputs import Words
from refscale.golden.ops import PRECISIONS, SCHEMES, float32_factors, op_vector
from refscale.golden.schema import Codes, Vector
from refscale.graph import balance
from refscale.layers import Specs, feed_forward_specs, on_tape, self_attention_specs
from refscale.layers import feed_forward as _feed_forward
from refscale.layers import self_attention as _self_attention
from refscale.models import bert, get_config, language
from refscale.optim import Group, Rate, adamw
from refscale.precision import Precision, get_precision
from refscale.scales import Scheme, fixed

Array = NDArray[Any]
Parameters = dict[str, Array]

MICRO = bert.BertConfig(
    layers=1, width=16, heads=4, hidden=32, vocabulary=48, positions=8, dropout=0.0, tau=fixed(0.25)
)
TINY = bert.get_config("bert-tiny", dropout=0.0)
_LANGUAGE = "layers=1,width=16,head_size=4,vocabulary=24,multiple=2.0,frequencies=4"
LANGUAGE: dict[str, language.LanguageConfig] = {
    f"{name}-micro": cast(language.LanguageConfig, get_config(f"{name}:{_LANGUAGE}"))
    for name in ("charlm-attention", "charlm-rnn", "decoder-mini")
}
CALLS = ("ffn", "attention", "bert-micro")
"""Models whose calls are all vectors of the set; the calls of other models are generated on demand."""


@dataclass(frozen=True)
class Model:
    """A model with its inputs.

    Attributes:
        name: name in ids.
        specs: specs of its parameters.
        arrays: inputs beside the parameters, by name.
        run: function (parameters on the tape, arrays) → output to be differentiated.
        seed: random seed of the parameters.
    """

    name: str
    specs: Specs
    arrays: Mapping[str, Array]
    run: Callable[[dict[str, Tensor], Mapping[str, Array]], Tensor]
    seed: int


def models() -> list[Model]:
    """Return FFN, attention, BERT in two sizes, and the language models in one size."""
    words = Words(30_000)
    ffn = Model("ffn", feed_forward_specs("ffn", 16, 64), {"x": words.normal(8, 16)}, _run_ffn, 1)
    mask = np.array([[True] * 6, [True] * 4 + [False] * 2])
    arrays = {"x": words.normal(2, 6, 16), "mask": mask}
    attention = Model("attention", self_attention_specs("attention", 16), arrays, _run_attention, 2)
    micro = Model("bert-micro", bert.specs(MICRO), _batch(words, MICRO, 2, 8, 2), _run_bert(MICRO), 3)
    tiny = Model("bert-tiny", bert.specs(TINY), _batch(words, TINY, 2, 32, 5), _run_bert(TINY), 4)
    text = {"ids": words.below(24, 2, 5)}
    text["labels"] = np.where(np.arange(5) < 1, IGNORE, text["ids"])
    others = [
        Model(name, language.specs(config), text, _run_language(config), 5 + i)
        for i, (name, config) in enumerate(LANGUAGE.items())
    ]
    return [ffn, attention, micro, tiny, *others]


def _run_ffn(p: dict[str, Tensor], arrays: Mapping[str, Array]) -> Tensor:
    (tape,) = {t.tape for t in p.values()}
    x = tape.tensor(arrays["x"], "x")
    return F.residual(lambda h: _feed_forward(p, "ffn", h, MICRO.block), x, fixed(0.25))


def _run_attention(p: dict[str, Tensor], arrays: Mapping[str, Array]) -> Tensor:
    (tape,) = {t.tape for t in p.values()}
    x = tape.tensor(arrays["x"], "x")
    return F.residual(lambda h: _self_attention(p, "attention", h, arrays["mask"], MICRO.block), x, fixed(0.25))


def _run_bert(config: bert.BertConfig) -> Callable[[dict[str, Tensor], Mapping[str, Array]], Tensor]:
    return lambda p, arrays: bert.pretraining_loss(p, Batch(**arrays), config).total


def _run_language(config: language.LanguageConfig) -> Callable[[dict[str, Tensor], Mapping[str, Array]], Tensor]:
    return lambda p, arrays: language.next_token_loss(p, TextBatch(**arrays), config).total


def _batch(words: Words, config: bert.BertConfig, size: int, seq: int, predictions: int) -> dict[str, Array]:
    """Return random tokens in two segments; the last sequence is padded, and one of its predictions is not counted."""
    ids = words.below(config.vocabulary - 5, size, seq) + 5
    mask = np.ones((size, seq), np.bool_)
    mask[-1, seq - seq // 4 :] = False
    ids[~mask] = 0
    positions = np.sort(words.words(size, seq // 2).argsort(-1)[:, :predictions] + 1, -1)
    labels = np.take_along_axis(ids, positions, 1)
    labels[-1, -1] = IGNORE
    segments = ((np.arange(seq) >= seq // 2) & mask).astype(np.int64)
    is_next = np.arange(size) % 2
    return {
        "ids": ids,
        "segments": segments,
        "mask": mask,
        "positions": positions,
        "labels": labels,
        "is_next": is_next,
    }


def parameters(model: Model, scheme: Scheme) -> Parameters:
    """Return initial parameters: nearly normal, in float32; biases and gains differ from 0 and 1 to reveal errors."""
    words, found = Words(model.seed), {}
    for name, spec in model.specs.items():
        x = words.normal(*spec.shape)
        if spec.role in ("bias", "gain"):
            x = x / 8 + (spec.role == "gain")
        else:
            x = x * (1.0 if scheme.initial_std(0.0) else 2.0**-5)
        found[name] = x.astype(np.float32)
    return found


class _NotingTape(Tape):
    """A tape that stores the value of every leaf, constants included."""

    leaves: dict[Variable, Array]

    def tensor(self, value: Any, name: str = "leaf", *, requires_grad: bool = True) -> Tensor:
        """Create a leaf as ``Tape.tensor`` does, and store its value."""
        found = super().tensor(value, name, requires_grad=requires_grad)
        self.leaves = {**getattr(self, "leaves", {}), found.variable: found.value}
        return found


@dataclass(frozen=True)
class Recorded:
    """The record of a run: the output, and values and complete gradients by variable."""

    tape: Tape
    output: Tensor
    parameters: dict[str, Tensor]
    values: dict[Variable, Array]
    gradients: dict[Variable, Array]


def run(model: Model, scheme: Scheme, precision: Precision, values: Parameters) -> Recorded:
    """Run one forward and backward pass with exact arithmetic."""
    forward: dict[Variable, Array] = {}
    gradients: dict[Variable, Array] = {}

    def probe(way: str, variable: Variable, x: Array) -> None:
        (forward if way == "forward" else gradients)[variable] = np.array(x)

    tape = _NotingTape(scheme, precision, probe=probe)
    leaves = on_tape(tape, values, model.specs)
    output = model.run(leaves, model.arrays)
    if scheme.name != "regular":
        balance(output)
        for node in tape.nodes:
            node.scales = float32_factors(node.scales)
    gradient = np.ones(()) if output.shape == () else Words(model.seed + 100).normal(*output.shape)
    backward(output, gradient, check=False)  # factors rounded to float32 agree to float32 only
    return Recorded(tape, output, leaves, forward | tape.leaves, gradients)


def generate() -> Iterator[Vector]:
    """Yield every model under both schemes in each precision."""
    for model in models():
        for scheme_name, scheme in SCHEMES.items():
            values = parameters(model, scheme)
            for name in PRECISIONS:
                precision = get_precision(name, accumulate="exact")
                recorded = run(model, scheme, precision, values)
                where = f"model/{model.name}/{scheme_name}/{name}"
                if model.name in CALLS:
                    yield from _calls(where, recorded, get_precision(name))
                yield _whole(where, model, scheme_name, name, values, recorded)
                if model.name == "bert-micro":
                    yield from _steps(where, model, scheme, precision, values)


def calls(where: str) -> list[Vector]:
    """Return the op vectors of one model, in the order of its forward pass, also if the set has only the whole step.

    Args:
        where: "model/NAME/SCHEME/PRECISION".

    Raises:
        GoldenError: no such model, scheme or precision.
    """
    known = {m.name: m for m in models()}
    parts = where.split("/")
    if len(parts) != 4 or parts[0] != "model" or parts[1] not in known or parts[2] not in SCHEMES:
        parts = []
    if not parts or parts[3] not in PRECISIONS:
        raise GoldenError(
            f"golden model {where!r}: expected model/NAME/SCHEME/PRECISION with NAME of {', '.join(known)}; SCHEME of "
            f"{', '.join(SCHEMES)}; PRECISION of {', '.join(PRECISIONS)}"
        )
    model, scheme, name = known[parts[1]], SCHEMES[parts[2]], parts[3]
    recorded = run(model, scheme, get_precision(name, accumulate="exact"), parameters(model, scheme))
    return list(_calls(where, recorded, get_precision(name)))


def _calls(where: str, recorded: Recorded, precision: Precision) -> Iterator[Vector]:
    """Yield an op vector for every call except sums of losses, whose inputs and output are reports."""
    for node in recorded.tape.nodes:
        if node.op.name == "loss_sum":
            continue
        arrays = [recorded.values[v] for v in node.inputs]
        gradient = recorded.gradients[node.output]
        yield op_vector(
            f"{where}/{node.index:03d}.{node.op.name}",
            node.op,
            arrays,
            gradient,
            node.scales,
            precision,
            ("alpha", "beta", "vjp"),
            [v.requires_grad for v in node.inputs],
            node.output.name,
        )


def _whole(where: str, model: Model, scheme: str, precision: str, values: Parameters, recorded: Recorded) -> Vector:
    """Return the vector of a whole step: parameters, inputs, constants, gradient of the output; every result."""
    casts = get_precision(precision)
    format = casts.store.format.name if casts.store else "float32"
    inputs = {name: Codes.of(x, "float32") for name, x in values.items()}
    for name, x in model.arrays.items():
        inputs[name] = Codes.of(x, {"i": "int64", "b": "bool"}.get(x.dtype.kind, "float64"))
    reports = {f"{w} {n.index:03d}.{n.output.name}" for n in recorded.tape.nodes if n.op.reports for w in _WHAT}
    outputs = {k: Codes.of(x, "float32" if k in reports else format) for k, x in _outputs(recorded).items()}
    calls, constants = _graph(model, recorded)
    inputs |= constants
    last = recorded.tape.nodes[-1]
    inputs["gradient"] = Codes.of(recorded.gradients[last.output], "float32" if last.op.reports else format)
    attributes = {
        "name": model.name,
        "scheme": scheme,
        "precision": precision,
        "store": format,
        "operand": casts.operand.format.name if casts.operand else None,
        "operand_gradient": casts.operand_gradient.format.name if casts.operand_gradient else None,
        "calls": calls,
    }
    flags = ("alpha", "beta", "vjp", "gradient-sum")
    comment = "every activation, loss and gradient of a training step"
    return Vector(f"{where}/whole", "model", attributes, inputs, outputs, flags, comment, model.name == "bert-tiny")


def _graph(model: Model, recorded: Recorded) -> tuple[list[dict[str, Any]], dict[str, Codes]]:
    """Return the calls of a step, as ``golden.steps`` reads them, and the constants among their inputs."""
    names = {leaf.variable: name for name, leaf in recorded.parameters.items()}
    calls: list[dict[str, Any]] = []
    constants: dict[str, Codes] = {}
    for node in recorded.tape.nodes:
        for place, variable in enumerate(node.inputs):
            if variable in names:
                continue
            x = recorded.values[variable]
            same = [name for name, given in model.arrays.items() if _is_input(x, given, variable.name, name)]
            names[variable] = same[0] if same else f"constant.{node.index:03d}.{place}"
            if not same:
                constants[names[variable]] = Codes.of(x, {"i": "int64", "b": "bool"}.get(x.dtype.kind, "float32"))
        names[node.output] = f"{node.index:03d}.{node.output.name}"
        beta = [b if v.requires_grad else None for b, v in zip(node.scales.beta, node.inputs, strict=True)]
        calls.append(
            {
                "op": node.op.name,
                "attributes": node.op.attributes(),
                "alpha": node.scales.alpha,
                "beta": beta,
                "inputs": [names[v] for v in node.inputs],
                "output": names[node.output],
            }
        )
    return calls, constants


def _is_input(x: Array, given: Array, variable: str, name: str) -> bool:
    """Return whether a leaf is an input of the model: the same array, or the one float input, rounded by the tape."""
    if given.dtype.kind == "f":
        return variable == name
    return given.shape == x.shape and bool(np.array_equal(given, x))


_WHAT = ("value", "gradient")


def _outputs(recorded: Recorded) -> dict[str, Array]:
    """Return every activation with its gradient, then the gradient of every parameter."""
    found: dict[str, Array] = {}
    for node in recorded.tape.nodes:
        name = f"{node.index:03d}.{node.output.name}"
        found[f"value {name}"] = recorded.values[node.output]
        found[f"gradient {name}"] = recorded.gradients[node.output]
    for name, leaf in recorded.parameters.items():
        if leaf.grad is not None:
            found[f"gradient {name}"] = leaf.grad
    return found


def _steps(where: str, model: Model, scheme: Scheme, precision: Precision, values: Parameters) -> Iterator[Vector]:
    """Yield three steps of AdamW, each from the reference's parameters, moments and gradients at that step."""
    hyper = {"b1": 0.9, "b2": 0.999, "eps": 2.0**-20, "weight_decay": 2.0**-7}
    optimizer = adamw(hyper["b1"], hyper["b2"], hyper["eps"], hyper["weight_decay"])
    state = optimizer.init(values)
    for t in (1, 2, 3):
        recorded = run(model, scheme, precision, values)
        gradients = {n: leaf.grad for n, leaf in recorded.parameters.items() if leaf.grad is not None}
        old = {n: values[n] for n in gradients}
        before = {k: v for k, v in state.items() if k == "step" or k.partition("/")[2] in gradients}
        groups = {
            n: Group(float(np.float32(scheme.lr_scale(s.role, s.shape, s.depth)))) for n, s in model.specs.items()
        }
        new, state = optimizer.update(gradients, before, old, Rate(2.0**-6), {n: groups[n] for n in gradients})
        for name in gradients:
            inputs = {"parameter": old[name], "gradient": gradients[name]}
            inputs |= {"m": before[f"m/{name}"], "v": before[f"v/{name}"]}
            outputs = {"parameter": new[name], "m": state[f"m/{name}"], "v": state[f"v/{name}"]}
            yield Vector(
                f"{where}/step-{t}/{name}",
                "adamw",
                {"t": t, "lr": 2.0**-6 * groups[name].lr_scale, **hyper},
                {k: Codes.of(x, "float32") for k, x in inputs.items()},
                {k: Codes.of(x, "float32") for k, x in outputs.items()},
                ("optimizer",),
                "parameter and moments in float32; every operation rounded to float32",
            )
        values = {**values, **new}
