"""The character models of the paper's authors in torch, as an oracle: unit-scaled by factors on parameters.

Written from their code (github.com/graphcore-research/unit-scaling-demo, scmm/uscale/ops.py, scmm/uscale/layers.py,
scmm/layers.py, scmm/models.py), with the parameters of refscale's models side by side where theirs are one array.
"""

from __future__ import annotations

import math

import torch

from refscale.data import IGNORE


class Scaling(torch.autograd.Function):
    """x·forward, whose gradient is multiplied by ``backward`` alone."""

    @staticmethod
    def forward(ctx, x, forward, backward):
        ctx.factor = backward
        return x * forward

    @staticmethod
    def backward(ctx, g):
        return g * ctx.factor, None, None


def scaling(x, forward=1.0, backward=1.0):
    return Scaling.apply(x, forward, backward)


def dense(p, name, x):
    w, rows = p[f"{name}.weight"], x.shape[0] * x.shape[1]
    m, n = w.shape
    return x @ scaling(w, (m * n) ** -0.25, 1 / rows) + scaling(p[f"{name}.bias"], 1, 1 / rows)


def layer_norm(p, name, x):
    rows = x.shape[0] * x.shape[1]
    centered = x - x.mean(-1, keepdim=True)
    y = centered / torch.sqrt(centered.square().mean(-1, keepdim=True) + 1e-3)
    return y * scaling(p[f"{name}.gain"], 1, 1 / rows) + scaling(p[f"{name}.bias"], 1, 1 / rows)


def sinusoids(seq, frequencies, period=1024):
    k = torch.arange(frequencies, dtype=torch.float64)
    omega = math.pi * (2 / period) ** (torch.floor(k / 2) / (frequencies // 2 - 1))
    return torch.sin(omega * torch.arange(seq, dtype=torch.float64)[:, None] + math.pi / 2 * (k % 2))


def attention(p, name, x, c):
    batch, seq, width = x.shape
    heads, d = width // c.head_size, c.head_size

    def to_heads(y):
        return y.reshape(*y.shape[:-1], heads, d).transpose(-3, -2)

    qkv = torch.cat([p[f"{name}.{part}.weight"] for part in ("query", "key", "value")], 1)
    q, k, v = (x @ scaling(qkv, (3 * width * width) ** -0.25, 1 / (batch * seq))).chunk(3, -1)
    q, k, v = map(to_heads, (q + scaling(p[f"{name}.query.bias"], 1, 1 / (batch * seq)), k, v))
    table = scaling(p[f"{name}.distance.weight"], c.frequencies**-0.5, 1 / seq)
    places = to_heads(math.sqrt(2) * sinusoids(seq, c.frequencies) @ table)
    by_distance = q @ places.transpose(-1, -2) * d**-0.5
    a = q @ k.transpose(-1, -2) * d**-0.5
    back = torch.arange(seq)[:, None] - torch.arange(seq)
    a = a + torch.gather(by_distance, -1, back.clamp(min=0).expand(batch, heads, seq, seq))
    a = torch.softmax(a.masked_fill(back < 0, -math.inf), -1)
    return dense(p, f"{name}.output", (a @ v).transpose(1, 2).reshape(batch, seq, width))


def convolution(p, name, x, c):
    w = p[f"{name}.weight"]
    kernel, channels_in, channels_out = w.shape
    rows = x.shape[0] * x.shape[1]
    scale = (kernel * channels_in * kernel * channels_out / c.groups) ** -0.25
    padded = torch.nn.functional.pad(x.transpose(1, 2), (kernel - 1, 0))
    y = torch.nn.functional.conv1d(padded, scaling(w, scale, 1 / rows).permute(2, 1, 0), groups=c.groups)
    return torch.relu(y.transpose(1, 2) + scaling(p[f"{name}.bias"], 1, 1 / rows))


def recurrence(p, name, x, c):
    batch, seq, m = x.shape
    w = torch.cat([p[f"{name}.input.weight"], p[f"{name}.state.weight"]])
    w = scaling(w, (2 * len(w) * m) ** -0.25, 1 / (batch * seq))
    bias = scaling(p[f"{name}.input.bias"], 1, 1 / (batch * seq))
    h, states = scaling(p[f"{name}.start"], 1, 1 / batch).expand(batch, m), []
    for t in range(seq):
        transform, update = (torch.cat([x[:, t], h], 1) @ w + bias).chunk(2, -1)
        update = torch.sigmoid(update - 1)
        h = (1 - update) * h + update * torch.tanh(transform)
        states.append(h)
    return torch.stack(states, 1)


def feed_forward(p, name, x, c):
    return dense(p, f"{name}.down", torch.relu(dense(p, f"{name}.up", x)))


def residual(p, name, body, x, c, alpha):
    branch = scaling(x, 1, alpha**0.5)
    if c.norm == "pre":
        branch = layer_norm(p, f"{name}.norm", branch)
    branch = body(p, name, branch, c)
    y = (1 - alpha) ** 0.5 * x + scaling(branch, alpha**0.5, 1)
    return layer_norm(p, f"{name}.norm", y) if c.norm == "post" else y


BODIES = {"attention": attention, "convolution": convolution, "recurrence": recurrence, "ffn": feed_forward}


def loss(p, batch, c, alpha=None):
    """The loss of a batch; alpha: of every residual addition, None: 1/(1 + index) through the whole model."""
    ids, labels = torch.tensor(batch.ids).long(), torch.tensor(batch.labels).long()
    x = scaling(p["embedding"], 1, c.vocabulary / ids.numel())[ids]
    x = layer_norm(p, "embedding_norm", x)
    for layer in range(c.layers):
        for k, kind in enumerate((c.mixer, "ffn")):
            weight = 1 / (1 + 2 * layer + k) if alpha is None else alpha
            x = residual(p, f"layers.{layer}.{kind}", BODIES[kind], x, c, weight)
    x = layer_norm(p, "norm", x)
    w, rows = p["readout.weight"], ids.numel()
    scores = scaling(scaling(x, 1, w.shape[1] ** -0.5) @ scaling(w, 1, 1 / rows), w.shape[0] ** -0.5, 1)
    scores = scores + scaling(p["readout.bias"], 1, 1 / rows)
    first = scaling(p["pad"], 1, 1 / len(ids)).expand(len(ids), 1, -1)
    scores = torch.cat([first, scores[:, :-1]], 1)
    kept = labels != IGNORE
    logp = torch.log_softmax(scores, -1)
    total = -logp[kept].gather(-1, labels[kept][:, None]).sum()
    s = c.vocabulary
    return scaling(total / kept.sum(), 1, kept.numel() * s / math.sqrt(s - 1))


def adamw(p, g, lr, eps=1e-7, b1=0.9, b2=0.999):
    """The first step of their AdamW without decay: eps is added to √v as it is."""
    m, v = (1 - b1) * g, (1 - b2) * g**2
    scale = lr * (1 - b2) ** 0.5 / (1 - b1)
    return p - scale * m / (v**0.5 + eps)
