"""The same BERT out of torch.nn parts, as an oracle: loss, outputs and gradients by names of refscale.

torch stores a linear weight as (fan_out, fan_in), and ``MultiheadAttention`` query, key and value in one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from refscale.data import IGNORE, Batch
from refscale.models.bert import BertConfig

Array = NDArray[Any]
torch.set_num_threads(1)


class ExplicitAttention(nn.Module):
    """Attention of four linear layers, with any exponent of the damping."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.heads, self.exponent = config.heads, 0.5 if config.scores != "1/d" else 1
        for part in ("query", "key", "value", "output"):
            setattr(self, part, nn.Linear(config.width, config.width))

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        batch, seq, width = x.shape
        q, k, v = (
            layer(x).view(batch, seq, self.heads, -1).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -self.exponent
        weights = scores.masked_fill(padding[:, None, None, :], -torch.inf).softmax(-1)
        return self.output((weights @ v).transpose(1, 2).reshape(batch, seq, width))


class Layer(nn.Module):
    """One encoder layer; attention is ``nn.MultiheadAttention`` if that can represent it (exponent ½)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        d = config.width
        self.norm_first = config.norm == "pre"
        whole = config.scores != "1/d"
        self.attention = (
            nn.MultiheadAttention(d, config.heads, batch_first=True) if whole else ExplicitAttention(config)
        )
        self.attention_norm, self.ffn_norm = (nn.LayerNorm(d, config.eps) for _ in range(2))
        gelu = nn.GELU(approximate="none" if config.activation == "gelu" else "tanh")
        self.ffn = nn.Sequential(nn.Linear(d, config.hidden), gelu, nn.Linear(config.hidden, d))

    def attend(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        if isinstance(self.attention, nn.MultiheadAttention):
            return self.attention(x, x, x, key_padding_mask=padding, need_weights=False)[0]
        return self.attention(x, padding)

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        if not self.norm_first:
            x = self.attention_norm(x + self.attend(x, padding))
            return self.ffn_norm(x + self.ffn(x))
        x = x + self.attend(self.attention_norm(x), padding)
        return x + self.ffn(self.ffn_norm(x))


class TorchBert(nn.Module):
    """Encoder and both heads.

    Args:
        config: the model; no dropout.
        parameters: arrays by refscale's names.
        dtype: torch.float32 or torch.float64.
    """

    def __init__(self, config: BertConfig, parameters: dict[str, Array], dtype: torch.dtype) -> None:
        super().__init__()
        d = config.width
        self.config = config
        self.word = nn.Embedding(config.vocabulary, d)
        self.position = nn.Embedding(config.positions, d)
        self.segment = nn.Embedding(2, d)
        self.embedding_norm, self.final_norm, self.mlm_norm = (nn.LayerNorm(d, config.eps) for _ in range(3))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.transform, self.pooler = nn.Linear(d, d), nn.Linear(d, d)
        self.decoder, self.classifier = nn.Linear(d, config.vocabulary), nn.Linear(d, 2)
        if config.tied:
            self.decoder.weight = self.word.weight
        self.gelu = nn.GELU(approximate="none" if config.activation == "gelu" else "tanh")
        self.to(dtype)
        slots = self.slots()
        assert slots.keys() == parameters.keys()
        with torch.no_grad():
            for name, (parameter, rows, transposed) in slots.items():
                value = torch.tensor(parameters[name], dtype=dtype)
                parameter[rows].copy_(value.T if transposed else value)

    def slots(self) -> dict[str, tuple[nn.Parameter, slice, bool]]:
        """Where each of refscale's parameters lives: parameter, rows, whether transposed."""
        everything = slice(None)
        found: dict[str, tuple[nn.Parameter, slice, bool]] = {}

        def norm(name: str, layer: nn.LayerNorm) -> None:
            found[f"{name}.gain"] = layer.weight, everything, False
            found[f"{name}.bias"] = layer.bias, everything, False

        def linear(name: str, layer: nn.Linear) -> None:
            found[f"{name}.weight"] = layer.weight, everything, True
            found[f"{name}.bias"] = layer.bias, everything, False

        for part in ("word", "position", "segment"):
            found[f"embeddings.{part}"] = getattr(self, part).weight, everything, False
        norm("embeddings.norm", self.embedding_norm)
        d = self.config.width
        for i, layer in enumerate(self.layers):
            name = f"encoder.{i}.attention"
            if isinstance(layer.attention, nn.MultiheadAttention):
                for k, part in enumerate(("query", "key", "value")):
                    rows = slice(k * d, (k + 1) * d)
                    found[f"{name}.{part}.weight"] = layer.attention.in_proj_weight, rows, True
                    found[f"{name}.{part}.bias"] = layer.attention.in_proj_bias, rows, False
                linear(f"{name}.output", layer.attention.out_proj)
            else:
                for part in ("query", "key", "value", "output"):
                    linear(f"{name}.{part}", getattr(layer.attention, part))
            norm(f"{name}.norm", layer.attention_norm)
            linear(f"encoder.{i}.ffn.up", layer.ffn[0])
            linear(f"encoder.{i}.ffn.down", layer.ffn[2])
            norm(f"encoder.{i}.ffn.norm", layer.ffn_norm)
        if self.config.norm == "pre":
            norm("encoder.norm", self.final_norm)
        linear("mlm.transform", self.transform)
        norm("mlm.norm", self.mlm_norm)
        linear("mlm.decoder", self.decoder)
        if self.config.tied:
            del found["mlm.decoder.weight"]
        linear("nsp.pooler", self.pooler)
        linear("nsp.classifier", self.classifier)
        return found

    def encode(self, batch: Batch) -> torch.Tensor:
        ids, segments, mask = (torch.tensor(np.asarray(x)) for x in (batch.ids, batch.segments, batch.mask))
        positions = torch.arange(ids.shape[1])
        x = self.word(ids.long()) + self.position(positions) + self.segment(segments.long())
        x = self.embedding_norm(x)
        for layer in self.layers:
            x = layer(x, ~mask)
        return x if self.config.norm == "post" else self.final_norm(x)

    def losses(self, encoded: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.arange(len(encoded))[:, None]
        picked = encoded[rows, torch.tensor(batch.positions).long()]
        logits = self.decoder(self.mlm_norm(self.gelu(self.transform(picked))))
        masked_lm = nn.CrossEntropyLoss(ignore_index=IGNORE)(
            logits.flatten(0, 1), torch.tensor(batch.labels).long().flatten()
        )
        next_sentence = nn.CrossEntropyLoss()(
            self.classifier(self.pooler(encoded[:, 0]).tanh()), torch.tensor(batch.is_next).long()
        )
        return masked_lm, next_sentence

    def gradients(self) -> dict[str, Array]:
        found = {}
        for name, (parameter, rows, transposed) in self.slots().items():
            assert parameter.grad is not None
            gradient = parameter.grad[rows].numpy()
            found[name] = gradient.T if transposed else gradient
        return found
