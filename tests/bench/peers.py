"""The reference work in other libraries: PyTorch, JAX, HIPS autograd, and PyTorch with the library unit-scaling.

The network is written once, over a record of functions that each library fills in with its own. Libraries are
imported late; a maker raises ImportError where its library is missing.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from tests.bench.work import Array, Data, Result, Size, Step, data, interleaved, parameters, threads


@dataclass(frozen=True)
class Functions:
    """The settings of a library's computation."""

    embedding: Callable[[Any, Any], Any]  # table, ids
    add: Callable[[Any, Any], Any]
    norm: Callable[[Any, Any, Any], Any]  # x, gain, bias
    linear: Callable[[Any, Any, Any], Any]  # x, weight, bias
    readout: Callable[[Any, Any, Any], Any]  # x, word embedding, bias
    gelu: Callable[[Any], Any]
    attention: Callable[[Any, Any, Any], Any]  # query, key, value (batch, heads, sequence, d)
    residual: Callable[[Callable[[Any], Any], Any], Any]  # branch, stream
    cross_entropy: Callable[[Any, Any], Any]  # logits (…, vocabulary), labels (…)


def loss(f: Functions, p: Mapping[str, Any], batch: Data, size: Size) -> Any:
    """The mean cross-entropy: as ``work.loss``."""

    def norm(name: str, x: Any) -> Any:
        return f.norm(x, p[f"{name}.gain"], p[f"{name}.bias"])

    def linear(name: str, x: Any) -> Any:
        return f.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])

    def heads(x: Any) -> Any:
        return x.reshape(size.batch, size.sequence, size.heads, -1).swapaxes(1, 2)

    def attend(name: str, x: Any) -> Any:
        q, k, v = (heads(linear(f"{name}.{part}", x)) for part in ("query", "key", "value"))
        mixed = f.attention(q, k, v).swapaxes(1, 2).reshape(size.batch, size.sequence, size.width)
        return linear(f"{name}.output", mixed)

    def feed_forward(name: str, x: Any) -> Any:
        return linear(f"{name}.down", f.gelu(linear(f"{name}.up", x)))

    x = f.embedding(p["embeddings.word"], batch.ids)
    x = f.add(x, f.embedding(p["embeddings.position"], batch.positions))
    x = norm("embeddings.norm", f.add(x, f.embedding(p["embeddings.segment"], batch.segments)))
    for i in range(size.layers):
        for part, branch in (("attention", attend), ("ffn", feed_forward)):
            name = f"encoder.{i}.{part}"
            x = norm(f"{name}.norm", f.residual(partial(branch, name), x))
    x = norm("mlm.norm", f.gelu(linear("mlm.transform", x)))
    return f.cross_entropy(f.readout(x, p["embeddings.word"], p["mlm.decoder.bias"]), batch.labels)


def _plain(branch: Callable[[Any], Any], x: Any) -> Any:
    return x + branch(x)


# --- PyTorch ----------------------------------------------------------------------------------------------------------


def _transposed(name: str) -> bool:
    """Whether torch stores this parameter the other way round, (fan_out, fan_in)."""
    return name.endswith(".weight")


def _torch_step(f: Functions, size: Size, scheme: str) -> Step:
    import torch

    torch.set_num_threads(threads())
    p = {
        name: torch.from_numpy(x.T.copy() if _transposed(name) else x.copy()).requires_grad_()
        for name, x in parameters(size, scheme).items()
    }
    batch = Data(*map(torch.from_numpy, data(size)))

    def gradients() -> dict[str, Array]:
        found = {name: t.grad.numpy() for name, t in p.items()}
        return {name: g.T if _transposed(name) else g for name, g in found.items()}

    def run() -> Result:
        for t in p.values():
            t.grad = None
        output = loss(f, p, batch, size)
        output.backward()
        return Result(output.item(), gradients)

    return run


def _torch_functions(size: Size) -> dict[str, Functions]:
    """By the way that attention takes."""
    import torch
    from torch.nn import functional as F  # noqa: N812

    def explicit(q: Any, k: Any, v: Any) -> Any:
        return F.softmax(q * q.shape[-1] ** -0.5 @ k.swapaxes(-1, -2), -1) @ v

    found = Functions(
        embedding=lambda table, ids: F.embedding(ids, table),
        add=torch.add,
        norm=lambda x, gain, bias: F.layer_norm(x, (size.width,), gain, bias, size.config.eps),
        linear=F.linear,
        readout=F.linear,
        gelu=F.gelu,
        attention=explicit,
        residual=_plain,
        cross_entropy=lambda logits, labels: F.cross_entropy(logits.flatten(0, -2), labels.flatten()),
    )
    return {"explicit": found, "fused": replace(found, attention=F.scaled_dot_product_attention)}


