"""u-μP beside the library ``unit-scaling``, and part by part beside unit scaling.

    python -m tests.bench.umup library [--width 128] [--steps 150] [--rates -2,-1,0,1,2] [--seeds 2]
    python -m tests.bench.umup parts [--width 128] [--steps 150] [--rates -5,-4,-3] [--seeds 2]

``library``: the same decoder, weights, batches and learning rates in both.

The library's factor on an attention's mixture is that of independent values, here ``values="causal"``; ours by default
is that of correlated ones. Prints how alike the first gradients are with the former (cosine, and ratio of norms, of
every weight), and the validation loss (bits per character) with both. Needs torch, einops and unit-scaling.

``parts``: unit scaling with one part of u-μP at a time, on the decoder of the spec "transfer".
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from refscale.engine import Tape, backward
from refscale.layers import on_tape
from refscale.scales import Call, ReadoutRule, ResidualRule, Role, Scales, ScoresRule, Shape, UMup, Unit, u_mup
from refscale.train import Run, TrainConfig, evaluate, training_step

try:
    import torch
    import unit_scaling as uu
    from unit_scaling.optim import AdamW

    torch.set_num_threads(1)
except ImportError:
    torch = None

LAYERS, HEAD = 2, 32


def config_of(width: int, steps: int, log2_lr: float, seed: int, values: str) -> TrainConfig:
    """A decoder as the library has it: no positions, a key for every query, feed-forward × 4, readout of its own."""
    sizes = f"layers={LAYERS},width={width},head_size={HEAD},shared=1,multiple=4.0,positions=none,eps=1e-5"
    return TrainConfig(
        model=f"decoder-mini:{sizes},values={values}",
        scheme="u-mup",
        steps=steps,
        batch=8,
        seq=64,
        lr=2.0**log2_lr,
        weight_decay=0.0,
        evaluation_batches=32,
        seed=seed,
    )


def theirs(run: Run, parameters: dict[str, np.ndarray]) -> tuple[torch.nn.Module, dict[str, torch.nn.Parameter]]:
    """The library's decoder with these weights, and its parameters by our names."""
    model = run.task.model
    net = uu.TransformerDecoder(model.width, model.vocabulary, LAYERS, model.width // HEAD)
    named = {"embedding": net.embedding.weight, "readout.weight": net.projection.weight}
    with torch.no_grad():
        net.embedding.weight.copy_(torch.tensor(parameters["embedding"]))
        net.projection.weight.copy_(torch.tensor(parameters["readout.weight"]).T)
        for i, layer in enumerate(net.layers):
            at = f"layers.{i}"
            parts = [parameters[f"{at}.attention.{p}.weight"].T for p in ("query", "key", "value")]
            layer.mhsa.linear_qkv.weight.copy_(torch.tensor(np.concatenate(parts)))
            pairs = {
                "attention.output": layer.mhsa.linear_o,
                "ffn.up": layer.mlp.linear_1,
                "ffn.gate": layer.mlp.linear_gate,
                "ffn.down": layer.mlp.linear_2,
            }
            named[f"{at}.attention.qkv"] = layer.mhsa.linear_qkv.weight
            for name, linear in pairs.items():
                linear.weight.copy_(torch.tensor(parameters[f"{at}.{name}.weight"]).T)
                named[f"{at}.{name}.weight"] = linear.weight
    return net, named


def loss_of(net: torch.nn.Module, batch: object) -> tuple[torch.Tensor, int]:
    """The library's cross-entropy of the tokens that count."""
    ids, labels = (torch.tensor(x, dtype=torch.int64) for x in (batch.ids, batch.labels))
    logits = net(ids)[:, :-1].flatten(end_dim=-2)
    wanted = labels[:, 1:].flatten()
    kept = wanted >= 0
    return uu.functional.cross_entropy(logits[kept], wanted[kept]), int(kept.sum())


def first_gradients(run: Run) -> list[tuple[str, float, float]]:
    """(name, cosine, ratio of norms) of the first step's gradients, ours over theirs."""
    state, batch = run.initial_state(), next(run.batches(0))
    p = on_tape(Tape(run.scheme), state.parameters, run.specs)
    backward(run.task.loss(p, batch).total)
    net, named = theirs(run, state.parameters)
    loss_of(net, batch)[0].backward()
    found = []
    for name, parameter in named.items():
        if name.endswith("qkv"):
            ours = np.concatenate([p[name.replace("qkv", f"{q}.weight")].grad.T for q in ("query", "key", "value")])
        else:
            ours = p[name].grad if name == "embedding" else p[name].grad.T
        g = parameter.grad.numpy()
        cosine = float((ours * g).sum() / (np.linalg.norm(ours) * np.linalg.norm(g)))
        found.append((name, cosine, float(np.linalg.norm(ours) / np.linalg.norm(g))))
    return found


def print_library(width: int, steps: int, rates: list[float], seeds: int) -> None:
    """First gradients, then bits per character by learning rate."""
    print("gradient of the first step: cosine, ours over theirs")
    for name, cosine, ratio in first_gradients(Run.of(config_of(width, steps, 0, 0, "causal"))):
        print(f"  {name:32} {cosine:.4f}  {ratio:.3f}")
    print(f"bits per character after {steps} steps, width {width}, mean of {seeds} seeds")
    for rate in rates:
        found = []
        for values, train in (("correlated", train_ours), ("causal", train_ours), ("causal", train_theirs)):
            runs = [Run.of(config_of(width, steps, rate, seed, values)) for seed in range(seeds)]
            found.append(sum(map(train, runs)) / seeds)
        print("  2^{:g}: correlated {:.3f}   causal {:.3f}   unit-scaling {:.3f}".format(rate, *found), flush=True)


def train_ours(run: Run) -> float:
    """Bits per character."""
    state = run.initial_state()
    for batch in run.batches(0):
        state, _ = training_step(run, state, batch)
    return evaluate(run, state)["bits"]


def train_theirs(run: Run) -> float:
    """Bits per character, with the library's AdamW and our schedule."""
    net, _ = theirs(run, run.initial_state().parameters)
    optimizer = AdamW(net.parameters(), lr=run.config.peak_lr, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8)
    start = [group["lr"] for group in optimizer.param_groups]
    for step, batch in enumerate(run.batches(0)):
        for group, lr in zip(optimizer.param_groups, start, strict=True):
            group["lr"] = lr * run.schedule(step)
        optimizer.zero_grad()
        loss_of(net, batch)[0].backward()
        optimizer.step()
    with torch.no_grad():
        pairs = [loss_of(net, batch) for batch in run.validation]
    nats = sum(float(loss) * n for loss, n in pairs) / sum(n for _, n in pairs)
    return nats / math.log(2)


def parts() -> list[Unit]:
    """Unit scaling, and with each part of u-μP in turn."""

    @dataclass(frozen=True)
    class ToOutputScale(Unit):
        name: str = "constraint: to output scale"

        def scales(self, call: Call) -> Scales:
            return UMup.scales(self, call)

    @dataclass(frozen=True)
    class Scores(Unit):
        name: str = "attention scores / d"
        attention_scores: ClassVar[ScoresRule] = "1/d"

    @dataclass(frozen=True)
    class Readout(Unit):
        name: str = "readout / m, learning √m as fast"
        readout: ClassVar[ReadoutRule] = "1/m"

        def lr_scale(self, role: Role, shape: Shape, depth: int) -> float:
            return super().lr_scale(role, shape, depth) * (shape[0] ** 0.5 if role == "readout" else 1)

    @dataclass(frozen=True)
    class Residual(Unit):
        name: str = "depth rule for residual additions"

        def residual_weights(self, rule: ResidualRule, layer: int, depth: int) -> tuple[float, float]:
            return u_mup.residual_weights(rule, layer, depth)

    @dataclass(frozen=True)
    class Rates(Unit):
        """Times 16, so that they are about those of unit scaling at width 128; the readout's is that of its factor."""

        name: str = "learning rates by role and shape"

        def lr_scale(self, role: Role, shape: Shape, depth: int) -> float:
            own = u_mup.lr_scale(role, shape, depth) * 16
            return own * shape[0] ** -0.5 if role == "readout" else own

    return [Unit(), ToOutputScale(), Scores(), Readout(), Residual(), Rates()]


def print_parts(width: int, steps: int, rates: list[float], seeds: int) -> None:
    """Bits per character of each, by learning rate; mean over seeds."""
    print("  ".join([f"{'':36}", *(f"2^{e:<5g}" for e in rates)]))
    for scheme in parts():
        row = []
        for rate in rates:
            config = TrainConfig(
                f"decoder-mini:layers=2,width={width}",
                steps=steps,
                batch=8,
                seq=64,
                lr=2.0**rate,
                weight_decay=0.0,
                evaluation_batches=32,
            )
            runs = [Run.of(replace(config, seed=seed)) for seed in range(seeds)]
            changed = [replace(r, task=replace(r.task, setup=replace(r.task.setup, scheme=scheme))) for r in runs]
            row.append(sum(map(train_ours, changed)) / seeds)
        print("  ".join([f"{scheme.name:36}", *(f"{x:.3f}  " for x in row)]), flush=True)


def main() -> None:
    """Either table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["library", "parts"])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rates")
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    default = "-2,-1,0,1,2" if args.what == "library" else "-5,-4,-3"
    rates = [float(e) for e in (args.rates or default).split(",")]
    table = print_library if args.what == "library" else print_parts
    table(args.width, args.steps, rates, args.seeds)


if __name__ == "__main__":
    main()
