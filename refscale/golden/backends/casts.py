"""Backends of libraries that cast: ml_dtypes and gfloat."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from refscale.formats import FORMATS
from refscale.golden.kit.backend import Claims

Array = NDArray[Any]

DTYPES: dict[str, Any] = {
    "float16": np.float16,
    "float32": np.float32,
    **{name: getattr(ml_dtypes, name) for name in FORMATS if hasattr(ml_dtypes, name)},
}
"""Formats that are dtypes of ml_dtypes or NumPy."""


class MlDtypes:
    """Backend of ml_dtypes: ``x.astype(dtype)`` and back."""

    name = "ml_dtypes"
    version = ml_dtypes.__version__
    claims = Claims(tuple(DTYPES), ("nearest_even",), conventions="ml_dtypes")

    def cast(self, x: Array, *, format: str, overflow: str, **_: Any) -> Array:
        """Cast to the dtype; formats with neither infinity nor NaN saturate, all others do not."""
        kind = FORMATS[format]
        if overflow == "saturate" and (kind.has_inf or kind.has_nan):
            raise NotImplementedError("astype does not saturate")
        return np.asarray(x.astype(DTYPES[format]))

    def decode(self, codes: Array, *, format: str) -> Array:
        """Convert codes to float32."""
        return np.asarray(codes.view(DTYPES[format]).astype(np.float32))


class Gfloat:
    """Backend of gfloat: ``round_ndarray`` and ``decode_ndarray``."""

    name = "gfloat"

    def __init__(self) -> None:
        import gfloat
        from gfloat import formats as known

        self._gfloat, self.version = gfloat, version("gfloat")
        self._formats = {
            "float8_e4m3fn": known.format_info_ocp_e4m3,
            "float8_e5m2": known.format_info_ocp_e5m2,
            "float6_e2m3fn": known.format_info_ocp_e2m3,
            "float6_e3m2fn": known.format_info_ocp_e3m2,
            "float4_e2m1fn": known.format_info_ocp_e2m1,
            "float16": known.format_info_binary16,
            "bfloat16": known.format_info_bfloat16,
            "float32": known.format_info_binary32,
        }
        mode = gfloat.RoundMode
        self._modes = {
            "nearest_even": mode.TiesToEven,
            "nearest_away": mode.TiesToAway,
            "toward_zero": mode.TowardZero,
            "up": mode.TowardPositive,
            "down": mode.TowardNegative,
        }
        self._blocks = {
            "float8_e4m3fn": known.format_info_mxfp8_e4m3,
            "float8_e5m2": known.format_info_mxfp8_e5m2,
            "float6_e2m3fn": known.format_info_mxfp6_e2m3,
            "float6_e3m2fn": known.format_info_mxfp6_e3m2,
            "float4_e2m1fn": known.format_info_mxfp4_e2m1,
            "int8_q6": known.format_info_mxint8,
        }
        formats = (*self._formats, "int8_q6", "float8_e8m0fnu")
        self.claims = Claims(formats, tuple(self._modes), scale_rules=("floor",))

    def cast(self, x: Array, *, format: str, rounding: str, overflow: str, **_: Any) -> Array:
        """Round in float64."""
        info = self._info(format)
        if overflow == "nonsaturate" and not (FORMATS[format].has_inf or FORMATS[format].has_nan):
            raise NotImplementedError("no infinity and no NaN: the library saturates or raises")
        wide = x.astype(np.float64)
        return np.asarray(self._gfloat.round_ndarray(info, wide, self._modes[rounding], overflow == "saturate"))

    def block_quantize(
        self, x: Array, *, format: str, block: list[int], scale_format: str, axis: int, rounding: str, **_: Any
    ) -> dict[str, Array]:
        """Convert block by block, in float64."""
        if scale_format != "float8_e8m0fnu" or block != [32] or axis != -1 or x.shape[-1] % 32:
            raise NotImplementedError("whole blocks of 32 along the last axis only")
        if not np.isfinite(x).all():
            raise NotImplementedError("finite numbers only")
        info, codes, scales = self._blocks[format], [], []
        for values in x.astype(np.float64).reshape(-1, 32):
            s = float(self._gfloat.compute_scale_amax(info.etype.emax, values))
            scale, *elements = self._gfloat.encode_block(info, s, values / s, self._modes[rounding])
            scales.append(scale)
            codes.append(elements)
        shape = (*x.shape[:-1], x.shape[-1] // 32)
        return {
            "elements": np.array(codes, np.uint8).reshape(x.shape),
            "scales": np.array(scales, np.uint8).reshape(shape),
        }

    def decode(self, codes: Array, *, format: str) -> Array:
        """Return the values of codes."""
        return np.asarray(self._gfloat.decode_ndarray(self._info(format), codes)).astype(np.float32)

    def _info(self, format: str) -> Any:
        if format not in self._formats:
            raise NotImplementedError(f"{format} in blocks only")
        return self._formats[format]
