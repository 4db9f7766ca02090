"""LSTM and GRU layers, with PyTorch's parameter names."""

from __future__ import annotations

from refscale import functional as F  # noqa: N812
from refscale.engine import Tensor
from refscale.layers.parameters import Spec, Specs, Tensors
from refscale.scales import Constraint, geometric

__all__ = ["gru", "gru_specs", "lstm", "lstm_specs"]


def lstm_specs(
    name: str, m: int, d: int, *, layers: int = 1, bidirectional: bool = False, bias: bool = True, depth: int = 1
) -> Specs:
    """Return the specs of ``lstm``: ``name.weight_ih_l0``, ``weight_hh_l0``, ``bias_ih_l0``, ``bias_hh_l0``, …

    Args:
        name: path of the parameters.
        m: width of the input.
        d: width of the state.
        layers: number of layers.
        bidirectional: add ``name.weight_ih_l0_reverse``, …; the input width of later layers is then 2·d.
        bias: add biases.
        depth: number of residual additions in the stack.

    Returns:
        Specs; weights are (fan-in, 4·d), PyTorch's transposed, with gates i, f, g, o.
    """
    return _specs(4, name, m, d, layers, bidirectional, bias, depth)


def gru_specs(
    name: str, m: int, d: int, *, layers: int = 1, bidirectional: bool = False, bias: bool = True, depth: int = 1
) -> Specs:
    """Return the specs of ``gru``; see ``lstm_specs``. Weights are (fan-in, 3·d): gates r and z, candidate n."""
    return _specs(3, name, m, d, layers, bidirectional, bias, depth)


def lstm(p: Tensors, name: str, x: Tensor, constraint: str | Constraint = geometric) -> Tensor:
    """Run ``functional.lstm`` from zero states with the parameters of ``lstm_specs``: (…, seq, m) → (…, d or 2·d)."""
    layers, bidirectional = _layers(p, name)
    return F.lstm(x, layers, bidirectional=bidirectional, constraint=constraint)[0]


def gru(p: Tensors, name: str, x: Tensor, constraint: str | Constraint = geometric) -> Tensor:
    """Run ``functional.gru`` from zero states with the parameters of ``gru_specs``: (…, seq, m) → (…, d or 2·d)."""
    layers, bidirectional = _layers(p, name)
    return F.gru(x, layers, bidirectional=bidirectional, constraint=constraint)[0]


def _specs(parts: int, name: str, m: int, d: int, layers: int, bidirectional: bool, bias: bool, depth: int) -> Specs:
    specs: Specs = {}
    for k in range(layers):
        for way in ("", "_reverse") if bidirectional else ("",):
            specs[f"{name}.weight_ih_l{k}{way}"] = Spec("weight", (m, parts * d), depth)
            specs[f"{name}.weight_hh_l{k}{way}"] = Spec("weight", (d, parts * d), depth)
            if bias:
                specs[f"{name}.bias_ih_l{k}{way}"] = Spec("bias", (parts * d,), depth)
                specs[f"{name}.bias_hh_l{k}{way}"] = Spec("bias", (parts * d,), depth)
        m = 2 * d if bidirectional else d
    return specs


def _layers(p: Tensors, name: str) -> tuple[list[list[Tensor | None]], bool]:
    """The weights by layer and direction, and whether there are two directions."""
    bidirectional = f"{name}.weight_hh_l0_reverse" in p
    found: list[list[Tensor | None]] = []
    k = 0
    while f"{name}.weight_hh_l{k}" in p:
        for way in ("", "_reverse") if bidirectional else ("",):
            parts = [p[f"{name}.weight_{part}_l{k}{way}"] for part in ("ih", "hh")]
            found.append([*parts, *[p.get(f"{name}.bias_{part}_l{k}{way}") for part in ("ih", "hh")]])
        k += 1
    return found, bidirectional