def torch_step(size: Size, attention: str) -> Step:
    """PyTorch, eager; attention "explicit" (two products and a softmax) or "fused" (its own function)."""
    return _torch_step(_torch_functions(size)[attention], size, "regular")


def faster_torch_step(size: Size) -> Step:
    """PyTorch with the attention that is faster here; prints which."""
    steps = {attention: torch_step(size, attention) for attention in _torch_functions(size)}
    times = {attention: median(t) for attention, t in interleaved(steps, 5).items()}
    best = min(times, key=lambda attention: times[attention])
    print("torch attention: " + ", ".join(f"{a} {1e3 * t:.1f} ms" for a, t in times.items()) + f"; {best} taken")
    return steps[best]


def unit_scaling_step(size: Size) -> Step:
    """PyTorch with the functions of the library unit-scaling, its own rules and constraints.

    Not the same loss: it damps attention scores and logits by 1/d.
    """
    from unit_scaling import functional as U  # noqa: N812

    tau = (0.1 / 0.9) ** 0.5  # the weights that ``BertConfig`` takes by default
    f = Functions(
        embedding=lambda table, ids: U.embedding(ids, table),
        add=U.add,
        norm=lambda x, gain, bias: U.layer_norm(x, (size.width,), gain, bias, size.config.eps),
        linear=U.linear,
        readout=U.linear_readout,
        gelu=U.gelu,
        attention=U.scaled_dot_product_attention,
        residual=lambda branch, x: U.residual_apply(branch, x, tau),
        cross_entropy=lambda logits, labels: U.cross_entropy(logits.flatten(0, -2), labels.flatten()),
    )
    return _torch_step(f, size, "unit")


# --- array libraries --------------------------------------------------------------------------------------------------


def _array_functions(
    xp: Any,
    size: Size,
    gelu: Callable[[Any], Any],
    softmax: Callable[[Any], Any],
    log_sum_exp: Callable[[Any], Any],
) -> Functions:
    """Of a library with NumPy's functions. Constants are Python's floats, which leave float32 as it is."""

    def norm(x: Any, gain: Any, bias: Any) -> Any:
        x = x - xp.sum(x, -1, keepdims=True) * (1 / size.width)
        variance = xp.sum(x * x, -1, keepdims=True) * (1 / size.width)
        return x / xp.sqrt(variance + size.config.eps) * gain + bias

    def cross_entropy(logits: Any, labels: Any) -> Any:
        rows = logits.reshape(-1, size.vocabulary)
        picked = rows[np.arange(labels.size), labels.reshape(-1)]
        return xp.sum(log_sum_exp(rows) - picked) * (1 / labels.size)

    return Functions(
        embedding=lambda table, ids: table[ids],
        add=xp.add,
        norm=norm,
        linear=lambda x, weight, bias: xp.matmul(x, weight) + bias,
        readout=lambda x, word, bias: xp.matmul(x, word.T) + bias,
        gelu=gelu,
        attention=lambda q, k, v: xp.matmul(
            softmax(xp.matmul(q * (size.width // size.heads) ** -0.5, k.swapaxes(-1, -2))), v
        ),
        residual=_plain,
        cross_entropy=cross_entropy,
    )


def jax_step(size: Size) -> Step:
    """JAX on the CPU: the whole step compiled beforehand."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    f = _array_functions(
        jax.numpy,
        size,
        lambda x: jax.nn.gelu(x, approximate=False),
        jax.nn.softmax,
        lambda x: jax.nn.logsumexp(x, -1),
    )
    p = {name: jax.numpy.array(x) for name, x in parameters(size, "regular").items()}
    batch = Data(*(jax.numpy.array(x.astype(np.int32)) for x in data(size)))
    compiled = jax.jit(jax.value_and_grad(lambda p, batch: loss(f, p, batch, size))).lower(p, batch).compile()

    def run() -> Result:
        value, found = jax.block_until_ready(compiled(p, batch))
        return Result(float(value), lambda: {name: np.asarray(g) for name, g in found.items()})

    return run


def autograd_step(size: Size) -> Step:
    """HIPS autograd: NumPy, as refscale."""
    import autograd
    import autograd.numpy as anp
    from autograd.scipy.special import erf, logsumexp

    f = _array_functions(
        anp,
        size,
        lambda x: 0.5 * x * (1 + erf(x * math.sqrt(0.5))),
        lambda x: anp.exp(x - logsumexp(x, axis=-1, keepdims=True)),
        lambda x: logsumexp(x, axis=-1),
    )
    batch = data(size)
    value_and_grad = autograd.value_and_grad(lambda p: loss(f, p, batch, size))

    def run() -> Result:
        value, found = value_and_grad(parameters(size, "regular"))
        return Result(float(value), lambda: found)

    return run
