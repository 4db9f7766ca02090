"""``refscale bring``."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from refscale.cli.outputs import check_distinct, check_outputs
from refscale.errors import ArgumentError
from refscale.files import write_json
from refscale.modules import file_of


def bring(args: argparse.Namespace) -> None:
    """Import a PyTorch module or an ONNX model and print its report."""
    from refscale import analysis
    from refscale.bridge import bring as bridge
    from refscale.bridge import from_onnx, saving, sources, to_onnx

    onnx = args.source.endswith(sources.ONNX)
    _check_installed("onnx" if onnx else "torch")
    check_outputs(args.json, args.html, args.module, args.onnx)
    if args.module:
        if onnx:
            raise ArgumentError(f"bring: --module of {args.source}, expected a PyTorch module")
        saving.check_module_path(args.module)
    values = str(Path(args.module).with_suffix(".npz")) if args.module else None
    check_distinct(file_of(args.source), args.json, args.html, args.module, values, args.onnx)
    if not 0 <= args.seed < 2**63:
        raise ArgumentError(f"bring: --seed {args.seed}, expected 0 … 2^63 − 1")
    precision = args.precision or "fp8"
    module, inputs = None, None
    if onnx:
        arrays = sources.example_arrays(args.input or (), args.seed)
        program = from_onnx(args.source, arrays, loss=args.loss)
        found = bridge.measured(program, precision, loss=args.loss, weights=args.weights)
    else:
        module, inputs = sources.load_source(args.source, train=not args.eval)
        if args.input:
            inputs = sources.example_inputs(args.input, args.seed)
        if inputs is None:
            raise ArgumentError("bring: no inputs, expected --input SHAPE for each, or a factory that returns them")
        found = bridge.bring(module, inputs, precision, loss=args.loss, weights=args.weights)
    if args.json:  # files first: a reader that goes away early takes no result along
        write_json(args.json, bridge.to_json(found))
    if args.html:
        analysis.save_html(args.html, found.reports)
    if args.module and inputs is not None:
        saving.save_module(
            args.module, found, args.source, module, inputs, loss=args.loss, train=not args.eval, seed=args.seed
        )
    lines = bridge.in_words(found)
    if args.onnx:
        parity = to_onnx(found.program, found.scheme, args.onnx, seed=args.seed)
        result = f"equal to {parity.source} in {parity}" if parity else "not compared: onnxruntime is not installed"
        lines.append(f"{args.onnx}: {result}")
    print("\n".join(lines))
    if args.plan:
        print(bridge.factors_in_words(found))


def _check_installed(package: str) -> None:
    """Raise ArgumentError unless an optional package can be imported."""
    if find_spec(package) is None:
        name = {"torch": "PyTorch"}.get(package, package)
        raise ArgumentError(f"bring: it needs {name}, pip install {package}")
