"""Backend of torchao on the CPU: conversions to MX and NVFP4, and memory layouts of codes."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.golden.kit.backend import Claims

Array = NDArray[Any]


class TorchAo:
    """Backend of torchao's ``to_mx``, ``nvfp4_quantize``, ``to_blocked`` and ``pack_uint4``."""

    name = "torchao"

    def __init__(self) -> None:
        import torch
        from torchao.prototype.mx_formats import mx_tensor, nvfp4_tensor, utils
        from torchao.prototype.mx_formats.config import ScaleCalculationMode

        self.torch, self._mx, self._nvfp4, self._utils = torch, mx_tensor, nvfp4_tensor, utils
        self.version = f"{version('torchao')}, torch {torch.__version__}"
        self._modes = {mode.value: mode for mode in ScaleCalculationMode}
        self._elements = {
            "float8_e4m3fn": torch.float8_e4m3fn,
            "float8_e5m2": torch.float8_e5m2,
            "float6_e2m3fn": "fp6_e2m3",
            "float6_e3m2fn": "fp6_e3m2",
            "float4_e2m1fn": torch.float4_e2m1fn_x2,
        }
        formats = (*self._elements, "float8_e8m0fnu")
        self.claims = Claims(
            formats,
            ("nearest_even",),
            ("saturate",),
            scale_rules=(*self._modes, "amax"),
            conventions={"nvfp4_scale": "divide", "nvfp4_element": "inverse"},
        )

    def block_quantize(
        self,
        x: Array,
        *,
        format: str,
        block: list[int],
        rule: str,
        axis: int,
        arithmetic: str,
        nonfinite: str,
        **v: Any,
    ) -> dict[str, Array]:
        """Convert along the last axis, in whole blocks; infinities count as large numbers."""
        if len(block) != 1 or axis != -1 or x.shape[-1] % block[0]:
            raise NotImplementedError("whole blocks along the last axis only")
        if nonfinite == "nan" and not np.isfinite(x).all():
            raise NotImplementedError("an infinity does not make a block NaN")
        if nonfinite in ("ignore", "largest"):
            raise NotImplementedError("infinities and NaN take part in the scale")
        t = self.torch.from_numpy(np.ascontiguousarray(x, np.float32))
        if rule == "amax":
            if not v["tensor_scale"] or arithmetic != "divide+inverse":
                raise NotImplementedError("NVFP4 in one order of operations")
            scale = self._nvfp4.per_tensor_amax_to_scale(t.abs().max())
            s, packed = self._nvfp4.nvfp4_quantize(t, block[0], scale)
            codes = self._unpacked(packed)
            return {"elements": codes, "scales": self._codes(s), "tensor_scale": np.asarray(scale.numpy(), np.float32)}
        s, data = self._mx.to_mx(t, self._elements[format], block[0], self._modes[rule])
        codes = self._unpacked(data) if format == "float4_e2m1fn" else self._codes(data)
        return {"elements": codes.reshape(x.shape), "scales": self._codes(s)}

    def block_layout(self, codes: Array, *, layout: str) -> Array:
        """Pack two codes in a byte, or scales in tiles."""
        t = self.torch.from_numpy(codes)
        moved = self._mx.pack_uint4(t) if layout == "nibbles" else self._utils.to_blocked(t).flatten()
        return self._codes(moved)

    def _codes(self, t: Any) -> Array:
        return np.asarray(t.contiguous().view(self.torch.uint8).numpy())

    def _unpacked(self, packed: Any) -> Array:
        bytes_ = self._codes(packed)
        return np.stack([bytes_ & 15, bytes_ >> 4], -1).reshape(*bytes_.shape[:-1], -1)
