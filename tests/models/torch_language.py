"""The language models out of torch.nn parts, as an oracle: logits, loss and gradients by names of refscale.

torch stores a linear weight as (fan_out, fan_in), and a convolution's as (out, in/groups, kernel).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as tf

from refscale.data import IGNORE, TextBatch
from refscale.models.language import LanguageConfig, specs

torch.set_num_threads(1)


def rotated(x: torch.Tensor, base: float) -> torch.Tensor:
    """Of (…, seq, d), as published decoders do it: x·cos + rotate_half(x)·sin."""
    seq, d = x.shape[-2:]
    inverse = base ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    angles = torch.outer(torch.arange(seq, dtype=torch.float64), inverse).repeat(1, 2)
    half = torch.cat([-x[..., d // 2 :], x[..., : d // 2]], -1)
    return x * angles.cos().to(x.dtype) + half * angles.sin().to(x.dtype)


class Attention(nn.Module):
    """Causal, with rotary positions and shared keys, or with scores by distance."""

    def __init__(self, c: LanguageConfig) -> None:
        super().__init__()
        self.c, self.heads = c, c.width // c.head_size
        shared = c.width // c.shared
        for part, width in (("query", c.width), ("key", shared), ("value", shared), ("output", c.width)):
            setattr(self, part, nn.Linear(c.width, width, bias=c.biases and part in ("query", "output")))
        if c.positions == "relative":
            self.distance = nn.Linear(c.frequencies, c.width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, seq, width = x.shape
        q, k, v = (
            f(x).view(batch, seq, -1, self.c.head_size).transpose(1, 2) for f in (self.query, self.key, self.value)
        )
        if self.c.positions == "rotary":
            q, k = rotated(q, self.c.base), rotated(k, self.c.base)
        bias = torch.full((seq, seq), -math.inf, dtype=x.dtype).triu(1)
        if self.c.positions == "relative":
            i, f = torch.arange(self.c.frequencies), self.c.frequencies
            omega = math.pi * (2 / 1024) ** (torch.div(i, 2, rounding_mode="floor").double() / (f // 2 - 1))
            waves = math.sqrt(2) * torch.sin(torch.arange(seq)[:, None] * omega + math.pi / 2 * (i % 2).double())
            table = self.distance(waves.to(x.dtype)).view(seq, self.heads, -1)
            back = (torch.arange(seq)[:, None] - torch.arange(seq)).clamp(min=0)
            bias = bias + torch.einsum("bhid,ijhd->bhij", q, table[back]) / math.sqrt(self.c.head_size)
        y = tf.scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=self.c.shared > 1)
        return self.output(y.transpose(1, 2).reshape(batch, seq, width))


class Convolution(nn.Module):
    """Causal, in groups, and the activation."""

    def __init__(self, c: LanguageConfig) -> None:
        super().__init__()
        self.conv = nn.Conv1d(c.width, c.width, c.kernel, groups=c.groups)
        self.pad = c.kernel - 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return tf.relu(self.conv(tf.pad(x.transpose(1, 2), (self.pad, 0)))).transpose(1, 2)


class Recurrence(nn.Module):
    """A recurrent highway network of depth 1, as Zilly et al. write it: carry = 1 − transform gate."""

    def __init__(self, c: LanguageConfig) -> None:
        super().__init__()
        self.input = nn.Linear(c.width, 2 * c.width)
        self.state = nn.Linear(c.width, 2 * c.width, bias=False)
        self.start = nn.Parameter(torch.zeros(c.width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, states = self.start.expand(len(x), -1), []
        for t in range(x.shape[1]):
            candidate, update = (self.input(x[:, t]) + self.state(h)).chunk(2, -1)
            gate = torch.sigmoid(update - 1)
            h = (1 - gate) * h + gate * torch.tanh(candidate)
            states.append(h)
        return torch.stack(states, 1)


class FeedForward(nn.Module):
    """Plain, or gated by silu."""

    def __init__(self, c: LanguageConfig) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(c.width, c.hidden, c.biases), nn.Linear(c.hidden, c.width, c.biases)
        self.gate = nn.Linear(c.width, c.hidden, c.biases) if c.gated else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.up(x) * tf.silu(self.gate(x)) if self.gate else tf.relu(self.up(x)))


MIXERS = {"attention": Attention, "convolution": Convolution, "recurrence": Recurrence}


class TorchLanguage(nn.Module):
    """The whole model; pre-, post- and no norm, plain additions or weighted by ``c.tau``."""

    def __init__(self, c: LanguageConfig, parameters: dict, dtype: torch.dtype) -> None:
        super().__init__()
        self.c = c

        def norm() -> nn.Module:
            return nn.RMSNorm(c.width, c.eps) if c.rms else nn.LayerNorm(c.width, c.eps)

        self.embedding = nn.Embedding(c.vocabulary, c.width)
        self.embedding_norm = norm() if c.embedding_norm else None
        self.mixers = nn.ModuleList(MIXERS[c.mixer](c) for _ in range(c.layers))
        self.ffns = nn.ModuleList(FeedForward(c) for _ in range(c.layers))
        self.norms = nn.ModuleList(norm() for _ in range(2 * c.layers)) if c.norm != "none" else None
        self.norm = norm()
        self.readout = nn.Linear(c.width, c.vocabulary, bias=c.biases)
        if c.tied:
            self.readout.weight = self.embedding.weight
        self.pad = nn.Parameter(torch.zeros(c.vocabulary)) if c.pad else None
        self.to(dtype)
        with torch.no_grad():
            for name in specs(c):
                self.leaf(name).copy_(self.turned(torch.tensor(parameters[name]), name))

    def leaf(self, name: str) -> nn.Parameter:
        """Ours by its name."""
        path, _, last = name.rpartition(".")
        last = {"gain": "weight"}.get(last, last)
        if name.startswith("layers."):
            _, i, kind, *rest = path.split(".")
            owner = self.mixers[int(i)] if kind == self.c.mixer else self.ffns[int(i)]
            if rest == ["norm"]:
                owner, rest = self.norms[2 * int(i) + (kind == "ffn")], []
            if kind == "convolution" and not rest and isinstance(owner, Convolution):
                owner = owner.conv
            for part in rest:
                owner = getattr(owner, part)
            return getattr(owner, last)
        if name == "embedding":
            return self.embedding.weight
        return getattr(getattr(self, path), last) if path else getattr(self, name)

    @staticmethod
    def turned(x: torch.Tensor, name: str) -> torch.Tensor:
        if name == "embedding" or x.ndim == 1:
            return x
        return x.permute(2, 1, 0) if x.ndim == 3 else x.T

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        c = self.c
        x = self.embedding(ids)
        x = self.embedding_norm(x) if self.embedding_norm else x
        for i, branch in enumerate(f for pair in zip(self.mixers, self.ffns, strict=True) for f in pair):
            norm = self.norms[i] if self.norms else nn.Identity()
            skip, weight = c.tau(1 if c.norm == "post" else i + 1)
            post = c.norm == "post"
            x = norm(skip * x + weight * branch(x)) if post else skip * x + weight * branch(norm(x))
        y = self.readout(self.norm(x))
        return torch.cat([self.pad.expand(len(y), 1, -1), y[:, :-1]], 1) if c.pad else y

    def run(self, batch: TextBatch) -> tuple[np.ndarray, float, dict[str, np.ndarray]]:
        """Logits, loss, gradients by our names."""
        y = self(torch.tensor(batch.ids, dtype=torch.int64))
        labels = torch.tensor(batch.labels, dtype=torch.int64)
        used, wanted = (y, labels) if self.c.pad else (y[:, :-1], labels[:, 1:])
        loss = tf.cross_entropy(used.reshape(-1, y.shape[-1]), wanted.reshape(-1), ignore_index=IGNORE)
        loss.backward()
        gradients = {name: self.turned(self.leaf(name).grad, name).numpy() for name in specs(self.c)}
        return y.detach().numpy(), loss.item(), gradients
