"""Small PyTorch modules: one op each, and a few networks."""

from __future__ import annotations

import math

import torch
from torch import nn

F = nn.functional


class Calls(nn.Module):
    """A function of a parameter ``w`` and inputs."""

    def __init__(self, f, *shape):
        super().__init__()
        self.w = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(1)))
        self.f = f

    def forward(self, *xs):
        return self.f(self.w, *xs)


class Gpt(nn.Module):
    """Pre-norm decoder with tied embeddings, gelu by its formula, causal attention."""

    def __init__(self, words=50, width=32, heads=4, layers=2, length=16):
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids):
        h = self.words(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, h):
        b, s, d = h.shape
        parts = self.qkv(self.first(h)).view(b, s, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*parts.unbind(0), is_causal=True)
        h = h + self.out(mixed.transpose(1, 2).reshape(b, s, d))
        u = self.up(self.second(h))
        return h + self.down(0.5 * u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3))))


class ConvNet(nn.Module):
    """Convolution, batch norm, pooling, a residual block, upsampling and a head; channels first."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depthwise, self.mix = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1)
        self.down, self.up = nn.Conv2d(8, 16, 2, stride=2), nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        h = F.max_pool2d(F.relu_(self.norm(self.stem(x))), 2)
        h = h + self.mix(F.silu(self.depthwise(h)))
        h = h + self.up(self.down(h)) + F.interpolate(F.avg_pool2d(h, 2), scale_factor=2)
        return self.head(F.adaptive_avg_pool2d(h, 1).flatten(1))


class Recurrent(nn.Module):
    def __init__(self, kind, **settings):
        super().__init__()
        self.cells = kind(5, 6, 2, **settings)

    def forward(self, x):
        return self.cells(x)[0]


class RmsNorm(nn.Module):
    """The formula, as published decoders write it."""

    def __init__(self, width=8):
        super().__init__()
        self.first, self.gain = nn.Linear(width, width), nn.Parameter(torch.ones(width))

    def forward(self, x):
        x = self.first(x)
        h = x.to(torch.float32)
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-5)
        return self.gain * h.to(x.dtype)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def ids(*shape, below=50):
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(0))


MASK = torch.tensor([[True, False, True, True], [True, True, True, False], [False, False, True, True]])

CALLS = {
    "linear": (lambda w, x: F.linear(x, w), (3, 4), normal(2, 4)),
    "matmul of two that depend": (lambda w, x: (w + x) @ (w * x).T, (3, 4), normal(3, 4)),
    "addmm": (lambda w, x: torch.addmm(w[0], x, w), (4, 4), normal(3, 4)),
    "conv1d": (lambda w, x: F.conv1d(x, w, None, 2, 1, 2), (4, 3, 3), normal(2, 3, 9)),
    "conv2d same": (lambda w, x: F.conv2d(x, w, padding="same"), (4, 3, 3, 3), normal(2, 3, 5, 6)),
    "conv3d": (lambda w, x: F.conv3d(x, w), (2, 3, 2, 2, 2), normal(2, 3, 3, 4, 3)),
    "conv_transpose1d": (lambda w, x: F.conv_transpose1d(x, w, None, 2, 1, 1), (3, 4, 3), normal(2, 3, 5)),
    "conv_transpose2d": (lambda w, x: F.conv_transpose2d(x, w, None, (2, 1), 1), (3, 4, 3, 2), normal(2, 3, 4, 5)),
    "sub and div": (lambda w, x: (w - x) / 3.0, (3, 4), normal(3, 4)),
    "div by a constant array": (lambda w, x: w / (1 + x * x), (3, 4), normal(3, 4)),
    "rsub and neg": (lambda w, x: -(x - w), (3, 4), normal(3, 4)),
    "integers": (
        lambda w, x: ((w * x + torch.arange(4)) * torch.arange(4)).add_(1).sub_(2),
        (3, 4),
        normal(3, 4),
    ),
    "where": (lambda w, x: torch.where(x > 0, w, x), (3, 4), normal(3, 4)),
    "where with a number": (lambda w, x: torch.where(x > 0, w, 2.0), (3, 4), normal(3, 4)),
    "masked_fill": (lambda w, x: (w * x).masked_fill(x > 0, -1.0), (3, 4), normal(3, 4)),
    "softmax of another axis": (lambda w, x: torch.softmax(w * x, 0), (3, 4), normal(3, 4)),
    "log_softmax": (lambda w, x: torch.log_softmax(w * x, -1), (3, 4), normal(3, 4)),
    "hardswish and hardsigmoid": (lambda w, x: F.hardswish(w * x) + F.hardsigmoid(w), (3, 4), normal(3, 4)),
    "relu6, hardtanh, clamp": (
        lambda w, x: F.relu6(w * x) + F.hardtanh(w, -0.5, 0.25) + w.clamp(-1, 2),
        (3, 4),
        normal(3, 4),
    ),
    "leaky_relu, gelu, silu": (lambda w, x: F.leaky_relu(w, 0.2) + F.gelu(w * x) + F.silu(x - w), (3, 4), normal(3, 4)),
    "clamp from one side": (lambda w, x: (w * x).clamp(min=-0.5) + w.clamp(max=0.5), (3, 4), normal(3, 4)),
    "layer_norm of the input": (lambda w, x: F.layer_norm(x, (4,), w, None), (4,), normal(3, 4)),
    "rms_norm of a small input": (lambda w, x: F.rms_norm(x, (4,), w), (4,), normal(3, 4) / 64),
    "layer_norm without parameters": (lambda w, x: F.layer_norm(w * x, (4,), None, None, 1e-3), (3, 4), normal(3, 4)),
    "rms_norm": (lambda w, x: F.rms_norm(x * w[:1], (4,), w[1], 1e-3), (2, 4), normal(3, 4)),
    "group_norm": (lambda w, x: F.group_norm(x * w, 2, None, None), (4, 1), normal(2, 4, 5)),
    "max_pool2d": (lambda w, x: F.max_pool2d(x * w, 3, 2, 1), (4, 1, 1), normal(2, 4, 5, 6)),
    "max_pool2d up to the end": (lambda w, x: F.max_pool2d(x * w, 2, ceil_mode=True), (4, 1, 1), normal(2, 4, 4, 6)),
    "avg_pool1d": (lambda w, x: F.avg_pool1d(x * w, 2), (4, 1), normal(2, 4, 6)),
    "adaptive pooling": (lambda w, x: F.adaptive_avg_pool2d(x * w, (2, 3)), (4, 1, 1), normal(2, 4, 4, 6)),
    "linear resize": (
        lambda w, x: (
            F.interpolate(w * x, (7, 4), mode="bilinear")
            + F.interpolate(w * x, (7, 4), mode="bilinear", align_corners=True)
        ),
        (3, 1, 1),
        normal(2, 3, 4, 6),
    ),
    "linear resize by factors": (
        lambda w, x: F.interpolate(w * x, scale_factor=1.5, mode="linear"),
        (3, 1),
        normal(2, 3, 4),
    ),
    "movement": (
        lambda w, x: torch.stack([(w * x).transpose(0, 2)[1:, :, 1], w.squeeze().expand(2, 3)], 1).flatten(1),
        (1, 3, 1),
        normal(2, 3, 3),
    ),
    "split, chunk, cat": (
        lambda w, x: torch.cat([*torch.split(w * x, 3, 1)[::-1], *torch.chunk(w, 2, 1)], 1),
        (2, 5),
        normal(2, 5),
    ),
    "mean and sum": (
        lambda w, x: (w * x).mean((0, 2)) + (w * x).sum(-1, keepdim=True).sum(),
        (2, 3, 4),
        normal(2, 3, 4),
    ),
    "attention with a boolean mask": (
        lambda w, x: F.scaled_dot_product_attention(w[:, :3] * x, w, w, attn_mask=MASK),
        (2, 4, 5),
        normal(2, 3, 5),
    ),
    "attention with a bias that depends, and a scale": (
        lambda w, x: F.scaled_dot_product_attention(x, w[..., :3], w, attn_mask=w[:, :2, :4], scale=0.3),
        (2, 4, 6),
        normal(2, 2, 3),
    ),
    "embedding with padding": (lambda w, x: F.embedding(x, w, padding_idx=2) * 3, (7, 4), ids(3, 5, below=7)),
    "a function without a name": (lambda w, x: (w * x).mul(0.7).sin() * (w * x), (3, 4), normal(3, 4)),
}
