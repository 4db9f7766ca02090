"""Backends of PyTorch: casts between its dtypes, products, functions, and ops with autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from refscale.golden.kit.backend import Claims

Array = NDArray[Any]
Tensor = Any

_NARROW = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")


class Torch:
    """Backend of PyTorch on the CPU. Products and ops compute in float32, in an unspecified order."""

    name = "torch"
    device = "cpu"

    def __init__(self) -> None:
        import torch

        self.torch, self.version = torch, str(torch.__version__)
        self.dtypes = {n: getattr(torch, n) for n in (*_NARROW, "float16", "bfloat16", "float32", "float64")}
        self.claims = Claims(
            tuple(n for n in self.dtypes if n != "float64"),
            ("nearest_even",),
            accumulate="any-order",
            function_ulps=4,
            op_ulps=8,
            conventions="torch",
        )

    def cast(self, x: Array, *, format: str, overflow: str, **_: Any) -> Array:
        """Cast by ``x.to(dtype)``, which does not saturate."""
        if overflow == "saturate":
            raise NotImplementedError("Tensor.to does not saturate")
        return self.codes(self.tensor(x).to(self.dtypes[format]))

    def decode(self, codes: Array, *, format: str) -> Array:
        """Convert codes to float32."""
        signed = codes.view(np.dtype(f"i{codes.dtype.itemsize}"))
        tensor = self.torch.from_numpy(signed).to(self.device).view(self.dtypes[format])
        return self.codes(tensor.float())

    def unary(self, x: Array, *, function: str, derivative: bool, format: str, overflow: str, **_: Any) -> Array:
        """Compute in float32, then round; derivatives by autograd."""
        if overflow == "saturate":
            raise NotImplementedError("Tensor.to does not saturate")
        t = self.tensor(x.astype(np.float32)).requires_grad_(derivative)
        y = self._functions()[function](t)
        if derivative:
            y.sum().backward()
            y = t.grad
        return self.codes(y.to(self.dtypes[format]))

    def matmul(
        self,
        a: Array,
        b: Array,
        *,
        a_format: str,
        b_format: str,
        format: str,
        overflow: str,
        factor: float,
        **_: Any,
    ) -> Array:
        """Compute in the dtype of operands and output if they share one, else in float32."""
        if factor != 1:
            raise NotImplementedError("no product with a factor")
        if overflow == "saturate":
            raise NotImplementedError("Tensor.to does not saturate")
        kind = a_format if a_format == b_format == format else "float32"
        y = self.tensor(a).to(self.dtypes[kind]) @ self.tensor(b).to(self.dtypes[kind])
        return self.codes(y.to(self.dtypes[format]))

    def op(
        self,
        *,
        name: str,
        attributes: dict[str, Any],
        alpha: float,
        beta: list[float | None],
        store: str,
        operand: str | None,
        operand_gradient: str | None,
        gradient: Array | None = None,
        **arrays: Array,
    ) -> dict[str, Array]:
        """Compute in float32 with autograd, then round to the stored formats."""
        if operand or operand_gradient or any(b not in (None, alpha) for b in beta):
            raise NotImplementedError("autograd has neither casts of operands nor factors of its own")
        function = self._ops(attributes).get(name)
        if function is None:
            raise NotImplementedError(f"no op {name}")
        leaves = {n: self.tensor(np.asarray(x, np.float32) if _is_float(x) else x) for n, x in arrays.items()}
        for n, x in arrays.items():
            leaves[n].requires_grad_(_is_float(x))
        y = alpha * function(*leaves.values())
        kept = "float32" if name.endswith(("loss", "entropy")) else store
        outputs = {"y": self.codes(y.detach().to(self.dtypes[kept]))}
        if gradient is not None:
            y.backward(self.tensor(gradient.astype(np.float32)))
            for n, t in leaves.items():
                if t.grad is not None:
                    outputs[f"grad_{n}"] = self.codes(t.grad.to(self.dtypes[store]))
        return outputs

    def tensor(self, x: Array) -> Tensor:
        """Return an array as a tensor on the device, with the same bits."""
        if x.dtype == ml_dtypes.bfloat16:
            return self.torch.from_numpy(x.view(np.int16)).view(self.torch.bfloat16).to(self.device)
        return self.torch.from_numpy(np.ascontiguousarray(x)).reshape(x.shape).to(self.device)

    def codes(self, t: Tensor) -> Array:
        """Return the bits of a tensor as unsigned integers."""
        size = t.element_size()
        signed = t.detach().contiguous().view(getattr(self.torch, f"int{8 * size}")).cpu().numpy()
        return np.asarray(signed.view(np.dtype(f"u{size}")).reshape(tuple(t.shape)))

    def _functions(self) -> dict[str, Callable[[Tensor], Tensor]]:
        torch, f = self.torch, self.torch.nn.functional
        return {
            "exp": torch.exp,
            "log": torch.log,
            "tanh": torch.tanh,
            "sigmoid": torch.sigmoid,
            "erf": torch.erf,
            "gelu": f.gelu,
            "gelu_tanh": lambda x: f.gelu(x, approximate="tanh"),
            "silu": f.silu,
            "softplus": f.softplus,
            "sqrt": torch.sqrt,
            "rsqrt": torch.rsqrt,
            "reciprocal": torch.reciprocal,
        }

    def _ops(self, v: dict[str, Any]) -> dict[str, Callable[..., Tensor]]:
        """Return the ops of the table that PyTorch has, by name; ``v`` are attributes."""
        torch, f = self.torch, self.torch.nn.functional
        form = v.get("form") or v.get("approximate") or "erf"
        unary = {k: g for k, g in self._functions().items() if k not in ("gelu", "gelu_tanh")}
        return {
            **unary,
            "add": torch.add,
            "subtract": torch.subtract,
            "multiply": torch.multiply,
            "bias": torch.add,
            "matmul": torch.matmul,
            "relu": f.relu,
            "gelu": lambda x: f.gelu(x, approximate="tanh" if form == "tanh" else "none"),
            "softmax": lambda x: torch.softmax(x, v.get("axis", -1)),
            "log_softmax": lambda x: torch.log_softmax(x, v.get("axis", -1)),
            "layer_norm": lambda x, gain, bias: f.layer_norm(x, x.shape[-1:], gain, bias, v["eps"]),
            "mse_loss": f.mse_loss,
        }


class TorchCuda(Torch):
    """Backend of PyTorch on a GPU."""

    name = "torch-cuda"
    device = "cuda"

    def __init__(self) -> None:
        super().__init__()
        if not self.torch.cuda.is_available():
            raise RuntimeError("torch finds no GPU")
        self.torch.backends.cuda.matmul.allow_tf32 = False
        self.version += f", {self.torch.cuda.get_device_name()}"


def _is_float(x: Array) -> bool:
    return x.dtype.kind == "f" or x.dtype == ml_dtypes.bfloat16
