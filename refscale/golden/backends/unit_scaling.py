"""Backend of the ``unit-scaling`` package: its ops with their own factors, which may differ from the paper's."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from numpy.typing import NDArray

from refscale.golden.backends.torch import Torch
from refscale.golden.kit.backend import Claims

Array = NDArray[Any]


class UnitScaling:
    """Backend of ``unit_scaling.functional`` without constraints, on vectors with the factors of unit scaling."""

    name = "unit-scaling"

    def __init__(self) -> None:
        from unit_scaling import functional

        self._torch, self._functional = Torch(), functional
        self.version = f"{version('unit-scaling')}, torch {self._torch.version}"
        self.claims = Claims(("float32",), accumulate="any-order", op_ulps=8)

    def op(
        self,
        *,
        name: str,
        attributes: dict[str, Any],
        alpha: float,
        beta: list[float | None],
        gradient: Array | None = None,
        store: str,
        operand: str | None,
        operand_gradient: str | None,
        **arrays: Array,
    ) -> dict[str, Array]:
        """Compute an op with the package's own factors, not those of the vector."""
        function = self._scaled(attributes).get(name)
        if function is None or gradient is None or (alpha == 1 and all(b in (None, 1.0) for b in beta)):
            raise NotImplementedError(f"no unit-scaled {name}")
        leaves = [self._torch.tensor(x).requires_grad_(x.dtype.kind == "f") for x in arrays.values()]
        y = function(*leaves)
        y.backward(self._torch.tensor(gradient))
        grads = {f"grad_{n}": t.grad.numpy() for n, t in zip(arrays, leaves, strict=True) if t.grad is not None}
        return {"y": y.detach().numpy(), **grads}

    def _scaled(self, v: dict[str, Any]) -> dict[str, Callable[..., Any]]:
        u = self._functional
        form = "tanh" if v.get("form") == "tanh" else "none"
        return {
            "matmul": lambda x, w: (
                u.linear(x, w.mT, None, constraint=None) if w.ndim == 2 else u.matmul(x, w, constraint=None)
            ),
            "gelu": lambda x: u.gelu(x, constraint=None, approximate=form),
            "silu": lambda x: u.silu(x, constraint=None),
            "softmax": lambda x: u.softmax(x, dim=v.get("axis", -1), constraint=None),
            "layer_norm": lambda x, gain, bias: u.layer_norm(x, x.shape[-1:], gain, bias, v["eps"]),
            "mse_loss": lambda x, t: u.mse_loss(x, t),
        }
