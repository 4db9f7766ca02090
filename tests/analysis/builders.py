"""Reports made by hand."""

import numpy as np

from refscale.stats import REPORT_FORMATS, Report, TensorStats, measure


def tensor(values, name="encoder.0.ffn.up.weight", kind="weight", layer="encoder.0", **changes):
    """Stats of an array."""
    values = np.asarray(values, np.float32)
    return TensorStats(
        **vars(measure(values)),
        **{"name": name, "kind": kind, "layer": layer, "role": "weight", "shape": values.shape} | changes,
    )


def spread(scale, n=1000):
    """An array of standard deviation ``scale``, mean zero, exactly: ±scale by turns."""
    x = np.full(n, scale, np.float32)
    x[::2] *= -1
    return x


def report(tensors, **changes):
    """A report of these tensors."""
    about = {
        "model": "made-up",
        "scheme": "regular",
        "precision": "fp32",
        "constraint": "geometric",
        "batch": 2,
        "seq": 16,
        "seed": 0,
    }
    rest = {"text": "built-in", "formats": REPORT_FORMATS, "losses": {"loss_sum": 1.5}, "casts": ()}
    return Report(**about | rest | {"tensors": tuple(tensors)} | changes)
