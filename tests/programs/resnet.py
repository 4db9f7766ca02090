"""The blocks of a ResNet-18, two in each of four stages, with batch norm.  Source: arXiv 1512.03385."""

from __future__ import annotations

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.engine import apply
from refscale.layers import Spec
from refscale.layers.blocks import linear_specs, norm_specs
from tests.programs.pictures import CHANNELS, KINDS, Pictures

WIDTHS, BLOCKS = (8, 12, 16, 24), 2


class Resnet(Pictures):
    """Pictures of gratings to their kind, by the mean over the places."""

    def __init__(self):
        self.specs = convolution_specs("stem", 3, CHANNELS, WIDTHS[0])
        width = WIDTHS[0]
        for name, wider in blocks():
            self.specs |= convolution_specs(f"{name}.0", 3, width, wider)
            self.specs |= convolution_specs(f"{name}.1", 3, wider, wider)
            if width != wider:
                self.specs |= convolution_specs(f"{name}.skip", 1, width, wider)
            width = wider
        self.specs |= linear_specs("head", width, KINDS, role="readout")

    def loss(self, p, batch, rng=None):
        pictures, kind = batch
        h = F.relu(convolution(p, "stem", pictures))
        for name, _ in blocks():
            stride = 2 if f"{name}.skip.weight" in p else 1
            branch = F.relu(convolution(p, f"{name}.0", h, stride))
            skip = convolution(p, f"{name}.skip", h, stride) if stride == 2 else h
            h = F.relu(skip + convolution(p, f"{name}.1", branch))
        pooled = apply(ops.Mean((1, 2)), h)
        return F.cross_entropy(F.readout(pooled, p["head.weight"], p["head.bias"]), kind)


def blocks():
    """Name and width of every block, in order."""
    return [(f"stage.{i}.block.{k}", width) for i, width in enumerate(WIDTHS) for k in range(BLOCKS)]


def convolution_specs(name, kernel, width, wider):
    return {f"{name}.weight": Spec("weight", (kernel, kernel, width, wider)), **norm_specs(f"{name}.norm", wider)}


def convolution(p, name, x, stride=1):
    weight = p[f"{name}.weight"]
    y = apply(ops.Conv2d(stride, padding=weight.shape[0] // 2), x, weight)
    return F.batch_norm(y, p[f"{name}.norm.gain"], p[f"{name}.norm.bias"])


model = Resnet()
