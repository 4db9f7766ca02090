"""Backends that come with the kit; each imports its library when it is created."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from refscale.errors import GoldenError
from refscale.golden.backends.reference import Reference
from refscale.golden.kit.backend import Backend, load_backend

__all__ = ["SHIPPED", "Reference", "Shipped", "find"]


@dataclass(frozen=True)
class Shipped:
    """A backend that comes with the kit.

    Attributes:
        name: name on the command line.
        where: "module:Class".
        needs: modules that it imports.
        about: description in one line.
    """

    name: str
    where: str
    needs: tuple[str, ...]
    about: str

    @property
    def installed(self) -> bool:
        """Whether its modules can be imported; a GPU is not checked."""
        return all(importlib.util.find_spec(m) is not None for m in self.needs)


_HERE = "refscale.golden.backends"

SHIPPED: Mapping[str, Shipped] = MappingProxyType(
    {
        b.name: b
        for b in (
            Shipped("reference", f"{_HERE}.reference:Reference", (), "refscale itself"),
            Shipped("ml_dtypes", f"{_HERE}.casts:MlDtypes", ("ml_dtypes",), "casts between dtypes of NumPy"),
            Shipped("torch", f"{_HERE}.torch:Torch", ("torch",), "PyTorch on the CPU: casts, products, ops"),
            Shipped("torch-cuda", f"{_HERE}.torch:TorchCuda", ("torch",), "PyTorch on a GPU"),
            Shipped("jax", f"{_HERE}.jax:Jax", ("jax",), "JAX: casts, products, functions"),
            Shipped("gfloat", f"{_HERE}.casts:Gfloat", ("gfloat",), "gfloat: casts, blocks by floor"),
            Shipped("torchao", f"{_HERE}.torchao:TorchAo", ("torchao", "torch"), "torchao: MX, NVFP4, layouts"),
            Shipped("unit-scaling", f"{_HERE}.unit_scaling:UnitScaling", ("unit_scaling", "torch"), "its scaled ops"),
        )
    }
)
"""Shipped backends by their names on the command line."""


def find(where: str) -> Backend:
    """Return a shipped backend by its name, or an instance of "module:Class".

    Raises:
        GoldenError: the backend cannot be imported or created.
    """
    if where in SHIPPED:
        shipped = SHIPPED[where]
        if not shipped.installed:
            raise GoldenError(f"backend {where!r}: needs {', '.join(shipped.needs)}, which is not installed")
        return load_backend(shipped.where)
    if ":" not in where:
        raise GoldenError(f"backend {where!r}: expected module:Class or one of {', '.join(SHIPPED)}")
    return load_backend(where)
