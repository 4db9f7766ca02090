"""The blocks of a ConvNeXt: depthwise 7 × 7 convolution, layer norm, feed-forward.  Source: arXiv 2201.03545.

Without the layer scale, a gain of 10^-6 on every branch, which leaves the branches out of the first steps.
"""

from __future__ import annotations

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.engine import apply
from refscale.layers import Spec
from refscale.layers.blocks import linear_specs, norm_specs
from tests.programs.pictures import CHANNELS, KINDS, Pictures

WIDTHS, BLOCKS = (16, 32), 2


class Convnext(Pictures):
    """Pictures of gratings to their kind, by the mean over the places."""

    batch = 8

    def __init__(self):
        self.specs = {}
        width = CHANNELS
        for i, wider in enumerate(WIDTHS):
            self.specs[f"stage.{i}.down.weight"] = Spec("weight", (2, 2, width, wider))
            self.specs[f"stage.{i}.down.bias"] = Spec("bias", (wider,))
            self.specs |= norm_specs(f"stage.{i}.down.norm", wider)
            for k in range(BLOCKS):
                name = f"stage.{i}.block.{k}"
                self.specs[f"{name}.depthwise.weight"] = Spec("weight", (7, 7, 1, wider), std=1 / 7)
                self.specs[f"{name}.depthwise.bias"] = Spec("bias", (wider,))
                self.specs |= norm_specs(f"{name}.norm", wider)
                self.specs |= linear_specs(f"{name}.up", wider, 4 * wider)
                self.specs |= linear_specs(f"{name}.down", 4 * wider, wider)
            width = wider
        self.specs |= norm_specs("norm", width) | linear_specs("head", width, KINDS, role="readout")

    def loss(self, p, batch, rng=None):
        h, kind = batch
        for i in range(len(WIDTHS)):
            h = norm(p, f"stage.{i}.down.norm", convolution(p, f"stage.{i}.down", ops.Conv2d(2), h))
            for k in range(BLOCKS):
                h = h + block(p, f"stage.{i}.block.{k}", h)
        pooled = norm(p, "norm", apply(ops.Mean((1, 2)), h))
        return F.cross_entropy(F.readout(pooled, p["head.weight"], p["head.bias"]), kind)


def convolution(p, name, op, x):
    return apply(ops.Bias(), apply(op, x, p[f"{name}.weight"]), p[f"{name}.bias"])


def norm(p, name, x):
    return F.layer_norm(x, p[f"{name}.gain"], p[f"{name}.bias"])


def block(p, name, x):
    x = norm(p, f"{name}.norm", convolution(p, f"{name}.depthwise", ops.Conv2d(padding=3, groups=x.shape[-1]), x))
    hidden = F.gelu(F.linear(x, p[f"{name}.up.weight"], p[f"{name}.up.bias"]))
    return F.linear(hidden, p[f"{name}.down.weight"], p[f"{name}.down.bias"])


model = Convnext()
