"""MLP-Mixer: patches, then layers that mix tokens and layers that mix channels.  Source: arXiv 2105.01601."""

from __future__ import annotations

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.engine import apply
from refscale.layers import Spec
from refscale.layers.blocks import linear_specs, norm_specs
from tests.programs.pictures import CHANNELS, KINDS, SIDE, Pictures

PATCH, D, HIDDEN, LAYERS = 3, 32, 64, 2
TOKENS = (SIDE // PATCH) ** 2


class Mixer(Pictures):
    """Pictures of gratings to their kind, by the mean over the tokens."""

    def __init__(self):
        self.specs = {"patch.weight": Spec("weight", (PATCH, PATCH, CHANNELS, D)), "patch.bias": Spec("bias", (D,))}
        for i in range(LAYERS):
            for part, width, hidden in (("tokens", TOKENS, TOKENS * 2), ("channels", D, HIDDEN)):
                self.specs |= norm_specs(f"layer.{i}.{part}.norm", D)
                self.specs |= linear_specs(f"layer.{i}.{part}.up", width, hidden)
                # A bias per token would shift all its channels alike, which the norms ignore.
                self.specs |= linear_specs(f"layer.{i}.{part}.down", hidden, width, bias=part == "channels")
        self.specs |= norm_specs("norm", D) | linear_specs("head", D, KINDS, role="readout")

    def loss(self, p, batch, rng=None):
        pictures, kind = batch
        h = apply(ops.Bias(), apply(ops.Conv2d(PATCH), pictures, p["patch.weight"]), p["patch.bias"])
        h = apply(ops.Reshape((len(pictures), TOKENS, D)), h)
        for i in range(LAYERS):
            name = f"layer.{i}.tokens"
            mixed = apply(ops.Transpose((0, 2, 1)), norm(p, f"{name}.norm", h))
            h = h + apply(ops.Transpose((0, 2, 1)), mlp(p, name, mixed))
            name = f"layer.{i}.channels"
            h = h + mlp(p, name, norm(p, f"{name}.norm", h))
        pooled = apply(ops.Mean((1,)), norm(p, "norm", h))
        return F.cross_entropy(F.readout(pooled, p["head.weight"], p["head.bias"]), kind)


def norm(p, name, x):
    return F.layer_norm(x, p[f"{name}.gain"], p[f"{name}.bias"])


def mlp(p, name, x):
    hidden = F.gelu(F.linear(x, p[f"{name}.up.weight"], p[f"{name}.up.bias"]))
    return F.linear(hidden, p[f"{name}.down.weight"], p.get(f"{name}.down.bias"))


model = Mixer()
