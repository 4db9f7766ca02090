"""Backend of JAX: casts, products and functions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.golden.backends.casts import DTYPES
from refscale.golden.kit.backend import Claims

Array = NDArray[Any]


class Jax:
    """Backend of JAX on the default device, at highest precision. Products and functions are computed in float32."""

    name = "jax"

    def __init__(self) -> None:
        import jax

        self.jax, self.version = jax, f"{jax.__version__}, {jax.default_backend()}"
        self.claims = Claims(
            tuple(n for n in DTYPES if n not in ("float6_e2m3fn", "float6_e3m2fn")),
            ("nearest_even",),
            accumulate="any-order",
            function_ulps=8,
        )

    def cast(self, x: Array, *, format: str, overflow: str, **_: Any) -> Array:
        """Cast by ``x.astype(dtype)``, which does not saturate."""
        if overflow == "saturate":
            raise NotImplementedError("astype does not saturate")
        if x.dtype == np.float64:
            raise NotImplementedError("float64 only with jax_enable_x64")
        return np.asarray(self.jax.numpy.asarray(x).astype(DTYPES[format]))

    def decode(self, codes: Array, *, format: str) -> Array:
        """Convert codes to float32."""
        return np.asarray(self.jax.numpy.asarray(codes.view(DTYPES[format])).astype(np.float32))

    def unary(self, x: Array, *, function: str, derivative: bool, format: str, overflow: str, **_: Any) -> Array:
        """Compute in float32, then round; derivatives by ``jax.grad``."""
        if overflow == "saturate":
            raise NotImplementedError("astype does not saturate")
        jax, np_, nn = self.jax, self.jax.numpy, self.jax.nn
        f = {
            "exp": np_.exp,
            "log": np_.log,
            "tanh": np_.tanh,
            "sigmoid": nn.sigmoid,
            "erf": jax.scipy.special.erf,
            "gelu": lambda v: nn.gelu(v, approximate=False),
            "gelu_tanh": lambda v: nn.gelu(v, approximate=True),
            "silu": nn.silu,
            "softplus": nn.softplus,
            "sqrt": np_.sqrt,
            "rsqrt": jax.lax.rsqrt,
            "reciprocal": np_.reciprocal,
        }[function]
        wide = np_.asarray(x.astype(np.float32))
        y = jax.vmap(jax.grad(f))(wide) if derivative else f(wide)
        return np.asarray(y.astype(DTYPES[format]))

    def matmul(self, a: Array, b: Array, *, format: str, overflow: str, factor: float, **_: Any) -> Array:
        """Compute in float32, then round."""
        if overflow == "saturate":
            raise NotImplementedError("astype does not saturate")
        if factor != 1:
            raise NotImplementedError("no product with a factor")
        wide = (self.jax.numpy.asarray(x.astype(np.float32)) for x in (a, b))
        y = self.jax.numpy.matmul(*wide, precision=self.jax.lax.Precision.HIGHEST)
        return np.asarray(y.astype(DTYPES[format]))
