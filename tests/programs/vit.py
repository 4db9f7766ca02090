"""Vision transformer with mean pooling.  Source: arXiv 2010.11929; pooling by arXiv 2205.01580."""

from __future__ import annotations

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.engine import apply
from refscale.layers import Spec
from refscale.layers.blocks import linear_specs, norm_specs
from tests.programs.pictures import CHANNELS, KINDS, SIDE, Pictures

PATCH, D, HIDDEN, HEADS, LAYERS = 3, 32, 64, 2, 2
TOKENS = (SIDE // PATCH) ** 2


class Vit(Pictures):
    """Pictures of gratings to their kind: pre-norm transformer layers, and the mean over the tokens."""

    def __init__(self):
        self.specs = {
            "patch.weight": Spec("weight", (PATCH, PATCH, CHANNELS, D)),
            "patch.bias": Spec("bias", (D,)),
            "position": Spec("embedding", (TOKENS, D), std=0.1),
        }
        for i in range(LAYERS):
            self.specs |= norm_specs(f"layer.{i}.attention.norm", D)
            for part in ("query", "key", "value", "output"):
                self.specs |= linear_specs(f"layer.{i}.attention.{part}", D, D, bias=part != "key")
            self.specs |= norm_specs(f"layer.{i}.ffn.norm", D)
            self.specs |= linear_specs(f"layer.{i}.ffn.up", D, HIDDEN) | linear_specs(f"layer.{i}.ffn.down", HIDDEN, D)
        self.specs |= norm_specs("norm", D) | linear_specs("head", D, KINDS, role="readout")

    def loss(self, p, batch, rng=None):
        pictures, kind = batch
        h = apply(ops.Bias(), apply(ops.Conv2d(PATCH), pictures, p["patch.weight"]), p["patch.bias"])
        h = apply(ops.Reshape((len(pictures), TOKENS, D)), h) + p["position"]
        for i in range(LAYERS):
            h = h + attention(p, f"layer.{i}.attention", h)
            h = h + feed_forward(p, f"layer.{i}.ffn", h)
        pooled = apply(ops.Mean((1,)), norm(p, "norm", h))
        return F.cross_entropy(F.readout(pooled, p["head.weight"], p["head.bias"]), kind)


def linear(p, name, x):
    return F.linear(x, p[f"{name}.weight"], p.get(f"{name}.bias"))


def norm(p, name, x):
    return F.layer_norm(x, p[f"{name}.gain"], p[f"{name}.bias"])


def attention(p, name, x):
    x = norm(p, f"{name}.norm", x)
    query, key, value = (linear(p, f"{name}.{part}", x) for part in ("query", "key", "value"))
    return linear(p, f"{name}.output", F.attention(query, key, value, heads=HEADS))


def feed_forward(p, name, x):
    return linear(p, f"{name}.down", F.gelu(linear(p, f"{name}.up", norm(p, f"{name}.norm", x))))


model = Vit()
