"""``refscale bring``."""

from __future__ import annotations

import argparse

from refscale.errors import ArgumentError
from refscale.files import write_json


def bring(args: argparse.Namespace) -> None:
    """Import a PyTorch module and print its report."""
    try:
        import torch  # noqa: F401
    except ImportError:
        raise ArgumentError("bring: it needs PyTorch, pip install torch") from None
    from refscale.bridge import bring as bridge

    module, inputs = bridge.load_module(args.module)
    if args.input:
        inputs = bridge.example_inputs(args.input, args.seed)
    if inputs is None:
        raise ArgumentError("bring: no inputs, expected --input SHAPE for each, or a factory that returns them")
    found = bridge.bring(
        module.eval() if args.eval else module.train(), inputs, args.precision or "fp8", loss=args.loss
    )
    if args.json:  # files first: a reader that goes away early takes no result along
        write_json(args.json, bridge.to_json(found))
    print("\n".join(bridge.in_words(found)))
    if args.plan:
        print(found.plan)
