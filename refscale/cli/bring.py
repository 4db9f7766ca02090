"""``refscale bring``."""

from __future__ import annotations

import argparse

from refscale.cli.outputs import check_directories
from refscale.errors import ArgumentError
from refscale.files import write_json


def bring(args: argparse.Namespace) -> None:
    """Import a PyTorch module and print its report."""
    try:
        import torch  # noqa: F401
    except ImportError:
        raise ArgumentError("bring: it needs PyTorch, pip install torch") from None
    from refscale import analysis
    from refscale.bridge import bring as bridge
    from refscale.bridge import saving, sources

    check_directories(args.json, args.html, args.module)
    if args.module:
        saving.check_module_path(args.module)
    module, inputs = sources.load_source(args.source, train=not args.eval)
    if args.input:
        inputs = sources.example_inputs(args.input, args.seed)
    if inputs is None:
        raise ArgumentError("bring: no inputs, expected --input SHAPE for each, or a factory that returns them")
    found = bridge.bring(module, inputs, args.precision or "fp8", loss=args.loss, weights=args.weights)
    if args.json:  # files first: a reader that goes away early takes no result along
        write_json(args.json, bridge.to_json(found))
    if args.html:
        analysis.save_html(args.html, found.reports)
    if args.module:
        saving.save_module(
            args.module, found, args.source, module, inputs, loss=args.loss, train=not args.eval, seed=args.seed
        )
    print("\n".join(bridge.in_words(found)))
    if args.plan:
        print(bridge.factors_in_words(found))
