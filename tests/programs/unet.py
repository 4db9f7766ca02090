"""U-Net with batch norm: down, up, and skip connections that are concatenated.  Source: arXiv 1505.04597."""

from __future__ import annotations

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.engine import apply
from refscale.layers import Spec
from refscale.layers.blocks import linear_specs, norm_specs
from tests.programs.pictures import CHANNELS, Pictures, noisy

WIDTHS = (8, 16, 32)


class Unet(Pictures):
    """Noisy pictures to their noise, as the network of a diffusion model learns it."""

    batch = 8
    draw = staticmethod(noisy)

    def __init__(self):
        self.specs = {}
        width = CHANNELS
        for i, wider in enumerate(WIDTHS):
            self.specs |= convolution_specs(f"down.{i}.0", width, wider)
            self.specs |= convolution_specs(f"down.{i}.1", wider, wider)
            width = wider
        for i, narrower in reversed(list(enumerate(WIDTHS[:-1]))):
            self.specs |= convolution_specs(f"up.{i}.0", width + narrower, narrower)
            self.specs |= convolution_specs(f"up.{i}.1", narrower, narrower)
            width = narrower
        self.specs |= linear_specs("head", width, CHANNELS, role="readout")

    def loss(self, p, batch, rng=None):
        h, noise = batch
        skips = []
        for i in range(len(WIDTHS)):
            if i:
                h = apply(ops.AvgPool((2, 2)), h)
            h = convolution(p, f"down.{i}.1", convolution(p, f"down.{i}.0", h))
            skips.append(h)
        for i in reversed(range(len(WIDTHS) - 1)):
            h = apply(ops.Concat(-1), upsampled(h), skips[i])
            h = convolution(p, f"up.{i}.1", convolution(p, f"up.{i}.0", h))
        return F.mse_loss(F.readout(h, p["head.weight"], p["head.bias"]), noise)


def convolution_specs(name, width, wider):
    return {f"{name}.weight": Spec("weight", (3, 3, width, wider)), **norm_specs(f"{name}.norm", wider)}


def convolution(p, name, x):
    y = apply(ops.Conv2d(padding=1), x, p[f"{name}.weight"])
    return F.relu(F.batch_norm(y, p[f"{name}.norm.gain"], p[f"{name}.norm.bias"]))


def upsampled(x):
    """Every pixel four times."""
    n, height, width, channels = x.shape
    x = apply(ops.Reshape((n, height, 1, width, 1, channels)), x)
    x = apply(ops.Expand((n, height, 2, width, 2, channels)), x)
    return apply(ops.Reshape((n, 2 * height, 2 * width, channels)), x)


model = Unet()
